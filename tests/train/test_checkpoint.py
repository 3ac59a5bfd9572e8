"""Checkpoints that are broken or of another run: refused in one sentence, never restored in part."""

import gc
import json
import shutil

import jax
import pytest
import tiny

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import loader
from jaxkd.errors import StorageError
from jaxkd.train import checkpoint, prepare
from jaxkd.train.state import State


def batches():
    source = prepare.load_source(component("data.shapes", count=4, size=tiny.SIZE))
    return loader.train_batches(source, configs.build(tiny.loader()), seed=0, steps=6, batch=2)


def state(*, shape=3, name="a", **more):
    return State(
        step=jax.numpy.int32(0),
        params={"detector": {name: jax.numpy.ones(shape)}},
        opt_state=(),
        key=jax.random.key(0),
        memory={},
        **({"ema": {}} | more),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of one checkpoint, of the step 0; to be read and not written to."""
    folder, feed = tmp_path_factory.mktemp("written") / "checkpoints", batches()
    saved = checkpoint.Checkpoints(folder, keep=1)
    saved.save(state(), feed.iterator, best_ap=0.5)
    saved.close()
    feed.close()
    return folder


def restored(folder, like):
    feed = batches()
    saved = checkpoint.Checkpoints(folder, keep=1)
    try:
        return saved.restore(0, like, feed.iterator)
    finally:
        saved.close()
        feed.close()


# A failed restore leaves coroutines of Orbax behind that nobody awaits.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")


def refusal(folder, like):
    with pytest.raises(StorageError) as caught:
        restored(folder, like)
    gc.collect()  # here, and not in a later test
    text = str(caught.value)
    assert str(folder) in text and text.endswith(".") and "\n" not in text
    return text


@pytest.mark.parametrize(
    "like",
    [state(shape=4), state(name="b"), state(ema={"a": jax.numpy.ones(3)}), state().replace(params={})],
    ids=["shape", "name", "more", "less"],
)
def test_the_state_of_another_run(written, like):
    assert restored(written, state())[1] == 0.5
    assert "Checkpoint 0" in refusal(written, like)


@pytest.mark.parametrize("form", [2, None, "1"])
def test_another_form(written, tmp_path, form):
    folder = shutil.copytree(written, tmp_path / "checkpoints")
    meta = folder / "0" / "meta" / "metadata"
    meta.write_text(json.dumps({"format": form, "best_ap": 0.5}))
    assert f"has the form {form}, and this jaxkd reads the form {checkpoint.FORMAT}" in refusal(folder, state())


@pytest.mark.parametrize("content", [b"", b"[1]", b"{"], ids=["empty", "list", "cut"])
@pytest.mark.parametrize("file", ["meta/metadata", "state/_METADATA", "data/process_0-of-1.json"])
def test_broken_files(written, tmp_path, file, content):
    folder = shutil.copytree(written, tmp_path / "checkpoints")
    (folder / "0" / file).write_bytes(content)
    refusal(folder, state())


@pytest.mark.parametrize("part", ["meta", "state", "data", "state/manifest.ocdbt"])
def test_missing_parts(written, tmp_path, part):
    folder = shutil.copytree(written, tmp_path / "checkpoints")
    gone = folder / "0" / part
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    assert "cannot be restored" in refusal(folder, state())

"""Checkpoints through faults: what is broken is found and named, what is whole is used, nothing is lost."""

import errno
import gc
import json
import random
import resource
import shutil

import jax
import numpy as np
import pytest

from jaxkd.errors import StorageError
from jaxkd.train import checkpoint, manifest
from jaxkd.train.checkpoint import Checkpoints, Metadata
from jaxkd.train.state import State

# A failed restore leaves coroutines of Orbax behind that nobody awaits.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")


def state(step=0, *, shape=3, name="a", **more):
    return State(
        step=jax.numpy.int32(step),
        params={"detector": {name: jax.numpy.full(shape, float(step))}, "distill": {}},
        opt_state=(jax.numpy.ones(2), ()),
        key=jax.random.key(step),
        memory={"gkd": {"basis": jax.numpy.arange(4.0)}},
        **({"ema": {}} | more),
    )


def metadata(step, *, ap=None, best=0.5):
    return Metadata(step=step, best_ap=best, data={"next_index": step}, facts={"classes": "a"}, ap=ap)


def saved_steps(folder, *steps, keep=5, say=print, **scores):
    """Writes checkpoints of these steps, waiting for each."""
    saved = Checkpoints(folder, keep=keep, say=say)
    for step in steps:
        saved.save(state(step), metadata(step, ap=scores.get(f"ap{step}")), wait=True)
    saved.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of two checkpoints, of the steps 4 and 8; to be read and not written to."""
    folder = tmp_path_factory.mktemp("written") / "checkpoints"
    saved_steps(folder, 4, 8)
    return folder


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "checkpoints")


def opened(folder):
    """What a new run finds in a folder, and what it says."""
    said = []
    saved = Checkpoints(folder, keep=5, say=said.append)
    try:
        return saved.latest(), " ".join(said)
    finally:
        saved.close()


def numbers(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def test_everything_comes_back(written):
    found, said = opened(written)
    assert found == metadata(8) and said == ""
    back = checkpoint.restore(written, found, state())
    for mine, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(state(8)), strict=True):
        if jax.dtypes.issubdtype(mine.dtype, jax.dtypes.prng_key):
            mine, theirs = jax.random.key_data(mine), jax.random.key_data(theirs)
        np.testing.assert_array_equal(mine, theirs)
    assert checkpoint.newest(written) == found


def test_the_last_and_the_best_are_kept(tmp_path):
    saved_steps(tmp_path, 1, 2, 3, 4, 5, keep=2, ap1=0.1, ap2=0.9, ap4=0.3)
    assert numbers(tmp_path) == [2, 4, 5]
    saved = Checkpoints(tmp_path, keep=1)
    assert saved.latest().step == 5
    saved.save(state(6), metadata(6, ap=0.95), wait=True)  # an older run's scores still count
    saved.close()
    assert numbers(tmp_path) == [6]


def test_a_save_does_not_wait_and_sees_the_state_as_it_was(tmp_path, monkeypatch):
    seal, order = manifest.seal, []
    monkeypatch.setattr(manifest, "seal", lambda *args: (order.append("sealed"), seal(*args)))
    saved = Checkpoints(tmp_path, keep=2)
    later = state(4)
    saved.save(later, metadata(4))
    order.append("went on")
    jax.tree.map(lambda leaf: leaf.delete(), later)
    saved.close()
    assert sorted(order) == ["sealed", "went on"]
    assert checkpoint.restore(tmp_path, metadata(4), state()).params["detector"]["a"].tolist() == [4.0] * 3


@pytest.mark.parametrize(
    "like",
    [state(shape=4), state(name="b"), state(ema={"a": jax.numpy.ones(3)}), state().replace(params={})],
    ids=["shape", "name", "more", "less"],
)
def test_the_state_of_another_run_is_refused(written, like):
    with pytest.raises(StorageError, match=r"8 cannot be restored: .*\.$") as caught:
        checkpoint.restore(written, metadata(8), like)
    gc.collect()  # here, and not in a later test
    assert str(written) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("form", [1, None, "2"])
def test_another_form_is_refused(copy, form):
    body = manifest.check(copy / "8") | {"format": form}
    (copy / "8" / manifest.NAME).unlink()
    manifest.seal(copy / "8", body)
    with pytest.raises(StorageError, match=f"has the form {form}, and this jaxkd reads the form {checkpoint.FORMAT}"):
        opened(copy)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_f2_a_half_written_checkpoint_is_removed(copy):
    shutil.copytree(copy / "8", copy / f"12{checkpoint.UNFINISHED}")
    found, said = opened(copy)
    assert found.step == 8 and said == ""
    assert not (copy / f"12{checkpoint.UNFINISHED}").exists()


def test_f8_every_one_of_200_bit_flips_is_found_and_its_file_named(written, tmp_path):
    draw, paths = random.Random(0), files(written / "8")
    assert len(paths) > 5
    for number in range(200):
        path = paths[number % len(paths)]
        content = bytearray(path.read_bytes())
        place = draw.randrange(8 * len(content)) if content else None
        if place is None:
            continue
        content[place // 8] ^= 1 << place % 8
        changed = shutil.copytree(written / "8", tmp_path / "8", dirs_exist_ok=True)
        (changed / path.relative_to(written / "8")).write_bytes(content)
        with pytest.raises(manifest.Broken, match=path.name):
            manifest.check(changed)


@pytest.mark.parametrize("fault", ["flipped", "truncated", "emptied", "deleted"])
def test_f8_f9_a_broken_checkpoint_is_put_aside_and_the_one_before_is_used(written, tmp_path, fault):
    for number, path in enumerate(files(written / "8")):
        folder = shutil.copytree(written, tmp_path / str(number))
        content, victim = path.read_bytes(), folder / path.relative_to(written)
        if not content and fault != "deleted":
            continue
        if fault == "deleted":
            victim.unlink()
        else:
            changed = {"flipped": content[:-1] + bytes([content[-1] ^ 16]), "truncated": content[:-1], "emptied": b""}
            victim.write_bytes(changed[fault])
        found, said = opened(folder)
        assert found.step == 4, path
        assert "Checkpoint 8 is not whole" in said and path.name in said
        assert numbers(folder) == [4] and (folder / "broken-8").is_dir()


def test_f10_what_is_no_checkpoint_is_left_alone(copy):
    (copy / "20").mkdir()
    (copy / "notes").mkdir()
    (copy / "readme.txt").write_text("mine")
    found, said = opened(copy)
    assert found.step == 8
    for name in ("20", "notes", "readme.txt"):
        assert f"{copy / name} is no checkpoint, and is left alone." in said
    saved = Checkpoints(copy, keep=5, say=lambda text: None)
    saved.latest()
    saved.save(state(20), metadata(20), wait=True)
    saved.close()
    assert numbers(copy) == [4, 8, 20] and (copy / "readme.txt").read_text() == "mine"


def test_f11_without_any_whole_checkpoint_nothing_is_touched(copy):
    for step in ("4", "8"):
        victim = copy / step / "_METADATA"
        victim.write_bytes(b"x" + victim.read_bytes())
    before = [(path, path.read_bytes()) for path in files(copy)]
    with pytest.raises(StorageError, match=r"None of the checkpoints in .* is whole \(4: _METADATA has") as caught:
        opened(copy)
    assert caught.value.exit_code == 74
    assert [(path, path.read_bytes()) for path in files(copy)] == before


def test_f12_a_full_disk_is_said_and_the_next_save_succeeds(tmp_path):
    said = []
    saved = Checkpoints(tmp_path, keep=5, say=said.append)
    saved.save(state(4), metadata(4), wait=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = state(8).replace(memory={"gkd": {"basis": jax.random.normal(jax.random.key(0), (20000,))}})
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, hard))  # a file can grow no longer, as on a full disk
    try:
        saved.save(large, metadata(8))
        saved.wait_until_finished()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(said) == 1 and "could not be written" in said[0] and "older ones are kept" in said[0]
    assert numbers(tmp_path) == [4]
    saved.save(large, metadata(8), wait=True)
    saved.close()
    assert numbers(tmp_path) == [4, 8] and opened(tmp_path)[0].step == 8


def test_f13_a_folder_out_of_reach_ends_the_run_after_some_tries(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PAUSES", (0.01, 0.01))
    said, folder = [], tmp_path / "checkpoints"
    saved = Checkpoints(folder, keep=5, say=said.append)
    saved.save(state(4), metadata(4), wait=True)
    folder.rename(tmp_path / "away")
    saved.save(state(8), metadata(8))
    with pytest.raises(StorageError, match=r"cannot be written: No such file or directory\.") as caught:
        saved.wait_until_finished()
    assert caught.value.exit_code == 74
    saved.close()
    assert numbers(tmp_path / "away") == [4]


def test_f13_a_folder_that_comes_back_is_written_again(tmp_path, monkeypatch):
    folder, pauses = tmp_path / "checkpoints", []
    saved = Checkpoints(folder, keep=5, say=lambda text: None)
    folder.rename(tmp_path / "away")
    saved.save(state(4), metadata(4))

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            (tmp_path / "away").rename(folder)

    monkeypatch.setattr(checkpoint.time, "sleep", sleep)
    saved.save(state(8), metadata(8), wait=True)
    saved.close()
    assert pauses == [1.0, 2.0] and numbers(folder) == [8]


def test_f14_a_failed_save_is_said_once_and_forgotten(tmp_path, monkeypatch):
    seal, said, faults = manifest.seal, [], [OSError(errno.EIO, "The disk coughed")]

    def coughing(*args):
        if faults:
            raise faults.pop()
        seal(*args)

    monkeypatch.setattr(manifest, "seal", coughing)
    saved = Checkpoints(tmp_path, keep=5, say=said.append)
    saved.save(state(4), metadata(4))
    saved.save(state(8), metadata(8))
    saved.save(state(12), metadata(12))
    saved.close()
    assert len(said) == 1 and "The disk coughed" in said[0]
    assert numbers(tmp_path) == [8, 12]
    assert checkpoint.newest(tmp_path).step == 12


def test_a_last_save_that_fails_is_tried_again_and_then_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "PAUSES", (0.01, 0.01))
    tries = []

    def failing(*args):
        tries.append(args)
        raise OSError(errno.EIO, "The disk coughed")

    monkeypatch.setattr(manifest, "seal", failing)
    saved = Checkpoints(tmp_path, keep=5, say=lambda text: None)
    with pytest.raises(StorageError, match="Step 4 could not be saved"):
        saved.save(state(4), metadata(4), wait=True)
    saved.close()
    assert len(tries) == 3 and not numbers(tmp_path)


def test_a_manifest_that_was_made_up_is_found(copy):
    place = copy / "8" / manifest.NAME
    text = json.loads(place.read_text())
    text["body"]["about"]["best_ap"] = 0.9
    place.write_text(json.dumps(text, indent=1))
    with pytest.raises(manifest.Broken, match="has changed"):
        manifest.check(copy / "8")

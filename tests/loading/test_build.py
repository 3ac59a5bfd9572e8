"""Folders of weights, whole whenever their writer dies; and weights that a student starts from."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
import toy_teachers

from jaxkd.errors import ConfigError, StorageError, WeightsError
from jaxkd.loading import build, initial
from jaxkd.weights.tree import flatten


@pytest.fixture(scope="module", params=[tiny.detector, tiny.retinanet], ids=["faster_rcnn", "retinanet"])
def start(request, tmp_path_factory):
    """A detector's config, and the folder of one with two classes."""
    config, folder = request.param(), tmp_path_factory.mktemp("start")
    params = build.detector(config, ("cat", "dog")).init(jax.random.key(7))
    build.save(folder, params, config=config, classes=("cat", "dog"), scores={})
    return config, folder


def test_equal_detectors_share_every_leaf(start):
    config, folder = start
    params, said = initial.params(build.detector(config, ("cat", "dog")), jax.random.key(0), str(folder))
    theirs = flatten(build.load(folder).params)
    assert all(np.array_equal(leaf, theirs[name]) for name, leaf in flatten(params).items())
    assert said == f"The student starts from {folder}: {len(theirs)} leaves."


def test_a_folder_from_before_a_field_has_its_default(start, tmp_path):
    _, folder = start
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    about = json.loads((old / build.ABOUT).read_text())
    assert about["detector"]["compat"].pop("padding") == "masked"
    about["detector"].pop("loss", None)
    (old / build.ABOUT).write_text(json.dumps(about))
    assert build.load(old).detector == build.load(folder).detector


@pytest.mark.parametrize("classes", [("cat", "dog", "cow"), ("dog", "cat")])
def test_only_what_depends_on_the_classes_starts_anew_and_is_named(start, classes):
    config, folder = start
    found = build.detector(config, classes)
    params, said = initial.params(found, jax.random.key(0), str(folder))
    theirs, fresh = flatten(build.load(folder).params), flatten(found.init(jax.random.key(0)))
    layers = ("logits",) if "loss" in config else ("logits", "deltas")  # RetinaNet's boxes are for any class
    anew = [f"head/{layer}/{leaf}" for layer in layers for leaf in ("kernel", "bias")]
    for name, leaf in flatten(params).items():
        np.testing.assert_array_equal(leaf, (fresh if name in anew else theirs)[name], err_msg=name)
    assert said.startswith(f"The student starts from {folder}: {len(theirs) - len(anew)} leaves; ")
    assert all(name in said for name in anew) and said.endswith("are for other classes and start from random numbers.")


def test_another_width_is_refused_though_the_head_would_not_be(start):
    config, folder = start
    other = (tiny.retinanet if "loss" in config else tiny.detector)(channels=24)
    with pytest.raises(WeightsError, match=r"neck/.* has the shape"):
        initial.params(build.detector(other, ("cat", "dog")), jax.random.key(0), str(folder))


class Killed(BaseException):
    """The process is gone: nothing that follows is done."""


@pytest.fixture
def written(tmp_path):
    """A function that writes the detector number n of a few: its parameters, classes and score tell the number."""
    config = tiny.detector()
    params = build.detector(config, ("cat", "dog")).init(jax.random.key(0))

    def write(number, folder=tmp_path / "student"):
        changed = jax.tree.map(lambda leaf: np.full_like(leaf, number), params)
        build.save(folder, changed, config=config, classes=(f"cat {number}", "dog"), scores={"AP": float(number)})
        return folder

    return write


def number_of(folder, file_of=build.file_of):
    """The number of a detector whose weights and description agree."""
    arrays = build.read.read(file_of(folder, build.WEIGHTS))
    about = json.loads(file_of(folder, build.ABOUT).read_text())
    (value,) = {float(leaf.min()) for leaf in arrays.values()}
    assert (about["classes"], about["scores"]) == ([f"cat {value:.0f}", "dog"], {"AP": value})
    return int(value)


def plain_number(folder):
    """The same, for a reader that knows the two files alone; None where there is no description."""
    return number_of(folder, Path.__truediv__) if (folder / build.ABOUT).is_file() else None


def dying_after(calls, monkeypatch):
    """Lets so many things happen on the disk while a folder is written, and no more."""
    left = iter(range(calls))

    def dying(function):
        def call(*args, **more):
            if next(left, None) is None:
                raise Killed
            return function(*args, **more)

        return call

    names = ("mkdir", "rename", "replace", "unlink", "rmdir", "write_text")
    places = [(Path, name) for name in names] + [(os, "fsync"), (shutil, "rmtree"), (build.read, "save")]
    for owner, name in places:
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))


def test_a_writer_that_dies_leaves_one_whole_detector(written, monkeypatch):
    folder, seen, finished = written(1), [], False
    while not finished:
        with monkeypatch.context() as patch:
            dying_after(len(seen), patch)
            try:
                written(2)
                finished = True
            except Killed:
                pass
        assert plain_number(folder) in (1, 2, None)
        seen.append(number_of(folder))
        written(1)
        assert number_of(folder) == plain_number(folder) == 1
        assert sorted(os.listdir(folder)) == sorted([build.WEIGHTS, build.ABOUT])
    assert seen == sorted(seen) and set(seen) == {1, 2} and len(seen) >= 10


DYING = """
import os, signal, sys
from pathlib import Path
import jax, numpy as np
from jaxkd.loading import build

found = build.load(sys.argv[1])
replace = Path.replace

def dying(self, target):
    replace(self, target)
    if Path(target).parent == Path(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)

Path.replace = dying
params = jax.tree.map(lambda leaf: np.full_like(leaf, 2), found.params)
build.save(Path(sys.argv[1]), params, config=found.config, classes=("cat 2", "dog"), scores={"AP": 2.0})
"""


def test_a_kill_between_weights_and_description(written):
    folder = written(1)
    killed = subprocess.run([sys.executable, "-c", DYING, folder], timeout=600, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (folder / build.ABOUT).exists()
    assert number_of(folder) == 2
    elsewhere = build.load(shutil.copytree(folder, folder.parent / "elsewhere"))
    assert (elsewhere.detector.classes, elsewhere.scores) == (("cat 2", "dog"), {"AP": 2.0})
    assert float(elsewhere.params["head"]["logits"]["bias"].min()) == 2
    params, said = initial.params(build.detector(tiny.detector(), ("cat 2", "dog")), jax.random.key(0), str(folder))
    assert float(flatten(params)["head/logits/bias"].min()) == 2 and "random" not in said
    assert number_of(written(3)) == plain_number(folder) == 3


def test_other_files_of_the_folder_stay(written):
    folder = written(1)
    (folder / "notes.txt").write_text("mine")
    written(2)
    assert (folder / "notes.txt").read_text() == "mine"
    assert number_of(folder) == 2


def test_a_folder_that_cannot_be_written(written, tmp_path):
    (tmp_path / "file").write_text("here first")
    with pytest.raises(StorageError, match=r"file.* cannot be written"):
        written(1, tmp_path / "file")
    assert json.loads((written(1) / build.ABOUT).read_text())["classes"] == ["cat 1", "dog"]


def test_a_detector_without_losses_is_no_student(monkeypatch):
    monkeypatch.setattr(build, "detector", lambda config, classes: toy_teachers.FeatureMaps(classes))
    with pytest.raises(ConfigError, match=r"detectors\.gfl cannot be trained: it has no losses here"):
        build.student(tiny.gfl(), ("a",))

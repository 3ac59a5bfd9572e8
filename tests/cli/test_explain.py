"""What `jaxkd explain` draws, and what it refuses."""

import shutil

import conftest
import pytest
from PIL import Image


def test_a_picture_of_everything(runs, tmp_path):
    outcome = conftest.call("explain", f"--workdir={runs.taught}", "some/where/9.png", f"--out={tmp_path / 'out'}")
    assert outcome.code == 0, outcome
    drawn = {path.stem for path in (tmp_path / "out").iterdir()}
    levels = (4, 8, 16, 32)
    assert drawn == {
        "tar_class_gate",
        "tar_box_gate",
        "gkd_prototypes",
        *(f"tar_mask_{stride}" for stride in levels),
        *(f"gkd_sigma_{stride}" for stride in levels),
    }
    assert all(name in outcome.out for name in drawn)
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as picture:
            assert picture.width >= 96


@pytest.mark.parametrize(
    ("which", "pictures", "words"),
    [
        ("taught", ["9.png", "10.png"], "Name one picture"),
        ("taught", [], "Name one picture"),
        ("taught", ["elsewhere.png"], "No picture of the run's data is called elsewhere.png"),
        ("alone", ["9.png"], "has no teacher"),
    ],
)
def test_what_is_refused(runs, refused, tmp_path, which, pictures, words):
    workdir = getattr(runs, which)
    outcome = conftest.call("explain", f"--workdir={workdir}", *pictures, f"--out={tmp_path / 'out'}")
    refused(outcome, 64, words, command="explain")
    assert not (tmp_path / "out").exists()


def test_weights_alone_teach_nothing(runs, refused, tmp_path):
    weights = shutil.copytree(runs.taught / "student", tmp_path / "weights")
    outcome = conftest.call("explain", f"--workdir={weights}", "9.png", f"--out={tmp_path / 'out'}")
    refused(outcome, 64, weights, "give the workdir of a taught run", command="explain")

"""The quickstart: what it refuses, and a very short one from end to end."""

import json

import projects
import pytest
from PIL import Image

from jaxkd.cli import quickstart
from jaxkd.paths import path_of


@pytest.mark.parametrize(
    ("flag", "word"),
    [
        ("--steps=-1", "--steps must be 0 or more, not -1"),
        ("--steps=few", "few"),
        ("--seed=odd", "odd"),
        ("--method=luck", "luck"),
        ("--detector=yolo", "yolo"),
    ],
)
def test_arguments_that_are_refused(refused, tmp_path, flag, word):
    outcome = projects.call("quickstart", f"--workdir={tmp_path / 'run'}", flag)
    refused(outcome, 64, word, command="quickstart")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("method", "detector"), [("task_adaptive", "faster_rcnn"), ("both", "retinanet")])
def test_four_steps(tmp_path, method, detector, monkeypatch):
    """On fewer validation pictures than the command scores on."""
    whole = quickstart._recipe

    def fewer(*arguments):
        recipe = whole(*arguments)
        recipe.data.val.limit = 24
        return recipe

    monkeypatch.setattr(quickstart, "_recipe", fewer)
    if not (path_of("assets:bccd_teacher") / "weights.safetensors").is_file():
        pytest.skip("The quickstart's teacher is not in jaxkd/assets/bccd_teacher yet.")
    outcome = projects.call(
        "quickstart", "--steps=4", f"--workdir={tmp_path}", f"--method={method}", f"--detector={detector}"
    )
    assert outcome.code == 0, outcome
    report = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    assert list(report["detectors"]) == ["alone", "taught", "teacher"]
    ap = {name: detector["scores"]["AP"] for name, detector in report["detectors"].items()}
    assert ap["teacher"] > 0.3
    taught = report["detectors"]["taught"]
    assert taught["curves"]["steps"] == 4
    assert taught["difference"]["summary"]["AP"]["difference"] == pytest.approx(ap["taught"] - ap["alone"])
    parameters = {name: detector["cost"]["batch_1"]["parameters"] for name, detector in report["detectors"].items()}
    assert parameters["teacher"] > parameters["taught"] == parameters["alone"] > 0
    assert "taught has" in outcome.out and "AP against alone on 24 validation pictures" in outcome.out
    assert f"jaxkd export --workdir={tmp_path / 'taught'}" in outcome.out
    with Image.open(tmp_path / "pictures.png") as picture:
        assert picture.width > picture.height > 100

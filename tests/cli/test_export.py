"""`jaxkd export`: a folder that is whole or not there, and what is refused."""

import json
import shutil
from pathlib import Path

import conftest
import pytest

from jaxkd.export import onnx, standalone


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs.alone, tmp_path / "run")


def test_a_file_is_scored_and_described(run, tmp_path):
    out = tmp_path / "out"
    outcome = conftest.call("export", f"--workdir={run}", "--format=onnx", f"--out={out}")
    assert (outcome.code, outcome.err) == (0, "")
    assert sorted(file.name for file in out.iterdir()) == ["detect.py", "model.json", "model.onnx"]
    assert not (tmp_path / "out.part").exists()
    about = json.loads((out / "model.json").read_text())
    assert about["classes"] == ["square", "bar"]
    assert about["picture"]["canvas"] == [64, 96]
    assert about["checked"]["pictures"] == 2
    assert about["checked"]["lost"] == 0
    assert "Largest difference of a box" in outcome.out
    again = conftest.call("export", f"--workdir={run}/student", "--format=stablehlo", f"--out={out}", "--check=0")
    assert (again.code, again.err) == (0, "")
    assert sorted(file.name for file in out.iterdir()) == ["detect.py", "model.json", "model.stablehlo"]
    assert "checked" not in json.loads((out / "model.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--format=coreml"],
            "There is no format 'coreml'; give --format=, one of stablehlo, onnx, tflite",
        ),
        ([], "There is no format ''"),
        (["--format=onnx", "--int8"], "int8 is for --format=tflite"),
        (["--format=onnx", "--size=12"], "--size=12 is no size"),
        (["--format=onnx", "--size=0x64"], "must be at least 1x1"),
        (["--format=onnx", "--workdir=nowhere"], "nowhere"),
    ],
)
def test_refusals(run, tmp_path, arguments, said):
    if not any(argument.startswith("--workdir") for argument in arguments):
        arguments = [f"--workdir={run}", *arguments]
    outcome = conftest.call("export", *arguments, f"--out={tmp_path / 'out'}")
    assert outcome.code in (64, 66)
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.part").exists()


def test_a_folder_of_other_things_is_left_alone(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("keep me")
    outcome = conftest.call("export", f"--workdir={run}", "--format=onnx", f"--out={out}")
    assert outcome.code == 64
    assert "no earlier export" in outcome.err
    assert (out / "letter.txt").read_text() == "keep me"


def test_a_file_that_scores_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    """As if the runtime found nothing."""
    write = standalone.RUNTIMES["onnx"]

    def blind(file):
        inner = write(file)
        return lambda images, sizes: inner(images, sizes) | {"count": 0 * inner(images, sizes)["count"]}

    monkeypatch.setitem(standalone.RUNTIMES, "onnx", blind)
    recipe = json.loads((run / "config.json").read_text())
    recipe["data"]["val"]["annotations"] = str(_answers(run, tmp_path, recipe))
    (run / "config.json").write_text(json.dumps(recipe))
    out = tmp_path / "out"
    outcome = conftest.call("export", f"--workdir={run}", "--format=onnx", f"--out={out}")
    assert outcome.code == 70
    assert "scores AP 0.0 and its detector" in outcome.err
    assert not out.exists()


def _answers(run, tmp_path, recipe):
    """Annotations that say what the student finds, so that it has an AP to lose."""
    truth = json.loads(Path(recipe["data"]["val"]["annotations"]).read_text())
    images = [f"{recipe['data']['val']['images']}/{image['file_name']}" for image in truth["images"]]
    conftest.call("predict", f"--workdir={run}", *images, f"--out={tmp_path / 'found'}", "--score=0")
    found = json.loads((tmp_path / "found" / "predictions.json").read_text())["annotations"]
    ids = {number: image["id"] for number, image in enumerate(truth["images"], start=1)}
    kinds = {number: category["id"] for number, category in enumerate(truth["categories"], start=1)}
    truth["annotations"] = [
        {
            "id": number,
            "image_id": ids[one["image_id"]],
            "category_id": kinds[one["category_id"]],
            "bbox": one["bbox"],
            "area": one["bbox"][2] * one["bbox"][3],
            "iscrowd": 0,
        }
        for number, one in enumerate(found, start=1)
    ]
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(truth))
    return file


def test_a_missing_extra_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "NEEDS", ("onnx", "no_such_runtime"))
    outcome = conftest.call("export", f"--workdir={run}", "--format=onnx", f"--out={tmp_path / 'out'}")
    assert outcome.code == 64
    assert outcome.err.endswith("pip install 'jaxkd[onnx]'.\n")

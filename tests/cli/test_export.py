"""`jaxkd export`: a folder that is whole or not there, and what is refused."""

import functools
import json
import os
import shutil
from pathlib import Path

import cv2
import projects
import pytest

from jaxkd.export import folder, onnx, standalone


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs.alone, tmp_path / "run")


def test_a_file_is_scored_and_described(run, tmp_path):
    out = tmp_path / "out"
    outcome = projects.call("export", f"--workdir={run}", "--format=onnx", f"--out={out}")
    assert (outcome.code, outcome.err) == (0, "")
    assert sorted(file.name for file in out.iterdir()) == ["detect.py", "model.json", "model.onnx"]
    assert not (tmp_path / "out.part").exists()
    about = json.loads((out / "model.json").read_text())
    assert about["classes"] == ["square", "bar"]
    assert about["picture"]["canvas"] == [64, 96]
    assert about["checked"]["pictures"] == 2
    assert about["checked"]["lost"] == 0
    assert "Largest difference of a box" in outcome.out
    assert "detector at 64x96" in outcome.out and "buckets" not in outcome.out
    assert about["checked"]["files"] and not about["checked"]["unequal"]
    link = tmp_path / "link"
    link.symlink_to(out)
    (out / "__pycache__").mkdir()
    _two_buckets(run)
    weights = shutil.copytree(run / "student", tmp_path / "weights")  # which belong to no run, and have no data
    again = projects.call("export", f"--workdir={weights}", "--format=stablehlo", f"--out={link}", "--check=0")
    assert (again.code, again.err) == (0, "")
    assert link.is_symlink()
    assert "Its canvas is 64x96, the first of the detector's 2 buckets, for there is no validation data" in again.out
    assert sorted(file.name for file in out.iterdir()) == ["detect.py", "model.json", "model.stablehlo"]
    assert "checked" not in json.loads((out / "model.json").read_text())


def test_a_file_of_float16_is_scored(run, tmp_path):
    out = tmp_path / "out"
    outcome = projects.call("export", f"--workdir={run}", "--format=onnx", "--half", f"--out={out}")
    assert (outcome.code, outcome.err) == (0, "")
    assert "onnx, half" in outcome.out
    checked = json.loads((out / "model.json").read_text())["checked"]
    assert checked["ap_exported"] == pytest.approx(checked["ap"], abs=0.005)


def test_a_file_that_ends_with_maps(tmp_path):
    out = tmp_path / "out"
    words = ["--workdir=assets:nanodet", "--format=onnx", "--tail=raw", "--size=64x96", "--check=0", f"--out={out}"]
    outcome = projects.call("export", *words)
    assert (outcome.code, outcome.err) == (0, "")
    about = json.loads((out / "model.json").read_text())
    assert sorted(about["outputs"]) == [f"{name}_{level}" for name in ("boxes", "logits") for level in range(3)]
    assert about["outputs"]["logits_0"].startswith("[1 8 12 80]") and about["inputs"].keys() == {"images"}
    assert [level["unit"] for level in about["decoding"]["levels"]] == [8.0, 16.0, 32.0]


def test_the_canvas_fits_most_pictures_and_what_another_costs_is_shown(run, tmp_path):
    """The pictures of the run, put upright, with what the student finds on them for truth."""
    _two_buckets(run)
    recipe = json.loads((run / "config.json").read_text())
    images = tmp_path / "upright"
    images.mkdir()
    truth = json.loads(Path(recipe["data"]["val"]["annotations"]).read_text())
    for image in truth["images"]:
        picture = cv2.imread(f"{recipe['data']['val']['images']}/{image['file_name']}")
        cv2.imwrite(str(images / image["file_name"]), picture.transpose(1, 0, 2))
        image |= {"height": 96, "width": 64}
    (tmp_path / "upright.json").write_text(json.dumps(truth | {"annotations": []}))
    recipe["data"]["val"] |= {"images": str(images), "annotations": str(tmp_path / "upright.json")}
    recipe["data"]["val"]["annotations"] = str(_answers(run, tmp_path, recipe))
    (run / "config.json").write_text(json.dumps(recipe))
    arguments = ["export", f"--workdir={run}", "--format=stablehlo", f"--out={tmp_path / 'out'}"]
    outcome = projects.call(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    assert "Its canvas is 96x64, the one of the detector's 2 buckets that 2 of 2 validation pictures" in outcome.out
    assert "detector in its own 2 buckets" in outcome.out and "costs" not in outcome.out
    checked = json.loads((tmp_path / "out" / "model.json").read_text())["checked"]
    assert checked["ap_own"] == pytest.approx(checked["ap"]) and not checked["shrunk"]
    outcome = projects.call(*arguments, "--size=64x96")
    assert (outcome.code, outcome.err) == (0, "")
    assert "AP: 2 of the 2 pictures shrink to fit on it. --size=96x96 holds all" in outcome.out
    other = json.loads((tmp_path / "out" / "model.json").read_text())["checked"]
    assert other["ap_own"] == checked["ap_own"] > other["ap"] + 0.1
    assert other["ap"] == pytest.approx(other["ap_exported"], abs=1e-3)


def _two_buckets(run):
    """The run's student as if it had been trained on upright pictures too."""
    detector = run / "student" / "detector.json"
    about = json.loads(detector.read_text())
    about["sizes"]["buckets"].append([96, 64])
    detector.write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--format=coreml"],
            "There is no format 'coreml'; give --format=, one of stablehlo, onnx, tflite",
        ),
        ([], "There is no format ''"),
        (["--format=onnx", "--tail=maps"], "There is no tail 'maps'; give --tail=, one of detections, raw."),
        (["--format=onnx", "--tail=raw"], "--tail=raw is for detectors of one stage, such as detectors.gfl"),
        (["--format=onnx", "--int8"], "int8 is for --format=tflite"),
        (["--format=stablehlo", "--half"], "half is for --format=onnx or --format=tflite, not for stablehlo."),
        (["--format=tflite", "--half", "--int8"], "--half and --int8 are two types for the same weights; give one"),
        (["--format=onnx", "--size=12"], "--size=12 is no size"),
        (["--format=onnx", "--size=0x64"], "must be at least 1x1"),
        (["--format=onnx", "--size=64x99999999"], "A size of 64x99999999 is too large"),
        (["--format=onnx", "--out="], "--out is empty"),
        (["--format=onnx", "--out=."], "The folder . is no earlier export and holds: "),
        (["--format=onnx", "--workdir=nowhere"], "nowhere"),
    ],
)
def test_refusals(run, tmp_path, arguments, said):
    if not any(argument.startswith("--workdir") for argument in arguments):
        arguments = [f"--workdir={run}", *arguments]
    if not any(argument.startswith("--out") for argument in arguments):
        arguments = [f"--out={tmp_path / 'out'}", *arguments]
    outcome = projects.call("export", *arguments)
    assert outcome.code in (64, 66)
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.part").exists()


def exported(place, kind, text):
    """As if an export were written."""
    file = folder.module_of(kind).FILE
    (place / file).write_text(text)
    (place / "detect.py").write_text(text)
    folder.write_description(place, {"format": kind, "file": file, "jaxkd": text})


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"letter.txt": "keep me"}, "is no earlier export and holds: letter.txt;"),
        ({"model.json": '{"format": "onnx", "file": "model.onnx"}'}, "is no earlier export and holds: model.json;"),
        ({"model.onnx": "mine", "model.json": "[1"}, "is no earlier export and holds: model.json, model.onnx;"),
        ({"letter.txt": "keep me", "model": "mine", "": "onnx"}, "more than an earlier export: letter.txt, model;"),
        ({".part/letter.txt": "keep me", "": "onnx"}, "part is in the way"),
    ],
)
def test_a_folder_of_other_things_is_left_alone(run, tmp_path, files, said):
    out = tmp_path / "out"
    (out / ".part").mkdir(parents=True)
    if kind := files.pop("", ""):
        exported(out, kind, "earlier")
    for name, text in files.items():
        (out / name).write_text(text)
    before = projects.listing(out)
    outcome = projects.call("export", f"--workdir={run}", "--format=onnx", f"--out={out}")
    assert (outcome.code, projects.listing(out)) == (64, before)
    assert said in outcome.err


def test_an_export_takes_the_place_of_another_or_leaves_it(tmp_path, monkeypatch):
    out, calls, replace = tmp_path / "out", [], os.replace

    def failing(old, new, *, last):
        calls.append(old)
        if len(calls) == last:
            raise OSError("no more")
        replace(old, new)

    with folder.replacing(out) as part:
        exported(part, "stablehlo", "first")
    before = projects.listing(out)
    for last in range(1, 7):
        calls.clear()
        monkeypatch.setattr(os, "replace", functools.partial(failing, last=last))
        with pytest.raises(OSError, match="no more"), folder.replacing(out) as part:
            exported(part, "onnx", "second")
        assert projects.listing(out) == before
    monkeypatch.undo()
    with folder.replacing(out) as part:
        exported(part, "onnx", "second")
    assert set(projects.listing(out)) == {"detect.py", "model.json", "model.onnx"}
    with pytest.raises(ZeroDivisionError), folder.replacing(tmp_path / "new") as part:
        _ = 1 / 0
    assert not (tmp_path / "new").exists()


def test_data_that_cannot_score_is_refused_before_anything_is_written(run, tmp_path):
    recipe = json.loads((run / "config.json").read_text())
    truth = json.loads(Path(recipe["data"]["val"]["annotations"]).read_text())
    renamed = [category | {"name": category["name"].upper()} for category in truth["categories"]]
    cases = (
        ("val", truth | {"annotations": []}, [], "There is no object on the first 2 validation pictures"),
        (
            "val",
            truth | {"categories": renamed},
            [],
            "The validation data has objects of classes that the detector does not know: SQUARE",
        ),
        ("val", None, [], "--check=0 to leave the file unscored"),
        (
            "train",
            truth | {"categories": renamed},
            ["--int8"],
            "The training data has objects of classes that the detector does not know: SQUARE",
        ),
    )
    for split, content, flags, said in cases:
        file = tmp_path / "changed.json"
        file.write_text(json.dumps(content)) if content else file.unlink()
        changed = recipe["data"] | {split: recipe["data"][split] | {"annotations": str(file)}}
        (run / "config.json").write_text(json.dumps(recipe | {"data": changed}))
        kind = "tflite" if flags else "onnx"
        outcome = projects.call("export", f"--workdir={run}", f"--format={kind}", *flags, f"--out={tmp_path / 'out'}")
        assert outcome.code in (64, 65)
        assert said in outcome.err
        assert not (tmp_path / "out").exists()


def test_a_file_that_scores_otherwise_is_not_kept(run, tmp_path, monkeypatch):
    """As if the runtime found nothing."""
    write = standalone.RUNTIMES["onnx"]

    def blind(file):
        inner = write(file)
        return lambda **inputs: inner(**inputs) | {"count": 0 * inner(**inputs)["count"]}

    monkeypatch.setitem(standalone.RUNTIMES, "onnx", blind)
    recipe = json.loads((run / "config.json").read_text())
    recipe["data"]["val"]["annotations"] = str(_answers(run, tmp_path, recipe))
    (run / "config.json").write_text(json.dumps(recipe))
    out = tmp_path / "out"
    outcome = projects.call("export", f"--workdir={run}", "--format=onnx", f"--out={out}")
    assert outcome.code == 70
    assert "scores AP 0.0 and its detector" in outcome.err
    assert not out.exists()


def _answers(run, tmp_path, recipe):
    """Annotations that say what the student finds, so that it has an AP to lose."""
    truth = json.loads(Path(recipe["data"]["val"]["annotations"]).read_text())
    images = [f"{recipe['data']['val']['images']}/{image['file_name']}" for image in truth["images"]]
    projects.call("predict", f"--workdir={run}", *images, f"--out={tmp_path / 'found'}", "--score=0")
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
    outcome = projects.call("export", f"--workdir={run}", "--format=onnx", f"--out={tmp_path / 'out'}")
    assert outcome.code == 64
    assert outcome.err.endswith("pip install 'jaxkd-detection[onnx]'.\n")

"""What can be done with a finished run: scoring its student, and looking for objects in pictures."""

import json
import shutil

import conftest
import pytest
from PIL import Image

from jaxkd.evaluation.coco import SUMMARY


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs.alone, tmp_path / "run")


def picture(runs, number):
    return runs.project.folder / "images" / f"{number}.png"


def test_evaluate_prints_and_writes_the_scores(run):
    before = conftest.listing(run)
    outcome = conftest.call("evaluate", f"--workdir={run}")
    assert (outcome.code, outcome.err) == (0, "")
    assert all(any(line.startswith(name) for line in outcome.out.splitlines()) for name in (*SUMMARY, "square", "bar"))
    written = json.loads((run / "evaluation.json").read_text())
    assert written["pictures"] == 2
    assert tuple(written["scores"]) == SUMMARY
    assert set(written["per_class"]) == {"square", "bar"}
    after = conftest.listing(run)
    assert after.pop("evaluation.json")
    assert after == before


def test_evaluate_agrees_with_the_run(run):
    conftest.call("evaluate", f"--workdir={run}")
    scores = json.loads((run / "evaluation.json").read_text())["scores"]
    trained = json.loads((run / "student" / "detector.json").read_text())["scores"]
    assert scores == pytest.approx(trained, abs=1e-6, nan_ok=True)


def test_evaluate_on_the_folders_of_voc_adds_their_numbers(project, run):
    recipe = json.loads((run / "config.json").read_text())
    voc = {"name": "data.voc", "root": str(conftest.add_devkit(project)), "splits": ["2007_val"]}
    recipe["data"]["val"] = voc | {"classes": ["square", "bar"]}
    (run / "config.json").write_text(json.dumps(recipe))
    outcome = conftest.call("evaluate", f"--workdir={run}")
    assert (outcome.code, outcome.err) == (0, "")
    written = json.loads((run / "evaluation.json").read_text())
    assert tuple(written["scores"]) == (*SUMMARY, "VOC AP")
    assert (written["voc"]["rule"], written["voc"]["iou"]) == ("11point", 0.5)
    assert set(written["voc"]["per_class"]) == {"square", "bar"}
    assert written["voc"]["mean"] == written["scores"]["VOC AP"]
    lines = outcome.out.splitlines()
    assert f"VOC AP{100 * written['voc']['mean']:6.1f}" in lines
    (bar,) = (line for line in lines if line.startswith("bar "))
    assert bar.endswith(f"VOC AP {100 * written['voc']['per_class']['bar']:5.1f}")


def test_predict_names_the_broken_picture_and_looks_at_the_others(runs, run, tmp_path):
    broken, out = tmp_path / "broken.png", tmp_path / "out"
    broken.write_text("no picture")
    good = [picture(runs, 9), picture(runs, 10)]
    before = conftest.listing(run)
    outcome = conftest.call("predict", f"--workdir={run}", good[0], broken, good[1], f"--out={out}", "--score=0.05")
    assert outcome.code == 0, outcome
    assert outcome.err == f"Left out: {broken} is not a picture; replace it or take it off the list.\n"
    assert f"on 2 pictures, drawn in {out}." in outcome.out
    found = json.loads((out / "predictions.json").read_text())
    assert [image["file_name"] for image in found["images"]] == [str(file) for file in good]
    assert [category["name"] for category in found["categories"]] == ["square", "bar"]
    assert found["annotations"], "a score threshold of 0.01 leaves boxes even to a student of four steps"
    for annotation in found["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert 0 <= x <= x + width <= 96 + 1e-3
        assert 0 <= y <= y + height <= 64 + 1e-3
        assert annotation["image_id"] in (1, 2)
        assert annotation["category_id"] in (1, 2)
    assert sorted(file.name for file in out.glob("*.png")) == ["0001_9.png", "0002_10.png"]
    with Image.open(out / "0001_9.png") as drawn:
        assert drawn.size == (96, 64)
    assert conftest.listing(run) == before


def test_predict_of_broken_pictures_only(run, tmp_path, refused):
    broken, missing, out = tmp_path / "broken.png", tmp_path / "missing.png", tmp_path / "out"
    broken.write_bytes(b"")
    outcome = conftest.call("predict", f"--workdir={run}", broken, missing, f"--out={out}")
    refused(outcome, 65, "None of the 2 pictures can be read", command="predict")
    assert f"Left out: {broken} is empty" in outcome.err
    assert f"Left out: There is no picture {missing}" in outcome.err
    assert not out.exists()


def test_predict_into_a_file(runs, run, tmp_path, refused):
    out = tmp_path / "out"
    out.write_text("here first")
    outcome = conftest.call("predict", f"--workdir={run}", picture(runs, 9), f"--out={out}")
    refused(outcome, 74, out, command="predict")
    assert out.read_text() == "here first"


def test_predict_without_pictures(run, refused):
    refused(conftest.call("predict", f"--workdir={run}"), 64, "Name the pictures", command="predict")


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_a_folder_that_is_no_run(runs, tmp_path, refused, name):
    images = [picture(runs, 9)] if name == "predict" else []
    for folder in (tmp_path, tmp_path / "missing", runs.alone / "student"):
        outcome = conftest.call(name, f"--workdir={folder}", *images)
        refused(outcome, 64, folder, "is not the workdir of a run", command=name)
    refused(conftest.call(name, *images), 64, "--workdir=DIR", command=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_a_run_that_is_broken(runs, run, refused, name):
    images = [picture(runs, 9)] if name == "predict" else []

    def call():
        return conftest.call(name, f"--workdir={run}", *images)

    weights, about, recipe = (
        run / "student" / "weights.safetensors",
        run / "student" / "detector.json",
        run / "config.json",
    )
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(call(), 66, weights, command=name)
    weights.unlink()
    refused(call(), 66, weights, command=name)
    about.unlink()
    refused(call(), 64, run, "no student yet", command=name)
    shutil.copy(runs.alone / "student" / "detector.json", about)
    for text in ("{", "[]", "{}", "5"):
        recipe.write_text(text)
        refused(call(), 74, recipe, "not the recipe of a run", command=name)


def test_evaluate_without_its_data(project, runs, run, refused):
    text = (run / "config.json").read_text().replace(str(runs.project.folder), str(project.folder))
    (run / "config.json").write_text(text)
    (project.folder / "val.json").unlink()
    before = conftest.listing(run)
    outcome = conftest.call("evaluate", f"--workdir={run}")
    refused(outcome, 65, "There is no annotation file", project.folder / "val.json", command="evaluate")
    refused(conftest.call("evaluate", f"--workdir={run}", "--batch=0"), 64, "batch", command="evaluate")
    assert conftest.listing(run) == before

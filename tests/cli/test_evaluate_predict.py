"""What can be done with a finished run: scoring its student, and looking for objects in pictures."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import projects
import pytest
from PIL import Image
from pycocotools.coco import COCO

from jaxkd.cli import progress
from jaxkd.evaluation.coco import SUMMARY


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs.alone, tmp_path / "run")


def picture(runs, number):
    return runs.project.folder / "images" / f"{number}.png"


def test_evaluate_prints_and_writes_the_scores(run):
    before = projects.listing(run)
    outcome = projects.call("evaluate", f"--workdir={run}")
    assert (outcome.code, outcome.err) == (0, "")
    assert all(any(line.startswith(name) for line in outcome.out.splitlines()) for name in (*SUMMARY, "square", "bar"))
    written = json.loads((run / "evaluation.json").read_text())
    assert written["pictures"] == 2
    assert tuple(written["scores"]) == SUMMARY
    assert set(written["per_class"]) == {"square", "bar"}
    after = projects.listing(run)
    assert after.pop("evaluation.json")
    assert after == before


def test_evaluate_agrees_with_the_run(run):
    projects.call("evaluate", f"--workdir={run}")
    scores = json.loads((run / "evaluation.json").read_text(), parse_constant=pytest.fail)["scores"]
    scores = {name: float("nan") if value is None else value for name, value in scores.items()}
    assert scores == pytest.approx(projects.scores_in(run / "student"), abs=1e-6, nan_ok=True)


def test_evaluate_on_the_folders_of_voc_adds_their_numbers(project, run):
    recipe = json.loads((run / "config.json").read_text())
    voc = {"name": "data.voc", "root": str(projects.add_devkit(project)), "splits": ["2007_val"]}
    recipe["data"]["val"] = voc | {"classes": ["square", "bar"]}
    (run / "config.json").write_text(json.dumps(recipe))
    outcome = projects.call("evaluate", f"--workdir={run}")
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


def evaluated(*arguments):
    """The scores that are printed, by the first word of their line."""
    outcome = projects.call("evaluate", *arguments)
    assert (outcome.code, outcome.err) == (0, ""), outcome
    return {line.split()[0]: line for line in outcome.out.splitlines()}


def test_evaluate_of_the_student_folder_is_that_of_its_run(run):
    scores = evaluated(f"--workdir={run}")
    written = (run / "evaluation.json").read_text()
    (run / "evaluation.json").unlink()
    assert evaluated(f"--workdir={run / 'student'}") == scores
    assert (run / "evaluation.json").read_text() == written
    assert json.loads(written)["data"]["annotations"].endswith("val.json")
    assert "evaluation.json" not in projects.listing(run / "student")


def test_evaluate_of_weights_alone_wants_their_data(runs, run, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(runs.project.folder)
    alone = shutil.copytree(run / "student", tmp_path / "weights")
    before = projects.listing(alone)
    refused(projects.call("evaluate", f"--workdir={alone}"), 64, alone, "--config=RECIPE", command="evaluate")
    config = f"--config={runs.project.recipe}"
    assert evaluated(f"--workdir={alone}", config) == evaluated(f"--workdir={run}")
    assert projects.listing(alone) == before
    evaluated(f"--workdir={alone}", config, f"--out={tmp_path / 'new' / 'scores.json'}")
    assert (tmp_path / "new" / "scores.json").read_text() == (run / "evaluation.json").read_text()


def test_evaluate_into_what_cannot_be_written(run, tmp_path, refused):
    (tmp_path / "file").write_text("here first")
    for out in (tmp_path, tmp_path / "file" / "scores.json"):
        outcome = projects.call("evaluate", f"--workdir={run}", f"--out={out}")
        refused(outcome, 74, out if out.is_dir() else out.parent, command="evaluate")
        assert outcome.out == ""  # it was found before the work


def test_evaluate_of_a_run_on_another_recipes_data(runs, run, monkeypatch):
    monkeypatch.chdir(runs.project.folder)
    train = runs.project.folder / "train.json"
    evaluated(f"--workdir={run}", f"--config={runs.project.recipe}", f"--config.data.val.annotations={train}")
    written = json.loads((run / "evaluation.json").read_text())
    assert (written["pictures"], written["data"]["annotations"]) == (8, str(train))


def test_evaluate_on_data_of_other_classes(project, run, refused, monkeypatch):
    monkeypatch.chdir(project.folder)
    project.edit("val.json", lambda content: content["categories"][0].update(name="disc"))
    outcome = projects.call("evaluate", f"--workdir={run}", f"--config={project.recipe}")
    words = ("validation data has objects of classes that the detector does not know: disc (2 objects",)
    refused(outcome, 64, *words, command="evaluate")


def test_evaluate_on_other_data_by_fields_of_the_runs_own_recipe(project, run, tmp_path):
    out = tmp_path / "scores.json"
    outcome = projects.call("evaluate", f"--workdir={run}", "--config.data.val.limit=1", f"--out={out}")
    assert outcome.code == 0, outcome
    assert "Scored on other data than the run's own validation data: data.coco with annotations=" in outcome.out
    assert json.loads(out.read_text())["pictures"] == 1
    own = projects.call("evaluate", f"--workdir={run}", f"--out={out}")
    assert own.code == 0 and "other data" not in own.out


def test_evaluate_from_another_folder(project, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "val.json").write_text("{}")  # of nobody's concern
    assert projects.call("evaluate", f"--workdir={run}", f"--out={tmp_path / 'scores.json'}").code == 0


def test_evaluate_where_a_class_is_absent(project, run, tmp_path, monkeypatch):
    def absent(content):
        gone = content["categories"].pop(0)["id"]
        content["annotations"] = [item for item in content["annotations"] if item["category_id"] != gone]

    project.edit("val.json", absent)
    data = f"--config.data.val.annotations={project.folder / 'val.json'}"
    outcome = projects.call("evaluate", f"--workdir={run}", f"--out={tmp_path / 'scores.json'}", data)
    assert outcome.code == 0, outcome
    assert "val.json: it does not know square, of which nothing can be scored." in outcome.err
    assert re.search(r"^square +AP +nan", outcome.out, re.MULTILINE)


def test_evaluate_without_an_object(project, run, refused):
    project.edit("val.json", lambda content: content.update(annotations=[]))
    data = f"--config.data.val.annotations={project.folder / 'val.json'}"
    outcome = projects.call("evaluate", f"--workdir={run}", data)
    refused(outcome, 65, "There is no object on the 2 pictures", command="evaluate")


def predicted(*arguments):
    """What predict wrote, and what it said."""
    outcome = projects.call("predict", *arguments)
    assert outcome.code == 0, outcome
    (out,) = (Path(argument.partition("=")[2]) for argument in map(str, arguments) if argument.startswith("--out="))
    return json.loads((out / "predictions.json").read_text()), outcome


def test_predict_takes_a_student_wherever_it_is(runs, run, tmp_path):
    copy, out = shutil.copytree(run / "student", tmp_path / "weights"), f"--out={tmp_path / 'out'}"
    found = [predicted(f"--workdir={place}", out, picture(runs, 9))[0] for place in (run, run / "student", copy)]
    assert found[0]["annotations"] and found[0] == found[1] == found[2]


def test_predict_in_a_folder_is_the_same_twice_and_for_any_batch(runs, run, tmp_path):
    folder = Path(shutil.copytree(runs.project.folder / "images", tmp_path / "pictures"))
    (folder / "deeper").mkdir()
    with Image.open(folder / "1.png") as one:
        one.rotate(90, expand=True).save(folder / "deeper" / "upright.jpg")
    (folder / "2.png").write_bytes(b"broken")
    (folder / "notes.txt").write_text("no picture")
    arguments = (f"--workdir={run}", folder, f"--out={folder / 'out'}", "--score=0.05")
    first, said = predicted(*arguments)
    assert said.err.count("Left out: ") == 1 and "2.png" in said.err
    names = ["1.png", "10.png", "3.png", *(f"{number}.png" for number in range(4, 10)), "deeper/upright.jpg"]
    assert [image["file_name"] for image in first["images"]] == [str(folder / name) for name in names]
    assert [(image["width"], image["height"]) for image in first["images"]] == [(96, 64)] * 9 + [(64, 96)]
    assert f"on 10 pictures, drawn in {folder / 'out'}. 1 could not be read" in said.out.splitlines()[-1]
    assert len(list((folder / "out").glob("*.png"))) == 10
    again, _ = predicted(*arguments)  # what it drew is not looked at
    assert again == first
    batched, _ = predicted(*arguments, "--batch=3", "--nodraw")
    assert batched["images"] == first["images"]
    assert [row["image_id"] for row in batched["annotations"]] == [row["image_id"] for row in first["annotations"]]
    for a, b in zip(batched["annotations"], first["annotations"], strict=True):
        assert (a["bbox"], a["score"]) == (pytest.approx(b["bbox"], abs=0.1), pytest.approx(b["score"], abs=1e-3))
    assert COCO(folder / "out" / "predictions.json").getAnnIds(imgIds=[10])


def test_predict_on_a_video(run, tmp_path):
    clip, out = tmp_path / "clip.avi", tmp_path / "out"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))
    for number in range(7):
        writer.write(np.full((64, 96, 3), 30 * number, np.uint8))
    writer.release()
    found, said = predicted(f"--workdir={run}", clip, "--every=3", f"--out={out}")
    assert found["images"] == [
        {"id": place + 1, "file_name": str(clip), "width": 96, "height": 64, "video": str(clip), "frame": frame}
        | {"seconds": pytest.approx(frame / 5)}
        for place, frame in enumerate((0, 3, 6))
    ]
    assert sorted(file.name for file in out.glob("*.png")) == [
        f"{place + 1:04d}_clip_{frame:06d}.png" for place, frame in enumerate((0, 3, 6))
    ]
    assert "on 3 pictures" in said.out
    for file in out.glob("*.png"):
        file.unlink()
    found, said = predicted(f"--workdir={run}", clip, "--nodraw", f"--out={out}")
    assert len(found["images"]) == 7 and not list(out.glob("*.png"))
    assert f"listed in {out / 'predictions.json'}." in said.out


def test_predict_says_how_far_it_is(runs, run, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    _, said = predicted(f"--workdir={run}", picture(runs, 9), picture(runs, 10), f"--out={tmp_path / 'out'}")
    lines = said.out.splitlines()
    assert [line.partition(",")[0] for line in lines[:-1]] == ["1 of 2 pictures", "2 of 2 pictures"]
    assert all(line.endswith(" a second") for line in lines[:-1])


def test_predict_that_is_stopped_keeps_what_it_found(runs, run, tmp_path, monkeypatch):
    calls, advance = [], progress.Steps.advance

    def stop(steps):
        advance(steps)
        calls.append(steps)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Steps, "advance", stop)
    pictures = [picture(runs, number) for number in range(1, 11)]
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.json").write_text("an earlier one")
    outcome = projects.call("predict", f"--workdir={run}", *pictures, f"--out={out}")
    assert outcome.code == 130
    found = json.loads((out / "predictions.part").read_text())
    assert 2 <= len(found["images"]) < 10
    said = f"What was found in {len(found['images'])} pictures until then is in {out / 'predictions.part'}.\n"
    assert outcome.err.startswith(said) and outcome.err.count("\n") == 2
    assert (out / "predictions.json").read_text() == "an earlier one"


def test_predict_names_the_broken_picture_and_looks_at_the_others(runs, run, tmp_path):
    broken, out = tmp_path / "broken.png", tmp_path / "out"
    broken.write_text("no picture")
    good = [picture(runs, 9), picture(runs, 10)]
    before = projects.listing(run)
    outcome = projects.call("predict", f"--workdir={run}", good[0], broken, good[1], f"--out={out}", "--score=0.05")
    assert outcome.code == 0, outcome
    assert outcome.err == f"Left out: {broken} is not a picture; replace it or take it off the list.\n"
    assert f"on 2 pictures, drawn in {out}. 1 could not be read and were left out.\n" in outcome.out
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
    assert projects.listing(run) == before


def test_predict_of_broken_pictures_only(run, tmp_path, refused):
    broken, missing, out = tmp_path / "broken.png", tmp_path / "missing.png", tmp_path / "out"
    broken.write_bytes(b"")
    outcome = projects.call("predict", f"--workdir={run}", broken, missing, f"--out={out}")
    refused(outcome, 65, "Nothing could be read of 2 pictures", command="predict")
    assert f"Left out: {broken} is empty" in outcome.err
    assert f"Left out: There is no picture {missing}" in outcome.err
    assert not out.exists()


def test_predict_into_a_file(runs, run, tmp_path, refused):
    out = tmp_path / "out"
    out.write_text("here first")
    outcome = projects.call("predict", f"--workdir={run}", picture(runs, 9), f"--out={out}")
    refused(outcome, 74, out, command="predict")
    assert out.read_text() == "here first"


def test_predict_without_pictures(run, refused):
    refused(projects.call("predict", f"--workdir={run}"), 64, "Name the pictures", command="predict")


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_a_folder_that_is_no_run(runs, tmp_path, refused, name):
    images = [picture(runs, 9)] if name == "predict" else []
    for folder in (tmp_path, tmp_path / "missing", runs.project.folder):
        outcome = projects.call(name, f"--workdir={folder}", *images)
        refused(outcome, 64, folder, "is not the workdir of a run", command=name)
    refused(projects.call(name, *images), 64, "--workdir=DIR", command=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_a_run_that_is_broken(runs, run, refused, name):
    images = [picture(runs, 9)] if name == "predict" else []

    def call():
        return projects.call(name, f"--workdir={run}", *images)

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
    before = projects.listing(run)
    outcome = projects.call("evaluate", f"--workdir={run}")
    refused(outcome, 65, "There is no annotation file", project.folder / "val.json", command="evaluate")
    refused(projects.call("evaluate", f"--workdir={run}", "--batch=0"), 64, "batch", command="evaluate")
    assert projects.listing(run) == before

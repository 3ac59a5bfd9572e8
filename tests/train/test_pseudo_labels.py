"""Pictures without labels in a run: who tells of them, what is kept, that it goes on equally, and what is said."""

import json
import re
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import runs
import tiny
import vit_scene

from jaxkd.config import build as made
from jaxkd.config import component
from jaxkd.data import shapes, unlabelled
from jaxkd.errors import ConfigError, DataError
from jaxkd.loading import build, stored_teacher
from jaxkd.train import log, loop, pseudo_labels
from jaxkd.train.lesson import Lesson
from jaxkd.weights import read

LIKE = shapes.load(shapes.Config(count=1))
MIMIC = {"mimic": component("distill.mimic", adapter={"init": "lecun"})}


def draw(folder, source, indices):
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        cv2.imwrite(
            str(folder / f"{source.records[index].file}-{len(source.records)}.png"), source.read(index)[..., ::-1]
        )


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A detector that was trained a little, and a folder of six new pictures and a validation picture."""
    folder = tmp_path_factory.mktemp("unlabelled")
    loop.run(tiny.run(steps=60, train={"batch": 8, "checkpoint_every": 0}), folder / "teacher", quiet=True)
    draw(folder / "pictures", shapes.load(shapes.Config(count=6, size=tiny.SIZE, seed=7)), range(6))
    draw(folder / "pictures", shapes.load(made(tiny.run().data.val)), [2])
    return folder


def recipe(scene, *, steps=4, teacher="teacher/student", distill=None, **fields):
    # So few pictures make no detection sure: what counts is decided by a precision that this teacher reaches.
    given = {"images": str(scene / "pictures"), "precision": 0.05, "possible": 0.0} | fields
    plain = tiny.run()
    data = {name: plain.data[name] for name in ("train", "val", "loader")}
    data["unlabelled"] = component("data.unlabelled", **given)
    path = str(scene / teacher) if teacher else ""
    methods = MIMIC if distill is None else distill
    return tiny.run(steps=steps, teacher=path, distill=methods, data=data, train={"checkpoint_every": 2})


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    loop.run(recipe(scene), workdir, quiet=True)
    return workdir


def test_what_the_teacher_tells_is_in_the_workdir(whole):
    told = json.loads((whole / pseudo_labels.FILE).read_text())["labels"]
    assert 0 < len(told) <= 6 and not any(name.endswith("-4.png") for name in told)  # the copy of a validation picture
    weights = [weight for found in told.values() for weight in found["weights"]]
    assert any(weights) and all(0 <= weight <= 1 for weight in weights)


def test_a_run_that_was_stopped_goes_on_equally(scene, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "4")
    monkeypatch.setattr(pseudo_labels, "_labels", None)  # it is not asked again
    loop.run(recipe(scene), tmp_path / "run", quiet=True)
    for name, array in runs.arrays(whole, step=4).items():
        np.testing.assert_array_equal(runs.arrays(tmp_path / "run", step=4)[name], array, err_msg=name)


def test_other_pictures_are_another_run(scene, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    shutil.copytree(scene / "pictures", tmp_path / "pictures")
    next((tmp_path / "pictures").iterdir()).unlink()
    changed = recipe(scene, images=str(tmp_path / "pictures"))
    with pytest.raises(DataError, match="The pictures without labels of this run changed since it began"):
        loop.run(changed, tmp_path / "run", quiet=True)


def test_it_is_said(scene, tmp_path, capsys):
    loop.run(recipe(scene, steps=1), tmp_path, quiet=False)
    out = capsys.readouterr().out
    assert "Near copies of validation pictures, left out: 1 of the pictures without labels." in out
    assert "On 6 pictures without labels the teacher is sure of" in out
    assert re.search(r"Of each batch 50% are from \d pictures? without labels\.", out)


def test_a_folder_of_the_validation_pictures_is_refused(scene, tmp_path):
    val = shapes.load(made(tiny.run().data.val))
    draw(tmp_path / "pictures", val, range(4))
    with pytest.raises(DataError, match=r"Of the 4 pictures without labels in .* none can be used"):
        loop.run(recipe(scene, images=str(tmp_path / "pictures")), tmp_path / "run", quiet=True)


def test_a_backbone_teaches_features_of_them_alone(scene, tmp_path, capsys):
    read.save(scene / "vit.safetensors", vit_scene.named(vit_scene.weights(), "hf2"))
    align = {"align": component("distill.align")}
    loop.run(recipe(scene, teacher="vit.safetensors", distill=align), tmp_path / "mixed")
    assert "pictures without labels teach features alone" in capsys.readouterr().out
    rows = [line for line in log.read(tmp_path / "mixed") if "loss" in line]
    assert all(np.isfinite(row["loss"]) and row["align/align_32"] > 0 for row in rows)


def test_without_a_teacher_they_have_no_effect(scene, tmp_path, capsys):
    loop.run(recipe(scene, steps=1, teacher="", distill={}), tmp_path)
    assert "There is no teacher to teach, so data.unlabelled has no effect." in capsys.readouterr().out


def test_one_device_and_four_agree(scene, tmp_path):
    losses = []
    for devices in (1, 4):
        plain = recipe(scene, steps=2).copy_and_resolve_references()
        plain.train.devices = devices
        loop.run(plain, tmp_path / str(devices), quiet=True)
        losses.append([line["loss"] for line in log.read(tmp_path / str(devices)) if "loss" in line])
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_share_beyond_a_batch_is_refused(scene):
    with pytest.raises(ConfigError, match="share must be"):
        made(component("data.unlabelled", share=1.5))


def test_a_file_of_detections_says_nothing_of_pictures_that_it_does_not_have(scene, tmp_path):
    source = unlabelled.open_folder(made(component("data.unlabelled", images=str(scene / "pictures"))), like=LIKE)
    images = [{"id": 5 + record.index, "file_name": record.file} for record in source.records[:3]]
    rows = [
        {"image_id": number, "category_id": 1, "bbox": [4, 4, 20, 20], "score": 0.9} for number in (5, 6)
    ]  # the third has a name and no row
    categories = [{"id": 1, "name": shapes.CLASSES[0]}]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"images": images, "categories": categories, "annotations": rows}))
    said = []
    config = made(tiny.loader())
    teaching = pseudo_labels.Teaching({}, None, config, None, said.append, None)
    kept = pseudo_labels._with_rows(source, stored_teacher.load(file, LIKE), {}, teaching)
    assert [record.file for record in kept.records] == [record.file for record in source.records[:2]]
    assert said == ["rows.json: no detection on 5 pictures without labels, left out."]


def test_a_teacher_that_lacks_a_class_gives_no_pseudo_labels(scene):
    teacher = build.load(scene / "teacher" / "student")
    val = shapes.load(made(tiny.run().data.val))

    def tellers(columns):
        lesson = Lesson(teacher.detector, teacher.detector, MIMIC, teacher_columns=columns)
        pair = SimpleNamespace(lessons={"": lesson})
        teaching = pseudo_labels.Teaching({"": teacher}, pair, None, None, print, None)
        return list(pseudo_labels._labelling_teachers(teaching, val))

    assert tellers(()) == tellers((2, 0, 1)) == [""]
    assert tellers((2, -1, 1)) == []

"""A folder of Hugging Face teaches: by its feature maps and its detections, on a canvas of its own."""

import json

import numpy as np
import pytest
import query_reference as reference
import tiny

from jaxkd.config import component
from jaxkd.data import shapes
from jaxkd.loading import hub
from jaxkd.train import log, loop, ownership, pairing

VIEW = {"size": reference.SIZE, "fit": "stretch", "antialias": True, "resample": "bilinear"}
METHODS = {"mimic": component("distill.mimic"), "det": component("distill.detections", box={"gate": "none"})}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A D-FINE for the classes of drawn pictures."""
    folder = tmp_path_factory.mktemp("teacher") / "d_fine"
    folder.mkdir()
    for file in (reference.ROOT / "d_fine").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    values = json.loads((folder / "config.json").read_text())
    values["id2label"] = {str(index): name for index, name in enumerate(shapes.CLASSES)}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def recipe(folder, **view):
    made = tiny.run(steps=2, distill=METHODS, train={"checkpoint_every": 2})
    made.data.loader = tiny.loader(teacher_view=view) if view else tiny.loader()
    made.teacher = str(folder)
    return made


def test_it_teaches_by_maps_and_detections(folder, tmp_path):
    assert loop.run(recipe(folder, **VIEW), tmp_path, quiet=True).steps == 2
    lines = [line for line in log.read(tmp_path) if "loss" in line]
    assert lines
    for line in lines:
        terms = {name: value for name, value in line.items() if name.startswith(("mimic/", "det/"))}
        assert all(np.isfinite(value) for value in terms.values())
        assert any(value > 0 for name, value in terms.items() if name.startswith("mimic/"))


def test_it_answers_about_a_faster_rcnn_s_regions(folder, tmp_path):
    tar = component("distill.task_adaptive", classification={"weight": 0.0}, box={"gate": "none"})
    made = recipe(folder, **VIEW)
    made.distill = {"tar": tar}
    loop.run(made, tmp_path, quiet=True)
    lines = [line for line in log.read(tmp_path) if "tar/box" in line]
    assert lines and all(np.isfinite(line["tar/box"]) for line in lines) and any(line["tar/box"] > 0 for line in lines)


def test_on_the_student_s_canvas_it_is_said(folder):
    teacher = hub.load(folder)
    said = "The teacher{} is for pictures stretched to 64x96 and sees the student's canvas; {} gives it its own."
    plain, own = recipe(folder), recipe(folder, **VIEW)
    assert list(pairing.canvas_notes(plain, {"": teacher})) == [said.format("", "data.loader.teacher_view")]
    assert list(pairing.canvas_notes(own, {"": teacher})) == []
    plain.data.loader = tiny.loader(fit="stretch")
    assert list(pairing.canvas_notes(plain, {"": teacher})) == []
    for view in ({}, VIEW):
        web = {"web": {"path": str(folder), "distill": METHODS, "view": view}}
        sentences = [] if view else [said.format(" web", "config.teachers.web.view")]
        assert list(pairing.canvas_notes(tiny.run(teachers=web), {"web": teacher})) == sentences


def test_its_weights_belong_to_a_run(folder):
    assert len(ownership.teacher_digest(recipe(folder))) == 64

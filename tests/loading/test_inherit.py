"""Detectors from folders and files: what a student takes over from its teacher, and a teacher straight from a file."""

import jax
import numpy as np
import pytest
import tiny
import torch_writer
import torchvision_reference as reference
from ml_collections import ConfigDict

from jaxkd.config import component
from jaxkd.errors import ConfigError, WeightsError
from jaxkd.loading import build, initial, prepare
from jaxkd.weights.tree import flatten

CLASSES = ("circle", "square", "triangle")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A saved teacher of the student's widths."""
    folder, config = tmp_path_factory.mktemp("teacher"), tiny.detector()
    params = build.detector(config, CLASSES).init(jax.random.key(7))
    build.save(folder, params, config=config, classes=CLASSES, scores={}, sizes={"short": (64,), "long": 96})
    return build.load(folder)


@pytest.fixture(scope="module")
def params():
    return build.detector(tiny.detector(), CLASSES).init(jax.random.key(0))


@pytest.mark.parametrize(
    ("parts", "taken"),
    [("none", set()), ("neck", {"neck"}), ("head", {"rpn", "head"}), ("neck+head", {"neck", "rpn", "head"})],
)
def test_a_student_takes_over_what_it_is_told_to(teacher, params, parts, taken):
    found, said = initial.inherit(params, teacher, parts, classes=CLASSES)
    for name, leaf in flatten(found).items():
        theirs = name.split("/")[0] in taken
        np.testing.assert_array_equal(leaf, flatten(teacher.params if theirs else params)[name], err_msg=name)
    assert said.startswith(f"The student inherits its teacher's {parts}: ") == bool(taken)


def test_parts_that_do_not_fit_are_refused(teacher, params):
    wide = build.detector(tiny.detector(channels=24), CLASSES).init(jax.random.key(0))
    with pytest.raises(WeightsError, match="has the shape"):
        initial.inherit(wide, teacher, "neck", classes=CLASSES)
    with pytest.raises(ConfigError, match=r"one of none, neck, head, neck\+head; got 'tail'"):
        initial.inherit(params, teacher, "tail", classes=CLASSES)
    with pytest.raises(ConfigError, match="there is no teacher to inherit from"):
        initial.inherit(params, None, "neck", classes=CLASSES)


def test_a_head_for_other_classes_is_not_taken_over(teacher, params):
    with pytest.raises(WeightsError, match="for other classes"):
        initial.inherit(params, teacher, "neck+head", classes=CLASSES[::-1])
    initial.inherit(params, teacher, "neck", classes=CLASSES[::-1])


def test_sizes_travel_with_the_weights(teacher):
    assert teacher.sizes == {"short": (64,), "long": 96}


def test_a_teacher_straight_from_a_torch_file(tmp_path):
    state = reference.random_state_dict("faster_rcnn", 18, 1, 21, 7, width=16, channels=32, hidden=64)
    torch_writer.save(tmp_path / "voc.pth", {"model": state, "epoch": 3})
    recipe = ConfigDict(tiny.run(distill={"mimic": component("distill.mimic")}, teacher="x").to_dict())
    recipe.teacher = str(tmp_path / "voc.pth")
    loaded = prepare.load_teacher(recipe)
    assert loaded is not None and loaded.detector.classes[:2] == ("aeroplane", "bicycle")
    columns, said = prepare.class_columns(loaded.detector.classes, ("cat", "zebra"))
    assert columns == (7, -1) and "it says nothing about zebra" in said

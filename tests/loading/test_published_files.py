"""Files of other programs as a run's teacher and as what its student starts from."""

import logging

import jax
import numpy as np
import pytest
import torch_writer
import torchvision_reference as reference

import jaxkd
from jaxkd.cli.workdir import open_run
from jaxkd.config import component
from jaxkd.errors import WeightsError
from jaxkd.loading import build, initial, prepare
from jaxkd.weights import read
from jaxkd.weights.tree import flatten

NARROW = {"width": 8, "channels": 16, "hidden": 32}
NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def state():
    return reference.random_state_dict("faster_rcnn", 18, 1, 3, 7, **NARROW)


@pytest.fixture(scope="module")
def student():
    config = component(
        "detectors.faster_rcnn",
        like="torchvision",
        backbone=component("nets.resnet", like="torchvision", depth=18, width=8),
        neck=component("nets.fpn", channels=16),
        head={"hidden": 32},
    )
    return build.detector(config, NAMES)


@pytest.fixture
def distilled(tmp_path, state):
    """A file with a student and its teacher, whose numbers are twice those."""
    twice = {f"teacher.{name}": np.asarray(2 * array) for name, array in state.items()}
    torch_writer.save(tmp_path / "both.pth", {"state_dict": {f"student.{n}": a for n, a in state.items()} | twice})
    return tmp_path / "both.pth"


STEM = "backbone.body.conv1.weight"


def stem(params):
    return np.asarray(params["backbone"]["conv1"]["kernel"]).transpose(3, 2, 0, 1)


def test_a_teacher_is_one_of_a_files_detectors_and_the_log_says_what_was_taken(distilled, state, caplog):
    with pytest.raises(
        WeightsError, match=r"both.pth holds 2 detectors: student, teacher; name one, as both.pth:student"
    ):
        prepare.load_detector(distilled, classes=NAMES)
    with caplog.at_level(logging.WARNING):
        loaded = prepare.load_detector(f"{distilled}:teacher", classes=NAMES)
    np.testing.assert_array_equal(stem(loaded.params), 2 * state[STEM])
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith("both.pth: torchvision faster_rcnn: 130 leaves matched under teacher. in state_dict.")
    assert "--eps" in said and "--anchors" in said and "The file also holds student" in said


def test_jaxkd_load_and_the_commands_take_a_part_too(distilled, monkeypatch):
    monkeypatch.setattr(prepare.published, "BY_NUMBER", {2: NAMES})
    assert jaxkd.load(f"{distilled}:student", classes=("a", "b")).classes == ("a", "b")
    assert open_run(f"{distilled}:student").student.detector.classes == NAMES


def test_a_student_starts_from_a_detector_under_a_prefix(distilled, student, state):
    params, said = initial.params(student, jax.random.key(0), f"{distilled}:teacher")
    np.testing.assert_array_equal(stem(params), 2 * state[STEM])
    assert said.startswith(
        "The student starts from both.pth under teacher. in state_dict: 126 leaves; head/logits/kernel"
    )
    assert "The file also holds student" in said and "Not used are 150 array(s)" in said


def backbone(state, prefix=""):
    arrays = {name: array for name, array in state.items() if name.startswith("backbone.body.")}
    return {f"{prefix}{name.removeprefix('backbone.body.')}": array for name, array in arrays.items()}


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
def test_a_students_backbone_starts_from_one_under_a_prefix(tmp_path, student, state, suffix):
    arrays = backbone(state, "module.encoder_q.") | {"module.queue": np.ones((4, 4), np.float32)}
    path = tmp_path / f"moco{suffix}"
    if suffix == ".pth":
        torch_writer.save(
            path, {"epoch": 3, "state_dict": arrays, "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}}}
        )
    elif suffix == ".npz":
        np.savez(path, **arrays)
    else:
        read.save(path, arrays)
    params, said = initial.params(student, jax.random.key(0), str(path))
    count, place = (2, " in state_dict") if suffix == ".pth" else (1, "")
    leaves = len(flatten(params["backbone"]))
    assert said.startswith(
        f"The student's backbone starts from moco{suffix} (resnet): {leaves} leaves under module.encoder_q.{place}. "
        f"Not used are {count} array(s) beside these: "
    )
    np.testing.assert_array_equal(stem(params), state[STEM])


def test_one_of_two_backbones_is_named(tmp_path, student, state):
    arrays = {"student": backbone(state, "module.backbone."), "teacher": backbone(state, "backbone.")}
    torch_writer.save(tmp_path / "dino.pth", arrays)
    with pytest.raises(WeightsError, match=r"2 backbones: student\.backbone, teacher\.backbone; name one"):
        initial.params(student, jax.random.key(0), str(tmp_path / "dino.pth"))
    params, said = initial.params(student, jax.random.key(0), f"{tmp_path / 'dino.pth'}:teacher.backbone")
    np.testing.assert_array_equal(stem(params), state[STEM])
    assert "under backbone. in teacher. The file also holds student.backbone" in said


def test_the_weights_of_our_own_folder_are_named_by_the_folder(tmp_path, student):
    read.save(tmp_path / "weights.safetensors", flatten(student.init(jax.random.key(0))))
    with pytest.raises(WeightsError, match=f"give its folder {tmp_path}"):
        initial.params(student, jax.random.key(0), str(tmp_path / "weights.safetensors"))

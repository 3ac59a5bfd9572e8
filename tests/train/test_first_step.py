"""What is said of terms that are 0, or without a gradient, in the first step in which their method teaches."""

from types import SimpleNamespace

import numpy as np
import toy_method

from jaxkd.config import build, component
from jaxkd.train import first_step
from jaxkd.train.schedules import Scheduled
from jaxkd.train.training import Training

TAR = build(component("distill.task_adaptive"))
GKD = build(component("distill.global_knowledge", start_epoch=5))
TAUGHT = {"tar/feature_4": 0.5, "tar/class": 0.25, "tar/box": 0.125, "tar/class_gate": 0.5, "tar/box_gate": 0.5}


def test_terms_that_teach_need_no_word():
    values = TAUGHT | {"tar/class_excess": 0.0, "tar/decay": 1.0, "class": 0.0, "gradient_ratio/tar/class": 0.5}
    assert first_step.sentences({"tar": TAR}, values, step=1) == []


def test_a_term_that_is_zero_is_said_with_its_reason():
    values = TAUGHT | {"tar/class": 0.0, "tar/class_gate": 0.0, "tar/feature_4": 0.0, "tar/feature_8": 0.0}
    values |= {"gkd/global": 0.0, "gkd/soft": 0.5, "gkd/sigma": 1.0, "gradient_ratio/tar/class": 0.0}
    assert first_step.sentences({"tar": TAR, "gkd": GKD}, values, step=1) == [
        "tar/feature_4 and tar/feature_8 are 0 in step 1: no object lies there.",
        "tar/class is 0 in step 1: no region passes classification.gate='teacher_better'.",
        "gkd/global is 0 in step 1: there are no prototypes before epoch 6 (start_epoch=5).",
    ]


def test_of_two_sets_of_regions_the_one_with_closed_gates_is_said():
    values = {"tar/class/0": 0.0, "tar/class/1": 0.5, "tar/class_gate/0": 0.0, "tar/class_gate/1": 0.5}
    (said,) = first_step.sentences({"tar": TAR}, values, step=1)
    assert said.startswith("tar/class/0 is 0 in step 1: no region passes")


def test_a_method_without_reasons_is_said_all_the_same():
    assert first_step.sentences({"toy": toy_method.Config()}, {"toy/pull": 0.0, "toy/decay": 0.0}, step=1) == [
        "toy/pull is 0 in step 1."
    ]


def test_a_term_without_a_gradient_is_said():
    values = TAUGHT | {"gradient_ratio/tar/feature": 0.0, "gradient_ratio/tar/class": 0.5}
    assert first_step.sentences({"tar": TAR}, values, step=1) == [
        "tar/feature is not 0 in step 1 and has no gradient at the student's neck, as a term of backbone maps."
    ]


def test_a_method_is_looked_at_in_its_first_step_with_a_decay_above_zero():
    said = []
    run = SimpleNamespace(log=SimpleNamespace(say=said.append), unchecked={"toy": toy_method.Config(), "tar": TAR})
    for step, decay in ((1, 0.0), (2, 0.5), (3, 1.0)):
        scheduled = Scheduled(np.float32(0), {"toy": np.float32(1), "tar": np.float32(decay)})
        Training._check_terms(run, step, scheduled, {"toy/pull": 0.0, "tar/box": 0.0, "tar/box_gate": 0.0})
    assert [line.split(":")[0].rstrip(".") for line in said] == ["toy/pull is 0 in step 1", "tar/box is 0 in step 2"]
    assert run.unchecked == {}

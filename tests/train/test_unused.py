"""What a recipe's other fields leave without effect is said, and nothing else."""

import importlib
import operator
from pathlib import Path

import pytest
import tiny

import jaxkd
from jaxkd.config import component
from jaxkd.train import unused

ROOT = Path(jaxkd.__file__).parent
MODULES = sorted(
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts)
    for file in ROOT.rglob("*.py")
    if "\nONLY_WITH = {" in file.read_text()
)


@pytest.mark.parametrize("name", MODULES)
def test_the_fields_are_there(name):
    module = importlib.import_module(name)
    assert module.ONLY_WITH
    for field in set(module.ONLY_WITH) | {other for other, _ in module.ONLY_WITH.values()}:
        operator.attrgetter(field)(module.Config())


def test_there_are_some():
    assert {"jaxkd.train.optimizer", "jaxkd.distill.task_adaptive", "jaxkd.data.tfds"} <= set(MODULES)


def test_defaults_need_no_word():
    assert unused.sentences(tiny.run()) == []


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"optimizer": component("train.optimizer", kind="adamw", momentum=0.5, milestones=(0.5,))},
            ["config.optimizer.momentum=0.5 has no effect while kind is 'adamw'."],
        ),
        (
            {"optimizer": component("train.optimizer", schedule="cosine", milestones=(0.5,))},
            ["config.optimizer.milestones=(0.5,) has no effect while schedule is 'cosine'."],
        ),
        (
            {"optimizer": component("train.optimizer", warmup_steps=0, warmup_factor=0.5)},
            ["config.optimizer.warmup_factor=0.5 has no effect while warmup_steps is 0."],
        ),
        (
            {"student": tiny.retinanet(loss={"box_loss": "giou", "smooth_l1_beta": 0.1})},
            ["config.student.loss.smooth_l1_beta=0.1 has no effect while loss.box_loss is 'giou'."],
        ),
        (
            {
                "distill": {
                    "tar": component(
                        "distill.task_adaptive",
                        box={"weight": 0.0, "norm": "gated"},
                        classification={"temperature": 2.0},
                    )
                }
            },
            [
                "config.distill.tar.box.norm='gated' has no effect while box.weight is 0.0.",
                "config.distill.tar.classification.temperature=2.0 has no effect while classification.form is 'bce'.",
            ],
        ),
    ],
    ids=["adamw", "cosine", "no warm-up", "giou", "a term that is left out"],
)
def test_what_does_nothing_is_said(parts, said):
    assert unused.sentences(tiny.run(**parts)) == said

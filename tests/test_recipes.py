"""Shipped recipes: what each resolves to, word by word, and that a small one of each kind trains on real pictures.

After a change that is meant, `python tests/test_recipes.py` writes the words anew.
"""

from pathlib import Path

import numpy as np
import pytest

from jaxkd import config as configs
from jaxkd.train import log, loop, unused

GOLDEN = Path(__file__).parent / "golden"
RECIPES = {
    "bccd": (
        *(
            "alone",
            "mimic",
            "pkd",
            "cwd",
            "fgd",
            "mgd",
            "tar",
            "gkd",
            "tar+gkd",
            "retinanet-alone",
            "retinanet-tar+gkd",
        ),
        *("fcos-alone", "gfl-alone"),
        *("rt_detr-alone", "d_fine-alone", "d_fine-mimic"),
    ),
    "bccd_teacher": ("",),
    "coco": (
        *(f"faster_rcnn-{net}" for net in ("r18", "r34", "r50", "r50-2x", "r101-2x", "x101", "mobilenet")),
        *(f"retinanet-{net}" for net in ("r18", "r34", "r50", "r50-2x", "r101-2x", "x101")),
        *("fcos-r18", "fcos-r50", "fcos-r50-2x", "fcos-r101", "fcos-r50-tiny", "gfl-r50", "gfl-r50-2x", "gfl-r50-tiny"),
        *(f"gfl-mobilenetv4_small-{option}" for option in ("320", "416", "416-2x", "320-tiny")),
        *("faster_rcnn-r50-tiny", "retinanet-r50-tiny", "faster_rcnn-r50-debug"),
    ),
    "query_coco": (
        *("d_fine-n", "d_fine-s", "d_fine-m", "rt_detr-r18", "rt_detr-r50", "d_fine-n-tiny", "rt_detr-r18-tiny"),
        "d_fine-s-debug",
    ),
    "voc": ("faster_rcnn-r50", "faster_rcnn-r101", "gfl-mobilenetv4_small-320", "faster_rcnn-r50-tiny"),
    "tar_coco": ("", "alone", "tiny", "alone-tiny", "debug"),
    "gkd_coco": (
        *(f"{kind}{option}" for kind in ("faster_rcnn", "retinanet") for option in ("", "-control", "-tar", "-tiny")),
        "faster_rcnn-tar-tiny",
    ),
    "gkd_voc": ("", "control", "tiny"),
    "mobilenet_coco": ("", "alone", "tiny"),
}
CASES = [(name, argument) for name, arguments in RECIPES.items() for argument in arguments]
TRAINED = [
    ("coco", "faster_rcnn-r50-tiny"),
    ("voc", "faster_rcnn-r50-tiny"),
    ("tar_coco", "tiny"),
    ("gkd_coco", "faster_rcnn-tiny"),
    ("gkd_coco", "retinanet-tiny"),
    ("coco", "fcos-r50-tiny"),
    ("coco", "gfl-r50-tiny"),
    ("query_coco", "d_fine-n-tiny"),
    ("query_coco", "rt_detr-r18-tiny"),
    ("gkd_voc", "tiny"),
    ("mobilenet_coco", "tiny"),
]


def resolved(name, argument):
    return configs.load_recipe(name, argument)


def golden(name, argument):
    return GOLDEN / f"{name}{'_' * bool(argument)}{argument}.json"


def test_every_recipe_is_listed():
    assert {file.stem for file in (Path(__file__).parents[1] / "configs").glob("*.py")} == set(RECIPES)
    assert {file.name for file in GOLDEN.glob("*.json")} == {golden(*case).name for case in CASES}


@pytest.mark.parametrize(("name", "argument"), CASES)
def test_recipe_is_what_it_was(name, argument):
    found = resolved(name, argument)
    assert configs.dump(found) + "\n" == golden(name, argument).read_text()
    for part in (found.student, found.optimizer, found.train, *found.data.values(), *found.distill.values()):
        configs.build(part)
    assert unused.sentences(found) == []


def test_recipes_open_with_a_run_card():
    for name in RECIPES:
        card = (Path(__file__).parents[1] / "configs" / f"{name}.py").read_text().split('"""')[1]
        assert all(f"\n  {field} " in card for field in ("data", "hardware", "command")), name


@pytest.mark.parametrize(("name", "argument"), TRAINED)
def test_a_small_one_of_each_kind_takes_steps_on_real_pictures(name, argument, tmp_path):
    found = resolved(name, argument)
    found.train.steps, found.train.report_every, found.train.evaluate_limit, found.train.teacher_check = 5, 1, 8, 0
    if "gkd" in found.distill:
        found.distill.gkd.start_epoch, found.data.train.limit = 0, 24
    finished = loop.run(found, tmp_path, quiet=True)
    assert finished.steps == 5
    lines = [line for line in log.read(tmp_path) if "loss" in line]
    assert len(lines) == 5 and all(np.isfinite(line["loss"]) for line in lines)
    for method in found.distill:
        assert any(name.startswith(f"{method}/") and value > 0 for name, value in lines[-1].items()), method


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        golden(*case).write_text(configs.dump(resolved(*case)) + "\n")

"""Distillation methods with the weights and scales that small detectors want."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.config import component
from jaxkd.data.base import Record
from jaxkd.derive.base import Choice
from jaxkd.errors import ConfigError
from jaxkd.types import Capability

# Which may be joined, as in "tar+gkd".
NAMES = ("tar", "gkd", "mimic", "pkd", "cwd", "fgd", "mgd", "detections", "align", "shared_queries")
MODULES = {"pkd": "pearson", "cwd": "channel_wise", "fgd": "focal_global", "mgd": "masked_generative"}
AUTO = "auto"
OFF, LECUN = {"weight": 0.0}, {"init": "lecun"}
MEASURED, NO_REGIONS = "measured on blood cells", "the teacher does not predict for the student's regions"
FEATURE_WEIGHT, ANSWER_WEIGHT = 0.1, 2.0  # of TAR on blood cells, where the paper's would drown the detection loss
ENOUGH = 200  # pictures from which on prototypes are worth their search
REFRESHES = 11  # selections of prototypes in a run
MIN_SIDE = 30.0  # of GKD's paper, in pixels of the original picture


def check(name: str) -> None:
    """Raises ConfigError where a name is neither AUTO nor one of NAMES, or several of them joined by "+"."""
    parts = name.split("+")
    if name != AUTO and (not set(parts) <= set(NAMES) or len(set(parts)) < len(parts)):
        raise ConfigError(f"There is no method {name!r}; take auto, {phrases.listed(NAMES)}, or several as in tar+gkd.")


def chosen(name: str, *, pictures: int, student: Collection[Capability], teacher: Collection[Capability]) -> Choice:
    """The methods of a name such as "tar+gkd"; "auto" is TAR, with GKD for two detectors of two stages.

    A teacher that gives nothing but detections teaches by these, one that gives nothing but maps by alignment.
    `student` and `teacher` are the capabilities of the two.
    """
    if name != AUTO:
        return Choice(tuple(name.split("+")), "as asked for")
    if "features" not in teacher:
        return Choice(("detections",), "the teacher gives detections and no feature maps")
    if set(teacher) == {"features"}:
        return Choice(("align",), "the teacher gives feature maps and nothing else")
    one_stage = [who for who, of in (("student", student), ("teacher", teacher)) if "box_predictions" not in of]
    if one_stage:
        return Choice(("tar",), f"the {one_stage[-1]} is no detector of two stages")
    if pictures < ENOUGH:
        return Choice(("tar",), f"fewer than {ENOUGH} pictures")
    return Choice(("tar", "gkd"), f"both detectors have two stages, and there are {ENOUGH} pictures or more")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What methods follow of."""

    scales: Mapping[str, float]  # sides in pixels by which "tar" and "gkd" put objects on levels
    epochs: int
    least_side: Choice
    shared: bool  # whether the teacher predicts for the student's regions
    alike: bool  # whether both detectors have equal levels


def of(name: str, setting: Setting) -> tuple[configs.Recipe, dict[str, Choice]]:
    """The component of one method, and the reasons of its fields."""
    derived = {"tar": _tar, "gkd": _gkd, "mimic": _mimic}
    return derived[name](setting) if name in derived else (component(f"distill.{MODULES.get(name, name)}"), {})


def _tar(setting: Setting) -> tuple[configs.Recipe, dict[str, Choice]]:
    """TAR; without classes and boxes for a teacher that does not predict for the student's regions."""
    answers = {"weight": ANSWER_WEIGHT} if setting.shared else OFF
    fields = {
        "feature": {"weight": FEATURE_WEIGHT, "canonical_scale": setting.scales["tar"]},
        "classification": answers,
        "box": answers,
        "adapter": LECUN,
    }
    words = MEASURED if setting.shared else NO_REGIONS
    reasons = {
        "feature": f"{MEASURED}; the scale is that of the student's pooling or anchors",
        "classification": words,
        "box": words,
    }
    return component("distill.task_adaptive", **fields), _reasons(fields, reasons)


def _gkd(setting: Setting) -> tuple[configs.Recipe, dict[str, Choice]]:
    """GKD, whose prototypes are chosen about eleven times in a run."""
    every = max(round(setting.epochs / REFRESHES), 1)
    fields: dict[str, Any] = {
        "canonical_scale": setting.scales["gkd"],
        "start_epoch": every,
        "refresh_every": every,
        "prototypes": {"min_side": setting.least_side.value},
    }
    reasons = {
        "canonical_scale": "TAR's scale on the finest level of both detectors, as 56 at stride 4 is to 224 for COCO",
        "start_epoch": "random numbers have no prototypes worth having",
        "refresh_every": f"some {REFRESHES} times in a run",
        "prototypes": setting.least_side.words,
    }
    if not setting.shared:
        fields, reasons = fields | {"soft": OFF}, reasons | {"soft": NO_REGIONS}
    if not setting.alike:
        fields, reasons = fields | {"levels": "common"}, reasons | {"levels": "the teacher may have others"}
    return component("distill.global_knowledge", **fields), _reasons(fields, reasons)


def _mimic(setting: Setting) -> tuple[configs.Recipe, dict[str, Choice]]:
    """Imitation of features alone."""
    del setting
    fields = {"adapter": LECUN, "weight": FEATURE_WEIGHT}
    return component("distill.mimic", **fields), _reasons(fields, {"weight": MEASURED})


def _reasons(fields: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Choice]:
    return {name: Choice(fields[name], text) for name, text in words.items()}


def least_side(records: Sequence[Record]) -> Choice:
    """The least side of GKD's prototypes in pixels of the original picture: 30, or less for small objects."""
    by_class: dict[int, list[np.ndarray]] = {}
    for record in records:
        sides = (record.boxes[:, 2:] - record.boxes[:, :2]).min(-1)
        for label in set(record.labels[~record.crowd].tolist()):
            by_class.setdefault(label, []).append(sides[~record.crowd & (record.labels == label)])
    medians = [float(np.median(np.concatenate(sides))) for sides in by_class.values()]
    side = float(np.floor(min([MIN_SIDE, *medians])))
    return Choice(side, "half of the objects of every class, or more, are wider and higher")

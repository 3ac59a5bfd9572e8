"""What derived settings have in common."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from jaxkd import config as configs
from jaxkd.data.base import Record
from jaxkd.errors import DataError


class Choice(NamedTuple):
    """A derived value, and its reason in one sentence without a full stop."""

    value: Any
    words: str


class Reason(NamedTuple):
    """A setting of the derived recipes, its value and its reason.

    A setting is dotted as in a recipe ("data.loader.short"); a part stands for all of its fields. Behind "teacher:" it
    is of the teacher's recipe, in place of the one without.
    """

    setting: str
    value: Any
    words: str


class Notes:
    """The reasons, noted as values are taken."""

    def __init__(self, prefix: str = ""):
        self.reasons: list[Reason] = []
        self._prefix = prefix  # of the settings

    def take(self, setting: str, choice: Choice) -> Any:
        """The value of a choice, whose reason is noted."""
        self.reasons.append(Reason(f"{self._prefix}{setting}", *choice))
        return choice.value


def boxes_of_objects(records: Sequence[Record]) -> Float32[np.ndarray, "n 4"]:
    """The boxes of all objects, those of crowds left out; DataError where there is none."""
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(record.boxes[~record.crowd] for record in records)])
    if not len(boxes):
        raise DataError(f"None of the {len(records)} training pictures has an object, so no setting follows of them.")
    return boxes


def detector_of(component: configs.Recipe, classes: Sequence[str]) -> Any:
    """The detector with this component, for these classes."""
    config = configs.build(component)
    return configs.module_of(config).build(config, classes=tuple(classes))


def rounded_up(number: int | float, step: int) -> int:
    """The least multiple of `step` that is not below `number`."""
    return step * -int(-number // step)

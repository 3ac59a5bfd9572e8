"""How training pictures are varied: a preset for the data and the detector, and repeats of rare classes."""

import math
from collections.abc import Sequence

import jax
import numpy as np

from jaxkd import config as configs
from jaxkd.data import presets
from jaxkd.data.base import Source
from jaxkd.derive.base import Choice, detector_of

RARE = 0.05  # share of the pictures below which a class is rare
UNREPEATED = 0.0


def repeats(train: Source) -> Choice:
    """The loader's `repeat_threshold`: pictures with a rare class come more often (Gupta et al. 2019)."""
    counts = np.zeros(len(train.classes), np.int64)
    for record in train.records:
        counts[np.unique(record.labels[~record.crowd])] += 1
    rare = [
        name
        for name, count in zip(train.classes, counts.tolist(), strict=True)
        if 0 < count < RARE * len(train.records)
    ]
    if not rare:
        return Choice(UNREPEATED, f"no class is on fewer than {RARE:.0%} of the pictures")
    return Choice(RARE, f"{len(rare)} of {len(train.classes)} classes are on fewer than {RARE:.0%} of the pictures")


def fields(name: presets.Name, train: Source, detector: configs.Recipe) -> dict[str, Choice]:
    """The loader's `repeat_threshold`, `flip` and `augment` for training this detector, the component of one."""
    repeat = repeats(train) if name != "none" else Choice(UNREPEATED, "nothing is varied, as asked")
    preset = presets.preset(
        name,
        pictures=len(train.records),
        parameters=parameters(detector, train.classes),
        classes=train.classes,
        repeated=bool(repeat.value),
    )
    words = " ".join(preset.reasons).removesuffix(".")
    return {
        "repeat_threshold": repeat,
        "flip": Choice(preset.flip, "mirrored, half of the pictures" if preset.flip else "no picture is mirrored"),
        "augment": Choice(configs.describe(preset.augment), words),
    }


def parameters(detector: configs.Recipe, classes: Sequence[str]) -> int:
    """The number of parameters of the detector with this component."""
    built = detector_of(detector, classes)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(built.init, jax.random.key(0))))

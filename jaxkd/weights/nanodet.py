"""NanoDet-g as a graph of TensorFlow.js: the numbers of its convolutions in that graph, and jaxkd's names for them."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxkd.nets import csp

LEVELS, SIDES, BINS = 3, 4, 11  # of strides 8, 16, 32; left, top, right, bottom; distances of 0, 1, ..., 10 strides
FIELDS: dict[str, Any] = {  # of `detectors.gfl`; no array says them
    "head.shared_tower": True,
    "head.per_level": True,
    "head.level_scales": False,
    "head.activation": "leaky",
    "head.convs": 1,
    "head.kernel": 3,
    "head.norm": "none",
    "head.last_kernel": 1,
    "head.reg_max": BINS - 1,
    "anchors.offset": 0.5,
    "postprocess.nms": 0.6,
    "compat.padding": "canvas",
    "pixels.mean": (123.675, 116.28, 103.53),
    "pixels.std": (58.395, 57.12, 57.375),
}
SIZES = {"buckets": ((416, 416),), "short": (416,), "long": 416}  # of its pictures, as fields of `data.loader`


def _modules() -> tuple[str, ...]:
    """The modules of the convolutions in the order of their numbers."""
    stages = []
    for stage, count in enumerate(csp.Config().blocks, start=1):
        blocks = [f"block_{block}/{conv}" for block in range(count) for conv in ("in", "mid")]
        stages += [f"backbone/stage{stage}/{conv}" for conv in ("in", *blocks, "out")]
    laterals = [f"neck/lateral_{level}" for level in range(LEVELS)]
    heads = [f"head/level_{level}/{conv}" for level in range(LEVELS) for conv in ("tower_0", "answers")]
    return ("backbone/conv", *stages, *laterals, *heads)


MODULES = _modules()
MARK = rf"convolution_{len(MODULES) - 1}\.kernel$"  # a pattern of a name that identifies the detector


def to_jaxkd(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays under jaxkd's leaf names, with a stem for RGB pictures and predictors of classes and of bins apart.

    `convolution_29.kernel` [1 1 c k+44] becomes head/level_0/logits/kernel [1 1 c k] and head/level_0/bins/kernel
    [1 1 c 44], with all bins of a side together. Unknown names stay, so that a strict match lists them.

    Raises KeyError where an array is missing.
    """
    out: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        match = re.fullmatch(r"convolution(?:_([1-9]\d?))?\.(kernel|bias)", name)
        number = int(match[1] or 0) if match else len(MODULES)
        out[f"{MODULES[number]}/{match[2]}" if match and number < len(MODULES) else name] = array
    out["backbone/conv/kernel"] = out["backbone/conv/kernel"][:, :, ::-1]  # of BGR pictures
    for level, leaf in itertools.product(range(LEVELS), ("kernel", "bias")):
        answers = out.pop(f"head/level_{level}/answers/{leaf}")
        logits, bins = np.split(answers, [answers.shape[-1] - SIDES * BINS], axis=-1)
        out |= {f"head/level_{level}/logits/{leaf}": logits, f"head/level_{level}/bins/{leaf}": bins}
    return out

"""What the shapes of a detector's arrays say of how it is built."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.nets.resnet import BLOCKS


def resnet_fields(ours: Mapping[str, np.ndarray], prefix: str = "backbone/") -> dict[str, Any]:
    """Fields of `nets.resnet` from arrays under our names.

    Raises KeyError where an array is missing, WeightsError for numbers of blocks that no published depth has.
    """
    blocks = tuple(_count(ours, rf"{prefix}layer{stage}_(\d+)/conv1/kernel") for stage in (1, 2, 3, 4))
    deep = f"{prefix}layer1_0/conv3/kernel" in ours
    depths = [depth for depth, counts in BLOCKS.items() if counts == blocks and (depth >= 50) == deep]
    if not depths:
        raise WeightsError(f"The weights hold a residual network with {blocks} blocks, which no known depth has.")
    fields = {"depth": depths[0], "width": ours[f"{prefix}conv1/kernel"].shape[-1]}
    fields |= {"cardinality": 1, "part_width": 0}
    if deep:
        _, _, part, inner = ours[f"{prefix}layer1_0/conv2/kernel"].shape
        fields |= {"cardinality": inner // part, "part_width": 0 if part == fields["width"] else part}
    return fields


def neck_fields(ours: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Fields of `nets.fpn` from arrays under our names; raises KeyError where one is missing."""
    channels = ours["neck/output_0/kernel"].shape[-1]
    levels = _count(ours, r"neck/lateral_(\d+)/kernel")
    extra = ours.get(f"neck/extra_{levels}/kernel")
    fields: dict[str, Any] = {"channels": channels, "first": 4 - levels, "extra": "pool"}
    if extra is not None:
        fields["extra"] = "conv_p5" if extra.shape[2] == channels else "conv_c5"
    if "neck/lateral_0_norm/mean" in ours:
        fields["norm"] = "frozen_batch"
    return fields


def box_head_fields(ours: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Fields of `detectors.faster_rcnn` that its two heads' arrays say; raises KeyError where one is missing."""
    fields: dict[str, Any] = {
        "rpn_depth": _count(ours, r"rpn/(conv(?:_\d)?)/kernel"),
        "head_convs": _count(ours, r"head/conv_(\d)/kernel"),
        "head_dense": _count(ours, r"head/fc(\d)/kernel"),
        "hidden": ours["head/fc6/kernel"].shape[-1],
        "agnostic": ours["head/deltas/kernel"].shape[-1] == 4,
    }
    if "head/conv_0_norm/mean" in ours:
        fields["head_norm"] = "frozen_batch"
    return fields


def _count(ours: Mapping[str, np.ndarray], pattern: str) -> int:
    return len({match[1] for name in ours if (match := re.fullmatch(pattern, name))})

"""Config fields of a detector, derived from the shapes of its arrays."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.nets.resnet import BLOCKS


def resnet_fields(arrays: Mapping[str, np.ndarray], prefix: str = "backbone/") -> dict[str, Any]:
    """Fields of `nets.resnet` from arrays under jaxkd's names.

    Raises KeyError where an array is missing, WeightsError for numbers of blocks that no published depth has.
    """
    blocks = tuple(count(arrays, rf"{prefix}layer{stage}_(\d+)/conv1/kernel") for stage in (1, 2, 3, 4))
    deep = f"{prefix}layer1_0/conv3/kernel" in arrays
    depths = [depth for depth, counts in BLOCKS.items() if counts == blocks and (depth >= 50) == deep]
    if not depths:
        raise WeightsError(f"The weights hold a residual network with {blocks} blocks, which no known depth has.")
    fields = {"depth": depths[0], "width": arrays[f"{prefix}conv1/kernel"].shape[-1]}
    fields |= {"cardinality": 1, "part_width": 0}
    if deep:
        _, _, part, total = arrays[f"{prefix}layer1_0/conv2/kernel"].shape
        fields |= {"cardinality": total // part, "part_width": 0 if part == fields["width"] else part}
    return fields


def neck_fields(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Fields of `nets.fpn` from arrays under jaxkd's names; raises KeyError where one is missing."""
    channels = arrays["neck/output_0/kernel"].shape[-1]
    levels = count(arrays, r"neck/lateral_(\d+)/kernel")
    extra = arrays.get(f"neck/extra_{levels}/kernel")
    fields: dict[str, Any] = {"channels": channels, "first": 4 - levels, "extra": "pool"}
    if extra is not None:
        fields["extra"] = "conv_p5" if extra.shape[2] == channels else "conv_c5"
    if "neck/lateral_0_norm/mean" in arrays:
        fields["norm"] = "frozen_batch"
    return fields


def box_head_fields(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Fields of `detectors.faster_rcnn` from the arrays of its two heads; raises KeyError where one is missing."""
    fields: dict[str, Any] = {
        "rpn.depth": count(arrays, r"rpn/(conv(?:_\d)?)/kernel"),
        "head.convs": count(arrays, r"head/conv_(\d)/kernel"),
        "head.dense": count(arrays, r"head/fc(\d)/kernel"),
        "head.hidden": arrays["head/fc6/kernel"].shape[-1],
        "head.class_agnostic": arrays["head/deltas/kernel"].shape[-1] == 4,
    }
    if "head/conv_0_norm/mean" in arrays:
        fields["head.norm"] = "frozen_batch"
    return fields


def tower_fields(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Fields of the head of a dense detector from the arrays of its tower; raises KeyError where one is missing."""
    return {
        "head.channels": arrays["head/class_0/kernel"].shape[-1],
        "head.convs": count(arrays, r"head/class_(\d+)/kernel"),
    }


def count(arrays: Mapping[str, np.ndarray], pattern: str) -> int:
    """How many texts the group of a pattern has among the names of the arrays."""
    return len({match[1] for name in arrays if (match := re.fullmatch(pattern, name))})

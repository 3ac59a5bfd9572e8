"""Conventions of a detector that a published file states beside the weights: pixels, anchors, position of strides."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError

TOLERANCE = 0.01  # relative difference of two sizes or ratios that count as equal
FCOS_RADIUS = 1.5  # of mmdetection's samples around a centre, in strides, where a config says no other
CONFIG_KEYS = ("cfg", "config")  # of "meta" in a file of mmdetection 3 and of 2


@dataclass(frozen=True)
class Conventions:
    """Conventions that a file states.

    Attributes:
      fields: fields of the detector.
      backbone: fields of `nets.resnet`.
      points: fields of a detector with points in place of anchors.
      octaves: number of anchor sizes of a level; None where it is not stated.
      bgr: whether the first convolution takes BGR; None where it is not stated.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    backbone: dict[str, Any] = field(default_factory=dict)
    points: dict[str, Any] = field(default_factory=dict)
    octaves: int | None = None
    bgr: bool | None = None


def from_buffers(buffers: Mapping[str, np.ndarray]) -> Conventions:
    """Conventions from the buffers of detectron2: pixel_mean and pixel_std, and cell_anchors [a 4] of each level.

    The weights count as RGB only if the mean decreases over the channels, as ImageNet's does from red to blue.

    Raises WeightsError where the ratios differ between sizes, or the sizes of a level are no octaves.
    """
    fields: dict[str, Any] = {}
    mean, std = (_of_channels(buffers, name) for name in ("pixel_mean", "pixel_std"))
    bgr = None if mean is None else not bool(mean[0] > mean[1] > mean[2])
    for name, values in (("pixels.mean", mean), ("pixels.std", std)):
        if values is not None:
            fields[name] = _rounded(values[::-1] if bgr else values)
    numbered = {int(match[1]): name for name in buffers if (match := re.search(r"cell_anchors\.(\d+)$", name))}
    levels = [_level(buffers[name]) for _, name in sorted(numbered.items())]
    if not levels:
        return Conventions(fields, bgr=bgr)
    ratios, octaves = levels[0][1:]
    if any(level[1:] != (ratios, octaves) for level in levels):
        raise WeightsError("The weights' anchors differ between levels in more than size, which is not supported.")
    fields |= {"anchors.sizes": tuple(level[0] for level in levels), "anchors.ratios": ratios}
    return Conventions(fields, octaves=octaves, bgr=bgr)


def from_config(metadata: Mapping[str, str]) -> Conventions:
    """Conventions from mmdetection's "meta", which has the text of the training config; nothing in it is executed."""
    text = next((metadata[key] for key in CONFIG_KEYS if key in metadata), "")
    style = re.search(r"\bstyle\s*=\s*['\"](caffe|pytorch)['\"]", text)
    rgb = _value(text, r"(?:bgr_to_rgb|to_rgb)")
    fields: dict[str, Any] = {}
    for name, key in (("pixels.mean", "mean"), ("pixels.std", "std")):
        values = _value(text, key)
        if type(rgb) is bool and _are_numbers(values) and len(values) == 3:
            fields[name] = tuple(float(value) for value in (values if rgb else values[::-1]))
    octaves = None
    if match := re.search(r"\banchor_generator\s*=\s*dict\(([^()]*)\)", text):
        anchors, octaves = _anchors_of(match[1])
        fields |= anchors
    return Conventions(
        fields,
        backbone={"stride_in_1x1": style[1] == "caffe"} if style else {},
        points=_points_of(text) if _has_type(text, "FCOSHead") else {},
        octaves=octaves,
        bgr=(not rgb) if type(rgb) is bool else None,
    )


def _points_of(text: str) -> dict[str, Any]:
    """Fields of FCOS from the config of its head, which does not state what is as in the paper's first version."""
    normalised, sampled, beside_boxes = (
        _value(text, key) is True for key in ("norm_on_bbox", "center_sampling", "centerness_on_reg")
    )
    radius, nms = _value(text, "center_sample_radius"), _value(text, "iou_thr(?:eshold)?")
    fields = {
        "head.box_activation": "relu" if normalised else "exp",
        "head.centerness_tower": "box" if beside_boxes else "class",
        "assignment.radius": (float(radius) if type(radius) in (int, float) else FCOS_RADIUS) if sampled else 0.0,
        "loss.box_loss": "giou" if _has_type(text, "GIoULoss") else "iou",
    }
    return fields | ({"postprocess.nms": nms} if type(nms) is float else {})


def _anchors_of(text: str) -> tuple[dict[str, Any], int | None]:
    """Fields of a detector, and sizes per level, from the arguments of mmdetection's anchor generator."""
    strides, scales, ratios = (_value(text, key) for key in ("strides", "scales", "ratios"))
    base, octaves = _value(text, "octave_base_scale"), _value(text, "scales_per_octave")
    if _are_numbers(scales) and len(scales) == 1:
        base, octaves = scales[0], 1
    if not _are_numbers(strides) or type(base) not in (int, float) or type(octaves) is not int:
        return {}, None
    fields = {"anchors.sizes": tuple(float(base * stride) for stride in strides)}
    if _are_numbers(ratios):
        fields["anchors.ratios"] = tuple(float(ratio) for ratio in ratios)
    return fields, octaves


def _has_type(text: str, name: str) -> bool:
    """Whether a part of the config is of this type."""
    return re.search(rf"\btype\s*=\s*['\"]{name}['\"]", text) is not None


def _value(text: str, key: str) -> Any:
    """The first literal that `text` assigns to the key; None where there is none."""
    match = re.search(rf"\b{key}\s*=\s*(\[[^\[\]]*\]|True|False|[\d.]+)", text)
    try:
        return ast.literal_eval(match[1]) if match else None
    except (ValueError, SyntaxError):
        return None


def _are_numbers(values: Any) -> bool:
    return type(values) is list and bool(values) and all(type(value) in (int, float) for value in values)


def _of_channels(buffers: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
    if name not in buffers:
        return None
    values = buffers[name].ravel().astype(float)
    if len(values) != 3 or (name == "pixel_std" and (values <= 0).any()):
        raise WeightsError(f"The weights' {name} is not that of three channels.")
    return values


def _level(boxes: np.ndarray) -> tuple[float, tuple[float, ...], int]:
    """Smallest size, ratios, and number of sizes of the boxes [a 4] of a cell, ordered by size, then ratio."""
    width, height = (boxes[:, side + 2].astype(float) - boxes[:, side] for side in (0, 1))
    if boxes.size == 0 or (np.minimum(width, height) <= 0).any():
        raise WeightsError("The weights' anchors have no area.")
    sizes, ratios = np.sqrt(width * height), height / width
    ratio_count = int(np.argmin(np.isclose(sizes, sizes[0], rtol=TOLERANCE))) or len(sizes)
    octaves = len(sizes) // ratio_count
    expected_sizes = np.repeat(sizes[0] * 2 ** (np.arange(octaves) / octaves), ratio_count)
    expected_ratios = np.tile(ratios[:ratio_count], octaves)
    if len(expected_sizes) != len(sizes) or not np.allclose(
        [sizes, ratios], [expected_sizes, expected_ratios], rtol=TOLERANCE
    ):
        raise WeightsError(
            "The weights' anchors are not octaves of one size in the same ratios, which is not supported."
        )
    return _rounded(sizes[:1])[0], _rounded(ratios[:ratio_count]), octaves


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)

"""Published detectors of each library: jaxkd's leaves from its arrays, and config fields from their shapes."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import assumptions, detector_names
from jaxkd.weights import nanodet as nanodet_g
from jaxkd.weights.assumptions import EPS
from jaxkd.weights.conventions import Conventions
from jaxkd.weights.description import Arrays, Published
from jaxkd.weights.detector_names import renamer
from jaxkd.weights.names import translated
from jaxkd.weights.shapes import box_head_fields, neck_fields, resnet_fields, tower_fields

COCO_WITH_HOLES = 90  # torchvision's classes are COCO's ids, including unused ones
DEEP = 50  # depth of a ResNet from which mmdetection has Caffe's weights for it


def torchvision(arrays: Arrays, *, ratios: int) -> Published:
    """Faster R-CNN and RetinaNet of torchvision, both versions of each, and its FCOS, over any of its ResNets."""
    if "head.regression_head.bbox_ctrness.weight" in arrays:
        return _torchvision_fcos(arrays)
    dense = "head.classification_head.cls_logits.weight" in arrays
    leaves = translated(arrays, renamer(detector_names.TORCHVISION, "backbone.body.", levels=3 if dense else 4))
    published = _from_shapes("torchvision", dense, leaves, ratios=ratios)
    if dense:
        leaves["head/logits/kernel"], leaves["head/logits/bias"] = (
            _without_first_class(leaves[f"head/logits/{leaf}"], anchors=_anchors_per_cell(leaves))
            for leaf in ("kernel", "bias")
        )
    else:
        for leaf in ("kernel", "bias"):
            leaves[f"head/logits/{leaf}"] = np.roll(leaves[f"head/logits/{leaf}"], -1, axis=-1)
            leaves[f"head/deltas/{leaf}"] = leaves[f"head/deltas/{leaf}"][..., 4:]
    first_version = "norm" not in published.neck and not (dense and "head.norm" in published.fields)
    classes = published.classes - dense
    # Not in the files: torchvision sets the epsilon of its COCO_V1 weights, both with a ResNet-50, to 0, and trains its
    # second RetinaNet, the one with norms in its towers, with another box loss.
    fields = published.fields | ({"loss.box_loss": "giou"} if dense and not first_version else {})
    first_version &= (published.backbone["depth"], published.backbone["width"]) == (50, 64)
    eps = 0.0 if first_version and classes == COCO_WITH_HOLES else EPS
    return replace(published, backbone=published.backbone | {"eps": eps}, fields=fields, classes=classes)


def _torchvision_fcos(arrays: Arrays) -> Published:
    """FCOS of torchvision; no version of it has an epsilon of 0."""
    leaves = translated(arrays, renamer(detector_names.TORCHVISION_FCOS, "backbone.body.", levels=3))
    for leaf in ("kernel", "bias"):
        leaves[f"head/logits/{leaf}"] = leaves[f"head/logits/{leaf}"][..., 1:]  # the first class is unused
    classes = leaves["head/logits/kernel"].shape[-1]
    backbone = resnet_fields(leaves) | {"eps": EPS}
    return Published(
        "torchvision", "detectors.fcos", backbone, neck_fields(leaves), tower_fields(leaves), classes, leaves
    )


def detectron2(arrays: Arrays, *, ratios: int) -> Published:
    """Faster R-CNN and RetinaNet with a feature pyramid from detectron2's model zoo."""
    dense = "head.cls_score.weight" in arrays
    leaves = translated(arrays, renamer(detector_names.DETECTRON2, "backbone.bottom_up.", levels=3 if dense else 4))
    published = _from_shapes("detectron2", dense, leaves, ratios=ratios)
    if dense:
        _ratios_first(leaves, anchors=_anchors_per_cell(leaves), ratios=ratios)
    published = replace(published, assumed=Conventions(bgr=True))
    if published.backbone["cardinality"] == 1:
        return published
    # Its ResNeXts start from other pretrained weights than its ResNets.
    return replace(
        published,
        backbone=published.backbone | {"stride_in_1x1": False},
        fields=published.fields | {"pixels.std": (58.395, 57.12, 57.375)},
    )


def mmdetection(arrays: Arrays, *, ratios: int) -> Published:
    """Faster R-CNN, RetinaNet, GFL and FCOS with a feature pyramid from mmdetection 2 and 3."""
    gfl, fcos, dense = (f"bbox_head.{name}.weight" in arrays for name in ("gfl_cls", "conv_centerness", "retina_cls"))
    leaves = translated(
        arrays, renamer(detector_names.MMDETECTION, "backbone.", levels=3 if dense or gfl or fcos else 4)
    )
    if not (gfl or fcos):
        return _from_shapes("mmdetection", dense, leaves, ratios=ratios)
    leaves = {re.sub(r"bbox_head\.scales\.(\d)\.scale", r"head/scale_\1", name): leaves[name] for name in leaves}
    backbone, neck, fields = resnet_fields(leaves), neck_fields(leaves), tower_fields(leaves)
    classes = leaves["head/logits/kernel"].shape[-1]
    if gfl:
        fields["head.reg_max"] = leaves["head/bins/kernel"].shape[-1] // 4 - 1
        return Published("mmdetection", "detectors.gfl", backbone, neck, fields, classes, leaves)
    bias = "head/class_0/bias" in leaves
    return Published(
        "mmdetection",
        "detectors.fcos",
        backbone,
        neck | {"extra_relu": True},  # in FCOS alone of mmdetection's detectors
        fields | {"head.bias": bias},
        classes,
        leaves,
        assumed=assumptions.of_fcos(improved=bias, caffe=backbone["depth"] >= DEEP and backbone["cardinality"] == 1),
    )


def nanodet(arrays: Arrays) -> Published:
    """NanoDet-g as a graph of TensorFlow.js, of any width."""
    leaves = nanodet_g.to_jaxkd(arrays)
    return Published(
        "nanodet",
        "detectors.gfl",
        backbone={"width": leaves["backbone/conv/kernel"].shape[-1]},
        neck={"channels": leaves["neck/lateral_0/kernel"].shape[-1], "first": 1},
        fields=nanodet_g.FIELDS | {"head.channels": leaves["head/level_0/tower_0/kernel"].shape[-1]},
        classes=leaves["head/level_0/logits/bias"].shape[-1],
        arrays=leaves,
        notes=("Its pixels, bins and suppression are those of NanoDet-g; the file does not say them.",),
        backbone_kind="nets.csp",
        neck_kind="nets.sum_pan",
        sizes=nanodet_g.SIZES,
    )


def _from_shapes(family: str, dense: bool, leaves: Arrays, *, ratios: int) -> Published:
    """The detector from the shapes of arrays under jaxkd's names; the first dense layer is put into jaxkd's order."""
    backbone, neck = resnet_fields(leaves), neck_fields(leaves)
    anchors = leaves["head/deltas/kernel" if dense else "rpn/deltas/kernel"].shape[-1] // 4
    if anchors != ratios and not (dense and anchors and anchors % ratios == 0):
        raise WeightsError(
            f"The weights have {anchors} anchors a cell, which are not {'' if dense else 'one size in '}{ratios} ratios"
            f"{' of each size' if dense else ''}; give jaxkd convert all --ratios of height to width."
        )
    if dense:
        fields: dict[str, Any] = {
            "anchors.octaves": anchors // ratios,
        } | tower_fields(leaves)
        if "head/class_0_norm/scale" in leaves:
            fields["head.norm"] = "group"
        classes = leaves["head/logits/kernel"].shape[-1] // anchors
        return Published(family, "detectors.retinanet", backbone, neck, fields, classes, leaves)
    leaves["head/fc6/kernel"] = _channels_last(leaves["head/fc6/kernel"], channels=neck["channels"])
    fields = box_head_fields(leaves)
    classes = leaves["head/logits/kernel"].shape[-1] - 1
    return Published(family, "detectors.faster_rcnn", backbone, neck, fields, classes, leaves)


def _anchors_per_cell(leaves: Arrays) -> int:
    """The number of anchors of a cell, from the deltas of a dense head."""
    return leaves["head/deltas/kernel"].shape[-1] // 4


def _channels_last(kernel: np.ndarray, *, channels: int) -> np.ndarray:
    """The first dense layer [(c r r) n] of a head that flattens channels first, in the order [(r r c) n]."""
    side = round((kernel.shape[0] / channels) ** 0.5)
    grid = kernel.reshape(channels, side, side, kernel.shape[1])
    return np.ascontiguousarray(grid.transpose(1, 2, 0, 3)).reshape(kernel.shape)


def _without_first_class(logits: np.ndarray, *, anchors: int) -> np.ndarray:
    """The class outputs [... (a k)] of a dense head without the first class, which is unused."""
    cells = logits.reshape(*logits.shape[:-1], anchors, -1)
    return cells[..., 1:].reshape(*logits.shape[:-1], -1)


def _ratios_first(leaves: Arrays, *, anchors: int, ratios: int) -> None:
    """Reorders the anchors of a cell from (sizes, ratios) to jaxkd's order (ratios, sizes), in place."""
    order = np.arange(anchors).reshape(-1, ratios).T.ravel()
    for name in ("head/logits", "head/deltas"):
        for leaf in ("kernel", "bias"):
            array = leaves[f"{name}/{leaf}"]
            cells = array.reshape(*array.shape[:-1], anchors, -1)[..., order, :]
            leaves[f"{name}/{leaf}"] = cells.reshape(array.shape)


FAMILIES: dict[str, Callable[..., Published]] = {
    "torchvision": torchvision,
    "detectron2": detectron2,
    "mmdetection": mmdetection,
}

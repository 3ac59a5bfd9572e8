"""Published detectors: whose names a file has, which detector they describe, and its arrays as our leaves.

Families differ in more than names. What changes a detector's answers is in the LIKE of each part of it, and where one
file differs from its family in the fields that are returned. What changes nothing but the order of numbers (the place
of the background's column, the order of anchors in a cell, BGR pictures, how a grid is flattened) is put into ours.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import caffe, conventions
from jaxkd.weights.assumptions import EPS
from jaxkd.weights.names import COUNTER, resnet_place, translated
from jaxkd.weights.shapes import box_head_fields, neck_fields, resnet_fields

Arrays = dict[str, np.ndarray]
Rule = tuple[str, str | Callable[[re.Match], str]]
RATIOS = 3  # anchors of each size in a cell, where nobody says otherwise
COCO_WITH_HOLES = 90  # torchvision's classes are COCO's ids, also those that stand for nothing
# What the names of a detector begin with, wherever it lies in a file.
MARKS = {
    "torchvision": r"backbone\.fpn\.",
    "detectron2": r"backbone\.fpn_lateral",
    "mmdetection": r"neck\.lateral_convs\.",
}
BUFFERS = ("anchor_generator", "pixel_mean", "pixel_std")  # constants that some files store among the weights


@dataclass(frozen=True)
class Published:
    """A detector as its file describes it.

    Attributes:
      family: "torchvision", "detectron2" or "mmdetection".
      kind: module of the detector, "detectors.faster_rcnn" or "detectors.retinanet".
      backbone, neck: fields of `nets.resnet` and `nets.fpn`, beside the family's conventions.
      fields: fields of the detector itself, beside them.
      classes: number of classes, background not among them.
      arrays: under our leaf names; what has no place keeps its name, so that a strict match lists it.
      idle: names of arrays in the file that take no part in a forward pass.
      stated: names of those fields that the file itself states.
      said: a sentence on what it tells, where it does.
    """

    family: str
    kind: str
    backbone: dict[str, Any]
    neck: dict[str, Any]
    fields: dict[str, Any]
    classes: int
    arrays: Arrays
    idle: tuple[str, ...] = ()
    stated: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


def recognise(
    arrays: Mapping[str, np.ndarray], *, ratios: int = 0, about: Mapping[str, str] | None = None
) -> Published | None:
    """The detector that these names describe; None where they are no published detector's.

    Args:
      arrays: under the names of their library.
      ratios: anchors of each size in a cell; 0 for what the file tells, or else three.
      about: what a checkpoint of mmdetection says in words under its key "meta".

    Raises WeightsError where a family is recognised and what it needs is missing or of an odd shape.
    """
    family = next((name for name, mark in MARKS.items() if any(re.match(mark, given) for given in arrays)), None)
    if family is None:
        return None
    buffers = {name: array for name, array in arrays.items() if any(part in name for part in BUFFERS)}
    leaves = {name: array for name, array in arrays.items() if name not in buffers}
    try:
        stated = conventions.by_buffers(buffers) if family == "detectron2" else conventions.by_config(about or {})
        ratios = ratios or len(stated.fields.get("anchor_ratios", ())) or RATIOS
        found = FAMILIES[family](leaves, ratios=ratios)
        if found.classes < 1:
            raise WeightsError("The weights have no outputs for classes.")
        found = _as_stated(found, stated)
    except KeyError as error:
        raise WeightsError(f"The weights are named as {family}'s and lack {error}.") from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(f"The weights are named as {family}'s, and their shapes do not fit: {error}.") from error
    counters = tuple(name for name in leaves if name.rpartition(".")[2] == COUNTER)
    return replace(found, idle=(*counters, *buffers))


def _as_stated(found: Published, stated: conventions.Conventions) -> Published:
    """The detector with the conventions that its file tells.

    Raises WeightsError where anchors among the weights are of another number than the weights have outputs for.
    """
    fields, kernel = dict(stated.fields), "backbone/conv1/kernel"
    levels = sum(re.fullmatch(r"neck/lateral_\d/kernel", name) is not None for name in found.arrays)
    levels += 1 if found.neck["extra"] == "pool" else 2
    octaves = found.fields.get("octaves", 1)
    if "anchor_sizes" in fields and (stated.octaves, len(fields["anchor_sizes"])) != (octaves, levels):
        if found.family == "detectron2":
            raise WeightsError(
                f"The weights' anchors are {stated.octaves} sizes on {len(fields['anchor_sizes'])} levels, and their "
                f"outputs are for {octaves} on {levels}."
            )
        fields = {name: value for name, value in fields.items() if not name.startswith("anchor_")}  # of another part
    if stated.bgr is not None and stated.bgr != (found.family == "detectron2"):
        found.arrays[kernel] = found.arrays[kernel][:, :, ::-1]
    known = [f"{name} {_listed(value)}" for name, value in (fields | stated.backbone).items()]
    said = (f"The file tells these conventions: {'; '.join(known)}.",) if known else ()
    return replace(
        found, fields=found.fields | fields, backbone=found.backbone | stated.backbone, stated=tuple(fields), said=said
    )


def _listed(value: Any) -> str:
    return ", ".join(f"{number:g}" for number in value) if type(value) is tuple else str(value)


def torchvision(arrays: Arrays, *, ratios: int) -> Published:
    """Faster R-CNN and RetinaNet of torchvision, both versions of each, over any of its ResNets."""
    dense = "head.classification_head.cls_logits.weight" in arrays
    ours = translated(arrays, _placer(TORCHVISION, "backbone.body.", levels=3 if dense else 4))
    found = _described("torchvision", dense, ours, ratios=ratios)
    if dense:
        ours["head/logits/kernel"], ours["head/logits/bias"] = (
            _without_first_class(ours[f"head/logits/{leaf}"], anchors=_anchors(ours)) for leaf in ("kernel", "bias")
        )
    else:
        for leaf in ("kernel", "bias"):
            ours[f"head/logits/{leaf}"] = np.roll(ours[f"head/logits/{leaf}"], -1, axis=-1)
            ours[f"head/deltas/{leaf}"] = ours[f"head/deltas/{leaf}"][..., 4:]
    first_version = "norm" not in found.neck and "tower_norm" not in found.fields
    classes = found.classes - dense
    # torchvision sets the epsilon of its COCO_V1 weights to 0, which its two files, both over a ResNet-50, do not say;
    # nor do they say that the second RetinaNet, the one with norms in its towers, is trained with another box loss.
    fields = found.fields | ({"box_loss": "giou"} if dense and not first_version else {})
    first_version &= (found.backbone["depth"], found.backbone["width"]) == (50, 64)
    eps = 0.0 if first_version and classes == COCO_WITH_HOLES else EPS
    return replace(found, backbone=found.backbone | {"eps": eps}, fields=fields, classes=classes)


def detectron2(arrays: Arrays, *, ratios: int) -> Published:
    """Faster R-CNN and RetinaNet with a feature pyramid from detectron2's model zoo."""
    dense = "head.cls_score.weight" in arrays
    ours = translated(arrays, _placer(DETECTRON2, "backbone.bottom_up.", levels=3 if dense else 4))
    found = _described("detectron2", dense, ours, ratios=ratios)
    if dense:
        _ratios_first(ours, anchors=_anchors(ours), ratios=ratios)
    ours["backbone/conv1/kernel"] = ours["backbone/conv1/kernel"][:, :, ::-1]
    if found.backbone["cardinality"] == 1:
        return found
    # Its ResNeXts come from other weights than its ResNets.
    return replace(
        found,
        backbone=found.backbone | {"stride_in_1x1": False},
        fields=found.fields | {"pixel_std": (58.395, 57.12, 57.375)},
    )


def mmdetection(arrays: Arrays, *, ratios: int) -> Published:
    """Faster R-CNN and RetinaNet with a feature pyramid from mmdetection 2 and 3."""
    dense = "bbox_head.retina_cls.weight" in arrays
    ours = translated(arrays, _placer(MMDETECTION, "backbone.", levels=3 if dense else 4))
    return _described("mmdetection", dense, ours, ratios=ratios)


FAMILIES: dict[str, Callable[..., Published]] = {
    "torchvision": torchvision,
    "detectron2": detectron2,
    "mmdetection": mmdetection,
}


def with_classes(found: Published, keep: Sequence[int]) -> Published:
    """The detector for those of its classes whose places are in `keep`, in that order."""
    arrays, columns = dict(found.arrays), np.asarray(keep)
    dense = found.kind == "detectors.retinanet"
    for leaf in ("kernel", "bias"):
        logits, deltas = arrays[f"head/logits/{leaf}"], arrays[f"head/deltas/{leaf}"]
        if dense:
            cells = logits.reshape(*logits.shape[:-1], -1, found.classes)
            arrays[f"head/logits/{leaf}"] = cells[..., columns].reshape(*logits.shape[:-1], -1)
            continue
        arrays[f"head/logits/{leaf}"] = logits[..., [*columns, found.classes]]
        if deltas.shape[-1] > 4:
            boxes = deltas.reshape(*deltas.shape[:-1], found.classes, 4)
            arrays[f"head/deltas/{leaf}"] = boxes[..., columns, :].reshape(*deltas.shape[:-1], -1)
    return replace(found, arrays=arrays, classes=len(columns))


def _described(family: str, dense: bool, ours: Arrays, *, ratios: int) -> Published:
    """What is read off the shapes of arrays that have our names; the box head is put into our order."""
    backbone, neck = resnet_fields(ours), neck_fields(ours)
    anchors = ours["head/deltas/kernel" if dense else "rpn/deltas/kernel"].shape[-1] // 4
    if anchors != ratios and not (dense and anchors and anchors % ratios == 0):
        raise WeightsError(
            f"The weights have {anchors} anchors a cell, which are not {'' if dense else 'one size in '}{ratios} ratios"
            f"{' of each size' if dense else ''}; give jaxkd convert all --ratios of height to width."
        )
    if dense:
        fields: dict[str, Any] = {
            "octaves": anchors // ratios,
            "tower_channels": ours["head/class_0/kernel"].shape[-1],
            "tower_depth": sum(re.fullmatch(r"head/class_\d+/kernel", name) is not None for name in ours),
        }
        if "head/class_0_norm/scale" in ours:
            fields["tower_norm"] = "group"
        classes = ours["head/logits/kernel"].shape[-1] // anchors
        return Published(family, "detectors.retinanet", backbone, neck, fields, classes, ours)
    ours["head/fc6/kernel"] = _grid_last(ours["head/fc6/kernel"], channels=neck["channels"])
    fields = box_head_fields(ours)
    classes = ours["head/logits/kernel"].shape[-1] - 1
    return Published(family, "detectors.faster_rcnn", backbone, neck, fields, classes, ours)


def _placer(rules: Sequence[Rule], prefix: str, *, levels: int) -> Callable[[str], str | None]:
    """From a module's name to ours; backbones have `prefix`, and the pyramid uses `levels` of theirs.

    After an "@", rules have a level's number as its family counts: "p" and C2 to C5 by their stride, "fpn" from 0 on
    and past the backbone's levels.
    """

    def counted(match: re.Match) -> str:
        index = int(match[2]) - (0 if match[1] == "fpn" else 6 - levels)
        kind = {"fpn": "output" if index < levels else "extra", "p": "extra"}.get(match[1], match[1])
        return f"neck/{kind}_{index if match[1] != 'p' else levels + int(match[2]) - 6}"

    def place(module: str) -> str | None:
        for pattern, target in rules:
            if match := re.fullmatch(pattern, module):
                found = target(match) if callable(target) else target.format(*match.groups())
                return re.sub(r"neck/(fpn|p|lateral|output)@(\d)", counted, found)
        if module.startswith(prefix):
            inner = resnet_place(caffe.stages(module.removeprefix(prefix)))
            return inner and f"backbone/{inner}"
        return None

    return place


def _tower(match: re.Match) -> str:
    """Our name of a tower's layer; where ReLUs are counted too, each second number is a convolution."""
    which, number, part = match["which"], int(match["number"]), match.groupdict().get("part")
    name = "class" if which.startswith(("classification", "cls")) else "box"
    if part is None:
        return f"head/{name}_{number // 2}"
    return f"head/{name}_{number}{'_norm' if part == '1' else ''}"


TORCHVISION: tuple[Rule, ...] = (
    (r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?", "neck/lateral_{}"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.1", "neck/lateral_{}_norm"),
    (r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?", "neck/output_{}"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.1", "neck/output_{}_norm"),
    (r"backbone\.fpn\.extra_blocks\.p(\d)", "neck/p@{}"),
    (r"rpn\.head\.conv(?:\.0\.0)?", "rpn/conv"),
    (r"rpn\.head\.conv\.(\d)\.0", "rpn/conv_{}"),
    (r"rpn\.head\.cls_logits", "rpn/logits"),
    (r"rpn\.head\.bbox_pred", "rpn/deltas"),
    (r"roi_heads\.box_head\.(fc\d)", "head/{}"),
    (r"roi_heads\.box_head\.(\d)\.0", "head/conv_{}"),
    (r"roi_heads\.box_head\.(\d)\.1", "head/conv_{}_norm"),
    (r"roi_heads\.box_head\.\d", "head/fc6"),
    (r"roi_heads\.box_predictor\.cls_score", "head/logits"),
    (r"roi_heads\.box_predictor\.bbox_pred", "head/deltas"),
    (r"head\.(?P<which>classification|regression)_head\.conv\.(?P<number>\d)(?:\.(?P<part>[01]))?", _tower),
    (r"head\.classification_head\.cls_logits", "head/logits"),
    (r"head\.regression_head\.bbox_reg", "head/deltas"),
)
DETECTRON2: tuple[Rule, ...] = (
    (r"backbone\.fpn_(lateral|output)(\d)", "neck/{}@{}"),
    (r"backbone\.top_block\.p(\d)", "neck/p@{}"),
    (r"proposal_generator\.rpn_head\.conv", "rpn/conv"),
    (r"proposal_generator\.rpn_head\.objectness_logits", "rpn/logits"),
    (r"proposal_generator\.rpn_head\.anchor_deltas", "rpn/deltas"),
    (r"roi_heads\.box_head\.fc1", "head/fc6"),
    (r"roi_heads\.box_head\.fc2", "head/fc7"),
    (r"roi_heads\.box_predictor\.cls_score", "head/logits"),
    (r"roi_heads\.box_predictor\.bbox_pred", "head/deltas"),
    (r"head\.(?P<which>cls|bbox)_subnet\.(?P<number>\d)", _tower),
    (r"head\.cls_score", "head/logits"),
    (r"head\.bbox_pred", "head/deltas"),
)
MMDETECTION: tuple[Rule, ...] = (
    (r"neck\.lateral_convs\.(\d)\.conv", "neck/lateral_{}"),
    (r"neck\.fpn_convs\.(\d)\.conv", "neck/fpn@{}"),
    (r"rpn_head\.rpn_conv", "rpn/conv"),
    (r"rpn_head\.rpn_cls", "rpn/logits"),
    (r"rpn_head\.rpn_reg", "rpn/deltas"),
    (r"roi_head\.bbox_head\.shared_fcs\.0", "head/fc6"),
    (r"roi_head\.bbox_head\.shared_fcs\.1", "head/fc7"),
    (r"roi_head\.bbox_head\.fc_cls", "head/logits"),
    (r"roi_head\.bbox_head\.fc_reg", "head/deltas"),
    (r"bbox_head\.cls_convs\.(\d)\.conv", "head/class_{}"),
    (r"bbox_head\.reg_convs\.(\d)\.conv", "head/box_{}"),
    (r"bbox_head\.retina_cls", "head/logits"),
    (r"bbox_head\.retina_reg", "head/deltas"),
)


def _anchors(ours: Arrays) -> int:
    """Anchors of a cell, by a dense head's deltas."""
    return ours["head/deltas/kernel"].shape[-1] // 4


def _grid_last(kernel: np.ndarray, *, channels: int) -> np.ndarray:
    """The first dense layer [(c r r) n] of a head that flattens channels first, as one that flattens them last."""
    side = round((kernel.shape[0] / channels) ** 0.5)
    grid = kernel.reshape(channels, side, side, kernel.shape[1])
    return np.ascontiguousarray(grid.transpose(1, 2, 0, 3)).reshape(kernel.shape)


def _without_first_class(logits: np.ndarray, *, anchors: int) -> np.ndarray:
    """A dense head's class outputs [... (a k)] without the class that no object ever has."""
    cells = logits.reshape(*logits.shape[:-1], anchors, -1)
    return cells[..., 1:].reshape(*logits.shape[:-1], -1)


def _ratios_first(ours: Arrays, *, anchors: int, ratios: int) -> None:
    """Puts the anchors of a cell that run over sizes, then ratios, in our order: over ratios, then sizes."""
    order = np.arange(anchors).reshape(-1, ratios).T.ravel()
    for name in ("head/logits", "head/deltas"):
        for leaf in ("kernel", "bias"):
            array = ours[f"{name}/{leaf}"]
            cells = array.reshape(*array.shape[:-1], anchors, -1)[..., order, :]
            ours[f"{name}/{leaf}"] = cells.reshape(array.shape)

"""Published detectors: their library, their config fields, and their arrays as jaxkd's leaves.

Libraries (families) differ in more than names. Differences that change predictions are in the LIKE of each component,
or, for a single file, in the fields that are returned. Differences in the order of numbers only (the column of the
background, the order of anchors in a cell, BGR pictures, the flattening of a grid) are converted in the arrays.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import caffe, conventions
from jaxkd.weights import nanodet as nanodet_g
from jaxkd.weights.assumptions import EPS
from jaxkd.weights.names import COUNTER, resnet_name, translated
from jaxkd.weights.shapes import box_head_fields, neck_fields, resnet_fields, tower_fields

Arrays = dict[str, np.ndarray]
Rule = tuple[str, str | Callable[[re.Match], str]]
RATIOS = 3  # anchors of each size in a cell, by default
COCO_WITH_HOLES = 90  # torchvision's classes are COCO's ids, including unused ones
# Patterns of the names of a detector, under any prefix.
MARKS = {
    "torchvision": r"backbone\.fpn\.",
    "detectron2": r"backbone\.fpn_lateral",
    "mmdetection": r"neck\.lateral_convs\.",
    "nanodet": nanodet_g.MARK,
}
# Constants that some files store among the weights.
BUFFERS = ("anchor_generator", "pixel_mean", "pixel_std", "integral.project")


@dataclass(frozen=True)
class Published:
    """A detector as its file describes it.

    Attributes:
      family: "torchvision", "detectron2", "mmdetection" or "nanodet".
      kind: module of the detector, such as "detectors.faster_rcnn".
      backbone, neck: fields of `backbone_kind` and `neck_kind`, in addition to the family's conventions.
      fields: fields of the detector, likewise.
      classes: number of classes without background.
      arrays: under jaxkd's leaf names; unknown names stay, so that a strict match lists them.
      idle: names of arrays in the file that take no part in a forward pass.
      stated: names of those fields that the file itself states.
      notes: a sentence on the conventions that the file states, if any.
      backbone_kind, neck_kind: modules of the backbone and of the neck.
      sizes: fields of `data.loader` that say how pictures are resized; empty for COCO's.
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
    notes: tuple[str, ...] = ()
    backbone_kind: str = "nets.resnet"
    neck_kind: str = "nets.fpn"
    sizes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def like(self) -> str:
        """The library whose conventions the components have in their LIKE; "" where the fields say all of them."""
        return self.family if self.family in FAMILIES else ""


def recognise(
    arrays: Mapping[str, np.ndarray], *, ratios: int = 0, metadata: Mapping[str, str] | None = None
) -> Published | None:
    """The published detector with these names of arrays; None where there is none.

    Args:
      arrays: under the names of their library.
      ratios: anchors of each size in a cell; 0 for those that the file states, or else three.
      metadata: the texts under the key "meta" of a checkpoint of mmdetection.

    Raises WeightsError where a family is recognised but arrays are missing or of unexpected shapes.
    """
    family = next((name for name, mark in MARKS.items() if any(re.match(mark, given) for given in arrays)), None)
    if family is None:
        return None
    buffers = {name: array for name, array in arrays.items() if any(part in name for part in BUFFERS)}
    weights = {name: array for name, array in arrays.items() if name not in buffers}
    try:
        if family == "nanodet":
            return _with_classes_at_all(nanodet(weights))
        stated = (
            conventions.from_buffers(buffers) if family == "detectron2" else conventions.from_config(metadata or {})
        )
        ratios = ratios or len(stated.fields.get("anchors.ratios", ())) or RATIOS
        published = _with_conventions(_with_classes_at_all(FAMILIES[family](weights, ratios=ratios)), stated)
    except KeyError as error:
        raise WeightsError(f"The weights are named as {family}'s and lack {error}.") from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(f"The weights are named as {family}'s, and their shapes do not fit: {error}.") from error
    counters = tuple(name for name in weights if name.rpartition(".")[2] == COUNTER)
    return replace(published, idle=(*counters, *buffers))


def _with_classes_at_all(published: Published) -> Published:
    if published.classes < 1:
        raise WeightsError("The weights have no outputs for classes.")
    return published


def _with_conventions(published: Published, stated: conventions.Conventions) -> Published:
    """The detector with the conventions that its file states.

    Raises WeightsError where the number of anchors stored with the weights is not that of the outputs.
    """
    fields, kernel = dict(stated.fields), "backbone/conv1/kernel"
    levels = sum(re.fullmatch(r"neck/lateral_\d/kernel", name) is not None for name in published.arrays)
    levels += 1 if published.neck["extra"] == "pool" else 2
    octaves = published.fields.get("anchors.octaves", 1)
    if published.kind == "detectors.gfl":
        fields = _with_squares(fields, stride=4 * 2 ** published.neck["first"])
    if "anchors.sizes" in fields and (stated.octaves, len(fields["anchors.sizes"])) != (octaves, levels):
        if published.family == "detectron2":
            raise WeightsError(
                f"The weights' anchors are {stated.octaves} sizes on {len(fields['anchors.sizes'])} levels, and their "
                f"outputs are for {octaves} on {levels}."
            )
        fields = {name: value for name, value in fields.items() if not name.startswith("anchors.")}  # of another net
    if stated.bgr is not None and stated.bgr != (published.family == "detectron2"):
        published.arrays[kernel] = published.arrays[kernel][:, :, ::-1]
    items = [f"{name} {_listed(value)}" for name, value in (fields | stated.backbone).items()]
    notes = (f"The file states these conventions: {'; '.join(items)}.",) if items else ()
    return replace(
        published,
        fields=published.fields | fields,
        backbone=published.backbone | stated.backbone,
        stated=tuple(fields),
        notes=notes,
    )


def _with_squares(fields: Mapping[str, Any], *, stride: int) -> dict[str, Any]:
    """The fields with the finest anchors' size in strides, of which there is one square a cell, in place of all."""
    others = {name: value for name, value in fields.items() if name not in ("anchors.sizes", "anchors.ratios")}
    sizes = fields.get("anchors.sizes")
    return others | ({"anchors.scale": sizes[0] / stride} if sizes else {})


def _listed(value: Any) -> str:
    return ", ".join(f"{number:g}" for number in value) if type(value) is tuple else str(value)


def torchvision(arrays: Arrays, *, ratios: int) -> Published:
    """Faster R-CNN and RetinaNet of torchvision, both versions of each, and its FCOS, over any of its ResNets."""
    if "head.regression_head.bbox_ctrness.weight" in arrays:
        return _torchvision_fcos(arrays)
    dense = "head.classification_head.cls_logits.weight" in arrays
    leaves = translated(arrays, _renamer(TORCHVISION, "backbone.body.", levels=3 if dense else 4))
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
    leaves = translated(arrays, _renamer(TORCHVISION_FCOS, "backbone.body.", levels=3))
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
    leaves = translated(arrays, _renamer(DETECTRON2, "backbone.bottom_up.", levels=3 if dense else 4))
    published = _from_shapes("detectron2", dense, leaves, ratios=ratios)
    if dense:
        _ratios_first(leaves, anchors=_anchors_per_cell(leaves), ratios=ratios)
    leaves["backbone/conv1/kernel"] = leaves["backbone/conv1/kernel"][:, :, ::-1]
    if published.backbone["cardinality"] == 1:
        return published
    # Its ResNeXts start from other pretrained weights than its ResNets.
    return replace(
        published,
        backbone=published.backbone | {"stride_in_1x1": False},
        fields=published.fields | {"pixels.std": (58.395, 57.12, 57.375)},
    )


def mmdetection(arrays: Arrays, *, ratios: int) -> Published:
    """Faster R-CNN, RetinaNet and GFL with a feature pyramid from mmdetection 2 and 3."""
    gfl, dense = ("bbox_head.gfl_cls.weight" in arrays, "bbox_head.retina_cls.weight" in arrays)
    leaves = translated(arrays, _renamer(MMDETECTION, "backbone.", levels=3 if dense or gfl else 4))
    if gfl:
        leaves = {re.sub(r"bbox_head\.scales\.(\d)\.scale", r"head/scale_\1", name): leaves[name] for name in leaves}
        fields = tower_fields(leaves) | {"head.reg_max": leaves["head/bins/kernel"].shape[-1] // 4 - 1}
        classes = leaves["head/logits/kernel"].shape[-1]
        return Published(
            "mmdetection", "detectors.gfl", resnet_fields(leaves), neck_fields(leaves), fields, classes, leaves
        )
    return _from_shapes("mmdetection", dense, leaves, ratios=ratios)


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


FAMILIES: dict[str, Callable[..., Published]] = {
    "torchvision": torchvision,
    "detectron2": detectron2,
    "mmdetection": mmdetection,
}


def with_classes(published: Published, keep: Sequence[int]) -> Published:
    """The detector with only the classes of the indices in `keep`, in that order."""
    arrays, columns = dict(published.arrays), np.asarray(keep)
    dense = published.kind in ("detectors.retinanet", "detectors.fcos")
    for leaf in ("kernel", "bias"):
        logits, deltas = arrays[f"head/logits/{leaf}"], arrays[f"head/deltas/{leaf}"]
        if dense:
            cells = logits.reshape(*logits.shape[:-1], -1, published.classes)
            arrays[f"head/logits/{leaf}"] = cells[..., columns].reshape(*logits.shape[:-1], -1)
            continue
        arrays[f"head/logits/{leaf}"] = logits[..., [*columns, published.classes]]
        if deltas.shape[-1] > 4:
            boxes = deltas.reshape(*deltas.shape[:-1], published.classes, 4)
            arrays[f"head/deltas/{leaf}"] = boxes[..., columns, :].reshape(*deltas.shape[:-1], -1)
    return replace(published, arrays=arrays, classes=len(columns))


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


def _renamer(rules: Sequence[Rule], prefix: str, *, levels: int) -> Callable[[str], str | None]:
    """A function from a module's name to jaxkd's; backbones have `prefix`, and the pyramid uses `levels` of them.

    After an "@", rules have the level's number in the family: "p" and C2 to C5 count by stride, "fpn" from 0 through
    and beyond the backbone's levels.
    """

    def numbered(match: re.Match) -> str:
        index = int(match[2]) - (0 if match[1] == "fpn" else 6 - levels)
        kind = {"fpn": "output" if index < levels else "extra", "p": "extra"}.get(match[1], match[1])
        return f"neck/{kind}_{index if match[1] != 'p' else levels + int(match[2]) - 6}"

    def rename(module: str) -> str | None:
        for pattern, target in rules:
            if match := re.fullmatch(pattern, module):
                name = target(match) if callable(target) else target.format(*match.groups())
                return re.sub(r"neck/(fpn|p|lateral|output)@(\d)", numbered, name)
        if module.startswith(prefix):
            layer = resnet_name(caffe.stages(module.removeprefix(prefix)))
            return layer and f"backbone/{layer}"
        return None

    return rename


def _tower_name(match: re.Match) -> str:
    """jaxkd's name of a layer of a tower; where ReLUs are counted too, every second number is a convolution."""
    branch, number, part = match["which"], int(match["number"]), match.groupdict().get("part")
    name = "class" if branch.startswith(("classification", "cls")) else "box"
    if part is None:
        return f"head/{name}_{number // 2}"
    return f"head/{name}_{number}{'_norm' if part == '1' else ''}"


def _fcos_tower_name(match: re.Match) -> str:
    """jaxkd's name of a layer of a tower of FCOS, where convolution, norm and ReLU are counted."""
    number, part = divmod(int(match[2]), 3)
    return f"head/{'class' if match[1] == 'classification' else 'box'}_{number}{'_norm' if part else ''}"


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
    (r"head\.(?P<which>classification|regression)_head\.conv\.(?P<number>\d)(?:\.(?P<part>[01]))?", _tower_name),
    (r"head\.classification_head\.cls_logits", "head/logits"),
    (r"head\.regression_head\.bbox_reg", "head/deltas"),
)
TORCHVISION_FCOS: tuple[Rule, ...] = (
    (r"head\.(classification|regression)_head\.conv\.(\d+)", _fcos_tower_name),
    (r"head\.regression_head\.bbox_ctrness", "head/quality"),
    *TORCHVISION,
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
    (r"head\.(?P<which>cls|bbox)_subnet\.(?P<number>\d)", _tower_name),
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
    (r"bbox_head\.cls_convs\.(\d)\.gn", "head/class_{}_norm"),
    (r"bbox_head\.reg_convs\.(\d)\.gn", "head/box_{}_norm"),
    (r"bbox_head\.gfl_cls", "head/logits"),
    (r"bbox_head\.gfl_reg", "head/bins"),
    (r"bbox_head\.retina_cls", "head/logits"),
    (r"bbox_head\.retina_reg", "head/deltas"),
)


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

"""Published detectors: their library, their config fields, and their arrays as jaxkd's leaves.

Libraries (families) differ in more than names. Differences that change predictions are in the LIKE of each component,
or, for a single file, in the fields that are returned. Differences in the order of numbers only (the column of the
background, the order of anchors in a cell, BGR pictures, the flattening of a grid) are converted in the arrays.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import conventions, query_names, query_shapes
from jaxkd.weights.conventions import Conventions
from jaxkd.weights.description import Published
from jaxkd.weights.families import FAMILIES, nanodet
from jaxkd.weights.names import COUNTER
from jaxkd.weights.nanodet import MARK as NANODET

RATIOS = 3  # anchors of each size in a cell, by default
# Patterns of the names of a detector, under any prefix.
MARKS = {
    "torchvision": r"backbone\.fpn\.",
    "detectron2": r"backbone\.fpn_lateral",
    "mmdetection": r"neck\.lateral_convs\.",
    "nanodet": NANODET,
    "query": query_names.MARK,
}
# Constants that some files store among the weights.
BUFFERS = ("anchor_generator", "pixel_mean", "pixel_std", "integral.project")


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
    named = "RT-DETR" if family == "query" else family
    try:
        if family == "nanodet":
            return _with_classes_at_all(nanodet(weights))
        if family == "query":
            return _with_classes_at_all(query_shapes.published(weights))
        stated = (
            conventions.from_buffers(buffers) if family == "detectron2" else conventions.from_config(metadata or {})
        )
        ratios = ratios or len(stated.fields.get("anchors.ratios", ())) or RATIOS
        published = _with_conventions(_with_classes_at_all(FAMILIES[family](weights, ratios=ratios)), stated)
    except KeyError as error:
        raise WeightsError(f"The weights are named as {named}'s and lack {error}.") from error
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(f"The weights are named as {named}'s, and their shapes do not fit: {error}.") from error
    counters = tuple(name for name in weights if name.rpartition(".")[2] == COUNTER)
    return replace(published, idle=(*counters, *buffers))


def _with_classes_at_all(published: Published) -> Published:
    if published.classes < 1:
        raise WeightsError("The weights have no outputs for classes.")
    return published


def _with_conventions(published: Published, stated: Conventions) -> Published:
    """The detector with the conventions that its file states, and those assumed that it does not.

    Raises WeightsError where the number of anchors stored with the weights is not that of the outputs.
    """
    assumed, kernel = published.assumed, "backbone/conv1/kernel"
    fields = _fitting(published, stated)
    if assumed.bgr if stated.bgr is None else stated.bgr:
        published.arrays[kernel] = published.arrays[kernel][:, :, ::-1]
    given = fields | stated.backbone
    missing = {name: value for name, value in (assumed.fields | assumed.backbone).items() if name not in given}
    order = " and pictures in BGR" if missing and assumed.bgr and stated.bgr is None else ""
    notes = (
        f"The file states these conventions: {_items(given)}." if given else "",
        f"Assumed, as {published.family}'s configs have it and the file does not say: {_items(missing)}{order}."
        if missing
        else "",
    )
    return replace(
        published,
        fields=published.fields | assumed.fields | fields,
        backbone=published.backbone | assumed.backbone | stated.backbone,
        stated=tuple(fields),
        notes=tuple(note for note in notes if note),
    )


def _fitting(published: Published, stated: Conventions) -> dict[str, Any]:
    """The stated fields that such a detector has; WeightsError as `_with_conventions`."""
    fields = dict(stated.fields)
    if published.kind == "detectors.fcos":
        return _without_anchors(fields) | stated.points
    if published.kind == "detectors.gfl":
        fields = _with_squares(fields, stride=4 * 2 ** published.neck["first"])
    levels = sum(re.fullmatch(r"neck/lateral_\d/kernel", name) is not None for name in published.arrays)
    levels += 1 if published.neck["extra"] == "pool" else 2
    octaves = published.fields.get("anchors.octaves", 1)
    if "anchors.sizes" not in fields or (stated.octaves, len(fields["anchors.sizes"])) == (octaves, levels):
        return fields
    if published.family == "detectron2":
        raise WeightsError(
            f"The weights' anchors are {stated.octaves} sizes on {len(fields['anchors.sizes'])} levels, and their "
            f"outputs are for {octaves} on {levels}."
        )
    return _without_anchors(fields)  # which are those of another net


def _without_anchors(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if not name.startswith("anchors.")}


def _with_squares(fields: Mapping[str, Any], *, stride: int) -> dict[str, Any]:
    """The fields with the finest anchors' size in strides, of which there is one square a cell, in place of all."""
    others = {name: value for name, value in fields.items() if name not in ("anchors.sizes", "anchors.ratios")}
    sizes = fields.get("anchors.sizes")
    return others | ({"anchors.scale": sizes[0] / stride} if sizes else {})


def _items(fields: Mapping[str, Any]) -> str:
    """Fields with their values, for a sentence."""

    def listed(value: Any) -> str:
        return ", ".join(f"{number:g}" for number in value) if type(value) is tuple else str(value)

    return "; ".join(f"{name} {listed(value)}" for name, value in fields.items())


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

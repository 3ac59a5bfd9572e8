"""Where a student's parameters come from before its first step: random numbers, weights, its teacher."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkd.detectors.base import Detector, Params
from jaxkd.errors import ConfigError, WeightsError
from jaxkd.loading import build
from jaxkd.paths import path_of
from jaxkd.weights import names, parts, read, tree
from jaxkd.weights.published import recognise

OF_CLASSES = ("head/logits/", "head/deltas/")  # leaves whose columns stand for classes
INHERITED = {"none": (), "neck": ("neck",), "head": ("rpn", "head"), "neck+head": ("neck", "rpn", "head")}


def params(found: Detector, key: jax.Array, source: str) -> tuple[Params, str]:
    """Random parameters, then those of `source` put in, and one sentence on what was.

    `source` is empty; or a detector, in a folder as `build.load` takes it or in a published file: every leaf has to
    match, but those of the head stay random that are for other classes; or a file of backbone weights: every leaf of
    the backbone has to match. FILE:PART is one of the nets of a file that holds several.
    """
    made: dict[str, Any] = dict(found.init(key))
    if not source:
        return made, "The student starts from random numbers."
    path = path_of(source)
    if path.is_dir():
        arrays = read.read(build.file_of(path, build.WEIGHTS))
        return _from_detector(made, arrays, source, same=_classes_in(path) == found.classes)
    path, part = parts.split(path)
    net = parts.taken(path, part=part)
    where, left = net.where and f" {net.where}", " ".join(["", *net.said])
    if published := recognise(net.arrays, about=net.about):
        made, said = _from_detector(made, published.arrays, f"{path.name}{where}", same=False)
        return made, said + left
    arrays, flavour = names.to_ours(net.arrays)
    made["backbone"], report = tree.match(made["backbone"], arrays, allow_unused=names.BEYOND[flavour])
    count = f"{len(report.matched)} leaves{where}"
    return made, f"The student's backbone starts from {path.name} ({flavour}): {count}.{left}"


def _from_detector(params: Params, given: Mapping[str, Any], source: str, *, same: bool) -> tuple[Params, str]:
    """The parameters with a detector's put in; those of its classes only where they are the `same`."""
    boxes_of_classes = "rpn" in params and given.get("head/deltas/bias", np.zeros(4)).shape != (4,)
    parts = OF_CLASSES if boxes_of_classes else OF_CLASSES[:1]
    anew = [name for name in given if not same and name.startswith(parts)]
    params, report = tree.match(params, {name: given[name] for name in given if name not in anew}, allow_missing=anew)
    said = f"; {', '.join(anew)} are for other classes and start from random numbers" if anew else ""
    return params, f"The student starts from {source}: {len(report.matched)} leaves{said}."


def _classes_in(folder: Path) -> tuple[str, ...]:
    """The class list of a folder with weights, () where it says none."""
    try:
        return tuple(json.loads(build.file_of(folder, build.ABOUT).read_text(encoding="utf-8"))["classes"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def inherit(
    params: Params, teacher: build.Loaded | None, parts: str, *, classes: tuple[str, ...]
) -> tuple[Params, str]:
    """The student's parameters with those `parts` of the teacher's, and a sentence on them, empty for "none".

    Raises ConfigError for parts that are unknown or without a teacher, WeightsError where a leaf does not fit, or the
    head is not for the student's `classes`.
    """
    if parts not in INHERITED:
        raise ConfigError(f"inherit must be one of {', '.join(INHERITED)}; got {parts!r}.")
    if parts == "none":
        return params, ""
    if teacher is None:
        raise ConfigError(f"inherit is {parts!r}, and there is no teacher to inherit from; set config.teacher.")
    if "head" in parts and teacher.detector.classes != classes:
        raise WeightsError("The teacher's head is for other classes than the student's, which cannot inherit it.")
    taken, leaves = dict(params), 0
    for part in INHERITED[parts]:
        theirs = tree.flatten(jax.device_get(teacher.params.get(part, {})))
        taken[part], report = tree.match(params.get(part, {}), theirs)
        leaves += len(report.matched)
    return taken, f"The student inherits its teacher's {parts}: {leaves} leaves."

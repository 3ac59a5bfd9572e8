"""The student's parameters before step 1: random, from a file of weights, or inherited from the teacher."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkd.detectors.base import Detector, Params
from jaxkd.errors import ConfigError, WeightsError
from jaxkd.loading import build, hub
from jaxkd.paths import path_of
from jaxkd.weights import backbone_names, parts, read, tree
from jaxkd.weights.published import recognise

OF_BOXES = ("head/deltas/",)  # prefixes of leaves with columns for each class, where boxes are of classes
OF_CLASSES = ("head/logits/", "decoder/logits_", "decoder/selection/logits/", "denoising/")  # those where they are not
HEADS = ("rpn", "head", "decoder", "denoising")  # parts behind the neck, of which each detector has some
INHERITED = {"none": (), "neck": ("neck",), "head": HEADS, "neck+head": ("neck", *HEADS)}


def params(detector: Detector, key: jax.Array, source: str) -> tuple[Params, str]:
    """Random parameters in which those of `source` are set, and one sentence on which they are.

    `source` is empty, a detector, or a file of backbone weights. A detector is a folder as `build.load` or `hub.load`
    takes it or a published file, and every leaf has to match, but the leaves for other classes stay random. Of a
    backbone every leaf has to match. FILE:PART is one of the nets of a file that holds several.
    """
    params: dict[str, Any] = dict(detector.init(key))
    if not source:
        return params, "The student starts from random numbers."
    path = path_of(source)
    if hub.is_one(path):
        loaded = hub.load(path)
        arrays = tree.flatten(jax.device_get(loaded.params))
        return _from_detector(params, arrays, source, same=loaded.detector.classes == detector.classes)
    if path.is_dir():
        arrays = read.read(build.file_of(path, build.WEIGHTS))
        return _from_detector(params, arrays, source, same=_classes_in(path) == detector.classes)
    path, part = parts.split(path)
    net = parts.read_net(path, part=part)
    where, notes = net.location and f" {net.location}", " ".join(["", *net.notes])
    if published := recognise(net.arrays, metadata=net.metadata):
        params, message = _from_detector(params, published.arrays, f"{path.name}{where}", same=False)
        return params, message + notes
    arrays, flavour = backbone_names.to_jaxkd(net.arrays)
    params["backbone"], report = tree.match(params["backbone"], arrays, allow_unused=backbone_names.BEYOND[flavour])
    count = f"{len(report.matched)} leaves{where}"
    return params, f"The student's backbone starts from {path.name} ({flavour}): {count}.{notes}"


def _from_detector(params: Params, source_params: Mapping[str, Any], source: str, *, same: bool) -> tuple[Params, str]:
    """The parameters with those of a detector; the leaves of its classes only where the classes are the `same`."""
    boxes_of_classes = "rpn" in params and source_params.get("head/deltas/bias", np.zeros(4)).shape != (4,)
    parts = OF_CLASSES + OF_BOXES if boxes_of_classes else OF_CLASSES
    random = [name for name in source_params if not same and name.startswith(parts)]
    lacking, extra = _denoising(params, source_params)
    taken = {name: source_params[name] for name in source_params if name not in (*random, *extra)}
    params, report = tree.match(params, taken, allow_missing=[*random, *lacking])
    note = f"; {', '.join(random)} are for other classes and start from random numbers" if random else ""
    note += "".join(f"; {name} starts from random numbers, as it has none" for name in lacking)
    note += "".join(f"; its {name} is not used, as the student has no denoising queries" for name in extra)
    return params, f"The student starts from {source}: {len(report.matched)} leaves{note}."


def _denoising(params: Params, source_params: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The leaves of denoising queries that the student alone has, and those that the other detector alone has."""
    own, other = (
        {name for name in names if name.startswith("denoising/")} for names in (tree.flatten(params), source_params)
    )
    return sorted(own - other), sorted(other - own)


def _classes_in(folder: Path) -> tuple[str, ...]:
    """The class list of a folder with weights, () where it has none."""
    try:
        return tuple(json.loads(build.file_of(folder, build.ABOUT).read_text(encoding="utf-8"))["classes"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def inherit(
    params: Params, teacher: build.Loaded | None, parts: str, *, classes: tuple[str, ...]
) -> tuple[Params, str]:
    """The student's parameters with these `parts` copied from the teacher, and a sentence on them, empty for "none".

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
    inherited, leaves = dict(params), 0
    for part in INHERITED[parts]:
        teacher_params = tree.flatten(jax.device_get(teacher.params.get(part, {})))
        inherited[part], report = tree.match(params.get(part, {}), teacher_params)
        leaves += len(report.matched)
    return inherited, f"The student inherits its teacher's {parts}: {leaves} leaves."

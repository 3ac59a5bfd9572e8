"""Detectors from published weights of other libraries, built to give the same outputs, with every leaf matched."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxkd import config as configs
from jaxkd.class_lists import COCO, VOC
from jaxkd.errors import ConfigError, WeightsError
from jaxkd.loading import build, given_classes, licence
from jaxkd.weights import assumptions, backbone_names, parts, tree
from jaxkd.weights.assumptions import Overrides
from jaxkd.weights.description import Published
from jaxkd.weights.families import COCO_WITH_HOLES
from jaxkd.weights.parts import Part, few
from jaxkd.weights.published import recognise, with_classes

BY_NUMBER = {len(COCO): tuple(COCO.values()), len(VOC): VOC}


def load(
    path: str | Path, *, part: str | None = None, classes: Sequence[str] = (), overrides: Overrides | None = None
) -> tuple[build.Loaded, str]:
    """The detector in a file of torchvision, detectron2, mmdetection or TensorFlow.js, and a report on its arrays.

    Or in one of the authors of RT-DETR or D-FINE, of which the averaged weights are taken.

    The `notes` of the detector say which arrays were used, and what was assumed.

    Args:
      path: .pth, .pt, .bin, .ckpt, .tar, .pkl, .safetensors, .npz or .json.
      part: which detector, where the file holds several; see `weights.parts.read_net`.
      classes: names of its classes in the file's order; where empty, those that the file has, or else COCO's or VOC's
        if their numbers fit.
      overrides: settings that the file does not contain.

    Raises WeightsError where the file is broken, holds no known detector, it is not clear which one is meant, a leaf is
    missing, unused or misshapen, or `classes` are more or fewer than its own; ConfigError where `overrides` do not fit,
    or a name in `classes` is empty or repeated.
    """
    path, overrides = Path(path), overrides or Overrides()
    net = parts.read_net(path, part=part)
    if net.kind == "backbone":
        _, flavour = backbone_names.to_jaxkd(net.arrays)
        raise WeightsError(
            f"{path.name} holds a backbone ({flavour}{net.location and f', {net.location}'}) and no detector; give it "
            "to a student with --config.initial=FILE."
        )
    try:
        published = recognise(net.arrays, ratios=len(overrides.anchor_ratios), metadata=net.metadata)
        assert published is not None  # by its kind
        published, class_names, class_note = _class_names(published, classes, net)
        config = _config(published, overrides)
        loaded, report = _with_params(config, class_names, published, overrides)
        default_eps = published.backbone.get("eps", assumptions.EPS)
        eps_note = assumptions.epsilon_note(
            published.arrays, path=path, given=overrides.eps, usual=default_eps, family=published.family
        )
    except WeightsError as error:
        raise WeightsError(f"{path.name}: {error}") from error
    where = net.location and f" {net.location}"
    head = f"{published.family} {published.kind.split('.')[1]}: {len(report.matched)} leaves matched{where}"
    notes = [
        f"{head.removesuffix('.')}.",
        *net.notes,
        *_unused_notes(published, report),
        *published.notes,
        class_note,
        eps_note,
    ]
    notes += [_anchor_note(config, published, overrides), licence.of_file(published.family)]
    notes = [note for note in notes if note]
    loaded = dataclasses.replace(loaded, notes=tuple(notes))
    rows = [f"no leaf   {name}" for name in published.idle]
    rows += [f"unused    {name}" for name in (*report.unused, *net.unused)]
    return loaded, "\n".join([head, *notes[1:], *rows])


def _with_params(
    config: configs.Recipe, classes: Sequence[str], published: Published, overrides: Overrides
) -> tuple[build.Loaded, tree.Report]:
    """The detector with its parameters; ConfigError where `overrides` are at fault, WeightsError where the file is."""
    try:
        detector = build.detector(config, classes)
    except ConfigError as error:
        if overrides != Overrides():
            raise
        raise WeightsError(f"The weights are those of no detector that can be built: {error}") from error
    params, report = tree.match(
        build.param_shapes(detector), published.arrays, allow_unused=backbone_names.BEYOND["resnet"]
    )
    return build.Loaded(detector, jax.tree.map(jax.numpy.asarray, params), config, {}, dict(published.sizes)), report


def _config(published: Published, overrides: Overrides) -> configs.Recipe:
    """The recipe's component of the detector; ConfigError where `overrides` contradict the file."""
    anchors = {"anchors.sizes": overrides.anchor_sizes, "anchors.ratios": overrides.anchor_ratios}
    anchors = {name: value for name, value in anchors.items() if value}
    for name, value in anchors.items():
        if name in published.stated and not np.allclose(published.fields[name], value, rtol=0.01):
            raise ConfigError(
                f"{name} is given as {_listed(value)}, and the file says {_listed(published.fields[name])}."
            )
    eps = {} if overrides.eps is None else {"eps": overrides.eps}
    return configs.component(
        published.kind,
        like=published.like,
        backbone=configs.component(published.backbone_kind, like=published.like, **(published.backbone | eps)),
        neck=configs.component(published.neck_kind, like=published.like, **published.neck),
        **configs.nested(published.fields | anchors),
    )


def _class_names(published: Published, given: Sequence[str], net: Part) -> tuple[Published, tuple[str, ...], str]:
    """The detector with the outputs that have a class, the names of these classes, and a sentence on their origin."""
    if given:
        names_given = given_classes.checked(given, columns=published.classes)
        differs = net.classes and net.classes != names_given
        note = f"The file calls its classes {few(net.classes)}; the given names are taken." if differs else ""
        return published, names_given, note
    if len(net.classes) == published.classes:
        return published, net.classes, "The classes' names are the file's own."
    if published.family == "torchvision" and published.classes == COCO_WITH_HOLES:
        selected = with_classes(published, [number - 1 for number in COCO])
        return (
            selected,
            tuple(COCO.values()),
            f"Of {published.classes} outputs the {len(COCO)} that COCO has classes for are kept.",
        )
    if published.classes not in BY_NUMBER:
        has = f"{len(net.classes)} names ({few(net.classes)})" if net.classes else "no names"
        raise WeightsError(
            f"The file has {published.classes} classes and {has} for them; give as many, in the file's order: jaxkd "
            "convert FILE --classes=a,b,c --out=DIR."
        )
    whose = "COCO's" if published.classes == len(COCO) else "VOC's"
    return (
        published,
        BY_NUMBER[published.classes],
        f"The file has no names for its {published.classes} classes; {whose} are taken.",
    )


def _unused_notes(published: Published, report: tree.Report) -> list[str]:
    """Sentences on arrays of the net that are no parameter of the detector."""
    notes = []
    if report.unused:
        notes.append(f"Not used are {len(report.unused)} array(s) of a classifier: {few(report.unused)}.")
    if published.idle:
        notes.append(f"{len(published.idle)} counter(s) and constants are no leaves: {few(published.idle)}.")
    return notes


def _anchor_note(config: configs.Recipe, published: Published, overrides: Overrides) -> str:
    """A sentence on what is assumed for the anchors; empty where all is in the file or in `overrides`, or none is."""
    if "sizes" not in config.get("anchors", {}):
        return ""
    notes = []
    if "anchors.sizes" not in published.stated and not overrides.anchor_sizes:
        octaves = published.fields.get("anchors.octaves", 1)
        more = f" and {octaves - 1} larger ones within an octave" if octaves > 1 else ""
        notes.append(f"of {_listed(config.anchors.sizes)} pixels{more} (--anchors of jaxkd convert)")
    if "anchors.ratios" not in published.stated and not overrides.anchor_ratios:
        notes.append(f"with ratios of {_listed(config.anchors.ratios)} (--ratios)")
    return f"Anchors {' '.join(notes)}, as {published.family} has them; the file does not say it." if notes else ""


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)

"""Detectors straight from published files: recognised, built to give the original's answers, every leaf matched."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxkd import config as configs
from jaxkd.class_lists import COCO, VOC
from jaxkd.detectors.base import Detector, Params
from jaxkd.errors import ConfigError, WeightsError
from jaxkd.loading import build
from jaxkd.weights import assumptions, names, parts, tree
from jaxkd.weights.assumptions import Overrides
from jaxkd.weights.parts import Part, few
from jaxkd.weights.published import COCO_WITH_HOLES, Published, recognise, with_classes

BY_NUMBER = {len(COCO): tuple(COCO.values()), len(VOC): VOC}
ANCHORS = ("anchor_sizes", "anchor_ratios")


def load(
    path: str | Path, *, part: str | None = None, classes: Sequence[str] = (), given: Overrides | None = None
) -> tuple[build.Loaded, str]:
    """The detector in a file of torchvision's, detectron2's or mmdetection's names, and what became of its arrays.

    What was taken and what was not, and what no array says, is in the `notes` of the detector too.

    Args:
      path: .pth, .pt, .bin, .ckpt, .tar, .pkl, .safetensors or .npz.
      part: which detector, where the file holds several; see `weights.parts.taken`.
      classes: names of its classes in the file's order; where empty, those that the file has, or else COCO's or VOC's
        if their numbers fit.
      given: what the file does not say, by somebody who knows it.

    Raises WeightsError where the file is broken, holds no known detector, it is not clear which one is meant, or a leaf
    is missing, unused or misshapen; ConfigError where what is given does not fit.
    """
    path, given = Path(path), given or Overrides()
    net = parts.taken(path, part=part)
    if net.kind == "backbone":
        _, flavour = names.to_ours(net.arrays)
        raise WeightsError(
            f"{path.name} holds a backbone ({flavour}{net.where and f', {net.where}'}) and no detector; give it to a "
            "student with --config.initial=FILE."
        )
    try:
        found = recognise(net.arrays, ratios=len(given.anchor_ratios), about=net.about)
        assert found is not None  # by its kind
        found, kept, of_classes = _named(found, classes, net)
        config = _config(found, given)
        loaded, report = _filled(config, kept, found, given)
        usual = found.backbone.get("eps", assumptions.EPS)
        of_eps = assumptions.of_epsilon(found.arrays, path=path, given=given.eps, usual=usual, family=found.family)
    except WeightsError as error:
        raise WeightsError(f"{path.name}: {error}") from error
    where = net.where and f" {net.where}"
    head = f"{found.family} {found.kind.split('.')[1]}: {len(report.matched)} leaves matched{where}"
    notes = [f"{head.removesuffix('.')}.", *net.said, *_not_needed(found, report), *found.said, of_classes, of_eps]
    notes.append(_of_anchors(config, found, given))
    notes = [note for note in notes if note]
    loaded = dataclasses.replace(loaded, notes=tuple(notes))
    rows = [f"no leaf   {name}" for name in found.idle]
    rows += [f"unused    {name}" for name in (*report.unused, *net.beside)]
    return loaded, "\n".join([head, *notes[1:], *rows])


def _filled(
    config: configs.Recipe, classes: Sequence[str], found: Published, given: Overrides
) -> tuple[build.Loaded, tree.Report]:
    """The detector with its parameters; ConfigError where what is given is at fault, WeightsError where the file is."""
    try:
        detector = build.detector(config, classes)
    except ConfigError as error:
        if given != Overrides():
            raise
        raise WeightsError(f"The weights are those of no detector that can be built: {error}") from error
    params, report = tree.match(_wanted(detector), found.arrays, allow_unused=names.BEYOND["resnet"])
    return build.Loaded(detector, jax.tree.map(jax.numpy.asarray, params), config, {}, {}), report


def _wanted(detector: Detector) -> Params:
    """The shapes of a detector's parameters."""
    return jax.eval_shape(detector.init, jax.random.key(0))


def _config(found: Published, given: Overrides) -> configs.Recipe:
    """The recipe's component of the detector; ConfigError where what is given contradicts what the file tells."""
    chosen = {name: value for name in ANCHORS if (value := getattr(given, name))}
    for name, value in chosen.items():
        if name in found.stated and not np.allclose(found.fields[name], value, rtol=0.01):
            raise ConfigError(f"{name} is given as {_listed(value)}, and the file says {_listed(found.fields[name])}.")
    eps = {} if given.eps is None else {"eps": given.eps}
    return configs.component(
        found.kind,
        like=found.family,
        backbone=configs.component("nets.resnet", like=found.family, **(found.backbone | eps)),
        neck=configs.component("nets.fpn", like=found.family, **found.neck),
        **(found.fields | chosen),
    )


def _named(found: Published, given: Sequence[str], net: Part) -> tuple[Published, tuple[str, ...], str]:
    """The detector with the outputs that stand for a class, their names, and a sentence on where these are from."""
    if given:
        if len(given) != found.classes:
            raise WeightsError(f"The file has {found.classes} classes, and {len(given)} names are given for them.")
        if len(set(given)) < len(given) or "" in given:
            raise ConfigError(f"The names of classes are given as {','.join(given)}; each has to be there, and once.")
        other = net.classes and net.classes != tuple(given)
        said = f"The file calls its classes {few(net.classes)}; the given names are taken." if other else ""
        return found, tuple(given), said
    if len(net.classes) == found.classes:
        return found, net.classes, "The classes' names are the file's own."
    if found.family == "torchvision" and found.classes == COCO_WITH_HOLES:
        kept = with_classes(found, [number - 1 for number in COCO])
        return (
            kept,
            tuple(COCO.values()),
            f"Of {found.classes} outputs the {len(COCO)} that COCO has classes for are kept.",
        )
    if found.classes not in BY_NUMBER:
        has = f"{len(net.classes)} names ({few(net.classes)})" if net.classes else "no names"
        raise WeightsError(
            f"The file has {found.classes} classes and {has} for them; give as many, in the file's order: jaxkd "
            "convert FILE --classes=a,b,c --out=DIR."
        )
    whose = "COCO's" if found.classes == len(COCO) else "VOC's"
    return found, BY_NUMBER[found.classes], f"The file has no names for its {found.classes} classes; {whose} are taken."


def _not_needed(found: Published, report: tree.Report) -> list[str]:
    """Sentences on arrays of the net that become no leaf."""
    said = []
    if report.unused:
        said.append(f"Not used are {len(report.unused)} array(s) of a classifier: {few(report.unused)}.")
    if found.idle:
        said.append(f"{len(found.idle)} counter(s) and constants are no leaves: {few(found.idle)}.")
    return said


def _of_anchors(config: configs.Recipe, found: Published, given: Overrides) -> str:
    """What is taken for the anchors that no array shows; empty where all is stated or given."""
    said = []
    if "anchor_sizes" not in found.stated and not given.anchor_sizes:
        octaves = found.fields.get("octaves", 1)
        more = f" and {octaves - 1} larger ones within an octave" if octaves > 1 else ""
        said.append(f"of {_listed(config.anchor_sizes)} pixels{more} (--anchors of jaxkd convert)")
    if "anchor_ratios" not in found.stated and not given.anchor_ratios:
        said.append(f"with ratios of {_listed(config.anchor_ratios)} (--ratios)")
    return f"Anchors {' '.join(said)}, as {found.family} has them; the file does not say it." if said else ""


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)

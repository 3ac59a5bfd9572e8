"""Detectors straight from published files: recognised, built to give the original's answers, every leaf matched."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxkd import config as configs
from jaxkd.class_lists import COCO, VOC
from jaxkd.errors import WeightsError
from jaxkd.train import build
from jaxkd.weights import names, read, tree
from jaxkd.weights.published import COCO_WITH_HOLES, Published, recognise, with_classes

BY_NUMBER = {len(COCO): tuple(COCO.values()), len(VOC): VOC}


def load(path: str | Path, *, classes: Sequence[str] = (), eps: float | None = None) -> tuple[build.Loaded, str]:
    """The detector in a file of torchvision's, detectron2's or mmdetection's names, and what became of its arrays.

    Args:
      path: .pth, .pt, .pkl, .safetensors or .npz.
      classes: names of its classes in the file's order; where empty, COCO's or VOC's if their numbers fit.
      eps: added to a variance by the backbone's norms; None for what the family uses.

    Raises WeightsError where the file is broken, holds no known detector, or a leaf is missing, unused or misshapen.
    """
    arrays = read.read(path)
    found = recognise(arrays)
    if found is None:
        raise WeightsError(f"{Path(path).name} holds {_instead(arrays)}")
    found, kept = _named(found, classes)
    backbone = found.backbone | ({} if eps is None else {"eps": eps})
    config = configs.component(
        found.kind,
        like=found.family,
        backbone=configs.component("nets.resnet", like=found.family, **backbone),
        neck=configs.component("nets.fpn", like=found.family, **found.neck),
        **found.fields,
    )
    detector = build.detector(config, kept)
    wanted = jax.eval_shape(detector.init, jax.random.key(0))
    params, report = tree.match(wanted, found.arrays, allow_unused=names.BEYOND["resnet"])
    params = jax.tree.map(jax.numpy.asarray, params)
    return build.Loaded(detector, params, config, {}, {}), f"{found.family} {found.kind.split('.')[1]}: {report}"


def _named(found: Published, classes: Sequence[str]) -> tuple[Published, tuple[str, ...]]:
    """The detector with the outputs that stand for a class, and their names."""
    if classes:
        if len(classes) != found.classes:
            raise WeightsError(f"The file has {found.classes} classes, and {len(classes)} names are given for them.")
        return found, tuple(classes)
    if found.family == "torchvision" and found.classes == COCO_WITH_HOLES:
        return with_classes(found, [number - 1 for number in COCO]), tuple(COCO.values())
    if found.classes not in BY_NUMBER:
        raise WeightsError(
            f"The file has {found.classes} classes and no names for them; run jaxkd convert with --classes=a,b,c."
        )
    return found, BY_NUMBER[found.classes]


def _instead(arrays: Mapping[str, np.ndarray]) -> str:
    try:
        _, flavour = names.to_ours(arrays)
    except WeightsError as error:
        return f"no detector known here. {error}"
    return f"a backbone ({flavour}) and no detector; give it to a student with --config.initial=FILE."

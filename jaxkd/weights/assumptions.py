"""Settings of a published detector that its arrays do not contain: the epsilon of its norms, and FCOS's conventions."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights.conventions import FCOS_RADIUS, Conventions

# The first eight digits of the SHA-256 sums of torchvision's COCO_V1 files; the names of its downloads end with them.
COCO_V1 = {
    "258fb6c6": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "eeacb38b": "retinanet_resnet50_fpn_coco-eeacb38b.pth",
}
EPS = 1e-5  # of all norms, except that torchvision sets that of COCO_V1 to 0
CAFFE_PIXELS = {"pixels.mean": (122.7717, 115.9465, 102.9801), "pixels.std": (1.0, 1.0, 1.0)}  # of mmdetection's FCOS
MIN_FACTOR = 1.01  # change of a channel's scale above which it is reported


@dataclass(frozen=True)
class Overrides:
    """Settings of a published detector that the caller gives; its file may lack them, and must not contradict them.

    Attributes:
      eps: added to a variance by the norms of the backbone; None for that of its library.
      anchor_sizes: side in pixels of the (smallest) anchors of each level; empty for those of its library.
      anchor_ratios: height / width of the anchors of a size; empty for those of its library.
    """

    eps: float | None = None
    anchor_sizes: tuple[float, ...] = ()
    anchor_ratios: tuple[float, ...] = ()


def of_fcos(*, improved: bool, caffe: bool) -> Conventions:
    """The conventions of mmdetection's common configs of FCOS that no array shows.

    Args:
      improved: whether they are those of the paper's second version, whose towers have biases, or of its first.
      caffe: whether the backbone is one for which mmdetection starts from Caffe's weights.
    """
    fields = {
        "head.box_activation": "relu" if improved else "exp",
        "head.centerness_tower": "box" if improved else "class",
        "assignment.radius": FCOS_RADIUS if improved else 0.0,
        "loss.box_loss": "giou" if improved else "iou",
        "postprocess.nms": 0.6 if improved else 0.5,
    }
    if not caffe:
        return Conventions(fields)
    return Conventions(fields | CAFFE_PIXELS, backbone={"stride_in_1x1": True}, bgr=True)


def epsilon_note(
    arrays: Mapping[str, np.ndarray], *, path: Path, given: float | None, usual: float, family: str
) -> str:
    """A sentence on the epsilon that is used for the norms of a published detector's backbone; empty without norms.

    Args:
      arrays: under jaxkd's names, each of the shape of the detector's leaf.
      path: their file, whose SHA-256 sum is checked where `usual` is 0.
      given: the epsilon that the caller gives; None for `usual`.
      usual: the epsilon of its library for such a detector.
      family: the library's name.

    Raises WeightsError where the sum of a variance and the epsilon is not above 0.
    """
    if not any(name.endswith("/var") for name in arrays):
        return ""
    _check_variances(arrays, usual if given is None else given)
    if given is not None:
        return f"Epsilon of the backbone's norms: {given:g}, as given."
    if usual == 0 and (name := COCO_V1.get(_sha256(path)[:8])):
        return f"Epsilon of the backbone's norms: 0, which torchvision sets for {name}, this file by its sum."
    source = "torchvision's for its COCO_V1 weights" if usual == 0 else f"as {family} has it"
    sentence = (
        f"Epsilon of the backbone's norms: {usual:g}, {source}; the file does not say it (--eps of jaxkd convert)."
    )
    return sentence + _sensitivity(arrays, usual, family=family)


def _sensitivity(arrays: Mapping[str, np.ndarray], eps: float, *, family: str) -> str:
    """A sentence on the effect of the epsilon, where that is above `MIN_FACTOR`; else an empty text."""
    other = 0.0 if eps else EPS
    scales, factors = _factors(arrays, eps, other)
    changed = (factors > MIN_FACTOR) & (scales != 0)
    if not changed.any():
        return ""
    largest = factors[changed].max()
    amount = f"by a factor of up to {largest:.3g}" if math.isfinite(largest) else "without bound"
    others = ""
    if family == "torchvision":
        others = f"; what was trained from {'its COCO_V1' if eps else 'other'} weights has {other:g}"
    return (
        f" It matters here: {changed.sum()} of {len(factors)} channels have variances so small that an epsilon of "
        f"{other:g} would change their scale {amount}{others}."
    )


def _factors(arrays: Mapping[str, np.ndarray], eps: float, other: float) -> tuple[np.ndarray, np.ndarray]:
    """The scale of every channel of the backbone's norms, and the factor between the two epsilons."""
    names = [name.removesuffix("/var") for name in arrays if name.startswith("backbone/") and name.endswith("/var")]
    pairs = [(arrays[f"{name}/scale"], arrays[f"{name}/var"]) for name in names if f"{name}/scale" in arrays]
    if not pairs:
        return np.ones(0), np.ones(0)
    scales, variances = (
        np.concatenate([np.ravel(row) for row in rows]).astype(np.float64) for rows in zip(*pairs, strict=True)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.sqrt((variances + max(eps, other)) / (variances + min(eps, other)))
    return scales, factors


def _check_variances(arrays: Mapping[str, np.ndarray], eps: float) -> None:
    bad = {}
    for name in (name for name in arrays if name.endswith("/var")):
        sums = arrays[name].astype(np.float64) + (eps if name.startswith("backbone/") else EPS)
        if count := int((sums <= 0).sum()):
            bad[name] = count
    if bad:
        raise WeightsError(
            f"{sum(bad.values())} variances of norms are 0 or less, the first in {next(iter(bad))}, which an epsilon "
            f"of {eps:g} does not make positive; if another was trained with, give it: jaxkd convert --eps=1e-5."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

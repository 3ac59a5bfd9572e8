"""What no array of a published detector says: the epsilon of its norms, and how much depends on it."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxkd.errors import WeightsError

# The first eight digits of the SHA-256 sums of torchvision's COCO_V1 files, which the names of its downloads end with.
COCO_V1 = {
    "258fb6c6": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "eeacb38b": "retinanet_resnet50_fpn_coco-eeacb38b.pth",
}
EPS = 1e-5  # of every norm here, but where torchvision sets that of COCO_V1 to 0
NOTICED = 1.01  # a factor on a channel's scale that is worth a word


@dataclass(frozen=True)
class Overrides:
    """What somebody who knows it says of a detector in place of its file.

    Attributes:
      eps: added to a variance by the backbone's norms; None for what its library takes.
      anchor_sizes: side in pixels of the (smallest) anchors of each level; empty for its library's.
      anchor_ratios: height / width of the anchors of a size; empty for its library's.
    """

    eps: float | None = None
    anchor_sizes: tuple[float, ...] = ()
    anchor_ratios: tuple[float, ...] = ()


def of_epsilon(arrays: Mapping[str, np.ndarray], *, path: Path, given: float | None, usual: float, family: str) -> str:
    """A sentence on the epsilon that is taken for the norms of a published detector's backbone.

    Args:
      arrays: under our names, each of the shape that the detector wants.
      path: their file, of which the sum is taken where `usual` is 0.
      given: by somebody who knows it; None for `usual`.
      usual: what its library takes for such a detector.
      family: the library's name.

    Raises WeightsError where a variance and the epsilon are not above 0 together.
    """
    _refuse_division(arrays, usual if given is None else given)
    if given is not None:
        return f"Epsilon of the backbone's norms: {given:g}, as given."
    if usual == 0 and (name := COCO_V1.get(_sum_of(path)[:8])):
        return f"Epsilon of the backbone's norms: 0, which torchvision sets for {name}, this file by its sum."
    first = "torchvision's for its COCO_V1 weights" if usual == 0 else f"as {family} has it"
    said = f"Epsilon of the backbone's norms: {usual:g}, {first}; the file does not say it (--eps of jaxkd convert)."
    return said + _doubt(arrays, usual, family=family)


def _doubt(arrays: Mapping[str, np.ndarray], taken: float, *, family: str) -> str:
    """How much depends on the epsilon, where that is enough to be noticed; else nothing."""
    other = 0.0 if taken else EPS
    scales, factors = _factors(arrays, taken, other)
    changed = (factors > NOTICED) & (scales != 0)
    if not changed.any():
        return ""
    most = factors[changed].max()
    how_much = f"by a factor of up to {most:.3g}" if math.isfinite(most) else "without bound"
    whose = ""
    if family == "torchvision":
        whose = f"; what was trained from {'its COCO_V1' if taken else 'other'} weights has {other:g}"
    return (
        f" It matters here: {changed.sum()} of {len(factors)} channels have variances so small that an epsilon of "
        f"{other:g} would change their scale {how_much}{whose}."
    )


def _factors(arrays: Mapping[str, np.ndarray], one: float, other: float) -> tuple[np.ndarray, np.ndarray]:
    """Scale of every channel of the backbone's norms, and by how much it differs under the two epsilons."""
    names = [name.removesuffix("/var") for name in arrays if name.startswith("backbone/") and name.endswith("/var")]
    pairs = [(arrays[f"{name}/scale"], arrays[f"{name}/var"]) for name in names if f"{name}/scale" in arrays]
    if not pairs:
        return np.ones(0), np.ones(0)
    scales, variances = (
        np.concatenate([np.ravel(row) for row in rows]).astype(np.float64) for rows in zip(*pairs, strict=True)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.sqrt((variances + max(one, other)) / (variances + min(one, other)))
    return scales, factors


def _refuse_division(arrays: Mapping[str, np.ndarray], eps: float) -> None:
    bad = {}
    for name in (name for name in arrays if name.endswith("/var")):
        least = arrays[name].astype(np.float64) + (eps if name.startswith("backbone/") else EPS)
        if count := int((least <= 0).sum()):
            bad[name] = count
    if bad:
        raise WeightsError(
            f"{sum(bad.values())} variances of norms are 0 or less, the first in {next(iter(bad))}, which an epsilon "
            f"of {eps:g} does not make positive; if another was trained with, give it: jaxkd convert --eps=1e-5."
        )


def _sum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

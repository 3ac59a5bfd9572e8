"""Assignment of the points of a pyramid to ground truth, as FCOS trains, and the centre-ness of a point."""

import math
from dataclasses import dataclass

from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Num

from jaxkd.ops import boxes as box_ops
from jaxkd.ops.anchors import Anchors, inside
from jaxkd.ops.match import Matches

REACH = 8  # the farthest side of a box that a level regresses, in strides of the level


@dataclass(frozen=True)
class Rule:
    """Which truths a point of a level can be positive for.

    Raises:
        ValueError: if there are no strides, or `radius` is not above 0.
    """

    strides: tuple[int, ...]  # of each level, the finest first
    radius: float | None = 1.5  # from a truth's centre to its positives, in strides; None: all points inside it
    closed: bool = True  # whether both ends of a level's range belong to it, as in mmdetection, or none (torchvision)

    def __post_init__(self):
        if not self.strides or (self.radius is not None and self.radius <= 0):
            raise ValueError(
                f"Points need strides and a radius above 0 or None, not strides {self.strides}, radius {self.radius}."
            )

    @property
    def bounds(self) -> tuple[float, ...]:
        """In pixels the ends of the levels' ranges, one more than levels: from 0 to infinity."""
        return (0.0, *(float(REACH * stride) for stride in self.strides[:-1]), math.inf)


def assign(
    anchors: Anchors,
    truth: Float[Array, "g 4"],
    *,
    rule: Rule,
    size: Num[Array, "2"],
    valid: Bool[Array, "g"],
    crowd: Bool[Array, "g"],
) -> tuple[Matches, Float[Array, "a 4"]]:
    """Matches of the points of one picture to truths (Tian et al. 2019, arXiv 1904.01355, section 3), and distances.

    A point is positive for a truth if it lies inside its box, not on an edge; with a `radius`, also less than that from
    its centre, by rows and by columns; and if the distance to the farthest side is in the range of the point's level.
    A point that is positive for several truths takes the one of the smallest area; of equal ones, the first. All other
    points are negative, but for those whose cells do not begin inside the picture or that lie in a crowd. Truths that
    are neither valid nor crowd are padding and change nothing. A truth can be without a positive, where no point of the
    level of its size lies inside.

    Args:
        anchors: one a cell, whose centres are the points.
        truth: boxes of the objects, padded; they may leave the picture.
        rule: the levels' strides and what makes a positive.
        size: height and width of the picture; points of cells that begin beyond it take no part.
        valid: whether each truth is a real object.
        crowd: whether each truth is a crowd region, in which no point is background.

    Returns:
        The matches, and the distances in pixels (left, top, right, bottom) from each point to the sides of its truth,
        0 where it is not positive.

    Raises:
        ValueError: if there is no truth, not even a padded one.
    """
    if truth.shape[0] == 0:
        raise ValueError("Points need at least one truth; give a padded one that is not valid.")
    truth = lax.stop_gradient(jnp.where((valid | crowd)[:, None], truth.astype(jnp.float32), 0.0))
    centers, within = box_ops.center(lax.stop_gradient(anchors.boxes)), inside(anchors, size)
    # Truths are sorted by area, so that one minimum finds the smallest, and of equal ones the first.
    order = jnp.argsort(box_ops.area(truth), stable=True)
    candidates = _candidates(anchors, truth[order], rule=rule) & valid[order][:, None] & within
    count = truth.shape[0]
    rank = jnp.where(candidates, jnp.arange(count, dtype=jnp.int32)[:, None], count).min(0)
    positive = rank < count
    index = jnp.where(positive, order.astype(jnp.int32).at[rank].get(mode="clip"), 0)
    distances = box_ops.encode_sides(truth[index], centers)
    matches = Matches(
        truth=index,
        positive=positive,
        negative=within & ~positive & ~_in_crowd(centers, truth, crowd=crowd),
    )
    return matches, jnp.where(positive[:, None], distances, 0.0)


def centerness(distances: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Centre-ness in [0, 1] of points, from their distances (left, top, right, bottom) to the sides of their box.

    The root of the shorter horizontal distance over the longer times the same of the vertical ones (Tian et al. 2019,
    equation 3); 0 where a distance is not above 0.
    """
    positive = jnp.all(distances > 0, axis=-1)
    left, top, right, bottom = jnp.moveaxis(jnp.where(positive[..., None], distances.astype(jnp.float32), 1.0), -1, 0)
    shares = jnp.minimum(left, right) / jnp.maximum(left, right) * jnp.minimum(top, bottom) / jnp.maximum(top, bottom)
    return jnp.where(positive, jnp.sqrt(shares), 0.0)


def _candidates(anchors: Anchors, truth: Float[Array, "g 4"], *, rule: Rule) -> Bool[Array, "g a"]:
    """Whether each point would be positive for each truth alone."""
    bounds = jnp.asarray(rule.bounds, jnp.float32)
    low, high = bounds[anchors.levels], bounds[anchors.levels + 1]
    x, y = box_ops.center(anchors.boxes).T
    x0, y0, x1, y1 = (side[:, None] for side in truth.T)
    left, top, right, bottom = x - x0, y - y0, x1 - x, y1 - y
    candidates = jnp.minimum(jnp.minimum(left, right), jnp.minimum(top, bottom)) > 0
    farthest = jnp.maximum(jnp.maximum(left, right), jnp.maximum(top, bottom))
    if rule.closed:
        candidates &= (low <= farthest) & (farthest <= high)
    else:
        candidates &= (low < farthest) & (farthest < high)
    if rule.radius is None:
        return candidates
    reach = rule.radius * jnp.asarray(rule.strides, jnp.float32)[anchors.levels]
    return candidates & (jnp.abs(x - 0.5 * (x0 + x1)) < reach) & (jnp.abs(y - 0.5 * (y0 + y1)) < reach)


def _in_crowd(centers: Float[Array, "a 2"], truth: Float[Array, "g 4"], *, crowd: Bool[Array, "g"]) -> Bool[Array, "a"]:
    x, y = centers.T
    x0, y0, x1, y1 = (side[:, None] for side in truth.T)
    return ((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1) & crowd[:, None]).any(0)

"""Assignment of the points of a pyramid to ground truth, as FCOS trains, and the centre-ness of a point."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int, Num

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

    Truths are processed one after another, so that there is no array of all points and truths; for many of both that
    takes less time too.

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
    points, within = _points(anchors, rule), inside(anchors, size)
    rows = (truth, valid, crowd, jnp.arange(truth.shape[0], dtype=jnp.int32))
    by_area = jax.tree.map(lambda x: x[jnp.argsort(box_ops.area(truth), stable=True)], rows)
    state = _State(truth=jnp.full(within.shape, -1, jnp.int32), in_crowd=jnp.zeros(within.shape, bool))
    # The smallest is the last that takes a point, and of equal ones the first.
    state, _ = lax.scan(
        lambda state, row: (_update(points, state, row, closed=rule.closed), None), state, by_area, reverse=True
    )
    positive = within & (state.truth >= 0)
    index = jnp.where(positive, state.truth, 0)
    distances = box_ops.encode_sides(truth[index], jnp.stack([points.x, points.y], axis=-1))
    matches = Matches(truth=index, positive=positive, negative=within & ~positive & ~state.in_crowd)
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


class _Points(NamedTuple):
    """The points, and from their levels which truths they can be positive for; by columns, in pixels."""

    x: Float[Array, "a"]
    y: Float[Array, "a"]
    low: Float[Array, "a"]  # ends of the range of the farthest side
    high: Float[Array, "a"]
    reach: Float[Array, "a"]  # from a truth's centre; infinite without a radius


def _points(anchors: Anchors, rule: Rule) -> _Points:
    x, y = lax.stop_gradient(box_ops.center(anchors.boxes)).T
    bounds = jnp.asarray(rule.bounds, jnp.float32)
    radius = math.inf if rule.radius is None else rule.radius
    reach = radius * jnp.asarray(rule.strides, jnp.float32)
    return _Points(x=x, y=y, low=bounds[anchors.levels], high=bounds[anchors.levels + 1], reach=reach[anchors.levels])


class _State(NamedTuple):
    """The assignment of each point to the truths processed so far."""

    truth: Int[Array, "a"]  # the last that the point is positive for; -1 if there is none
    in_crowd: Bool[Array, "a"]


def _update(
    points: _Points,
    state: _State,
    row: tuple[Float[Array, "4"], Bool[Array, ""], Bool[Array, ""], Int[Array, ""]],
    *,
    closed: bool,
) -> _State:
    """The state after one more truth; a row is its box, valid, crowd and index."""
    box, valid, crowd, index = row
    x0, y0, x1, y1 = box
    covered = (x0 <= points.x) & (points.x < x1) & (y0 <= points.y) & (points.y < y1)
    return _State(
        truth=jnp.where(valid & _positive(points, box, closed=closed), index, state.truth),
        in_crowd=state.in_crowd | (crowd & covered),
    )


def _positive(points: _Points, box: Float[Array, "4"], *, closed: bool) -> Bool[Array, "a"]:
    """Whether each point would be positive for a truth that is alone."""
    x0, y0, x1, y1 = box
    left, top, right, bottom = points.x - x0, points.y - y0, x1 - points.x, y1 - points.y
    nearest = jnp.minimum(jnp.minimum(left, right), jnp.minimum(top, bottom))
    farthest = jnp.maximum(jnp.maximum(left, right), jnp.maximum(top, bottom))
    if closed:
        in_range = (points.low <= farthest) & (farthest <= points.high)
    else:
        in_range = (points.low < farthest) & (farthest < points.high)
    from_center = jnp.maximum(jnp.abs(points.x - 0.5 * (x0 + x1)), jnp.abs(points.y - 0.5 * (y0 + y1)))
    return (nearest > 0) & in_range & (from_center < points.reach)

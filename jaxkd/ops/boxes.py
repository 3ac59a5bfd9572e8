"""Box geometry: areas, overlaps, deltas between anchors and boxes, and distances from points to sides.

Boxes are (x0, y0, x1, y1) in pixels, half-open: a width is x1 - x0, with nothing added.
"""

import math
from collections.abc import Sequence

from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Num

MAX_LOG_RATIO = math.log(1000 / 16)  # of the sides of a decoded box and its anchor


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Areas in square pixels; 0 for a box whose corners are out of order."""
    sides = _sides(boxes)
    return sides[..., 0] * sides[..., 1]


def center(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    """Centres (x, y) in pixels."""
    boxes = boxes.astype(jnp.float32)
    return 0.5 * (boxes[..., :2] + boxes[..., 2:])


def sides_of(images: Num[Array, "b h w c"]) -> Float[Array, "4"]:
    """Width, height, width and height in pixels of the canvas of these pictures."""
    height, width = images.shape[1:3]
    return jnp.asarray([width, height] * 2, jnp.float32)


def corners_of(centred: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """The boxes (x0, y0, x1, y1) of (centre x, centre y, width, height); a side below 0 counts as 0."""
    half = jnp.maximum(centred[..., 2:], 0.0) / 2
    return jnp.concatenate([centred[..., :2] - half, centred[..., :2] + half], axis=-1)


def centred(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """The boxes as (centre x, centre y, width, height); a side is below 0 where corners are out of order."""
    return jnp.concatenate([center(boxes), boxes[..., 2:] - boxes[..., :2]], axis=-1)


def intersection(a: Float[Array, "a 4"], b: Float[Array, "b 4"]) -> Float[Array, "a b"]:
    """Area in square pixels that each box of `a` shares with each box of `b`."""
    return _paired_intersection(a[:, None], b[None])


def iou(a: Float[Array, "a 4"], b: Float[Array, "b 4"]) -> Float[Array, "a b"]:
    """Intersection over union of each box of `a` with each box of `b`; 0 where the union is empty."""
    return _iou(_paired_intersection(a[:, None], b[None]), area(a)[:, None] + area(b)[None])


def paired_iou(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Intersection over union, row by row; 0 where the union is empty."""
    return _iou(_paired_intersection(a, b), area(a) + area(b))


def generalized_iou(a: Float[Array, "*n 4"], b: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Generalized intersection over union in [-1, 1], row by row; 0 where both boxes are the same point.

    The IoU less the share of the common hull that neither box covers (Rezatofighi et al. 2019, algorithm 1).
    """
    shared = _paired_intersection(a, b)
    total = area(a) + area(b)
    low = jnp.minimum(a[..., :2], b[..., :2])
    high = jnp.maximum(a[..., 2:], b[..., 2:])
    hull = area(jnp.concatenate([low, high], axis=-1))
    return _iou(shared, total) - _divide(hull - (total - shared), hull)


def clip(boxes: Float[Array, "*n 4"], size: Num[Array, "2"]) -> Float[Array, "*n 4"]:
    """Boxes clipped to a picture of `size` (height, width); one that lies outside gets no area."""
    height, width = size.astype(jnp.float32)
    return jnp.clip(boxes.astype(jnp.float32), 0.0, jnp.stack([width, height, width, height]))


def flip(boxes: Float[Array, "*n 4"], width: int | float | Num[Array, ""]) -> Float[Array, "*n 4"]:
    """Boxes after a horizontal flip of a picture `width` pixels wide."""
    x0, y0, x1, y1 = _corners(boxes)
    return jnp.stack([width - x1, y0, width - x0, y1], axis=-1)


def encode(
    boxes: Float[Array, "*n 4"],
    anchors: Float[Array, "*n 4"],
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*n 4"]:
    """Deltas (dx, dy, dw, dh) from each anchor to its box; zeros where either has no area.

    Shifts of the centre in units of the anchor's sides, and logarithms of the ratios of the sides, each times its
    weight (Ren et al. 2015, equation 2).

    Raises:
        ValueError: if there are not four weights.
    """
    scale = _weights(weights)
    sides, anchor_sides = _sides(boxes), _sides(anchors)
    has_area = jnp.all((sides > 0) & (anchor_sides > 0), axis=-1, keepdims=True)
    sides, anchor_sides = jnp.where(has_area, sides, 1.0), jnp.where(has_area, anchor_sides, 1.0)
    shift = (center(boxes) - center(anchors)) / anchor_sides
    deltas = jnp.concatenate([shift, jnp.log(sides) - jnp.log(anchor_sides)], axis=-1)
    return jnp.where(has_area, deltas * scale, 0.0)


def decode(
    deltas: Float[Array, "*n 4"],
    anchors: Float[Array, "*n 4"],
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    limit: float = MAX_LOG_RATIO,
) -> Float[Array, "*n 4"]:
    """Boxes of the deltas and their anchors: the inverse of `encode`.

    `limit` caps dw and dh after division by their weights, so that the exponential cannot overflow; the default
    allows a side 62.5 times as long.

    Raises:
        ValueError: if there are not four weights.
    """
    unweighted = deltas.astype(jnp.float32) / _weights(weights)
    sides = _sides(anchors)
    middle = center(anchors) + unweighted[..., :2] * sides
    half = 0.5 * sides * jnp.exp(jnp.minimum(unweighted[..., 2:], limit))
    return jnp.concatenate([middle - half, middle + half], axis=-1)


def encode_sides(
    boxes: Float[Array, "*n 4"], centers: Float[Array, "*n 2"], *, unit: Float[Array, "..."] | float = 1.0
) -> Float[Array, "*n 4"]:
    """Distances (left, top, right, bottom) from points (x, y) to the sides of their boxes.

    A distance is negative where its point is beyond the side (Tian et al. 2019, arXiv 1904.01355, equation 1).

    Args:
        boxes: in pixels.
        centers: the points, such as the centres of regions, in pixels.
        unit: pixels of one unit of distance, such as the stride of each point's level; broadcast over leading axes.
    """
    boxes, centers = boxes.astype(jnp.float32), centers.astype(jnp.float32)
    distances = jnp.concatenate([centers - boxes[..., :2], boxes[..., 2:] - centers], axis=-1)
    return distances / _of_sides(unit)


def decode_sides(
    sides: Float[Array, "*n 4"], centers: Float[Array, "*n 2"], *, unit: Float[Array, "..."] | float = 1.0
) -> Float[Array, "*n 4"]:
    """Boxes of points (x, y) and the distances (left, top, right, bottom) to their sides: inverse of `encode_sides`.

    For the arguments see `encode_sides`; distances may be negative, and corners then out of order.
    """
    sides, centers = sides.astype(jnp.float32) * _of_sides(unit), centers.astype(jnp.float32)
    return jnp.concatenate([centers - sides[..., :2], centers + sides[..., 2:]], axis=-1)


def of_class(deltas: Float[Array, "*n m 4"], labels: Int[Array, "*n"]) -> Float[Array, "*n 4"]:
    """The four deltas of each region's class, from one set a class or a single set that all classes share.

    Labels beyond the last class (background) give the deltas of the last class; mask them.
    """
    index = jnp.clip(labels, 0, deltas.shape[-2] - 1) if deltas.shape[-2] > 1 else jnp.zeros_like(labels)
    return jnp.take_along_axis(deltas, index[..., None, None], axis=-2)[..., 0, :]


def smooth_l1(difference: Float[Array, "*n"], *, beta: float) -> Float[Array, "*n"]:
    """Smooth L1: |difference| - beta / 2 from `beta` on, quadratic below; L1 for beta 0 (Girshick 2015, eq. 3)."""
    magnitude = jnp.abs(difference)
    if beta == 0:
        return magnitude
    return jnp.where(magnitude < beta, 0.5 * difference**2 / beta, magnitude - 0.5 * beta)


def _corners(boxes: Float[Array, "*n 4"]) -> Float[Array, "4 *n"]:
    return jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)


def _of_sides(unit: Float[Array, "*n"] | float) -> Float[Array, "*n 1"]:
    """The unit of distances as float32, to be broadcast over four sides."""
    return jnp.asarray(unit, jnp.float32)[..., None]


def _sides(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    boxes = boxes.astype(jnp.float32)
    return jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)


def _paired_intersection(a: Float[Array, "... 4"], b: Float[Array, "... 4"]) -> Float[Array, "..."]:
    """Intersection areas of two arrays of boxes; leading axes are broadcast."""
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    return area(jnp.concatenate([low, high], axis=-1))


def _iou(shared: Float[Array, "*n"], total: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return _divide(shared, total - shared)


def _divide(numerator: Float[Array, "*n"], denominator: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The quotient, 0 where the denominator is not above 0."""
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1.0), 0.0)


def _weights(weights: Sequence[float]) -> Float[Array, "4"]:
    if len(weights) != 4:
        raise ValueError(f"The box code takes four weights, for dx, dy, dw and dh, and was given {len(weights)}.")
    return jnp.asarray(weights, jnp.float32)

"""Greedy non-maximum suppression with static sizes."""

from typing import NamedTuple

from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from jaxkd.ops.boxes import iou


class Kept(NamedTuple):
    """Which boxes survived, best first, padded to a static number."""

    index: Int32[Array, "*b limit"]  # into the boxes that were given; 0 where not valid
    valid: Bool[Array, "*b limit"]


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    *,
    valid: Bool[Array, " n"],
    threshold: float,
    limit: int,
    classes: Int[Array, " n"] | None = None,
    tile: int = 256,
) -> Kept:
    """The boxes that greedy suppression keeps, in descending order of score.

    A box is dropped where its IoU with a kept box of higher score is strictly greater than `threshold`; of equal
    scores the lower index comes first. The n boxes are sorted once and walked in tiles: a tile is suppressed by the
    boxes already kept, then by itself, as the fixed point of "kept if no kept box before me overlaps me", which for
    a triangular relation is the greedy answer. The walk ends as soon as `limit` boxes are kept, and memory is
    tile x tile. On two CPU cores this is 4 to 60 times as fast as the fixed point on the full matrix
    (`nms_matrix`) for 1000 to 8000 proposals, and needs no n x n memory.

    Source: Ren et al. 2015, Faster R-CNN, section 3.3.

    Args:
        boxes: (x0, y0, x1, y1) in pixels.
        scores: one a box; the order of suppression.
        valid: the boxes that take part. Coordinates and scores of the others are never looked at, NaN included.
        threshold: IoU above which the lesser box is dropped.
        limit: static size of the answer; the walk keeps no more than this.
        classes: where given, only boxes of one class suppress each other.
        tile: boxes compared at a time.

    Raises:
        ValueError: if `limit` or `tile` is not positive.
    """
    if limit < 1 or tile < 1:
        raise ValueError(f"nms was given limit={limit} and tile={tile}; both must be at least 1.")
    tile = min(tile, max(len(boxes), 1))
    tiles = -(-len(boxes) // tile)
    order, boxes, classes, valid = _sorted(boxes, scores, classes, valid, size=tiles * tile)
    slots = -(-limit // tile) * tile

    def unfinished(carry):
        step, count, *_ = carry
        return (step < tiles) & (count < limit)

    def walk(carry):
        step, count, index, kept_boxes, kept_classes = carry
        start = step * tile
        ours = lax.dynamic_slice_in_dim(boxes, start, tile)
        kinds = lax.dynamic_slice_in_dim(classes, start, tile)
        candidate = lax.dynamic_slice_in_dim(valid, start, tile)

        def by_kept(block, candidate):
            theirs = lax.dynamic_slice_in_dim(kept_boxes, block * tile, tile)
            theirs_kinds = lax.dynamic_slice_in_dim(kept_classes, block * tile, tile)
            real = block * tile + jnp.arange(tile) < count
            beaten = _overlap(theirs, ours, theirs_kinds, kinds, threshold) & real[:, None]
            return candidate & ~beaten.any(0)

        candidate = lax.fori_loop(0, (count + tile - 1) // tile, by_kept, candidate)
        keep = _fixed_point(_overlap(ours, ours, kinds, kinds, threshold), candidate)
        slot = jnp.where(keep, count + jnp.cumsum(keep) - 1, slots)
        return (
            step + 1,
            count + keep.sum(dtype=jnp.int32),
            index.at[slot].set(lax.dynamic_slice_in_dim(order, start, tile), mode="drop"),
            kept_boxes.at[slot].set(ours, mode="drop"),
            kept_classes.at[slot].set(kinds, mode="drop"),
        )

    empty = (
        jnp.int32(0),
        jnp.int32(0),
        *(jnp.zeros_like(x, shape=(slots, *x.shape[1:])) for x in (order, boxes, classes)),
    )
    _, count, index, _, _ = lax.while_loop(unfinished, walk, empty)
    full = jnp.arange(limit) < count
    return Kept(index=jnp.where(full, index[:limit], 0), valid=full)


def nms_matrix(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    *,
    valid: Bool[Array, " n"],
    threshold: float,
    limit: int,
    classes: Int[Array, " n"] | None = None,
) -> Kept:
    """What `nms` returns, from one fixed point on the full matrix of overlaps: shorter, and n x n in memory.

    Args:
        boxes: (x0, y0, x1, y1) in pixels.
        scores: one a box.
        valid: the boxes that take part.
        threshold: IoU above which the lesser box is dropped.
        limit: static size of the answer.
        classes: where given, only boxes of one class suppress each other.

    Raises:
        ValueError: if `limit` is not positive.
    """
    if limit < 1:
        raise ValueError(f"nms_matrix was given limit={limit}; it must be at least 1.")
    order, boxes, classes, valid = _sorted(boxes, scores, classes, valid, size=len(boxes))
    keep = _fixed_point(_overlap(boxes, boxes, classes, classes, threshold), valid)
    slot = jnp.where(keep, jnp.cumsum(keep) - 1, limit)
    index = jnp.zeros(limit, jnp.int32).at[slot].set(order, mode="drop")
    return Kept(index=index, valid=jnp.arange(limit) < keep.sum())


def _sorted(boxes, scores, classes, valid, *, size):
    """Order, boxes, classes and valid, best first, invalid ones cleared, padded to `size`."""
    valid = valid & ~jnp.isnan(scores)
    order = jnp.argsort(jnp.where(valid, -scores.astype(jnp.float32), jnp.inf), stable=True).astype(jnp.int32)
    boxes = jnp.where(valid[:, None], lax.stop_gradient(boxes).astype(jnp.float32), 0.0)[order]
    classes = jnp.zeros_like(order) if classes is None else classes.astype(jnp.int32)[order]
    columns = (order, boxes, classes, valid[order])
    return tuple(jnp.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in columns)


def _overlap(a, b, kinds_a, kinds_b, threshold):
    """[a b] bool: of one class, and more than `threshold` of IoU."""
    return (iou(a, b) > threshold) & (kinds_a[:, None] == kinds_b[None, :])


def _fixed_point(overlap, candidate):
    """[n] bool: the candidates, in order, that overlap no kept candidate before them."""
    n = len(candidate)
    before = overlap & (jnp.arange(n)[:, None] < jnp.arange(n)[None, :])

    def sweep(carry):
        keep, _ = carry
        new = candidate & ~(before & keep[:, None]).any(0)
        return new, (new != keep).any()

    return lax.while_loop(lambda carry: carry[1], sweep, (candidate, jnp.bool_(True)))[0]

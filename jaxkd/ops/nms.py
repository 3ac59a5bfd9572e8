"""Greedy non-maximum suppression with static sizes."""

import functools
from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32


class Kept(NamedTuple):
    """The boxes kept, by descending score, padded to a static number."""

    index: Int32[Array, "*b limit"]  # into the input boxes; 0 where not valid
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
    scores the lower index comes first. The n boxes are sorted once and processed in tiles: a tile is suppressed by the
    boxes already kept, then by itself, as the fixed point of "kept if no kept box of higher score overlaps it", which
    for a triangular relation is the greedy result. The loop ends as soon as `limit` boxes are kept, and memory is
    tile x tile. On two CPU cores this took a half of the time of the fixed point on the full matrix (`nms_matrix`) for
    2000 proposals and a tenth for 8000, and it needs no n x n memory; tiles of 128 to 512 were within 20 % of
    each other.

    Source: Ren et al. 2015, Faster R-CNN, section 3.3.

    Args:
        boxes: (x0, y0, x1, y1) in pixels.
        scores: one for each box; the order of suppression.
        valid: the boxes that take part. Coordinates and scores of the others are ignored, NaN included.
        threshold: IoU above which the box of lower score is dropped.
        limit: static size of the result, and the most boxes kept.
        classes: where given, only boxes of one class suppress each other.
        tile: number of boxes compared at a time.

    Raises:
        ValueError: if `limit` or `tile` is not positive.
    """
    if limit < 1 or tile < 1:
        raise ValueError(f"nms was given limit={limit} and tile={tile}; both must be at least 1.")
    return greedy(boxes, scores, valid, classes, jnp.float32(threshold), limit=limit, tile=tile)


# Tiles processed, boxes kept, their indices, and the columns of their table.
_Carry = tuple[Int32[Array, ""], Int32[Array, ""], Int32[Array, "slots"], Float[Array, "sides slots"]]


@functools.partial(jax.jit, static_argnames=("limit", "tile"))
def greedy(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    valid: Bool[Array, " n"],
    classes: Int[Array, " n"] | None,
    threshold: Float[Array, ""],
    *,
    limit: int,
    tile: int,
) -> Kept:
    """What `nms` returns; a separate jitted function, so that an exporter finds it in a traced program by its name."""
    tile = min(tile, max(len(boxes), 1))
    tiles = max(-(-len(boxes) // tile), 1)
    slots = -(-limit // tile) * tile
    order, table, valid = _sorted(boxes, scores, classes, valid, size=tiles * tile)

    def unfinished(carry: _Carry) -> Bool[Array, ""]:
        step, count, _, _ = carry
        return (step < tiles) & (count < limit)

    def process_tile(carry: _Carry) -> _Carry:
        step, count, index, kept = carry
        tile_order, tile_table, candidate = (
            lax.dynamic_slice_in_dim(x, step * tile, tile, -1) for x in (order, table, valid)
        )

        def suppress_by_kept(block: Int[Array, ""], candidate: Bool[Array, "tile"]) -> Bool[Array, "tile"]:
            kept_block = lax.dynamic_slice_in_dim(kept, block * tile, tile, -1)
            return candidate & ~_overlap(kept_block, tile_table, threshold).any(0)  # slots not yet filled have no area

        candidate = lax.fori_loop(0, (count + tile - 1) // tile, suppress_by_kept, candidate)
        keep = _fixed_point(_overlap(tile_table, tile_table, threshold), candidate)
        slot = jnp.where(keep, count + jnp.cumsum(keep) - 1, slots)
        index = index.at[slot].set(tile_order, mode="drop")
        kept = kept.at[:, slot].set(tile_table, mode="drop")
        return step + 1, count + keep.sum(dtype=jnp.int32), index, kept

    initial = (jnp.int32(0), jnp.int32(0), jnp.zeros(slots, jnp.int32), jnp.zeros((len(table), slots), jnp.float32))
    _, count, index, _ = lax.while_loop(unfinished, process_tile, initial)
    filled = jnp.arange(limit) < count
    return Kept(index=jnp.where(filled, index[:limit], 0), valid=filled)


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
        scores: one for each box.
        valid: the boxes that take part.
        threshold: IoU above which the box of lower score is dropped.
        limit: static size of the result.
        classes: where given, only boxes of one class suppress each other.

    Raises:
        ValueError: if `limit` is not positive.
    """
    if limit < 1:
        raise ValueError(f"nms_matrix was given limit={limit}; it must be at least 1.")
    order, table, valid = _sorted(boxes, scores, classes, valid, size=len(boxes))
    keep = _fixed_point(_overlap(table, table, threshold), valid)
    slot = jnp.where(keep, jnp.cumsum(keep) - 1, limit)
    index = jnp.zeros(limit, jnp.int32).at[slot].set(order, mode="drop")
    return Kept(index=index, valid=jnp.arange(limit) < keep.sum())


def _sorted(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    classes: Int[Array, " n"] | None,
    valid: Bool[Array, " n"],
    *,
    size: int,
) -> tuple[Int32[Array, "{size}"], Float[Array, "sides {size}"], Bool[Array, "{size}"]]:
    """Indices, a table of x0, y0, x1, y1 (and class, where given), and valid, by descending score, zero-padded."""
    valid = jnp.asarray(valid) & ~jnp.isnan(scores)
    order = jnp.argsort(jnp.where(valid, -jnp.asarray(scores, jnp.float32), jnp.inf), stable=True).astype(jnp.int32)
    table = lax.stop_gradient(jnp.asarray(boxes, jnp.float32)).T
    if classes is not None:
        table = jnp.concatenate([table, jnp.asarray(classes, jnp.float32)[None]])
    table = jnp.where(valid, table, 0.0)[:, order]
    padding = size - len(boxes)
    return jnp.pad(order, (0, padding)), jnp.pad(table, ((0, 0), (0, padding))), jnp.pad(valid[order], (0, padding))


def _overlap(
    a: Float[Array, "sides a"], b: Float[Array, "sides b"], threshold: Float[Array, ""] | float
) -> Bool[Array, "a b"]:
    """Whether two boxes are of one class and their IoU is above `threshold`.

    By columns and without a division: in the loops of `nms` a CPU takes several times as long for rows of [n 4].
    """
    width = jnp.minimum(a[2][:, None], b[2]) - jnp.maximum(a[0][:, None], b[0])
    height = jnp.minimum(a[3][:, None], b[3]) - jnp.maximum(a[1][:, None], b[1])
    intersection = jnp.maximum(width, 0.0) * jnp.maximum(height, 0.0)
    overlapping = intersection > threshold * (_area(a)[:, None] + _area(b) - intersection)
    return overlapping & (a[4][:, None] == b[4]) if len(a) == 5 else overlapping


def _area(table: Float[Array, "sides n"]) -> Float[Array, " n"]:
    return jnp.maximum(table[2] - table[0], 0.0) * jnp.maximum(table[3] - table[1], 0.0)


def _fixed_point(overlap: Bool[Array, "n n"], candidate: Bool[Array, " n"]) -> Bool[Array, " n"]:
    """The candidates that overlap no kept candidate before them."""
    n = len(candidate)
    before = overlap & (jnp.arange(n)[:, None] < jnp.arange(n)[None, :])

    def sweep(carry: tuple[Bool[Array, " n"], Bool[Array, ""]]) -> tuple[Bool[Array, " n"], Bool[Array, ""]]:
        keep, _ = carry
        updated = candidate & ~(before & keep[:, None]).any(0)
        return updated, (updated != keep).any()

    return lax.while_loop(lambda carry: carry[1], sweep, (candidate, jnp.bool_(True)))[0]

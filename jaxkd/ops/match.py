"""Which truth each box answers for, and which boxes are background."""

import functools
from typing import NamedTuple

import jax
from flax import struct
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxkd.ops import boxes as box_ops

TABLE = 2**22  # overlaps of a picture that are worked out at once


class Matches(struct.PyTreeNode):
    """Each box's assignment; one that is neither positive nor negative takes no part."""

    truth: Array  # [a] int32: index of the truth that overlaps the box most; 0 if none does
    positive: Array  # [a] bool
    negative: Array  # [a] bool


def match(
    boxes: Float[Array, "a 4"],
    truth: Float[Array, "g 4"],
    *,
    valid: Bool[Array, "g"],
    crowd: Bool[Array, "g"],
    positive: float,
    negative: float,
    low_quality: bool = False,
    crowd_overlap: float = 0.5,
) -> Matches:
    """Matches of boxes to truths by intersection over union (Ren et al. 2015, section 3.1.2).

    A box is positive if its best IoU is at least `positive`, negative if it is below `negative`, and left out in
    between. Truths that are neither valid nor crowd are padding and change nothing.

    Boxes lie along the last axis and an index is found by a minimum, which on a CPU is much faster than an argmax over
    truths along the last axis. Beyond `TABLE` overlaps a picture the truths are looked at one after another, with the
    same result: that takes less memory and, for so many, less time; for fewer it would be slower.

    Args:
        boxes: anchors or proposals.
        truth: boxes of the objects, padded.
        valid: real objects.
        crowd: regions in which nothing may be called background.
        positive: the least IoU of a positive, above 0.
        negative: the IoU below which a box is background, at most `positive`.
        low_quality: whether the boxes that overlap a truth more than any other box does are positive too, however
            little that is; each still answers for its own best truth.
        crowd_overlap: the share of its area beyond which a box inside one crowd region is not background.

    Raises:
        ValueError: if the thresholds are out of order, or there is no truth, not even a padded one.
    """
    if not 0 <= negative <= positive or positive <= 0:
        raise ValueError(f"Matching needs 0 <= negative <= positive and positive > 0, not {negative} and {positive}.")
    if truth.shape[0] == 0:
        raise ValueError("Matching needs at least one truth; give a padded one that is not valid.")
    rows = (truth, valid, crowd, jnp.arange(truth.shape[0], dtype=jnp.int32))
    look = functools.partial(_looked_at, boxes, low_quality=low_quality)
    numbers, flags = jnp.zeros(boxes.shape[0]), jnp.zeros(boxes.shape[0], jnp.int32)
    found = _Found(best=numbers, covered=numbers, first=flags, forced=flags)
    if truth.shape[0] * boxes.shape[0] <= TABLE:
        found = look(found, rows)
    else:
        one_by_one = jax.tree.map(lambda x: x[:, None], rows)
        found, _ = lax.scan(lambda found, row: (look(found, row), None), found, one_by_one)
    area = box_ops.area(boxes)
    in_crowd = (area > 0) & (found.covered > crowd_overlap * area)
    is_positive = (found.best >= positive) | (found.forced > 0)
    return Matches(truth=found.first, positive=is_positive, negative=(found.best < negative) & ~is_positive & ~in_crowd)


class _Found(NamedTuple):
    """What is known of each box after some of the truths."""

    best: Array  # [a] float32: the greatest overlap
    covered: Array  # [a] float32: the greatest area shared with a crowd
    first: Array  # [a] int32: the first truth of that overlap
    forced: Array  # [a] int32: 1 where no box overlaps one of the truths more


def _looked_at(
    boxes: Float[Array, "a 4"],
    found: _Found,
    rows: tuple[Float[Array, "g 4"], Bool[Array, "g"], Bool[Array, "g"], Int[Array, "g"]],
    *,
    low_quality: bool,
) -> _Found:
    """What is known after these truths too: their boxes, which are valid, which are crowd, their numbers."""
    truth, valid, crowd, numbers = rows
    # Without the barrier the uses of `overlap` are compiled apart, and may round apart.
    overlap = lax.optimization_barrier(jnp.where(valid[:, None], box_ops.iou(truth, boxes), 0.0))
    best, forced = overlap.max(0), found.forced
    first = jnp.where(overlap == best, numbers[:, None], jnp.iinfo(jnp.int32).max).min(0)
    if low_quality:
        most = (overlap == overlap.max(1, keepdims=True)) & (overlap > 0)
        forced = jnp.maximum(forced, most.any(0).astype(jnp.int32))
    return _Found(
        best=jnp.maximum(found.best, best),
        covered=jnp.maximum(found.covered, jnp.where(crowd[:, None], box_ops.intersection(truth, boxes), 0.0).max(0)),
        first=jnp.where(best > found.best, first, found.first),
        forced=forced,
    )

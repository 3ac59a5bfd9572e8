"""Assignment of boxes to ground truth by intersection over union."""

import functools
from typing import NamedTuple

import jax
from flax import struct
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxkd.ops import boxes as box_ops

TABLE_LIMIT = 2**22  # IoUs of a picture that are computed at once


class Matches(struct.PyTreeNode):
    """The assignment of each box; one that is neither positive nor negative is ignored."""

    truth: Array  # [a] int32: index of the matched truth; 0 if there is none
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

    A box is positive if its best IoU is at least `positive`, negative if it is below `negative`, and ignored in
    between. Truths that are neither valid nor crowd are padding and change nothing.

    Boxes lie along the last axis and the index is a minimum, which on a CPU is much faster than an argmax over truths
    along the last axis. Above `TABLE_LIMIT` IoUs a picture, the truths are processed one after another, with the same
    result: that takes less memory and, for so many, less time; for fewer it would be slower.

    Args:
        boxes: anchors or proposals.
        truth: boxes of the objects, padded.
        valid: whether each truth is a real object.
        crowd: whether each truth is a crowd region, in which no box is background.
        positive: the least IoU of a positive, above 0.
        negative: the IoU below which a box is background, at most `positive`.
        low_quality: whether the boxes with the highest IoU of a truth are positive too, however low it is; each is
            still assigned to the truth of its own highest IoU.
        crowd_overlap: the share of a box's area within one crowd region above which it is not background.

    Raises:
        ValueError: if the thresholds are out of order, or there is no truth, not even a padded one.
    """
    if not 0 <= negative <= positive or positive <= 0:
        raise ValueError(f"Matching needs 0 <= negative <= positive and positive > 0, not {negative} and {positive}.")
    if truth.shape[0] == 0:
        raise ValueError("Matching needs at least one truth; give a padded one that is not valid.")
    rows = (truth, valid, crowd, jnp.arange(truth.shape[0], dtype=jnp.int32))
    update = functools.partial(_update, boxes, low_quality=low_quality)
    zeros, int_zeros = jnp.zeros(boxes.shape[0]), jnp.zeros(boxes.shape[0], jnp.int32)
    state = _MatchState(best_iou=zeros, crowd_area=zeros, best_truth=int_zeros, forced=int_zeros)
    if truth.shape[0] * boxes.shape[0] <= TABLE_LIMIT:
        state = update(state, rows)
    else:
        one_by_one = jax.tree.map(lambda x: x[:, None], rows)
        state, _ = lax.scan(lambda state, row: (update(state, row), None), state, one_by_one)
    area = box_ops.area(boxes)
    in_crowd = (area > 0) & (state.crowd_area > crowd_overlap * area)
    is_positive = (state.best_iou >= positive) | (state.forced > 0)
    return Matches(
        truth=state.best_truth, positive=is_positive, negative=(state.best_iou < negative) & ~is_positive & ~in_crowd
    )


class _MatchState(NamedTuple):
    """The assignment of each box to the truths processed so far."""

    best_iou: Array  # [a] float32: the highest IoU
    crowd_area: Array  # [a] float32: the greatest area shared with a crowd
    best_truth: Array  # [a] int32: the first truth of that IoU
    forced: Array  # [a] int32: 1 where the box has the highest IoU of a truth


def _update(
    boxes: Float[Array, "a 4"],
    state: _MatchState,
    rows: tuple[Float[Array, "g 4"], Bool[Array, "g"], Bool[Array, "g"], Int[Array, "g"]],
    *,
    low_quality: bool,
) -> _MatchState:
    """The state after these truths too; rows are their boxes, valid, crowd and indices."""
    truth, valid, crowd, indices = rows
    # Without the barrier XLA compiles each use of `iou` separately, and their rounding may differ.
    iou = lax.optimization_barrier(jnp.where(valid[:, None], box_ops.iou(truth, boxes), 0.0))
    best_iou, forced = iou.max(0), state.forced
    best_truth = jnp.where(iou == best_iou, indices[:, None], jnp.iinfo(jnp.int32).max).min(0)
    if low_quality:
        best_of_truth = (iou == iou.max(1, keepdims=True)) & (iou > 0)
        forced = jnp.maximum(forced, best_of_truth.any(0).astype(jnp.int32))
    return _MatchState(
        best_iou=jnp.maximum(state.best_iou, best_iou),
        crowd_area=jnp.maximum(
            state.crowd_area, jnp.where(crowd[:, None], box_ops.intersection(truth, boxes), 0.0).max(0)
        ),
        best_truth=jnp.where(best_iou > state.best_iou, best_truth, state.best_truth),
        forced=forced,
    )

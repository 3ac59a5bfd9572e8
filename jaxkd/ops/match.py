"""Which truth each box answers for, and which boxes are background."""

from flax import struct
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float

from jaxkd.ops import boxes as box_ops


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
    between. Truths that are neither valid nor crowd are padding and change nothing. Boxes lie along the
    last axis and an index is found by a minimum: on a CPU that takes 9 ms for 8 pictures of 6894 boxes and 40 truths,
    where an argmax over truths along the last axis takes 148.

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
    # Without the barrier the uses of `overlap` are compiled apart, and may round apart.
    overlap = lax.optimization_barrier(jnp.where(valid[:, None], box_ops.iou(truth, boxes), 0.0))
    best = overlap.max(0)
    numbers = jnp.arange(truth.shape[0], dtype=jnp.int32)[:, None]
    first = jnp.where((overlap == best) & (best > 0), numbers, truth.shape[0]).min(0)
    is_positive = best >= positive
    if low_quality:
        is_positive |= ((overlap == overlap.max(1, keepdims=True)) & (overlap > 0)).any(0)
    area = box_ops.area(boxes)
    covered = jnp.where(crowd[:, None], box_ops.intersection(truth, boxes), 0.0).max(0)
    in_crowd = (area > 0) & (covered > crowd_overlap * area)
    return Matches(
        truth=jnp.where(first < truth.shape[0], first, 0),
        positive=is_positive,
        negative=(best < negative) & ~is_positive & ~in_crowd,
    )

"""Which truth each box answers for, and which boxes are background."""

from flax import struct
from jax import Array
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
    between. Truths that are neither valid nor crowd are padding and change nothing.

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
    overlap = jnp.where(valid, box_ops.iou(boxes, truth), 0.0)
    best = jnp.max(overlap, axis=1)
    chosen = jnp.where(best > 0, jnp.argmax(overlap, axis=1), 0).astype(jnp.int32)
    is_positive = best >= positive
    if low_quality:
        is_positive |= jnp.any(_is_best_of_truth(overlap), axis=1)
    is_negative = (best < negative) & ~is_positive & ~_in_crowd(boxes, truth, crowd, crowd_overlap)
    return Matches(truth=chosen, positive=is_positive, negative=is_negative)


def _is_best_of_truth(overlap):
    # A compiler may round the two uses of `overlap` differently; the argmax keeps one box for each truth all the same.
    first = jnp.arange(overlap.shape[0])[:, None] == jnp.argmax(overlap, axis=0)
    return ((overlap == jnp.max(overlap, axis=0)) | first) & (overlap > 0)


def _in_crowd(boxes, truth, crowd, crowd_overlap):
    covered = jnp.max(jnp.where(crowd, box_ops.intersection(boxes, truth), 0.0), axis=1)
    area = box_ops.area(boxes)
    return (area > 0) & (covered > crowd_overlap * area)

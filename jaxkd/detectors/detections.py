"""From scored boxes to a picture's detections: the last step of every detector."""

from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxkd.ops import boxes as box_ops
from jaxkd.ops.nms import nms
from jaxkd.types import Detections


def best_of(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    labels: Int[Array, " n"],
    *,
    valid: Bool[Array, " n"],
    threshold: float,
    limit: int,
) -> Detections:
    """The detections of one picture: the valid boxes after suppression class by class, best first.

    Args:
      boxes: in pixels, clipped to the picture; those without area are dropped.
      scores, labels: one of each a box.
      valid: the boxes that take part.
      threshold: IoU above which the lower scored of two boxes of one class is suppressed.
      limit: static number of detections.
    """
    kept = nms(boxes, scores, valid=valid & (box_ops.area(boxes) > 0), threshold=threshold, limit=limit, classes=labels)
    index = kept.index
    return Detections(
        boxes=jnp.where(kept.valid[:, None], boxes[index], 0.0),
        scores=jnp.where(kept.valid, scores[index], 0.0),
        labels=labels[index],
        valid=kept.valid,
    )

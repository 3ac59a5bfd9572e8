"""Intersection over union of boxes, in numpy."""

import numpy as np
from jaxtyping import Bool, Float, Float64


def overlaps(
    boxes: Float[np.ndarray, "n 4"], others: Float[np.ndarray, "m 4"], *, crowd: Bool[np.ndarray, "m"] | None = None
) -> Float64[np.ndarray, "n m"]:
    """Intersection over union of boxes (x, y, width, height), 0 where they do not overlap.

    With a `crowd` it is the intersection over the area of the box, as in COCO.
    """
    first, second = boxes[:, None], others[None]
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    intersection = np.clip(high - low, 0.0, None).prod(-1)
    area = first[..., 2:].prod(-1)
    union = area + second[..., 2:].prod(-1) - intersection
    if crowd is not None:
        union = np.where(crowd, area, union)
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)

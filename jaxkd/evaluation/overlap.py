"""How much boxes overlap, on the host."""

import numpy as np
from jaxtyping import Bool, Float, Float64


def overlaps(
    boxes: Float[np.ndarray, "n 4"], others: Float[np.ndarray, "m 4"], *, crowd: Bool[np.ndarray, "m"] | None = None
) -> Float64[np.ndarray, "n m"]:
    """Intersection over union of boxes (x, y, width, height), 0 where nothing is shared.

    Of the others that are a `crowd` it is the share of the box's own area, as COCO has it.
    """
    one, two = boxes[:, None], others[None]
    low = np.maximum(one[..., :2], two[..., :2])
    high = np.minimum(one[..., :2] + one[..., 2:], two[..., :2] + two[..., 2:])
    shared = np.clip(high - low, 0.0, None).prod(-1)
    own = one[..., 2:].prod(-1)
    union = own + two[..., 2:].prod(-1) - shared
    if crowd is not None:
        union = np.where(crowd, own, union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)

"""Boxes from what a head predicts for a region, and back, whichever code the head uses."""

from jaxtyping import Array, Float

from jaxkd.ops import boxes as box_ops
from jaxkd.types import BoxCode


def decode(
    code: BoxCode, numbers: Float[Array, "*r 4"], regions: Float[Array, "*r 4"], *, limit: float = box_ops.MAX_LOG_RATIO
) -> Float[Array, "*r 4"]:
    """The boxes of a head's four numbers for each region; `limit` is that of `boxes.decode`."""
    if code.kind == "deltas":
        return box_ops.decode(numbers, regions, weights=code.weights, limit=limit)
    return box_ops.decode_sides(numbers, regions, strides=code.strides)


def encode(code: BoxCode, boxes: Float[Array, "*r 4"], regions: Float[Array, "*r 4"]) -> Float[Array, "*r 4"]:
    """The four numbers for which `decode` gives these boxes; zeros where a box or its region has no area."""
    if code.kind == "deltas":
        return box_ops.encode(boxes, regions, weights=code.weights)
    return box_ops.encode_sides(boxes, regions, strides=code.strides)


def converted(
    numbers: Float[Array, "*r 4"], regions: Float[Array, "*r 4"], *, source: BoxCode, target: BoxCode
) -> Float[Array, "*r 4"]:
    """The numbers of one code in another one; unchanged where both are the same."""
    return numbers if source == target else encode(target, decode(source, numbers, regions), regions)

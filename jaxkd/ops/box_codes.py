"""Boxes from what a head predicts for a region, and back, whichever code the head uses."""

from jax import numpy as jnp
from jaxtyping import Array, Float

from jaxkd.ops import boxes as box_ops
from jaxkd.types import BoxCode


def decode(
    code: BoxCode, numbers: Float[Array, "*r 4"], regions: Float[Array, "*r 4"], *, limit: float = box_ops.MAX_LOG_RATIO
) -> Float[Array, "*r 4"]:
    """The boxes of a head's four numbers for each region; `limit` is that of `boxes.decode`."""
    if code.kind == "deltas":
        return box_ops.decode(numbers, regions, weights=code.weights, limit=limit)
    return box_ops.decode_sides(numbers, box_ops.center(regions), unit=_unit(code, regions))


def encode(code: BoxCode, boxes: Float[Array, "*r 4"], regions: Float[Array, "*r 4"]) -> Float[Array, "*r 4"]:
    """The four numbers for which `decode` gives these boxes; of "deltas" zeros where a box or region has no area."""
    if code.kind == "deltas":
        return box_ops.encode(boxes, regions, weights=code.weights)
    return box_ops.encode_sides(boxes, box_ops.center(regions), unit=_unit(code, regions))


def converted(
    numbers: Float[Array, "*r 4"], regions: Float[Array, "*r 4"], *, source: BoxCode, target: BoxCode
) -> Float[Array, "*r 4"]:
    """The numbers of one code in another one; unchanged where both are the same."""
    return numbers if source == target else encode(target, decode(source, numbers, regions), regions)


def _unit(code: BoxCode, regions: Float[Array, "*r 4"]) -> Float[Array, "*r"]:
    """Pixels of one unit of distance for each region; 1 for a region without a width."""
    width = regions[..., 2] - regions[..., 0]
    return jnp.where(width > 0, width / code.strides, 1.0)

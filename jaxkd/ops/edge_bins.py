"""Boxes as distributions of their edges over bins of unequal width.

Source: Peng et al. 2024, D-FINE (arXiv 2410.13842), section 4.1. Boxes here are (centre x, centre y, width, height) in
shares of the picture's sides.
"""

from typing import NamedTuple

from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float


def bin_values(last: int, *, up: Float[Array, ""], scale: Float[Array, ""]) -> Float[Array, "n"]:
    """The displacement that each of the bins 0 to `last` (even) stands for, in `scale`-th parts of a box's side.

    They grow geometrically from the middle bin, which is 0, and reach `up` * `scale` at the last but one; the outermost
    ones are twice that.
    """
    most = jnp.abs(up) * jnp.abs(scale)
    step = (most + 1.0) ** (2.0 / (last - 2))
    offset = jnp.arange(last + 1) - last // 2
    inner = jnp.sign(offset) * (step ** jnp.abs(offset) - 1.0)
    return jnp.where(jnp.abs(offset) == last // 2, jnp.sign(offset) * 2.0 * most, inner)


def moved(
    boxes: Float[Array, "*n 4"], shifts: Float[Array, "*n 4"], *, scale: Float[Array, ""]
) -> Float[Array, "*n 4"]:
    """The boxes with their edges left, top, right and bottom moved outwards by `shifts`, in parts of their sides.

    One unit is the `scale`-th part of a side. Edges may pass each other; a side is then negative.
    """
    scale = jnp.abs(scale)
    centres, sides = boxes[..., :2], boxes[..., 2:]
    low = centres - (scale / 2 + shifts[..., :2]) * sides / scale
    high = centres + (scale / 2 + shifts[..., 2:]) * sides / scale
    return jnp.concatenate(((low + high) / 2, high - low), -1)


class Frame(NamedTuple):
    """What gives the bins of an edge a place.

    Attributes:
      start: the boxes whose edges the distributions move.
      values: of `bin_values`.
      scale: so many units of the values are a side of `start`.
    """

    start: Float[Array, "*n 4"]
    values: Float[Array, "*n bins"]
    scale: Float[Array, "*n"]


def carried(chances: Float[Array, "*n 4 bins"], source: Frame, target: Frame) -> Float[Array, "*n 4 others"]:
    """The distributions of edges over the bins of another frame, with the same expected edges.

    What a bin holds is shared by the two bins next to its place in the other frame, in proportion; beyond the outermost
    bins it goes to these, and only there the expected edge changes.
    """
    scale, values = source.scale[..., None, None], source.values[..., None, :]
    centres, sides = (jnp.tile(part, 2)[..., None] for part in jnp.split(source.start, 2, -1))
    outwards = jnp.array([-1.0, -1.0, 1.0, 1.0])[:, None]
    places = centres + outwards * (scale / 2 + values) * sides / scale
    centres, sides = (jnp.tile(part, 2)[..., None] for part in jnp.split(target.start, 2, -1))
    scale, values = target.scale[..., None, None], target.values[..., None, :]
    shifts = outwards * (places - centres) * scale / jnp.maximum(sides, 1e-6) - scale / 2
    shifts = jnp.clip(shifts, values[..., :1], values[..., -1:])
    gaps = values[..., None, 1:] - values[..., None, :-1]
    above = jnp.clip((shifts[..., None] - values[..., None, :-1]) / gaps, 0.0, 1.0)  # 1 beyond a bin, 0 before it
    reached = jnp.concatenate((jnp.ones_like(above[..., :1]), above), -1)
    shares = reached - jnp.concatenate((above, jnp.zeros_like(above[..., :1])), -1)
    return jnp.einsum("...m,...mn->...n", chances, shares, precision=lax.Precision.HIGHEST)

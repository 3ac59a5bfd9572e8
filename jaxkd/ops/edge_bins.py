"""Boxes as distributions of their edges over bins of unequal width.

Source: Peng et al. 2024, D-FINE (arXiv 2410.13842), section 4.1. Boxes here are (centre x, centre y, width, height) in
shares of the picture's sides.
"""

from jax import Array
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

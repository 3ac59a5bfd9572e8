"""Boxes drawn at random: anywhere in a picture, of all sizes that objects have."""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key, Num

SHORTEST, LONGEST = 0.03, 0.8  # side in shares of the picture's


def random_boxes(key: Key[Array, ""], size: Num[Array, "2"], *, count: int) -> Float[Array, "n 4"]:
    """`count` boxes inside a picture of `size` (height, width), in its pixels.

    Centres are uniform and sides log-uniform from 0.03 to 0.8 of the picture's, each side for itself; what lies
    outside is cut off.
    """
    of_centres, of_sides = jax.random.split(key)
    centres = jax.random.uniform(of_centres, (count, 2))
    sides = jnp.exp(jax.random.uniform(of_sides, (count, 2), minval=jnp.log(SHORTEST), maxval=jnp.log(LONGEST)))
    corners = jnp.concatenate((centres - sides / 2, centres + sides / 2), -1)
    return jnp.clip(corners, 0.0, 1.0) * jnp.tile(size[::-1], 2)

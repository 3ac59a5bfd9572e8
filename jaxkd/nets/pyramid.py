"""What necks have in common: the backbone's levels that they use, the levels above these, and the doubling of a map."""

from collections.abc import Sequence

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from jaxkd.errors import ConfigError


def used_levels(levels: Sequence[int], *, first: int) -> tuple[int, ...]:
    """Of the numbers of all levels of a backbone those from the index `first` on.

    Raises ConfigError where none is left.
    """
    used = tuple(levels)[first:]
    if not used:
        raise ConfigError(f"neck.first={first} leaves none of the backbone's {len(levels)} levels.")
    return used


def pyramid_strides(backbone_strides: Sequence[int], *, first: int, extra: int) -> tuple[int, ...]:
    """Input pixels per cell of the levels used and of `extra` ones above them, each of twice the stride below it."""
    used = used_levels(backbone_strides, first=first)
    return used + tuple(used[-1] * 2**step for step in range(1, extra + 1))


def doubled(x: Float[Array, "b h w c"], *, like: Float[Array, "b i j _"]) -> Float[Array, "b i j c"]:
    """`repeated` and cropped to the size of the finer level `like`."""
    return repeated(x)[:, : like.shape[1], : like.shape[2]]


@jax.jit
def repeated(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """`x` with every cell repeated 2 x 2; a separate jitted function, as `ops.nms.greedy`."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)

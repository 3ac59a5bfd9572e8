"""Maps standardised by channel: mean 0 and standard deviation 1 over the cells of a batch."""

from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-6  # added to the standard deviation


def standardised(
    x: Float[Array, "b h w c"], mask: Float[Array, "b h w"], *, devices: str = ""
) -> Float[Array, "b h w c"]:
    """(x - mean) / (std + 1e-6) of each channel over the cells where `mask` is 1, and 0 elsewhere; float32.

    The deviation is the unbiased one, of count - 1. A channel that is constant becomes 0. Gradients flow through mean
    and deviation too, and are finite.

    Args:
        x: maps.
        mask: 1 for cells that count, else 0.
        devices: name of a mesh's axis over which the statistics are summed; empty for those of this device.
    """

    def total(values: Float[Array, "b h w _"]) -> Float[Array, "_"]:
        sums = values.sum((0, 1, 2))
        return lax.psum(sums, devices) if devices else sums

    inside = mask[..., None]
    x, count = jnp.where(inside > 0, x.astype(jnp.float32), 0.0), total(inside)
    gap = inside * (x - total(x) / jnp.maximum(count, 1.0))
    variance = total(gap * gap) / jnp.maximum(count - 1.0, 1.0)
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    return gap / (deviation + EPSILON)

"""Distributions of the distances from a point to the sides of its box: their expectation and their loss."""

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float

MARGIN = 0.1  # by which a target stays below the last bin


def expectation(logits: Float[Array, "*n bins"]) -> Float[Array, "*n"]:
    """The expected distance of each distribution over the bins 0, 1, 2, ... in bins; float32.

    The product of the probabilities with the bins' numbers (Li et al. 2020, arXiv 2006.04388, equation 4).
    """
    bins = jnp.arange(logits.shape[-1], dtype=jnp.float32)
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.matmul(probabilities, bins, precision=lax.Precision.HIGHEST)


def distribution_focal_loss(logits: Float[Array, "*n bins"], target: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Distribution focal loss: cross entropy with the two bins next to each target (Li et al. 2020, equation 6).

    Each of the two counts what it is nearer than 1 to the target, so that the expectation of the two is the target.
    No gradient flows into the target. Computed in float32.

    Args:
        logits: of the bins 0, 1, ... n.
        target: distance in bins, clipped to [0, n - 0.1], as there is no bin above n.

    Raises:
        ValueError: if there are fewer than two bins.
    """
    last = logits.shape[-1] - 1
    if last < 1:
        raise ValueError(f"A distribution of distances needs at least two bins, and was given {logits.shape[-1]}.")
    target = jnp.clip(lax.stop_gradient(target.astype(jnp.float32)), 0.0, last - MARGIN)
    weights = jnp.maximum(1.0 - jnp.abs(target[..., None] - jnp.arange(last + 1)), 0.0)
    return -jnp.sum(weights * jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1), axis=-1)

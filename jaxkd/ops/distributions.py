"""Distributions of the distances from a point to the sides of its box: their expectation and their loss."""

import math

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float

STEEPEST = 5.0  # of the steps between logits of neighbouring bins
BISECTIONS = 40
MARGIN = 0.1  # by which a target stays below the last bin


def expectation(logits: Float[Array, "*n bins"]) -> Float[Array, "*n"]:
    """The expected distance of each distribution over the bins 0, 1, 2, ... in bins; float32.

    The product of the probabilities with the bins' numbers (Li et al. 2020, arXiv 2006.04388, equation 4).
    """
    bins = jnp.arange(logits.shape[-1], dtype=jnp.float32)
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    return jnp.matmul(probabilities, bins, precision=lax.Precision.HIGHEST)


def logits_of(distance: float, *, last: int) -> tuple[float, ...]:
    """Logits of the bins 0 to `last` whose expectation is a distance, each the same step from the one before.

    A distance beyond the bins gives nearly the first or the last bin.
    """
    low, high = -STEEPEST, STEEPEST
    for _ in range(BISECTIONS):
        step = 0.5 * (low + high)
        weights = [math.exp(step * (bin - (last if step > 0 else 0))) for bin in range(last + 1)]
        mean = sum(bin * weight for bin, weight in enumerate(weights)) / sum(weights)
        low, high = (step, high) if mean < distance else (low, step)
    return tuple(step * (bin - last / 2) for bin in range(last + 1))


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

"""A random choice of a fixed number of positives and negatives."""

import jax
from flax import struct
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int, Integer, Key


class Sample(struct.PyTreeNode):
    """Chosen candidates: positives first, then negatives, then places that stayed empty."""

    index: Array  # [size] int32: into the candidates; 0 where not valid
    positive: Array  # [size] bool
    valid: Array  # [size] bool


def sample(
    key: Key[Array, ""],
    *,
    positive: Bool[Array, "n"],
    negative: Bool[Array, "n"],
    size: int,
    fraction: float,
    ids: Integer[Array, "n"] | None = None,
) -> Sample:
    """Candidates drawn uniformly without replacement (Ren et al. 2015, section 3.1.3).

    At most floor(size * fraction) are positives; negatives fill the rest, also where positives are wanting. Each
    candidate draws its own lot from the key and its id, so candidates that are neither positive nor negative can be
    added or taken away without changing what is drawn.

    Args:
        key: one picture's key.
        positive: candidates to draw from as positives; one that is also negative counts as positive.
        negative: candidates to draw from as negatives.
        size: how many to draw.
        fraction: the largest share of positives, in [0, 1].
        ids: the candidates' names, all different; their places if not given.

    Raises:
        ValueError: if size is below 1 or fraction is outside [0, 1].
    """
    if size < 1 or not 0 <= fraction <= 1:
        raise ValueError(f"Sampling needs size >= 1 and fraction in [0, 1], not {size} and {fraction}.")
    if ids is None:
        ids = jnp.arange(positive.shape[0])
    lots = jax.vmap(lambda name: jax.random.bits(jax.random.fold_in(key, name), dtype=jnp.uint32))(
        ids.astype(jnp.uint32)
    )
    lots = (lots >> 8).astype(jnp.float32)  # top_k of floats is much faster on a CPU than of integers
    negative = negative & ~positive
    limit = int(size * fraction)
    positives = jnp.minimum(jnp.sum(positive), limit)
    drawn = jnp.minimum(positives + jnp.sum(negative), size)
    place = jnp.arange(size)
    index = jnp.where(
        place < positives,
        _draw(lots, positive, limit, size),
        jnp.take(_draw(lots, negative, size, size), place - positives, mode="clip"),
    )
    valid = place < drawn
    return Sample(index=jnp.where(valid, index, 0), positive=place < positives, valid=valid)


def _draw(lots: Float[Array, "n"], candidates: Bool[Array, "n"], limit: int, size: int) -> Int[Array, "{size}"]:
    """Indices of the `limit` candidates with the highest lots, padded to [size]."""
    count = min(limit, candidates.shape[0])
    _, index = jax.lax.top_k(jnp.where(candidates, lots, -1), count)
    return jnp.pad(index.astype(jnp.int32), (0, size - count))

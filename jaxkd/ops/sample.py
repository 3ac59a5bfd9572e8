"""Random sampling of a fixed number of positives and negatives."""

import jax
from flax import struct
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int, Integer, Key


class Sample(struct.PyTreeNode):
    """The sampled candidates: positives first, then negatives, then padding."""

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
    """Candidates sampled uniformly without replacement (Ren et al. 2015, section 3.1.3).

    At most floor(size * fraction) are positives; negatives fill the rest, also where there are fewer positives. The
    random number of a candidate depends on the key and its id alone, so candidates that are neither positive nor
    negative can be added or removed without changing the sample.

    Args:
        key: the key of one picture.
        positive: candidates for positives; one that is also negative counts as positive.
        negative: candidates for negatives.
        size: number of candidates to sample.
        fraction: the largest share of positives, in [0, 1].
        ids: unique ids of the candidates; their indices if not given.

    Raises:
        ValueError: if size is below 1 or fraction is outside [0, 1].
    """
    if size < 1 or not 0 <= fraction <= 1:
        raise ValueError(f"Sampling needs size >= 1 and fraction in [0, 1], not {size} and {fraction}.")
    if ids is None:
        ids = jnp.arange(positive.shape[0])
    priorities = jax.vmap(
        lambda candidate_id: jax.random.bits(jax.random.fold_in(key, candidate_id), dtype=jnp.uint32)
    )(ids.astype(jnp.uint32))
    priorities = (priorities >> 8).astype(jnp.float32)  # top_k of floats is much faster on a CPU than of integers
    negative = negative & ~positive
    max_positives = int(size * fraction)
    positives = jnp.minimum(jnp.sum(positive), max_positives)
    count = jnp.minimum(positives + jnp.sum(negative), size)
    slot = jnp.arange(size)
    index = jnp.where(
        slot < positives,
        _top(priorities, positive, max_positives, size),
        jnp.take(_top(priorities, negative, size, size), slot - positives, mode="clip"),
    )
    valid = slot < count
    return Sample(index=jnp.where(valid, index, 0), positive=slot < positives, valid=valid)


def _top(priorities: Float[Array, "n"], candidates: Bool[Array, "n"], limit: int, size: int) -> Int[Array, "{size}"]:
    """Indices of the `limit` candidates of highest priority, padded to [size]."""
    count = min(limit, candidates.shape[0])
    _, index = jax.lax.top_k(jnp.where(candidates, priorities, -1), count)
    return jnp.pad(index.astype(jnp.int32), (0, size - count))

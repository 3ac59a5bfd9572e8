"""Layers of transformers that have their norms behind the sums: self-attention, two dense layers, and plain MLPs."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float

LAYER_EPS = 1e-5  # added to the variance in layer norms
ZEROS = nn.initializers.zeros
Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform())


class SelfAttention(nn.Module):
    """Attention of several heads among tokens, whose positions are added to queries and keys alone."""

    heads: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], positions: Float[Array, "*b n d"], seen: Bool[Array, "b _ n"] | None = None
    ) -> Float[Array, "b n d"]:
        """What each token gathers from those that are `seen`, by all or by each in a row; None for all of them."""
        batch, tokens, width = x.shape
        placed, shape = x + positions, (batch, tokens, self.heads, width // self.heads)
        query, key = (Dense(width, name=name)(placed).reshape(shape) for name in ("query", "key"))
        value = Dense(width, name="value")(x).reshape(shape)
        mask = None if seen is None else seen[:, None]
        out = jax.nn.dot_product_attention(query, key, value, mask=mask)
        return Dense(width, name="out")(out.reshape(batch, tokens, width))


class FeedForward(nn.Module):
    """Dense layers `up` and `down` with an activation between them."""

    hidden: int
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """The output of the second layer."""
        return Dense(x.shape[-1], name="down")(self.activation(Dense(self.hidden, name="up")(x)))


class EncoderLayer(nn.Module):
    """Self-attention and dense layers with an exact GELU (Vaswani et al. 2017, section 3.1)."""

    heads: int
    hidden: int
    eps: float = LAYER_EPS

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], positions: Float[Array, "n d"], seen: Bool[Array, "b n"]
    ) -> Float[Array, "b n d"]:
        """The tokens after this layer; those that are not `seen` are not attended to."""
        x = x + SelfAttention(self.heads, name="attention")(x, positions, seen[:, None])
        x = nn.LayerNorm(self.eps, name="attention_norm")(x)
        x = x + FeedForward(self.hidden, _gelu, name="dense")(x)
        return nn.LayerNorm(self.eps, name="final_norm")(x)


class MLP(nn.Module):
    """Dense layers layer_0, layer_1, ... of these widths, with ReLUs between them.

    With `silent` the last one starts with zeros.
    """

    widths: Sequence[int]
    silent: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        """The output of the last layer."""
        for index, width in enumerate(self.widths):
            last = self.silent and index == len(self.widths) - 1
            dense = (
                nn.Dense(width, kernel_init=ZEROS, name=f"layer_{index}")
                if last
                else Dense(width, name=f"layer_{index}")
            )
            x = dense(nn.relu(x) if index else x)
        return x


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + jax.lax.erf(x * jnp.float32(2.0**-0.5)))

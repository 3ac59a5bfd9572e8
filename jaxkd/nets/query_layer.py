"""A layer of a query decoder, with the decoder's settings: queries see each other, and gather from the levels.

Sources: Zhu et al. 2021, Deformable DETR (arXiv 2010.04159); Zhao et al. 2024, RT-DETR (arXiv 2304.08069). Boxes are
(centre x, centre y, width, height) in shares of the canvas's sides.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float

from jaxkd.nets.attention import LAYER_EPS, ZEROS, Dense, FeedForward, SelfAttention
from jaxkd.nets.norm import Norm
from jaxkd.ops import deformable
from jaxkd.ranges import Count, NonNegative, Positive

SAMPLES: dict[str, deformable.Sample] = {"bilinear": deformable.bilinear, "nearest": deformable.nearest}


@dataclass(frozen=True)
class Decoder:
    """The decoder of a query detector; the defaults are those of RT-DETR with a ResNet-50."""

    width: Count = 256
    """Width of a query, a multiple of the heads."""
    queries: Count = 300
    """Queries of a picture, or as many as there are cells."""
    layers: Count = 6
    """Layers of the decoder."""
    heads: Count = 8
    """Heads of its attentions."""
    hidden: Count = 1024
    """Width between the two dense layers of a layer."""
    points: tuple[Count, ...] = (4, 4, 4)
    """Places on each level from which a query and head gathers."""
    reach: Positive = 0.5
    """Factor on the distance of these places from a box's centre, in sides of the box."""
    sampling: Literal["bilinear", "nearest"] = "bilinear"
    """How a map is read between its cells: by interpolation, or as the nearest cell is."""
    norm: Norm = "frozen_batch"
    """Norm after the convolution that takes each level in; see `nets.norm`."""
    groups: Count = 32
    """Number of groups of "group" norm, or its greatest common divisor with the width."""
    eps: NonNegative = 1e-5
    """Added to a variance by these norms."""
    layer_eps: NonNegative = LAYER_EPS
    """Added to a variance by the norms of the layers."""


class DecoderLayer(nn.Module):
    """Attention among queries, attention to the levels, and two dense layers.

    A subclass may add what is gathered in another way, and bound the sum.
    """

    config: Decoder
    projected: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        positions: Float[Array, "b q d"],
        boxes: Float[Array, "b q 4"],
        levels: tuple[Float[Array, "b _ _ d"], ...],
        seen: Bool[Array, "b q q"] | None = None,
    ) -> Float[Array, "b q d"]:
        """The contents of the queries after this layer; `seen` are those that each attends to, None for all."""
        config = self.config
        x = self.norm("attention_norm")(x + SelfAttention(config.heads, name="attention")(x, positions, seen))
        gather = DeformableAttention(config, projected=self.projected, name="deformable")
        x = self.joined(x, gather(x + positions, boxes, levels))
        return self.norm("final_norm")(self.bounded(x + FeedForward(config.hidden, name="dense")(x)))

    def norm(self, name: str) -> nn.LayerNorm:
        """A norm of this name."""
        return nn.LayerNorm(self.config.layer_eps, name=name)

    def joined(self, x: Float[Array, "b q d"], gathered: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        """The contents with what is gathered from the levels."""
        return self.norm("deformable_norm")(x + gathered)

    def bounded(self, x: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        """The sum before the last norm."""
        return x


class DeformableAttention(nn.Module):
    """What each query gathers from a few places on every level about its box (Deformable DETR, equation 3).

    With `projected`, values go through a dense layer before and behind.
    """

    config: Decoder
    projected: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "b q d"], boxes: Float[Array, "b q 4"], levels: tuple[Float[Array, "b _ _ d"], ...]
    ) -> Float[Array, "b q d"]:
        """The gathered values of all heads."""
        config, (batch, queries, width) = self.config, x.shape
        heads, counts = config.heads, config.points
        total = sum(counts)
        spread = functools.partial(first_offsets, heads=heads, points=counts)
        offsets = nn.Dense(heads * total * 2, kernel_init=ZEROS, bias_init=spread, name="offsets")(x)
        offsets = offsets.reshape(batch, queries, heads, total, 2)
        weights = nn.Dense(heads * total, kernel_init=ZEROS, name="weights")(x).reshape(batch, queries, heads, total)
        share = np.repeat(1.0 / np.asarray(counts), counts).astype(np.float32)[:, None]
        box = boxes[:, :, None, None]
        places = box[..., :2] + offsets * share * box[..., 2:] * config.reach
        if self.projected:
            value = Dense(width, name="value")
            levels = tuple(value(level) for level in levels)
        maps = tuple(level.reshape(*level.shape[:3], heads, width // heads) for level in levels)
        attend = functools.partial(deformable.attend, points=counts, sample=SAMPLES[config.sampling])
        out = jax.vmap(attend)(maps, places, jax.nn.softmax(weights, -1)).reshape(batch, queries, width)
        return Dense(width, name="out")(out) if self.projected else out


def first_offsets(
    key: Array, shape: Sequence[int], dtype: Any = jnp.float32, *, heads: int, points: Sequence[int]
) -> Float[Array, "n"]:
    """The offsets before training: each head has a direction, on whose ray are a level's points, at 1, 2, ... steps."""
    del key
    angles = 2 * np.pi * np.arange(heads) / heads
    rays = np.stack((np.cos(angles), np.sin(angles)), -1)
    rays /= np.abs(rays).max(-1, keepdims=True)
    steps = np.concatenate([np.arange(1, count + 1) for count in points])
    return jnp.asarray((rays[:, None] * steps[:, None]).reshape(shape), dtype)

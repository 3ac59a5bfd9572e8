"""The decoder of D-FINE: layers that refine distributions of a box's edges, and scores that see how sharp these are.

Source: Peng et al. 2024, D-FINE (arXiv 2410.13842), sections 4.1 and 4.3. Only the forward pass of a trained net is
here.
"""

import functools
from dataclasses import dataclass

import flax.linen as nn
import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from jaxkd.nets.attention import MLP, FeedForward, SelfAttention
from jaxkd.nets.query_decoder import (
    Decoder,
    DeformableAttention,
    Outputs,
    Selection,
    box_mlp,
    projected,
    safe_logit,
)
from jaxkd.ops.edge_bins import bin_values, moved
from jaxkd.ranges import Count

FARTHEST = 10.0  # greatest number of a query's position
HALF_LARGEST = 65504.0  # of float16, in which the nets of D-FINE are trained


@dataclass(frozen=True)
class EdgeDecoder(Decoder):
    """The decoder of D-FINE; the defaults are those of its size L."""

    points: tuple[Count, ...] = (3, 6, 3)
    """Places on each level from which a query and head gathers."""
    bins: Count = 32
    """Bins of an edge's distribution, less one; an even number above 2."""
    sharpest: Count = 4
    """Greatest probabilities of each edge that the score is corrected by."""
    quality_hidden: Count = 64
    """Width inside the layers that correct a score."""
    quality_layers: Count = 2
    """Number of these layers."""


class EdgeQueryDecoder(nn.Module):
    """Levels to class logits and boxes of queries; computes in float32.

    `up` and `reg_scale` are constants that a file stores beside the parameters.
    """

    config: EdgeDecoder
    classes: int

    @nn.compact
    def __call__(self, levels: tuple[Float[Array, "b _ _ _"], ...]) -> Outputs:
        """The last layer's logits and boxes."""
        config = self.config
        levels = tuple(
            level.astype(jnp.float32)
            if level.shape[-1] == config.width
            else projected(config, level, name=f"input_{index}")
            for index, level in enumerate(levels)
        )
        up, scale = (self.param(name, nn.initializers.constant(value), (1,)) for name, value in CONSTANTS.items())
        values = bin_values(config.bins, up=up[0], scale=scale[0])
        x, boxes = Selection(config, self.classes, name="selection")(levels)
        position, logits = MLP((2 * config.width, config.width), name="position"), None
        first, before, edges = boxes, jnp.zeros_like(x), 0.0
        for index in range(config.layers):
            placed = jnp.clip(position(boxes), -FARTHEST, FARTHEST)
            x = GatedLayer(config, name=f"layer_{index}")(x, placed, boxes, levels)
            if index == 0:
                first = jax.nn.sigmoid(box_mlp(config, name="first_box")(x) + safe_logit(boxes))
            edges = edges + box_mlp(config, name=f"edges_{index}", numbers=4 * (config.bins + 1))(x + before)
            chances = jax.nn.softmax(edges.reshape(*edges.shape[:2], 4, config.bins + 1), -1)
            boxes, before = moved(first, chances @ values, scale=scale[0]), x
            logits = nn.Dense(self.classes, name=f"logits_{index}")(x)
            logits = logits + Quality(config, name=f"quality_{index}")(chances)
        assert logits is not None  # there is a layer
        return Outputs(logits, boxes)


class GatedLayer(nn.Module):
    """Attention among queries, attention to the levels behind a gate, and two dense layers."""

    config: EdgeDecoder

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        positions: Float[Array, "b q d"],
        boxes: Float[Array, "b q 4"],
        levels: tuple[Float[Array, "b _ _ d"], ...],
    ) -> Float[Array, "b q d"]:
        """The contents of the queries after this layer."""
        config = self.config
        norm = functools.partial(nn.LayerNorm, config.layer_eps)
        x = norm(name="attention_norm")(x + SelfAttention(config.heads, name="attention")(x, positions))
        gathered = DeformableAttention(config, projected=False, name="deformable")(x + positions, boxes, levels)
        gates = jax.nn.sigmoid(nn.Dense(2 * config.width, name="gate")(jnp.concatenate((x, gathered), -1)))
        kept, taken = jnp.split(gates, 2, -1)
        x = norm(name="gate_norm")(kept * x + taken * gathered)
        total = x + FeedForward(config.hidden, name="dense")(x)
        return norm(name="final_norm")(jnp.clip(total, -HALF_LARGEST, HALF_LARGEST))


class Quality(nn.Module):
    """What is added to all class logits of a query, by how sharp the distributions of its edges are."""

    config: EdgeDecoder

    @nn.compact
    def __call__(self, chances: Float[Array, "b q 4 n"]) -> Float[Array, "b q 1"]:
        """One number a query."""
        config = self.config
        greatest, _ = jax.lax.top_k(chances, config.sharpest)
        seen = jnp.concatenate((greatest, greatest.mean(-1, keepdims=True)), -1)
        widths = (config.quality_hidden,) * (config.quality_layers - 1)
        return MLP((*widths, 1), name="mlp")(seen.reshape(*seen.shape[:2], -1))


CONSTANTS = {"up": 0.5, "reg_scale": 4.0}  # of the bins, where a net is not read from a file

"""The decoder of D-FINE: layers that refine distributions of a box's edges, and scores that see how sharp these are.

Source: Peng et al. 2024, D-FINE (arXiv 2410.13842), sections 4.1 and 4.3.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float

from jaxkd.nets.attention import MLP, ZEROS
from jaxkd.nets.query_decoder import Layers, Outputs, QueryDecoder, box_mlp, safe_logit
from jaxkd.nets.query_layer import Decoder, DecoderLayer
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


class EdgeQueryDecoder(QueryDecoder):
    """Levels to class logits and boxes of queries; computes in float32.

    `up` and `reg_scale` are constants that a file stores beside the parameters.
    """

    config: EdgeDecoder

    def new_layer(self) -> nn.Module:
        """A layer of the decoder."""
        return GatedLayer(self.config)

    def set_box_heads(self) -> None:
        """Sets first_box, edges_0, quality_0, ... and the constants."""
        config, layers = self.config, range(self.config.layers)
        self.first_box = box_mlp(config)
        self.edges = [box_mlp(config, numbers=4 * (config.bins + 1)) for _ in layers]
        self.quality = [Quality(config) for _ in layers]
        self.up, self.reg_scale = (
            self.param(name, nn.initializers.constant(value), (1,)) for name, value in CONSTANTS.items()
        )

    def project(self, levels: tuple[Float[Array, "b _ _ _"], ...]) -> tuple[Float[Array, "b _ _ d"], ...]:
        """The levels at the decoder's width, in float32; those that have it already are as they are."""
        if all(level.shape[-1] == self.config.width for level in levels):
            return tuple(level.astype(jnp.float32) for level in levels)
        return super().project(levels)

    def bins(self) -> tuple[Float[Array, "n"], Float[Array, ""]]:
        """What the bins stand for, and the part of a side that one unit of that is, as 1 / part; without gradients."""
        up, scale = jax.lax.stop_gradient((self.up[0], jnp.abs(self.reg_scale[0])))
        return bin_values(self.config.bins, up=up, scale=scale), scale

    def refine(
        self,
        levels: tuple[Float[Array, "b _ _ d"], ...],
        content: Float[Array, "b q d"],
        boxes: Float[Array, "b q 4"],
        seen: Bool[Array, "b q q"] | None = None,
    ) -> Layers:
        """As that of a `QueryDecoder`; every layer moves the edges of the boxes of `first`, seen without a gradient."""
        (values, scale), logits, said, distributions = self.bins(), [], [], []
        x, before, edges, first, start = content, jnp.zeros_like(content), jnp.zeros(()), None, boxes
        for index, layer in enumerate(self.layer):
            boxes = jax.lax.stop_gradient(boxes)
            placed = jnp.clip(self.position(boxes), -FARTHEST, FARTHEST)
            x = layer(x, placed, boxes, levels, seen)
            if first is None:
                start = jax.nn.sigmoid(self.first_box(x) + safe_logit(boxes))
                first = Outputs(self.logits[0](x), start)
                start = jax.lax.stop_gradient(start)
            edges = edges + self.edges[index](x + jax.lax.stop_gradient(before))
            by_edge = edges.reshape(*edges.shape[:2], 4, -1)
            chances = jax.nn.softmax(by_edge, -1)
            boxes, before = moved(start, chances @ values, scale=scale), x
            logits.append(self.logits[index](x) + self.quality[index](chances))
            said.append(boxes)
            distributions.append(by_edge)
        values, scale = (jnp.broadcast_to(constant, (x.shape[0], *constant.shape)) for constant in (values, scale))
        return Layers(tuple(logits), tuple(said), tuple(distributions), first, values, scale)


class GatedLayer(DecoderLayer):
    """A layer with a gate behind the attention to the levels."""

    projected: bool = False

    def joined(self, x: Float[Array, "b q d"], gathered: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        """The contents with what is gathered from the levels, each times a gate."""
        gate = nn.Dense(2 * self.config.width, kernel_init=ZEROS, name="gate")
        kept, taken = jnp.split(jax.nn.sigmoid(gate(jnp.concatenate((x, gathered), -1))), 2, -1)
        return self.norm("gate_norm")(kept * x + taken * gathered)

    def bounded(self, x: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        """The sum within the numbers of float16, as published nets were trained."""
        return jnp.clip(x, -HALF_LARGEST, HALF_LARGEST)


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
        return MLP((*widths, 1), silent=True, name="mlp")(seen.reshape(*seen.shape[:2], -1))


CONSTANTS = {"up": 0.5, "reg_scale": 4.0}  # of the bins, where a net is not read from a file

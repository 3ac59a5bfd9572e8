"""The decoder of RT-DETR: the best cells of all levels become queries, which gather from the levels layer by layer.

Sources: Zhao et al. 2024, RT-DETR (arXiv 2304.08069); Lv et al. 2024, RT-DETRv2 (arXiv 2407.17140); Zhu et al. 2021,
Deformable DETR (arXiv 2010.04159). Only the forward pass of a trained net is here. Boxes are (centre x, centre y,
width, height) in shares of the canvas's sides.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Float32, Int

from jaxkd.nets.attention import LAYER_EPS, MLP, FeedForward, SelfAttention
from jaxkd.nets.conv_norm import ConvNorm
from jaxkd.ops import deformable
from jaxkd.ranges import Count, NonNegative, Positive

LEAST, MOST = 0.01, 0.99  # of the four numbers of an anchor that counts
SIDE = 0.05  # of an anchor of the finest level, in shares of the canvas; each level doubles it
EDGE = 1e-5  # how near to 0 and 1 a share is for its logit
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
    norm: Literal["frozen_batch", "bias"] = "frozen_batch"
    """Norm after the convolution that takes each level in; see `nets.norm`."""
    eps: NonNegative = 1e-5
    """Added to a variance by these norms."""
    layer_eps: NonNegative = LAYER_EPS
    """Added to a variance by the norms of the layers."""


class Queries(NamedTuple):
    """The queries that a decoder starts with."""

    content: Float[Array, "b q d"]
    boxes: Float[Array, "b q 4"]


class Outputs(NamedTuple):
    """What the last layer of a decoder says of each query."""

    logits: Float[Array, "b q k"]
    boxes: Float[Array, "b q 4"]


class QueryDecoder(nn.Module):
    """Levels to class logits and boxes of queries; computes in float32."""

    config: Decoder
    classes: int

    @nn.compact
    def __call__(self, levels: tuple[Float[Array, "b _ _ _"], ...]) -> Outputs:
        """The last layer's logits and boxes."""
        config = self.config
        levels = tuple(projected(config, level, name=f"input_{index}") for index, level in enumerate(levels))
        x, boxes = Selection(config, self.classes, name="selection")(levels)
        position, logits = MLP((2 * config.width, config.width), name="position"), None
        for index in range(config.layers):
            x = DecoderLayer(config, name=f"layer_{index}")(x, position(boxes), boxes, levels)
            logits = nn.Dense(self.classes, name=f"logits_{index}")(x)
            shift = box_mlp(config, name=f"box_{index}")(x)
            boxes = jax.nn.sigmoid(shift + safe_logit(boxes))
        assert logits is not None  # there is a layer
        return Outputs(logits, boxes)


def projected(config: Decoder, level: Float[Array, "b h w c"], *, name: str) -> Float[Array, "b h w d"]:
    """A level as one of the decoder's width, in float32: a 1x1 convolution and a norm, under `name`."""
    level = level.astype(jnp.float32)
    unit = ConvNorm(config.width, norm=config.norm, eps=config.eps, name=name)
    return unit(level, jnp.ones((*level.shape[:3], 1), level.dtype))


class Selection(nn.Module):
    """The cells with the greatest class logits as queries (RT-DETR, section 4.3, with class scores alone).

    A cell's anchor is centred in it. A cell whose anchor is at the canvas's edge counts as a cell of zeros.
    """

    config: Decoder
    classes: int

    @nn.compact
    def __call__(self, levels: tuple[Float[Array, "b _ _ d"], ...]) -> Queries:
        """The contents of the chosen cells and the boxes that these give, best first."""
        config, batch = self.config, levels[0].shape[0]
        anchors, valid = cell_anchors([(level.shape[1], level.shape[2]) for level in levels])
        cells = jnp.concatenate([level.reshape(batch, -1, config.width) for level in levels], 1)
        content = nn.Dense(config.width, name="content")(jnp.where(valid[:, None], cells, 0.0))
        content = nn.LayerNorm(config.layer_eps, name="content_norm")(content)
        logits = nn.Dense(self.classes, name="logits")(content)
        _, best = jax.lax.top_k(logits.max(-1), min(config.queries, cells.shape[1]))
        content = jax.vmap(lambda rows, index: rows[index])(content, best)
        boxes = jax.nn.sigmoid(box_mlp(config, name="box")(content) + jnp.asarray(anchors)[best])
        return Queries(content, jnp.where(jnp.asarray(valid)[best][..., None], boxes, 1.0))


def cell_anchors(
    shapes: Sequence[tuple[int, int]],
) -> tuple[Float32[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
    """The logits of each cell's anchor, level by level and row by row, and which anchors lie within LEAST and MOST.

    An anchor that does not count has logits of 0.
    """
    anchors = []
    for level, (height, width) in enumerate(shapes):
        rows, columns = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
        side = np.full_like(rows, SIDE * 2**level)
        anchors.append(np.stack((columns, rows, side, side), -1).reshape(-1, 4))
    every = np.concatenate(anchors)
    valid = np.all((every > LEAST) & (every < MOST), axis=-1)
    every = np.where(valid[:, None], every, 0.5)
    return np.log(every / (1 - every)).astype(np.float32), valid


class DecoderLayer(nn.Module):
    """Attention among queries, attention to the levels, and two dense layers."""

    config: Decoder

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
        gathered = DeformableAttention(config, name="deformable")(x + positions, boxes, levels)
        x = norm(name="deformable_norm")(x + gathered)
        return norm(name="final_norm")(x + FeedForward(config.hidden, name="dense")(x))


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
        offsets = nn.Dense(heads * total * 2, name="offsets")(x).reshape(batch, queries, heads, total, 2)
        weights = nn.Dense(heads * total, name="weights")(x).reshape(batch, queries, heads, total)
        share = np.repeat(1.0 / np.asarray(counts), counts).astype(np.float32)[:, None]
        box = boxes[:, :, None, None]
        places = box[..., :2] + offsets * share * box[..., 2:] * config.reach
        if self.projected:
            value = nn.Dense(width, name="value")
            levels = tuple(value(level) for level in levels)
        maps = tuple(level.reshape(*level.shape[:3], heads, width // heads) for level in levels)
        attend = functools.partial(deformable.attend, points=counts, sample=SAMPLES[config.sampling])
        out = jax.vmap(attend)(maps, places, jax.nn.softmax(weights, -1)).reshape(batch, queries, width)
        return nn.Dense(width, name="out")(out) if self.projected else out


def box_mlp(config: Decoder, *, name: str, numbers: int = 4) -> MLP:
    """The dense layers that say `numbers` of a query's box."""
    return MLP((config.width, config.width, numbers), name=name)


def safe_logit(share: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The inverse of the logistic function, finite also at 0 and 1."""
    share = jnp.clip(share, 0.0, 1.0)
    return jnp.log(jnp.maximum(share, EDGE) / jnp.maximum(1.0 - share, EDGE))


def best_pairs(outputs: Outputs, *, limit: int) -> tuple[Float[Array, "b n 4"], Float[Array, "b n"], Int[Array, "b n"]]:
    """Boxes, scores and labels of the pairs of a query and a class with the greatest scores, best first."""
    scores = jax.nn.sigmoid(outputs.logits)
    batch, queries, classes = scores.shape
    best, index = jax.lax.top_k(scores.reshape(batch, -1), min(limit, queries * classes))
    boxes = jax.vmap(lambda rows, places: rows[places])(outputs.boxes, index // classes)
    return boxes, best, index % classes

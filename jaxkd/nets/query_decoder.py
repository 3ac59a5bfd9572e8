"""The decoder of RT-DETR: the best cells of all levels become queries, which gather from the levels layer by layer.

Sources: Zhao et al. 2024, RT-DETR (arXiv 2304.08069); Lv et al. 2024, RT-DETRv2 (arXiv 2407.17140); Zhu et al. 2021,
Deformable DETR (arXiv 2010.04159). Boxes are (centre x, centre y, width, height) in shares of the canvas's sides.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Float32, Int

from jaxkd.nets.attention import MLP, Dense
from jaxkd.nets.conv_norm import ConvNorm
from jaxkd.nets.dense_head import logit
from jaxkd.nets.query_layer import Decoder, DecoderLayer

LEAST, MOST = 0.01, 0.99  # of the four numbers of an anchor that counts
SIDE = 0.05  # of an anchor of the finest level, in shares of the canvas; each level doubles it
EDGE = 1e-5  # how near to 0 and 1 a share is for its logit
PRIOR = 0.01  # probability of each class before training (Lin et al. 2017, arXiv 1708.02002, section 4.1)


class Queries(NamedTuple):
    """The cells that become queries, best first."""

    content: Float[Array, "b q d"]
    boxes: Float[Array, "b q 4"]
    logits: Float[Array, "b q k"]


class Outputs(NamedTuple):
    """What a layer of a decoder says of each query."""

    logits: Float[Array, "b q k"]
    boxes: Float[Array, "b q 4"]


class Layers(NamedTuple):
    """What every layer of a decoder says of each query, first layer first.

    Attributes:
      edges: of D-FINE, the logits of the bins of each edge (left, top, right, bottom).
      first: of D-FINE, what is said before a box is a distribution; the distributions move the edges of its boxes.
      values: of D-FINE, what the bins stand for, in the same unit for all pictures.
      scale: of D-FINE, so many of these units are a side of a box.
    """

    logits: tuple[Float[Array, "b q k"], ...]
    boxes: tuple[Float[Array, "b q 4"], ...]
    edges: tuple[Float[Array, "b q 4 n"], ...] = ()
    first: Outputs | None = None
    values: Float[Array, "b n"] | None = None
    scale: Float[Array, "b"] | None = None


class QueryDecoder(nn.Module):
    """Levels to class logits and boxes of queries; computes in float32.

    A call gives what the last layer says of the queries that it selects. `project`, `select` and `refine` are its
    steps, and `contents_at` is in the place of `select` for boxes that are given.
    """

    config: Decoder
    classes: int

    def setup(self) -> None:
        """The parts: input_0, ... of each level; selection; position; layer_0, logits_0, box_0, ... of each layer."""
        config, layers = self.config, range(self.config.layers)
        self.input = [
            ConvNorm(config.width, norm=config.norm, groups=config.groups, eps=config.eps) for _ in config.points
        ]
        self.selection = Selection(config, self.classes)
        self.position = MLP((2 * config.width, config.width))
        self.logits = [class_head(self.classes) for _ in layers]
        self.layer = [self.new_layer() for _ in layers]
        self.set_box_heads()

    def new_layer(self) -> nn.Module:
        """A layer of the decoder."""
        return DecoderLayer(self.config)

    def set_box_heads(self) -> None:
        """Sets what says the boxes of each layer."""
        self.box = [box_mlp(self.config) for _ in range(self.config.layers)]

    def __call__(self, levels: tuple[Float[Array, "b _ _ _"], ...]) -> Outputs:
        """The last layer's logits and boxes."""
        levels = self.project(levels)
        queries = self.select(levels)
        layers = self.refine(levels, queries.content, queries.boxes)
        return Outputs(layers.logits[-1], layers.boxes[-1])

    def project(self, levels: tuple[Float[Array, "b _ _ _"], ...]) -> tuple[Float[Array, "b _ _ d"], ...]:
        """The levels at the decoder's width, in float32: by a 1x1 convolution and a norm each."""
        out = []
        for unit, level in zip(self.input, levels, strict=True):
            level = level.astype(jnp.float32)
            out.append(unit(level, jnp.ones((*level.shape[:3], 1), level.dtype)))
        return tuple(out)

    def select(self, levels: tuple[Float[Array, "b _ _ d"], ...]) -> Queries:
        """The cells that become queries; no gradient is stopped."""
        return self.selection(levels)

    def contents_at(self, levels: tuple[Float[Array, "b _ _ d"], ...], boxes: Float[Array, "b r 4"]) -> Array:
        """The content [b r d] of a query for each of these boxes: that of the cell at its centre, on its level."""
        return self.selection.contents_at(levels, boxes)

    def refine(
        self,
        levels: tuple[Float[Array, "b _ _ d"], ...],
        content: Float[Array, "b q d"],
        boxes: Float[Array, "b q 4"],
        seen: Bool[Array, "b q q"] | None = None,
    ) -> Layers:
        """What all layers say of queries with these contents and boxes.

        A layer looks at boxes without a gradient; what it says of a box has that of the layer before too, as in the
        authors' training ("look forward twice", Zhang et al. 2022, DINO, arXiv 2203.03605, section 3.5).

        Args:
          levels: of `project`.
          content: of the queries at the start.
          boxes: of the queries at the start.
          seen: which queries each query attends to; None for all.
        """
        logits, said, x = [], [], content
        for layer, class_head_of, box_head in zip(self.layer, self.logits, self.box, strict=True):
            seen_boxes = jax.lax.stop_gradient(boxes)
            x = layer(x, self.position(seen_boxes), seen_boxes, levels, seen)
            boxes = jax.nn.sigmoid(box_head(x) + safe_logit(boxes))
            logits.append(class_head_of(x))
            said.append(boxes)
        return Layers(tuple(logits), tuple(said))


class Selection(nn.Module):
    """The cells with the greatest class logits as queries (RT-DETR, section 4.3, with class scores alone).

    A cell's anchor is centred in it. A cell whose anchor is at the canvas's edge counts as a cell of zeros.
    """

    config: Decoder
    classes: int

    def setup(self) -> None:
        """The parts: content, content_norm, logits and box."""
        self.content = Dense(self.config.width)
        self.content_norm = nn.LayerNorm(self.config.layer_eps)
        self.logits = class_head(self.classes)
        self.box = box_mlp(self.config)

    def __call__(self, levels: tuple[Float[Array, "b _ _ d"], ...]) -> Queries:
        """The contents of the chosen cells, and the boxes and class logits that these give, best first."""
        cells = joined(levels)
        anchors, valid = cell_anchors(shapes_of(levels))
        content = self._contents(jnp.where(valid[:, None], cells, 0.0))
        logits = self.logits(content)
        _, best = jax.lax.top_k(logits.max(-1), min(self.config.queries, cells.shape[1]))
        content, logits = rows_at(content, best), rows_at(logits, best)
        boxes = jax.nn.sigmoid(self.box(content) + jnp.asarray(anchors)[best])
        return Queries(content, jnp.where(jnp.asarray(valid)[best][..., None], boxes, 1.0), logits)

    def contents_at(self, levels: tuple[Float[Array, "b _ _ d"], ...], boxes: Float[Array, "b r 4"]) -> Array:
        """The contents [b r d] of the cells that `cells_of` gives for these boxes."""
        shapes = shapes_of(levels)
        index, (_, valid) = cells_of(boxes, shapes), cell_anchors(shapes)
        return self._contents(jnp.where(jnp.asarray(valid)[index][..., None], rows_at(joined(levels), index), 0.0))

    def _contents(self, cells: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.content_norm(self.content(cells))


def shapes_of(levels: Sequence[Float[Array, "b _ _ d"]]) -> list[tuple[int, int]]:
    """Height and width of each level."""
    return [(level.shape[1], level.shape[2]) for level in levels]


def joined(levels: Sequence[Float[Array, "b _ _ d"]]) -> Float[Array, "b n d"]:
    """The cells of all levels, level by level and row by row."""
    return jnp.concatenate([level.reshape(level.shape[0], -1, level.shape[-1]) for level in levels], 1)


def rows_at(rows: Float[Array, "b n d"], index: Int[Array, "b m"]) -> Float[Array, "b m d"]:
    """The rows of each picture at these places."""
    return jax.vmap(lambda one, places: one[places])(rows, index)


def cells_of(boxes: Float[Array, "*n 4"], shapes: Sequence[tuple[int, int]]) -> Int[Array, "*n"]:
    """The cell of each box, as an index among the cells of all levels.

    It holds the box's centre, on the level whose anchors' side is nearest to the box's (the root of its area) by ratio.
    """
    side = jnp.sqrt(jnp.maximum(boxes[..., 2] * boxes[..., 3], 1e-12))
    level = jnp.clip(jnp.round(jnp.log2(side / SIDE)), 0, len(shapes) - 1).astype(jnp.int32)
    height, width = (jnp.asarray(sides)[level] for sides in zip(*shapes, strict=True))
    first = jnp.asarray(np.cumsum([0, *(rows * columns for rows, columns in shapes[:-1])]), jnp.int32)[level]
    column = jnp.clip(jnp.floor(boxes[..., 0] * width).astype(jnp.int32), 0, width - 1)
    row = jnp.clip(jnp.floor(boxes[..., 1] * height).astype(jnp.int32), 0, height - 1)
    return first + row * width + column


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


def class_head(classes: int) -> nn.Dense:
    """The dense layer that says the class logits of a query, each class with the probability `PRIOR` at the start."""
    return Dense(classes, bias_init=nn.initializers.constant(logit(PRIOR)))


def box_mlp(config: Decoder, *, numbers: int = 4) -> MLP:
    """The dense layers that say `numbers` of a query's box, zeros before training."""
    return MLP((config.width, config.width, numbers), silent=True)


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

"""What dense detectors have in common: a head over every cell of a pyramid, and detections from its best cells."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int, Key

from jaxkd.detectors import parts
from jaxkd.detectors.base import Params
from jaxkd.detectors.detections import best_of
from jaxkd.detectors.feature_extractor import apply
from jaxkd.nets.dense_head import DenseHead
from jaxkd.nets.norm import valid_cells
from jaxkd.ops import boxes as box_ops
from jaxkd.types import Detections, Regions

HEAD_KEY = 2  # of a detector's initial parameters; backbone and neck have 0 and 1
Strides = Sequence[int]  # input pixels per cell of each level


class Level(NamedTuple):
    """The anchors of one level as candidates for detections."""

    scores: Float[Array, "b a k"]  # negative where an anchor does not count
    boxes_at: Callable[[Int[Array, "b n"]], Float[Array, "b n 4"]]  # the boxes of the anchors at these places


@dataclass(frozen=True)
class PyramidHead:
    """A dense head on the levels of a pyramid, as functions of its parameters.

    Attributes:
      module: the head of a level.
      per_level: whether each level has parameters of its own, under "level_{i}"; if not, all share one set.
    """

    module: DenseHead
    per_level: bool = False

    def init(self, key: Key[Array, ""], channels: Sequence[int]) -> Params:
        """Random parameters for levels of these widths, float32."""
        if not self.per_level:
            return self._init_level(key, channels[0])
        return {
            f"level_{index}": self._init_level(jax.random.fold_in(key, index), width)
            for index, width in enumerate(channels)
        }

    def outputs(
        self, params: Params, levels: Sequence[Float[Array, "b _ _ _"]], extents: Int[Array, "b 2"], *, strides: Strides
    ) -> list[dict[str, Float[Array, "b _ _ _"]]]:
        """For each level the head's outputs [b h w n] by name; `extents` are the pictures' heights and widths."""
        outputs = []
        for index, (level, stride) in enumerate(zip(levels, strides, strict=True)):
            valid = valid_cells(extents, stride=stride, shape=level.shape[1:3])
            of_level = params[f"level_{index}"] if self.per_level else params
            outputs.append(apply(self.module, of_level, level, valid))
        return outputs

    def _init_level(self, key: Key[Array, ""], channels: int) -> Params:
        params = self.module.init(key, jnp.zeros((1, 2, 2, channels)), jnp.ones((1, 2, 2, 1)))
        return dict(params["params"])


def positives(regions: Regions) -> Float[Array, ""]:
    """The number of positive regions, each counted with its weight, of a picture at least 1."""
    weights = 1.0 if regions.weights is None else regions.weights
    return jnp.maximum((regions.positive * weights).sum(-1), 1.0).sum()


def check_anchors(name: str, *, asked: int, anchors: int) -> None:
    """Raises ValueError where a dense detector is asked about other regions than its own anchors."""
    if asked != anchors:
        raise ValueError(f"{name} makes predictions for its {anchors} anchors, not for {asked} boxes.")


def by_anchor(output: Float[Array, "b h w n"], width: int) -> Float[Array, "b a width"]:
    """A head's output of one level with so many numbers for each anchor, by row, column and kind."""
    return output.reshape(output.shape[0], -1, width)


def detections(
    levels: Iterable[Level], sizes: Int[Array, "b 2"], *, postprocess: parts.Postprocess, classes: int
) -> Detections:
    """Boxes with a score over the threshold after suppression class by class, best first.

    Of each level the best `candidates` pairs of an anchor and a class take part.
    """
    parts_of_levels = [_best(level, postprocess, classes) for level in levels]
    boxes, scores, labels = (jnp.concatenate(parts, axis=1) for parts in zip(*parts_of_levels, strict=True))

    def select(
        boxes: Float[Array, "n 4"], scores: Float[Array, "n"], labels: Int[Array, "n"], size: Int[Array, "2"]
    ) -> Detections:
        return best_of(
            box_ops.clip(boxes, size),
            scores,
            labels,
            valid=scores > 0,
            threshold=postprocess.nms,
            limit=postprocess.max_detections,
        )

    return jax.vmap(select)(boxes, scores, labels, sizes)


def _best(
    level: Level, postprocess: parts.Postprocess, classes: int
) -> tuple[Float[Array, "b n 4"], Float[Array, "b n"], Int[Array, "b n"]]:
    """Boxes, scores and labels of a level's candidates; the score is -1 where there are fewer."""
    scores = jnp.where(level.scores > postprocess.score_threshold, level.scores, -1.0)
    scores = scores.reshape(scores.shape[0], -1)
    scores, best = jax.lax.top_k(scores, min(postprocess.candidates, scores.shape[1]))
    place, label = best // classes, (best % classes).astype(jnp.int32)
    return level.boxes_at(place), scores, label


def at(values: Float[Array, "b a n"], place: Int[Array, "b m"]) -> Float[Array, "b m n"]:
    """The rows at these places of each picture."""
    return jnp.take_along_axis(values, place[..., None], axis=1)

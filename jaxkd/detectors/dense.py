"""What dense detectors have in common: a head over every cell of a pyramid, targets, and detections from the best."""

import abc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import optax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from jaxkd.detectors import parts
from jaxkd.detectors.base import Moments, Params
from jaxkd.detectors.detections import best_of
from jaxkd.detectors.feature_extractor import apply, apply_in_training
from jaxkd.detectors.pyramid import PyramidDetector, truth_weights
from jaxkd.errors import ConfigError
from jaxkd.nets.dense_head import DenseHead, Output
from jaxkd.nets.norm import BATCH, valid_cells
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.anchors import Anchors
from jaxkd.ops.match import Matches
from jaxkd.types import Batch, Detections, Features, Regions

HEAD_KEY = 2  # of a detector's initial parameters; backbone and neck have 0 and 1
Strides = Sequence[int]  # input pixels per cell of each level


class Maps(NamedTuple):
    """What a head predicts for one level."""

    logits: Float[Array, "b h w m"]  # of the classes of each anchor of a cell
    boxes: Float[Array, "b h w n"]  # the numbers of the box of each anchor of a cell, as `traits.box_code` has them


@runtime_checkable
class Dense(Protocol):
    """A detector that predicts for the anchors of every cell of a pyramid."""

    def maps(self, params: Params, features: Features, batch: Batch) -> list[Maps]:
        """What the head predicts for each level."""
        ...

    def grid_anchors(self, features: Features, batch: Batch) -> Anchors:
        """The anchors of every cell of every level."""
        ...


class Level(NamedTuple):
    """The anchors of one level as candidates for detections."""

    scores: Float[Array, "b a k"]  # negative where an anchor does not count
    boxes_at: Callable[[Int[Array, "b n"]], Float[Array, "b n 4"]]  # the boxes of the anchors at these places
    factors: Float[Array, "b a"] | None = None  # on the scores of an anchor once the best are selected; None for 1


class Scored(NamedTuple):
    """What a head says of the anchors of one level."""

    scores: Float[Array, "b a k"]
    sides: Float[Array, "b a ..."]  # of which a box is decoded
    factors: Float[Array, "b a"] | None = None  # see `Level`


@dataclass(frozen=True)
class PyramidHead:
    """A dense head on the levels of a pyramid, as functions of its parameters.

    Attributes:
      module: the head of a level.
      per_level: whether each level has parameters of its own, under "level_{i}"; if not, all share one set.
      scaled: name of the output that is multiplied by a learned factor of its level, "scale_{i}"; None for none.
    """

    module: DenseHead
    per_level: bool = False
    scaled: str | None = None

    def init(self, key: Key[Array, ""], channels: Sequence[int]) -> Params:
        """Random parameters for levels of these widths, float32."""
        factors = {f"scale_{index}": jnp.ones(()) for index in range(len(channels)) if self.scaled}
        if not self.per_level:
            return self._init_level(key, channels[0]) | factors
        return factors | {
            f"level_{index}": self._init_level(jax.random.fold_in(key, index), width)
            for index, width in enumerate(channels)
        }

    def outputs(
        self, params: Params, features: Features, extents: Int[Array, "b 2"], *, strides: Strides
    ) -> list[dict[str, Float[Array, "b _ _ _"]]]:
        """For each level of the neck the outputs [b h w n] by name; `extents` are the pictures' heights and widths."""
        outputs, _ = self._outputs_and_moments(params, features, extents, strides)
        return outputs

    def moments(self, params: Params, features: Features, extents: Int[Array, "b 2"], *, strides: Strides) -> Moments:
        """What the batch norms see of the features of training; {} without such norms."""
        if self.module.norm not in BATCH:
            return {}
        _, moments = self._outputs_and_moments(params, features, extents, strides)
        return moments

    def _outputs_and_moments(
        self, params: Params, features: Features, extents: Int[Array, "b 2"], strides: Strides
    ) -> tuple[list[dict[str, Float[Array, "b _ _ _"]]], Moments]:
        outputs, moments = [], {}
        for index, (level, stride) in enumerate(zip(features.neck, strides, strict=True)):
            valid = valid_cells(extents, stride=stride, shape=level.shape[1:3])
            of_level = params[f"level_{index}"] if self.per_level else params
            if features.training and self.module.norm in BATCH:
                output, moments[f"level_{index}"] = apply_in_training(self.module, of_level, level, valid)
            else:
                output = apply(self.module, of_level, level, valid)
            factor = {self.scaled: output[self.scaled] * params[f"scale_{index}"]} if self.scaled else {}
            outputs.append(output | factor)
        return outputs, moments

    def _init_level(self, key: Key[Array, ""], channels: int) -> Params:
        params = self.module.init(key, jnp.zeros((1, 2, 2, channels)), jnp.ones((1, 2, 2, 1)))
        return dict(params["params"])


class DenseDetector(PyramidDetector):
    """A detector whose only head is dense; a subclass adds what the head says of its anchors."""

    @property
    @abc.abstractmethod
    def dense_head(self) -> PyramidHead:
        """The head."""

    @abc.abstractmethod
    def candidates(self, params: Params, features: Features, batch: Batch) -> Iterable[Level]:
        """The anchors of each level with their scores."""

    def init_heads(self, key: Key[Array, ""]) -> Params:
        """Random parameters of the head."""
        return {"head": self.dense_head.init(jax.random.fold_in(key, HEAD_KEY), self.feature_extractor.channels)}

    def detect(self, params: Params, batch: Batch) -> Detections:
        """Boxes with a score over the threshold after suppression class by class, best first."""
        levels = self.candidates(params, self.features(params, batch), batch)
        return detections(levels, batch.sizes, postprocess=self.config.postprocess, classes=len(self.classes))

    def training_features(self, params: Params, batch: Batch) -> tuple[Features, Moments]:
        """As `features`, with batch norms that take the statistics of the batch; and what these have seen."""
        features, moments = super().training_features(params, batch)
        strides = self.feature_extractor.strides
        # The head is applied once more where it predicts, which XLA computes once.
        head = self.dense_head.moments(params["head"], features, self.extents(batch), strides=strides)
        return features, moments | {"head": head}

    def check_head(self) -> None:
        """Raises ConfigError where `config.head`, a `parts.Head`, lacks norms or does not fit the neck's levels."""
        head = self.config.head
        if head.norm in BATCH and not head.per_level:
            raise ConfigError(
                f"head.norm={head.norm!r} wants a head for each level, whose statistics differ; set head.per_level."
            )
        if head.separable and head.norm == "none":
            raise ConfigError("head.separable wants a norm after each of its convolutions; set head.norm.")
        if not head.per_level:
            self.check_one_width()


def pyramid_head(
    settings: parts.Head, outputs: tuple[Output, ...], *, scaled: str, dtype: str, bias: bool = False
) -> PyramidHead:
    """The head with these outputs; `scaled` is the one for sides of boxes, `bias` for convolutions with norms too."""
    module = DenseHead(
        outputs=outputs,
        channels=settings.channels,
        depth=settings.convs,
        kernel=settings.kernel,
        last_kernel=settings.last_kernel,
        separable=settings.separable,
        shared_tower=settings.shared_tower,
        norm=settings.norm,
        bias=bias,
        groups=settings.groups,
        activation=settings.activation,
        dtype=dtype,
    )
    return PyramidHead(module, per_level=settings.per_level, scaled=scaled if settings.level_scales else None)


def targets(
    batch: Batch, matches: Matches, *, boxes: Float[Array, "a 4"], deltas: Float[Array, "a 4"], background: int
) -> Regions:
    """The anchors of one picture with their targets; `batch` without its leading axis.

    Args:
      batch: the picture with its truth.
      matches: of the anchors.
      boxes: the anchors.
      deltas: what decodes to their truths; of no meaning where not positive.
      background: the label of anchors that are not positive, which is the number of classes.
    """
    truth, positive = matches.truth, matches.positive
    return Regions(
        boxes=boxes,
        labels=jnp.where(positive, batch.labels[truth], background).astype(jnp.int32),
        deltas=jnp.where(positive[:, None], deltas, 0.0),
        truth=truth,
        positive=positive,
        valid=positive | matches.negative,
        weights=truth_weights(batch, truth, positive),
    )


def focal_losses(
    logits: Float[Array, "b a k"], labels: Int[Array, "b a"], *, alpha: float, gamma: float
) -> Float[Array, "b a"]:
    """The focal loss of each anchor, summed over classes (Lin et al. 2017, arXiv 1708.02002, equation 5)."""
    wanted = jax.nn.one_hot(labels, logits.shape[-1])  # the background's row is zero
    return optax.sigmoid_focal_loss(logits, wanted, alpha=alpha, gamma=gamma).sum(-1)


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


def candidates_of(
    levels: Iterable[Scored],
    anchors: Anchors,
    *,
    within: Bool[Array, "b a"],
    decode: Callable[[Float[Array, "b n ..."], Float[Array, "b n 4"]], Float[Array, "b n 4"]],
) -> Iterator[Level]:
    """The candidates of each level, whose boxes are decoded from their sides and anchors once they are selected.

    `within` masks the anchors that count.
    """
    start = 0
    for scored in levels:
        span = slice(start, start + scored.scores.shape[1])
        start = span.stop

        def boxes_at(
            place: Int[Array, "b n"], span: slice = span, sides: Float[Array, "b a ..."] = scored.sides
        ) -> Float[Array, "b n 4"]:
            return decode(at(sides, place), anchors.boxes_at(span, place))

        yield Level(jnp.where(within[:, span, None], scored.scores, -1.0), boxes_at, scored.factors)


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
    if level.factors is not None:
        scores = scores * at(level.factors, place)
    return level.boxes_at(place), scores, label


def at(values: Float[Array, "b a *n"], place: Int[Array, "b m"]) -> Float[Array, "b m *n"]:
    """The rows at these places of each picture."""
    return jnp.take_along_axis(values, jnp.expand_dims(place, range(2, values.ndim)), axis=1)

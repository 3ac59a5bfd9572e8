"""GFL: one stage, class scores that estimate a box's quality, distributions of its sides (Li et al. 2020, 2006.04388).

Anchors are assigned by ATSS (Zhang et al. 2020, arXiv 1912.02424).
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Key

from jaxkd.detectors import dense, parts
from jaxkd.detectors.base import Params, Stage
from jaxkd.errors import ConfigError
from jaxkd.nets import fpn, resnet
from jaxkd.nets.dense_head import Output, logit
from jaxkd.nets.remat import Remat
from jaxkd.ops import atss, box_codes, distributions
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.anchors import Anchors as AnchorBoxes
from jaxkd.ops.anchors import inside
from jaxkd.ops.quality_focal import quality_focal_loss
from jaxkd.ranges import Count, NonNegative, Positive, Range, Share
from jaxkd.types import Batch, BoxCode, Features, Predictions, Regions, Term, Traits

LIKE = {
    "mmdetection": {
        "anchors": {"offset": 0.0},
        "assignment": {"at_least_one": False},
        "compat": {"padding": "seen"},
    },
}
ONLY_WITH = parts.HEAD_ONLY_WITH
LEAST_LEVELS = 3  # below which ATSS finds no anchor for some objects; see `ops.atss.assign`


@dataclass(frozen=True)
class Anchors:
    """The anchors: a square for each cell."""

    scale: Positive = 8.0
    """Side of an anchor in strides of its level."""
    offset: Share = 0.5
    """Where in its cell an anchor is centred; 0.5 is the middle."""


@dataclass(frozen=True)
class Assignment:
    """Which anchors are objects, by ATSS."""

    topk: Count = 9
    """Candidates of an object on each level: the anchors nearest to its centre."""
    at_least_one: bool = True
    """Whether an object that would get no anchor gets its best one that is free."""


@dataclass(frozen=True)
class Head(parts.Head):
    """The head, with distributions of the sides of boxes."""

    reg_max: Count = 16
    """Largest distance of a side from an anchor's centre, in strides."""


@dataclass(frozen=True)
class Loss:
    """The losses of the paper, section 3."""

    beta: Annotated[float, Range(1)] = 2.0
    """Exponent of the gap between score and quality, by which the class loss is weighted."""
    box_loss_weight: NonNegative = 2.0
    """Factor on the box loss, 1 - generalized IoU."""
    distribution_weight: NonNegative = 0.25
    """Factor on the distribution focal loss."""


@dataclass(frozen=True)
class Compat:
    """What only imitates another library, so that its weights give its outputs; see `like` of `config.component`."""

    padding: parts.Padding = "masked"
    """What the nets see beyond a picture's edge; see `detectors.parts.Compat`."""


@dataclass(frozen=True)
class Config:
    """GFL; the defaults are the common COCO recipe."""

    backbone: Any = field(default_factory=resnet.Config)
    """A component of `nets` that gives four levels."""
    neck: Any = field(default_factory=lambda: fpn.Config(first=1, extra="conv_p5", extra_relu=False))
    """A component of `nets`: the neck, by default a feature pyramid P3 to P7 with both extra levels from P5."""
    anchors: Anchors = field(default_factory=Anchors)
    """The anchors, for each of which the head predicts."""
    assignment: Assignment = field(default_factory=Assignment)
    """From anchors and truth to targets."""
    head: Head = field(default_factory=Head)
    """The head."""
    loss: Loss = field(default_factory=Loss)
    """The losses."""
    postprocess: parts.Postprocess = field(default_factory=lambda: parts.Postprocess(candidates=1000, nms=0.6))
    """From predictions to detections."""
    pixels: parts.Pixels = field(default_factory=parts.Pixels)
    """Normalisation of the pictures."""
    compat: Compat = field(default_factory=Compat)
    """What only imitates another library."""
    frozen_stages: parts.Stages = -1
    """Backbone stages that are not trained: -1 none, 0 the stem, 1 the stem and the first, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which all nets compute; parameters, norms' statistics, boxes, predictions and losses are float32."""
    remat: Remat = "none"
    """Rematerialisation of the backbone's blocks: less memory, more time; see `nets.remat`."""


def build(config: Config, *, classes: Sequence[str]) -> "GFL":
    """The detector for these classes.

    Raises ConfigError where the neck has too few levels or levels of several widths that are to share a head, and for a
    separable head without norms.
    """
    detector = GFL(config, tuple(classes))
    strides = detector.feature_extractor.strides
    if len(strides) < LEAST_LEVELS:
        raise ConfigError(
            f"The neck has {len(strides)} levels, and ATSS wants {LEAST_LEVELS} or more; add some by neck.extra."
        )
    detector.check_head()
    return detector


@dataclass(frozen=True)
class GFL(dense.DenseDetector):
    """The detector as functions of its parameters; see `detectors.base` for the protocol."""

    config: Config

    @functools.cached_property
    def traits(self) -> Traits:
        """The constants that methods may need."""
        anchors = self.config.anchors
        return self.common_traits(
            "anchor_predictions",
            "box_distributions",
            box_code=BoxCode("sides", strides=anchors.scale),
            background=None,
            anchors=("square", self.feature_extractor.strides, anchors.scale, anchors.offset),
        )

    def sample_regions(
        self, params: Params, features: Features, batch: Batch, keys: Key[Array, "b"], *, stage: Stage = "sampled"
    ) -> tuple[Regions, dict[str, Term]]:
        """Every anchor with its targets, at either stage, and no losses of proposing."""
        del params, keys, stage
        return jax.vmap(functools.partial(self._assign_targets, self._grid(features)))(batch), {}

    def predict(self, params: Params, features: Features, boxes: Float[Array, "b r 4"], batch: Batch) -> Predictions:
        """Class logits [b a k], distances [b a 1 4] of the sides in strides, and their distributions.

        `boxes` are the anchors. Raises ValueError where they cannot be; see Traits.anchors.
        """
        levels = self._predict_levels(params, features, batch)
        logits, sides = (jnp.concatenate(parts, axis=1) for parts in zip(*levels, strict=True))
        dense.check_anchors("GFL", asked=boxes.shape[1], anchors=logits.shape[1])
        return Predictions(logits=logits, deltas=distributions.expectation(sides)[:, :, None], distributions=sides)

    def losses(self, predictions: Predictions, regions: Regions) -> dict[str, Term]:
        """Quality focal loss of all anchors, and box and distribution losses of the positive ones.

        The first is divided by the positives (of a picture at least 1), the others by the sum of the positives'
        scores, with which they are weighted (equation 7).
        """
        loss, positive = self.config.loss, regions.positive
        boxes, truth = (
            box_codes.decode(self.traits.box_code, sides, regions.boxes)
            for sides in (predictions.deltas[:, :, 0], regions.deltas)
        )
        quality = lax.stop_gradient(jnp.where(positive, box_ops.paired_iou(boxes, truth), 0.0))
        classes = quality_focal_loss(predictions.logits, regions.labels, quality=quality, beta=loss.beta).sum(-1)
        score = lax.stop_gradient(jax.nn.sigmoid(predictions.logits).max(-1))
        count, certainty = dense.positives(regions), regions.total(score, positive)
        gaps = score * (1.0 - box_ops.generalized_iou(boxes, truth))
        sides = distributions.distribution_focal_loss(predictions.distributions, regions.deltas).mean(-1)
        return {
            "class": Term(regions.total(classes, regions.valid), count),
            "box": Term(loss.box_loss_weight * regions.total(gaps, positive), certainty, least=1.0),
            "distribution": Term(
                loss.distribution_weight * regions.total(score * sides, positive), certainty, least=1.0
            ),
        }

    def candidates(self, params: Params, features: Features, batch: Batch) -> Iterator[dense.Level]:
        """The anchors of each level with their scores."""
        anchors = self.grid_anchors(features, batch)
        within = jax.vmap(inside, (None, 0))(anchors, self.extents(batch))
        levels = self._predict_levels(params, features, batch)
        scored = (dense.Scored(jax.nn.sigmoid(logits), sides) for logits, sides in levels)
        return dense.candidates_of(scored, anchors, within=within, decode=self._decode)

    def _decode(self, sides: Float[Array, "b n 4 _"], anchors: Float[Array, "b n 4"]) -> Float[Array, "b n 4"]:
        """The boxes of these distributions of their sides."""
        return box_codes.decode(self.traits.box_code, distributions.expectation(sides), anchors)

    def _predict_levels(
        self, params: Params, features: Features, batch: Batch
    ) -> Iterator[tuple[Float[Array, "b _ k"], Float[Array, "b _ 4 n"]]]:
        """For each level the class logits of its anchors, and the logits of their sides' distances."""
        bins = self.config.head.reg_max + 1
        for level in self.maps(params, features, batch):
            sides = dense.by_anchor(level.boxes, 4 * bins)
            yield dense.by_anchor(level.logits, len(self.classes)), sides.reshape(*sides.shape[:2], 4, bins)

    def maps(self, params: Params, features: Features, batch: Batch) -> list[dense.Maps]:
        """For each level the class logits of its cells, and the logits of their sides' distances, side by side."""
        strides = self.feature_extractor.strides
        levels = self.dense_head.outputs(params["head"], features, self.extents(batch), strides=strides)
        return [dense.Maps(level["logits"], level["bins"]) for level in levels]

    def grid_anchors(self, features: Features, batch: Batch) -> AnchorBoxes:
        """The anchors of every cell, the same for all pictures."""
        del batch
        return self._grid(features).anchors()

    @functools.cached_property
    def dense_head(self) -> dense.PyramidHead:
        """The head."""
        head = self.config.head
        outputs = (
            Output("logits", len(self.classes), tower="class", bias=(logit(head.prior),)),
            Output("bins", 4 * (head.reg_max + 1), tower="box", bias=self._first_sides),
        )
        return dense.pyramid_head(head, outputs, scaled="bins", dtype=self.config.dtype)

    @property
    def _first_sides(self) -> tuple[float, ...]:
        """Logits of a side's distances with which a box is its anchor, or as near to it as there are bins.

        Before training the boxes then overlap their objects, without which the quality, and with it every weight of
        the loss, would start near 0.
        """
        return distributions.logits_of(self.config.anchors.scale / 2, last=self.config.head.reg_max)

    def _grid(self, features: Features) -> atss.Grid:
        """The cells of the levels, with their anchors."""
        shapes = tuple(level.shape[1:3] for level in features.neck)
        anchors = self.config.anchors
        return atss.Grid(shapes, self.feature_extractor.strides, scale=anchors.scale, offset=anchors.offset)

    def _assign_targets(self, grid: atss.Grid, batch: Batch) -> Regions:
        """The anchors of one picture with their targets; `batch` without its leading axis."""
        assignment, anchors = self.config.assignment, grid.anchors().boxes
        matches = atss.assign(
            grid,
            batch.boxes,
            size=self.extents(batch),
            valid=batch.valid,
            crowd=batch.crowd,
            topk=assignment.topk,
            at_least_one=assignment.at_least_one,
        )
        sides = box_codes.encode(self.traits.box_code, batch.boxes[matches.truth], anchors)
        return dense.targets(batch, matches, boxes=anchors, deltas=sides, background=len(self.classes))

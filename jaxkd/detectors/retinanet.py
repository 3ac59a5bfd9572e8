"""RetinaNet: one stage, a focal loss over every anchor of a feature pyramid (Lin et al. 2017, arXiv 1708.02002)."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Key

from jaxkd.detectors import dense, parts
from jaxkd.detectors.anchored import AnchorBased
from jaxkd.detectors.base import Params, Stage
from jaxkd.nets import fpn, resnet
from jaxkd.nets.dense_head import DenseHead, Output, logit
from jaxkd.nets.remat import Remat
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.anchors import Anchors as AnchorBoxes
from jaxkd.ops.anchors import inside
from jaxkd.ops.match import Matches
from jaxkd.ranges import Count, Natural, NonNegative, Probability, Share, SomeShare
from jaxkd.types import Batch, BoxCode, Features, Predictions, Regions, Term, Traits

LIKE = {
    "torchvision": {
        "postprocess": {"max_detections": 300},
        "compat": {"anchor_step": "canvas", "anchor_rounded": True, "padding": "seen"},
    },
    "detectron2": {"pixels": parts.CAFFE_PIXELS, "compat": {"padding": "seen"}},
    "mmdetection": {"compat": {"padding": "seen"}},
}
ONLY_WITH = {  # fields that do nothing unless another one is so; see `train.unused`
    "head.channels": ("head.convs", True),
    "head.norm": ("head.convs", True),
    "head.groups": ("head.norm", "group"),
    "loss.smooth_l1_beta": ("loss.box_loss", "smooth_l1"),
}


@dataclass(frozen=True)
class Anchors(parts.Anchors):
    """Anchors of every cell of every level, several sizes of each."""

    octaves: Count = 3
    """Sizes of a level, each 2^(1/octaves) times the one before."""


@dataclass(frozen=True)
class Assignment:
    """Which anchors are objects and which are background."""

    positive_iou: SomeShare = 0.5
    """IoU from which an anchor is an object."""
    negative_iou: Share = 0.4
    """IoU below which an anchor is background."""


@dataclass(frozen=True)
class Head:
    """The head: one tower of convolutions for classes and one for boxes, shared by all levels."""

    convs: Natural = 4
    """3x3 convolutions of each tower."""
    channels: Count = 256
    """Width of the towers."""
    norm: Literal["none", "group"] = "none"
    """Norm after each convolution of the towers."""
    groups: Count = 32
    """Number of groups of "group" norm."""
    prior: Probability = 0.01
    """Probability of every class before training."""
    box_weights: parts.BoxWeights = (1.0, 1.0, 1.0, 1.0)
    """Weights of the box code."""


@dataclass(frozen=True)
class Loss:
    """The focal loss of classes and the loss of boxes."""

    focal_alpha: Share = 0.25
    """Weight of positives; negatives have the rest up to 1."""
    focal_gamma: NonNegative = 2.0
    """Exponent by which easy anchors lose weight."""
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """Of positives: smooth L1 of the deltas, or 1 - generalized IoU ("giou") of the box and the truth, with which
    torchvision trains its second version."""
    smooth_l1_beta: NonNegative = 0.0
    """Where smooth L1 turns linear; 0 is plain L1."""
    box_loss_weight: NonNegative = 1.0
    """Factor on the box loss."""


@dataclass(frozen=True)
class Config:
    """RetinaNet; the defaults are the common COCO recipe."""

    backbone: Any = field(default_factory=resnet.Config)
    """A component of `nets` that gives four levels."""
    neck: Any = field(default_factory=lambda: fpn.Config(first=1, extra="conv_c5"))
    """A component of `nets`: the neck, by default a feature pyramid P3 to P7 with both extra levels from the
    backbone's last."""
    anchors: Anchors = field(default_factory=Anchors)
    """The anchors, for each of which the head predicts."""
    assignment: Assignment = field(default_factory=Assignment)
    """From anchors and truth to targets."""
    head: Head = field(default_factory=Head)
    """The head."""
    loss: Loss = field(default_factory=Loss)
    """The losses."""
    postprocess: parts.Postprocess = field(default_factory=lambda: parts.Postprocess(candidates=1000))
    """From predictions to detections."""
    pixels: parts.Pixels = field(default_factory=parts.Pixels)
    """Normalisation of the pictures."""
    compat: parts.Compat = field(default_factory=parts.Compat)
    """What only imitates another library."""
    frozen_stages: parts.Stages = -1
    """Backbone stages that are not trained: -1 none, 0 the stem, 1 the stem and the first, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which all nets compute; parameters, norms' statistics, boxes, predictions and losses are float32."""
    remat: Remat = "none"
    """Rematerialisation of the backbone's blocks: less memory, more time; see `nets.remat`."""


def build(config: Config, *, classes: Sequence[str]) -> "RetinaNet":
    """The detector for these classes.

    Raises ConfigError where the anchors do not fit the pyramid's levels, or thresholds are out of order.
    """
    detector = RetinaNet(config, tuple(classes))
    detector.check(("assignment.negative_iou", "assignment.positive_iou"))
    return detector


@dataclass(frozen=True)
class RetinaNet(AnchorBased, dense.DenseDetector):
    """The detector as functions of its parameters; see `detectors.base` for the protocol."""

    config: Config

    @functools.cached_property
    def traits(self) -> Traits:
        """The constants that methods may need."""
        anchors, compat = self.config.anchors, self.config.compat
        numbers = (anchors.offset, compat.step, compat.anchor_rounded)
        return self.common_traits(
            "anchor_predictions",
            box_code=BoxCode(weights=self.config.head.box_weights),
            background=None,
            anchors=(self.feature_extractor.strides, self._sizes, anchors.ratios, numbers),
        )

    def sample_regions(
        self, params: Params, features: Features, batch: Batch, keys: Key[Array, "b"], *, stage: Stage = "sampled"
    ) -> tuple[Regions, dict[str, Term]]:
        """Every anchor with its targets, at either stage, and no losses of proposing."""
        del params, keys, stage
        anchors = self.grid_anchors(features, batch)
        return jax.vmap(self._assign_targets, (anchors.axes, 0))(anchors, batch), {}

    def predict(self, params: Params, features: Features, boxes: Float[Array, "b r 4"], batch: Batch) -> Predictions:
        """Class logits [b a k], each class on its own, and box deltas [b a 1 4] of the anchors.

        `boxes` are the anchors. Raises ValueError where they cannot be; see Traits.anchors.
        """
        logits, deltas = (jnp.concatenate(parts, axis=1) for parts in self._predict_levels(params, features, batch))
        dense.check_anchors("RetinaNet", asked=boxes.shape[1], anchors=logits.shape[1])
        return Predictions(logits=logits, deltas=deltas[:, :, None])

    def losses(self, predictions: Predictions, regions: Regions) -> dict[str, Term]:
        """Focal loss over the valid anchors and a box loss over the positive ones, both divided by the positives."""
        loss = self.config.loss
        count = regions.count(regions.positive)
        classes = dense.focal_losses(predictions.logits, regions.labels, alpha=loss.focal_alpha, gamma=loss.focal_gamma)
        boxes = self._box_losses(predictions.deltas[:, :, 0], regions)
        return {
            "class": Term(regions.total(classes, regions.valid), count),
            "box": Term(loss.box_loss_weight * regions.total(boxes, regions.positive), count),
        }

    def _box_losses(self, deltas: Float[Array, "b a 4"], regions: Regions) -> Float[Array, "b a"]:
        """The box loss of each anchor, as if it were positive."""
        loss, weights = self.config.loss, self.config.head.box_weights
        if loss.box_loss == "smooth_l1":
            return box_ops.smooth_l1(deltas - regions.deltas, beta=loss.smooth_l1_beta).sum(-1)
        boxes = box_ops.decode(deltas, regions.boxes, weights=weights)
        truth = box_ops.decode(regions.deltas, regions.boxes, weights=weights, limit=math.inf)
        return 1.0 - box_ops.generalized_iou(boxes, truth)

    def candidates(self, params: Params, features: Features, batch: Batch) -> Iterator[dense.Level]:
        """The anchors of each level with their scores."""
        anchors, weights = self.grid_anchors(features, batch), self.config.head.box_weights
        within = jax.vmap(inside, (anchors.axes, 0))(anchors, self.extents(batch))
        levels = zip(*self._predict_levels(params, features, batch), strict=True)
        scored = (dense.Scored(jax.nn.sigmoid(logits), deltas) for logits, deltas in levels)
        decode = functools.partial(box_ops.decode, weights=weights)
        return dense.candidates_of(scored, anchors, within=within, decode=decode)

    @functools.cached_property
    def dense_head(self) -> dense.PyramidHead:
        """The head."""
        head, anchors = self.config.head, self.config.anchors.octaves * len(self.config.anchors.ratios)
        module = DenseHead(
            outputs=(
                Output("logits", anchors * len(self.classes), tower="class", bias=(logit(head.prior),)),
                Output("deltas", anchors * 4, tower="box"),
            ),
            channels=head.channels,
            depth=head.convs,
            norm=head.norm,
            groups=head.groups,
            dtype=self.config.dtype,
        )
        return dense.PyramidHead(module)

    @functools.cached_property
    def _sizes(self) -> tuple[tuple[float, ...], ...]:
        """The anchors' sizes of each level."""
        sizes = self.config.anchors.of_levels()
        if not self.config.compat.anchor_rounded:
            return sizes
        return tuple(tuple(float(math.floor(size)) for size in level) for level in sizes)

    def _assign_targets(self, anchors: AnchorBoxes, batch: Batch) -> Regions:
        """The anchors of one picture with their targets; `anchors` and `batch` without their leading axes."""
        ious = self.config.assignment
        matches, within = self.match_anchors(anchors, batch, positive=ious.positive_iou, negative=ious.negative_iou)
        matches = Matches(matches.truth, matches.positive & within, matches.negative & within)
        weights = self.config.head.box_weights
        deltas = box_ops.encode(batch.boxes[matches.truth], anchors.boxes, weights=weights)
        return dense.targets(batch, matches, boxes=anchors.boxes, deltas=deltas, background=len(self.classes))

    def _predict_levels(
        self, params: Params, features: Features, batch: Batch
    ) -> tuple[list[Float[Array, "b _ k"]], list[Float[Array, "b _ 4"]]]:
        """For each level logits and deltas of its anchors."""
        levels = self.maps(params, features, batch)
        logits = [dense.by_anchor(level.logits, len(self.classes)) for level in levels]
        return logits, [dense.by_anchor(level.boxes, 4) for level in levels]

    def maps(self, params: Params, features: Features, batch: Batch) -> list[dense.Maps]:
        """For each level the class logits and the deltas of the anchors of its cells."""
        strides = self.feature_extractor.strides
        levels = self.dense_head.outputs(params["head"], features, self.extents(batch), strides=strides)
        return [dense.Maps(level["logits"], level["deltas"]) for level in levels]

    def grid_anchors(self, features: Features, batch: Batch) -> AnchorBoxes:
        """The anchors of every cell; see `AnchorBased.anchors`."""
        return self.anchors(features, batch, sizes=self._sizes)

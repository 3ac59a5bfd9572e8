"""RetinaNet: one stage, a focal loss over every anchor of a feature pyramid (Lin et al. 2017, arXiv 1708.02002)."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import optax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int, Key

from jaxkd.detectors.anchored import CAFFE_PIXELS, AnchorBased, Code, Stages
from jaxkd.detectors.base import Params, Stage
from jaxkd.detectors.detections import best_of
from jaxkd.detectors.feature_extractor import Padding, apply
from jaxkd.nets import fpn, resnet
from jaxkd.nets.heads import DenseHead
from jaxkd.nets.norm import valid_cells
from jaxkd.nets.remat import Remat
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.anchors import Anchors, inside
from jaxkd.ranges import Count, Finite, Natural, NonNegative, Positive, Probability, Share, SomeShare
from jaxkd.types import Batch, Detections, Features, Predictions, Regions, Term, Traits

LIKE = {
    "torchvision": {"anchor_rounded": True, "anchor_step": "canvas", "detections": 300, "padding": "seen"},
    "detectron2": CAFFE_PIXELS | {"padding": "seen"},
    "mmdetection": {"padding": "seen"},
}
ONLY_WITH = {  # fields that do nothing unless another one is so; see `train.unused`
    "tower_channels": ("tower_depth", True),
    "tower_norm": ("tower_depth", True),
    "tower_groups": ("tower_norm", "group"),
    "box_beta": ("box_loss", "smooth_l1"),
}


@dataclass(frozen=True)
class Config:
    """RetinaNet; the defaults are the common COCO recipe.

    Attributes:
      backbone: a component of `nets` that gives four levels.
      neck: the feature pyramid, P3 to P7 with both extra levels from the backbone's last.
      anchor_sizes: side in pixels of the smallest anchors of each level.
      octaves: sizes of a level, each 2^(1/octaves) of the one before.
      anchor_ratios: height / width of the anchors of every level.
      anchor_offset: where in its cell an anchor is centred; 0.5 is the middle.
      anchor_step: pixels between the anchors of two cells: the level's stride, or the "canvas" divided by its cells, as
        torchvision has it. The canvas is what is seen of the picture where its `padding` is "seen", and else all that
        it is padded to; on coarse levels the step then depends on how far that is.
      anchor_rounded: sizes and base anchors rounded to whole pixels, sizes downwards, as torchvision has them.
      positive, negative: IoU from which an anchor is an object, and under which it is background.
      tower_depth, tower_channels: 3x3 convolutions before each answer, and their width.
      tower_norm, tower_groups: "group" for group norm in the towers, and its number of groups.
      prior: probability that every class begins with.
      focal_alpha, focal_gamma: weight of positives, and how far easy anchors are played down.
      box_weights: weights of the box code.
      box_loss: of positives: smooth L1 of the deltas, or 1 less the generalized IoU ("giou") of the box and the truth,
        with which torchvision trains its second version.
      box_beta: where smooth L1 turns linear; 0 is plain L1.
      box_weight: factor on the box term.
      score_threshold, detection_nms, detections: what `detect` keeps.
      candidates: boxes a level that enter the suppression.
      frozen_stages: backbone stages that are not trained: -1 none, 0 the stem, 1 the stem and the first, ...
      pixel_mean, pixel_std: of RGB values in 0..255.
      padding: what the nets see beyond a picture's edge: nothing ("masked"), or zeros up to the next multiple of 32
        pixels ("seen"), as torchvision, detectron2 and mmdetection train; see `detectors.feature_extractor`.
      dtype: what all nets compute in; parameters, norms' statistics, boxes, answers and losses are float32.
      remat: what of the backbone's blocks is kept for the gradient, for less memory in more time; see `nets.remat`.
    """

    backbone: Any = field(default_factory=resnet.Config)
    neck: fpn.Config = field(default_factory=lambda: fpn.Config(first=1, extra="conv_c5"))
    anchor_sizes: tuple[Positive, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    octaves: Count = 3
    anchor_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    anchor_offset: Share = 0.0
    anchor_step: Literal["stride", "canvas"] = "stride"
    anchor_rounded: bool = False
    positive: SomeShare = 0.5
    negative: Share = 0.4
    tower_depth: Natural = 4
    tower_channels: Count = 256
    tower_norm: Literal["none", "group"] = "none"
    tower_groups: Count = 32
    prior: Probability = 0.01
    focal_alpha: Share = 0.25
    focal_gamma: NonNegative = 2.0
    box_weights: Code = (1.0, 1.0, 1.0, 1.0)
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    box_beta: NonNegative = 0.0
    box_weight: NonNegative = 1.0
    score_threshold: Share = 0.05
    detection_nms: Share = 0.5
    detections: Count = 100
    candidates: Count = 1000
    frozen_stages: Stages = -1
    pixel_mean: tuple[Finite, Finite, Finite] = (123.675, 116.28, 103.53)
    pixel_std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    padding: Padding = "masked"
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"


def build(config: Config, *, classes: Sequence[str]) -> "RetinaNet":
    """The detector for these classes.

    Raises ConfigError where the anchors do not fit the pyramid's levels, or thresholds are out of order.
    """
    detector = RetinaNet(config, tuple(classes))
    detector.check(("negative", "positive"))
    return detector


@dataclass(frozen=True)
class RetinaNet(AnchorBased):
    """The detector as functions of its parameters; see `detectors.base` for what each promises."""

    config: Config

    @functools.cached_property
    def traits(self) -> Traits:
        """The constants that methods may need."""
        config = self.config
        step = "stride" if config.anchor_step == "stride" else f"{config.padding} canvas"
        numbers = (config.anchor_offset, step, config.anchor_rounded)
        return self.common_traits(
            background=None, anchors=(self._feature_extractor.strides, self._sizes, config.anchor_ratios, numbers)
        )

    def init_heads(self, key: Key[Array, ""]) -> Params:
        """Random parameters of the head."""
        level, valid = jnp.zeros((1, 2, 2, self.config.neck.channels)), jnp.ones((1, 2, 2, 1))
        return {"head": self._head.init(jax.random.fold_in(key, 2), level, valid)["params"]}

    def sample_regions(
        self, params: Params, features: Features, batch: Batch, keys: Key[Array, "b"], *, stage: Stage = "sampled"
    ) -> tuple[Regions, dict[str, Term]]:
        """Every anchor with its targets, at either stage, and no losses of proposing."""
        del params, keys, stage
        anchors = self.anchors(features, batch, sizes=self._sizes)
        return jax.vmap(self._assign_targets, (anchors.axes, 0))(anchors, batch), {}

    def predict(self, params: Params, features: Features, boxes: Float[Array, "b r 4"], batch: Batch) -> Predictions:
        """Class logits [b a k], each class on its own, and box deltas [b a 1 4] of the anchors.

        `boxes` are the anchors. Raises ValueError where they cannot be; see Traits.anchors.
        """
        logits, deltas = (jnp.concatenate(parts, axis=1) for parts in self._predict_levels(params, features, batch))
        if boxes.shape[1] != logits.shape[1]:
            raise ValueError(
                f"RetinaNet makes predictions for its {logits.shape[1]} anchors, not for {boxes.shape[1]} boxes."
            )
        return Predictions(logits=logits, deltas=deltas[:, :, None])

    def losses(self, predictions: Predictions, regions: Regions) -> dict[str, Term]:
        """Focal loss over the valid anchors and a box loss over the positive ones, both divided by the positives."""
        config = self.config
        count = regions.positive.sum().astype(jnp.float32)
        targets = jax.nn.one_hot(regions.labels, len(self.classes))  # the background's row is zero
        classes = optax.sigmoid_focal_loss(
            predictions.logits, targets, alpha=config.focal_alpha, gamma=config.focal_gamma
        ).sum(-1)
        boxes = self._box_losses(predictions.deltas[:, :, 0], regions)
        return {
            "class": Term(jnp.where(regions.valid, classes, 0.0).sum(), count),
            "box": Term(config.box_weight * jnp.where(regions.positive, boxes, 0.0).sum(), count),
        }

    def _box_losses(self, deltas: Float[Array, "b a 4"], regions: Regions) -> Float[Array, "b a"]:
        """The box loss of each anchor, as if it were positive."""
        config = self.config
        if config.box_loss == "smooth_l1":
            return box_ops.smooth_l1(deltas - regions.deltas, beta=config.box_beta).sum(-1)
        boxes = box_ops.decode(deltas, regions.boxes, weights=config.box_weights)
        truth = box_ops.decode(regions.deltas, regions.boxes, weights=config.box_weights, limit=math.inf)
        return 1.0 - box_ops.generalized_iou(boxes, truth)

    def detect(self, params: Params, batch: Batch) -> Detections:
        """Boxes with a score over the threshold after suppression class by class, best first."""
        config = self.config
        features = self.features(params, batch)
        anchors = self.anchors(features, batch, sizes=self._sizes)
        present = jax.vmap(inside, (anchors.axes, 0))(anchors, self.extents(batch))
        levels, start = [], 0
        for logits, deltas in zip(*self._predict_levels(params, features, batch), strict=True):
            span = slice(start, start + logits.shape[1])
            start = span.stop
            scores = jnp.where(present[:, span, None], jax.nn.sigmoid(logits), -1.0)
            scores = jnp.where(scores > config.score_threshold, scores, -1.0).reshape(scores.shape[0], -1)
            scores, best = jax.lax.top_k(scores, min(config.candidates, scores.shape[1]))
            place, label = best // len(self.classes), (best % len(self.classes)).astype(jnp.int32)
            moved = jnp.take_along_axis(deltas, place[..., None], axis=1)
            boxes = box_ops.decode(moved, anchors.boxes_at(span, place), weights=config.box_weights)
            levels.append((boxes, scores, label))
        boxes, scores, labels = (jnp.concatenate(parts, axis=1) for parts in zip(*levels, strict=True))

        def select(
            boxes: Float[Array, "n 4"], scores: Float[Array, "n"], labels: Int[Array, "n"], size: Int[Array, "2"]
        ) -> Detections:
            return best_of(
                box_ops.clip(boxes, size),
                scores,
                labels,
                valid=scores > 0,
                threshold=config.detection_nms,
                limit=config.detections,
            )

        return jax.vmap(select)(boxes, scores, labels, batch.sizes)

    @functools.cached_property
    def _head(self) -> DenseHead:
        config = self.config
        return DenseHead(
            channels=config.tower_channels,
            depth=config.tower_depth,
            anchors=config.octaves * len(config.anchor_ratios),
            classes=len(self.classes),
            prior=config.prior,
            norm=config.tower_norm,
            groups=config.tower_groups,
            dtype=config.dtype,
        )

    @functools.cached_property
    def _sizes(self) -> tuple[tuple[float, ...], ...]:
        """The anchors' sizes of each level."""
        octaves, whole = self.config.octaves, math.floor if self.config.anchor_rounded else float
        return tuple(
            tuple(float(whole(size * 2 ** (step / octaves))) for step in range(octaves))
            for size in self.config.anchor_sizes
        )

    def _assign_targets(self, anchors: Anchors, batch: Batch) -> Regions:
        """The anchors of one picture with their targets; `anchors` and `batch` without their leading axes."""
        config = self.config
        matches, within = self.match_anchors(anchors, batch, positive=config.positive, negative=config.negative)
        positive = matches.positive & within
        deltas = box_ops.encode(batch.boxes[matches.truth], anchors.boxes, weights=config.box_weights)
        return Regions(
            boxes=anchors.boxes,
            labels=jnp.where(positive, batch.labels[matches.truth], len(self.classes)).astype(jnp.int32),
            deltas=jnp.where(positive[:, None], deltas, 0.0),
            truth=matches.truth,
            positive=positive,
            valid=(matches.negative & within) | positive,
        )

    def _predict_levels(
        self, params: Params, features: Features, batch: Batch
    ) -> tuple[list[Float[Array, "b _ k"]], list[Float[Array, "b _ 4"]]]:
        """For each level logits and deltas of its anchors."""
        logits, deltas, extents = [], [], self.extents(batch)
        for level, stride in zip(features.neck, self.traits.strides, strict=True):
            valid = valid_cells(extents, stride=stride, shape=level.shape[1:3])
            level_logits, level_deltas = apply(self._head, params["head"], level, valid)
            logits.append(level_logits.reshape(level.shape[0], -1, len(self.classes)))
            deltas.append(level_deltas.reshape(level.shape[0], -1, 4))
        return logits, deltas

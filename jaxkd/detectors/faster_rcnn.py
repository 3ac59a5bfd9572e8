"""Faster R-CNN with a feature pyramid (Ren et al. 2015; Lin et al. 2017)."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import optax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from jaxkd.detectors.anchored import CAFFE_PIXELS, AnchorBased, Code, Stages
from jaxkd.detectors.base import Params, Stage
from jaxkd.detectors.detections import best_of
from jaxkd.detectors.feature_extractor import Padding, apply
from jaxkd.detectors.proposals import Proposals, propose
from jaxkd.nets import fpn, resnet
from jaxkd.nets.heads import BoxHead, RPNHead
from jaxkd.nets.norm import valid_cells
from jaxkd.nets.remat import Remat
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.anchors import Anchors
from jaxkd.ops.match import Matches, match
from jaxkd.ops.roi_align import Pooling, roi_align_batch
from jaxkd.ops.sample import sample
from jaxkd.ranges import Count, Finite, Natural, NonNegative, Positive, Share, SomeShare, Whole
from jaxkd.types import Batch, Detections, Features, Predictions, Regions, Term, Traits

# Pooling by as many samples as a bin has cells, which both libraries call a sampling ratio of 0.
ADAPTIVE = {"roi_sampling": 6, "roi_adaptive": True}
LIKE = {
    "torchvision": {
        "anchor_rounded": True,
        "anchor_step": "canvas",
        "roi_aligned": False,
        "rpn_beta": 1 / 9,
        "box_beta": 1 / 9,
        "post_nms_train": 2000,
        "padding": "seen",
    },
    "detectron2": CAFFE_PIXELS | ADAPTIVE | {"padding": "seen"},
    "mmdetection": ADAPTIVE | {"padding": "seen"},
}
ONLY_WITH = {  # fields that do nothing unless another one is so; see `train.unused`
    "head_norm": ("head_convs", True),
    "head_groups": ("head_convs", True),
}


@dataclass(frozen=True)
class Config:
    """Faster R-CNN; the defaults are the common COCO recipe.

    Attributes:
      backbone: a component of `nets` that gives four levels.
      neck: the feature pyramid.
      anchor_sizes: side in pixels of the anchors of each level.
      anchor_ratios: height / width of the anchors of every level.
      anchor_offset: where in its cell an anchor is centred; 0.5 is the middle.
      anchor_step: pixels between the anchors of two cells: the level's stride, or the "canvas" divided by its cells, as
        torchvision has it. The canvas is what is seen of the picture where its `padding` is "seen", and else all that
        it is padded to; on coarse levels the step then depends on how far that is.
      anchor_rounded: base anchors rounded to whole pixels, as torchvision has them.
      rpn_positive, rpn_negative: IoU from which an anchor is an object, and under which it is background.
      rpn_samples, rpn_fraction: anchors sampled for the loss, and the largest share of positives among them.
      rpn_nms: IoU over which the lower scored of two proposals of one level goes.
      rpn_min_size: proposals with a shorter side, in pixels, are dropped.
      pre_nms_train, pre_nms_test: proposals a level before suppression.
      post_nms_train, post_nms_test: proposals a picture after suppression.
      roi_positive, roi_negative: IoU from which a region is an object, and under which it is background.
      roi_samples, roi_fraction: regions sampled for the head, and the largest share of positives among them.
      roi_resolution, roi_sampling, roi_adaptive, roi_aligned: RoIAlign's cells a side, samples a cell and side, whether
        that is only the most of them, and its pixel rule; see `ops.roi_align`.
      roi_scale, roi_level: side of the square box that is pooled from level `roi_level`.
      rpn_depth: 3x3 convolutions of the proposal network.
      head_convs, head_dense, hidden: convolutions and dense layers of the box head, and the width of the latter.
      head_norm, head_groups: of the head's convolutions, and its number of groups if it is "group".
      agnostic: one box for all classes in place of one for each.
      rpn_weights, box_weights: weights of the box code.
      rpn_beta, box_beta: where smooth L1 turns linear; 0 is plain L1.
      rpn_box_weight, box_weight: factors on the two box terms.
      score_threshold, detection_nms, detections: what `detect` keeps.
      candidates: boxes a picture that enter the last suppression.
      frozen_stages: backbone stages that are not trained: -1 none, 0 the stem, 1 the stem and the first, ...
      pixel_mean, pixel_std: of RGB values in 0..255.
      padding: what the nets see beyond a picture's edge: nothing ("masked"), or zeros up to the next multiple of 32
        pixels ("seen"), as torchvision, detectron2 and mmdetection train; see `detectors.feature_extractor`.
      dtype: what all nets compute in; parameters, norms' statistics, boxes, answers and losses are float32.
      remat: what of the backbone's blocks is kept for the gradient, for less memory in more time; see `nets.remat`.
    """

    backbone: Any = field(default_factory=resnet.Config)
    neck: fpn.Config = field(default_factory=fpn.Config)
    anchor_sizes: tuple[Positive, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchor_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    anchor_offset: Share = 0.0
    anchor_step: Literal["stride", "canvas"] = "stride"
    anchor_rounded: bool = False
    rpn_positive: SomeShare = 0.7
    rpn_negative: Share = 0.3
    rpn_samples: Count = 256
    rpn_fraction: Share = 0.5
    rpn_nms: Share = 0.7
    rpn_min_size: NonNegative = 0.001
    pre_nms_train: Count = 2000
    pre_nms_test: Count = 1000
    post_nms_train: Count = 1000
    post_nms_test: Count = 1000
    roi_positive: SomeShare = 0.5
    roi_negative: Share = 0.5
    roi_samples: Count = 512
    roi_fraction: Share = 0.25
    roi_resolution: Count = 7
    roi_sampling: Count = 2
    roi_adaptive: bool = False
    roi_aligned: bool = True
    roi_scale: Positive = 224.0
    roi_level: Whole = 4
    rpn_depth: Count = 1
    head_convs: Natural = 0
    head_dense: Count = 2
    hidden: Count = 1024
    head_norm: Literal["frozen_batch", "group"] = "group"
    head_groups: Count = 32
    agnostic: bool = False
    rpn_weights: Code = (1.0, 1.0, 1.0, 1.0)
    box_weights: Code = (10.0, 10.0, 5.0, 5.0)
    rpn_beta: NonNegative = 0.0
    box_beta: NonNegative = 0.0
    rpn_box_weight: NonNegative = 1.0
    box_weight: NonNegative = 1.0
    score_threshold: Share = 0.05
    detection_nms: Share = 0.5
    detections: Count = 100
    candidates: Count = 2000
    frozen_stages: Stages = -1
    pixel_mean: tuple[Finite, Finite, Finite] = (123.675, 116.28, 103.53)
    pixel_std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    padding: Padding = "masked"
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"


def build(config: Config, *, classes: Sequence[str]) -> "FasterRCNN":
    """The detector for these classes.

    Raises ConfigError where the anchors do not fit the pyramid's levels, or thresholds are out of order.
    """
    detector = FasterRCNN(config, tuple(classes))
    detector.check(("rpn_negative", "rpn_positive"), ("roi_negative", "roi_positive"))
    return detector


@dataclass(frozen=True)
class FasterRCNN(AnchorBased):
    """The detector as functions of its parameters; see `detectors.base` for what each promises."""

    config: Config

    @functools.cached_property
    def traits(self) -> Traits:
        """The constants that methods may need."""
        return self.common_traits(background=len(self.classes), anchors=None)

    def init_heads(self, key: Key[Array, ""]) -> Params:
        """Random parameters of the region proposal network and the box head."""
        config = self.config
        pooled = jnp.zeros((1, config.roi_resolution, config.roi_resolution, config.neck.channels))
        level, valid = jnp.zeros((1, 2, 2, config.neck.channels)), jnp.ones((1, 2, 2, 1))
        return {
            "rpn": self._rpn.init(jax.random.fold_in(key, 2), level, valid)["params"],
            "head": self._head.init(jax.random.fold_in(key, 3), pooled)["params"],
        }

    def sample_regions(
        self, params: Params, features: Features, batch: Batch, keys: Key[Array, "b"], *, stage: Stage = "sampled"
    ) -> tuple[Regions, dict[str, Term]]:
        """Regions sampled from proposals and truth (or the best proposals), and the losses of the proposal network."""
        config = self.config
        anchors, logits, deltas = self._rpn_predictions(params, features, batch)
        proposals = self._propose(
            anchors, logits, deltas, batch, before=config.pre_nms_train, after=config.post_nms_train
        )
        rpn_keys, roi_keys = (jax.vmap(jax.random.fold_in, (0, None))(keys, index) for index in (0, 1))
        terms = self._rpn_losses(anchors, logits, deltas, batch, rpn_keys)
        select = self._sampled_regions if stage == "sampled" else self._top_proposals
        return select(proposals, batch, roi_keys), terms

    def predict(self, params: Params, features: Features, boxes: Float[Array, "b r 4"], batch: Batch) -> Predictions:
        """Class logits [b r k+1], background last, and box deltas [b r m 4] of any boxes."""
        levels = len(self.traits.backbone_strides) - self.config.neck.first
        pooled = roi_align_batch(
            features.neck[:levels],
            boxes,
            strides=self.traits.strides[:levels],
            extents=self.extents(batch),
            pooling=self._pooling,
        )
        b, r = pooled.shape[:2]
        logits, deltas = apply(self._head, params["head"], pooled.reshape(b * r, *pooled.shape[2:]))
        return Predictions(logits=logits.reshape(b, r, -1), deltas=deltas.reshape(b, r, -1, 4))

    def losses(self, predictions: Predictions, regions: Regions) -> dict[str, Term]:
        """Cross-entropy over the valid regions and L1 over the positive ones, both divided by the valid."""
        config = self.config
        count = regions.valid.sum().astype(jnp.float32)
        classes = optax.softmax_cross_entropy_with_integer_labels(predictions.logits, regions.labels)
        deltas = box_ops.of_class(predictions.deltas, regions.labels)
        boxes = box_ops.smooth_l1(deltas - regions.deltas, beta=config.box_beta).sum(-1)
        return {
            "class": Term(jnp.where(regions.valid, classes, 0.0).sum(), count),
            "box": Term(config.box_weight * jnp.where(regions.positive, boxes, 0.0).sum(), count),
        }

    def detect(self, params: Params, batch: Batch) -> Detections:
        """Boxes with a score over the threshold after suppression class by class, best first."""
        config = self.config
        features = self.features(params, batch)
        anchors, logits, deltas = self._rpn_predictions(params, features, batch)
        proposals = self._propose(
            anchors, logits, deltas, batch, before=config.pre_nms_test, after=config.post_nms_test
        )
        predictions = self.predict(params, features, proposals.boxes, batch)
        return jax.vmap(self._detections)(predictions, proposals.boxes, proposals.valid, batch.sizes)

    @functools.cached_property
    def _pooling(self) -> Pooling:
        config = self.config
        return Pooling(
            resolution=config.roi_resolution,
            sampling_ratio=config.roi_sampling,
            adaptive=config.roi_adaptive,
            aligned=config.roi_aligned,
            canonical_scale=config.roi_scale,
            canonical_level=config.roi_level,
            first_level=2 + config.neck.first,
        )

    @functools.cached_property
    def _rpn(self) -> RPNHead:
        config = self.config
        return RPNHead(
            config.neck.channels, anchors=len(config.anchor_ratios), depth=config.rpn_depth, dtype=config.dtype
        )

    @functools.cached_property
    def _head(self) -> BoxHead:
        classes, config = len(self.classes), self.config
        return BoxHead(
            classes + 1,
            1 if config.agnostic else classes,
            convs=config.head_convs,
            dense=config.head_dense,
            hidden=config.hidden,
            norm=config.head_norm,
            groups=config.head_groups,
            dtype=config.dtype,
        )

    def _rpn_predictions(
        self, params: Params, features: Features, batch: Batch
    ) -> tuple[Anchors, list[Float[Array, "b _"]], list[Float[Array, "b _ 4"]]]:
        """Anchors of all levels, and for each level logits and deltas of its anchors."""
        logits, deltas, extents = [], [], self.extents(batch)
        for level, stride in zip(features.neck, self.traits.strides, strict=True):
            valid = valid_cells(extents, stride=stride, shape=level.shape[1:3])
            level_logits, level_deltas = apply(self._rpn, params["rpn"], level, valid)
            logits.append(level_logits.reshape(level.shape[0], -1))
            deltas.append(level_deltas.reshape(level.shape[0], -1, 4))
        anchors = self.anchors(features, batch, sizes=[(size,) for size in self.config.anchor_sizes])
        return anchors, logits, deltas

    def _rpn_losses(
        self,
        anchors: Anchors,
        logits: list[Float[Array, "b _"]],
        deltas: list[Float[Array, "b _ 4"]],
        batch: Batch,
        keys: Key[Array, "b"],
    ) -> dict[str, Term]:
        terms = jax.vmap(self._rpn_loss, (anchors.axes, 0, 0, 0, 0))(
            anchors, jnp.concatenate(logits, 1), jnp.concatenate(deltas, 1), batch, keys
        )
        return jax.tree.map(jnp.sum, terms)

    def _rpn_loss(
        self,
        anchors: Anchors,
        logits: Float[Array, "a"],
        deltas: Float[Array, "a 4"],
        batch: Batch,
        key: Key[Array, ""],
    ) -> dict[str, Term]:
        """Losses of one picture; `anchors` and `batch` without their leading axes."""
        config = self.config
        matches, within = self.match_anchors(anchors, batch, positive=config.rpn_positive, negative=config.rpn_negative)
        sampled = sample(
            key,
            positive=matches.positive & within,
            negative=matches.negative & within,
            size=config.rpn_samples,
            fraction=config.rpn_fraction,
            ids=anchors.ids,
        )
        index = sampled.index
        count = sampled.valid.sum().astype(jnp.float32)
        objectness = optax.sigmoid_binary_cross_entropy(logits[index], sampled.positive.astype(jnp.float32))
        targets = box_ops.encode(batch.boxes[matches.truth[index]], anchors.boxes[index], weights=config.rpn_weights)
        boxes = box_ops.smooth_l1(deltas[index] - targets, beta=config.rpn_beta).sum(-1)
        return {
            "rpn_object": Term(jnp.where(sampled.valid, objectness, 0.0).sum(), count),
            "rpn_box": Term(config.rpn_box_weight * jnp.where(sampled.positive, boxes, 0.0).sum(), count),
        }

    def _propose(
        self,
        anchors: Anchors,
        logits: list[Float[Array, "b _"]],
        deltas: list[Float[Array, "b _ 4"]],
        batch: Batch,
        *,
        before: int,
        after: int,
    ) -> Proposals:
        config = self.config
        return propose(
            anchors,
            logits,
            deltas,
            batch.sizes,
            seen=self.extents(batch),
            weights=config.rpn_weights,
            before=before,
            after=after,
            threshold=config.rpn_nms,
            min_size=config.rpn_min_size,
        )

    def _sampled_regions(self, proposals: Proposals, batch: Batch, keys: Key[Array, "b"]) -> Regions:
        """Regions sampled from proposals and truth boxes."""
        boxes = jax.lax.stop_gradient(jnp.concatenate([proposals.boxes, batch.boxes], axis=1))
        valid = jnp.concatenate([proposals.valid, batch.valid], axis=1)

        def sample_one(
            boxes: Float[Array, "p 4"], valid: Bool[Array, "p"], batch: Batch, key: Key[Array, ""]
        ) -> Regions:
            matches = self._matches(boxes, batch)
            sampled = sample(
                key,
                positive=matches.positive & valid,
                negative=matches.negative & valid,
                size=self.config.roi_samples,
                fraction=self.config.roi_fraction,
            )
            index = sampled.index
            return self._with_targets(boxes[index], matches.truth[index], sampled.positive, sampled.valid, batch)

        return jax.vmap(sample_one)(boxes, valid, batch, keys)

    def _top_proposals(self, proposals: Proposals, batch: Batch, keys: Key[Array, "b"]) -> Regions:
        """The proposals of the highest scores with their targets, not sampled."""
        del keys

        def label_one(boxes: Float[Array, "p 4"], valid: Bool[Array, "p"], batch: Batch) -> Regions:
            matches = self._matches(boxes, batch)
            assigned = valid & (matches.positive | matches.negative)
            return self._with_targets(boxes, matches.truth, matches.positive & valid, assigned, batch)

        count = self.config.roi_samples
        return jax.vmap(label_one)(proposals.boxes[:, :count], proposals.valid[:, :count], batch)

    def _matches(self, boxes: Float[Array, "p 4"], batch: Batch) -> Matches:
        return match(
            boxes,
            batch.boxes,
            valid=batch.valid,
            crowd=batch.crowd,
            positive=self.config.roi_positive,
            negative=self.config.roi_negative,
        )

    def _with_targets(
        self,
        boxes: Float[Array, "r 4"],
        truth: Int[Array, "r"],
        positive: Bool[Array, "r"],
        valid: Bool[Array, "r"],
        batch: Batch,
    ) -> Regions:
        """The regions of one picture with the class and box targets of their matched truth."""
        deltas = box_ops.encode(batch.boxes[truth], boxes, weights=self.config.box_weights)
        return Regions(
            boxes=jnp.where(valid[:, None], boxes, 0.0),
            labels=jnp.where(positive, batch.labels[truth], len(self.classes)).astype(jnp.int32),
            deltas=jnp.where(positive[:, None], deltas, 0.0),
            truth=truth,
            positive=positive,
            valid=valid,
        )

    def _detections(
        self, predictions: Predictions, proposals: Float[Array, "p 4"], valid: Bool[Array, "p"], size: Int[Array, "2"]
    ) -> Detections:
        """Detections of one picture."""
        config, classes = self.config, len(self.classes)
        scores = jax.nn.softmax(predictions.logits, axis=-1)[:, :classes]
        scores = jnp.where(valid[:, None] & (scores > config.score_threshold), scores, -1.0)
        scores, best = jax.lax.top_k(scores.reshape(-1), min(config.candidates, scores.size))
        proposal, label = best // classes, (best % classes).astype(jnp.int32)
        deltas = box_ops.of_class(predictions.deltas[proposal], label)
        boxes = box_ops.clip(box_ops.decode(deltas, proposals[proposal], weights=config.box_weights), size)
        return best_of(boxes, scores, label, valid=scores > 0, threshold=config.detection_nms, limit=config.detections)

"""Faster R-CNN with a feature pyramid (Ren et al. 2015; Lin et al. 2017)."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import optax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from jaxkd.detectors import parts
from jaxkd.detectors.anchored import AnchorBased
from jaxkd.detectors.base import Params, Stage
from jaxkd.detectors.detections import best_of
from jaxkd.detectors.feature_extractor import apply
from jaxkd.detectors.proposals import Proposals, propose
from jaxkd.detectors.pyramid import truth_weights
from jaxkd.nets import fpn, resnet
from jaxkd.nets.heads import BoxHead, RPNHead
from jaxkd.nets.norm import valid_cells
from jaxkd.nets.remat import Remat
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.anchors import Anchors
from jaxkd.ops.match import Matches, match
from jaxkd.ops.roi_align import Pooling, roi_align_batch
from jaxkd.ops.sample import sample
from jaxkd.ranges import Count, Natural, NonNegative, Positive, Share, SomeShare, Whole
from jaxkd.types import Batch, BoxCode, Detections, Features, Predictions, Regions, Term, Traits

LIKE = {
    "torchvision": {
        "rpn": {"smooth_l1_beta": 1 / 9, "post_nms_train": 2000},
        "head": {"smooth_l1_beta": 1 / 9},
        "compat": {
            "anchor_step": "canvas",
            "anchor_rounded": True,
            "roi_align_aligned": False,
            "padding": "seen",
        },
    },
    # In both, a sampling ratio of 0 means adaptive sampling; here 6 is its upper limit.
    "detectron2": {
        "pooling": {"sampling_ratio": 6},
        "pixels": parts.CAFFE_PIXELS,
        "compat": {"roi_align_adaptive": True, "padding": "seen"},
    },
    "mmdetection": {
        "pooling": {"sampling_ratio": 6},
        "compat": {"roi_align_adaptive": True, "padding": "seen"},
    },
}
ONLY_WITH = {  # fields that do nothing unless another one is so; see `train.unused`
    "head.norm": ("head.convs", True),
    "head.groups": ("head.convs", True),
}


@dataclass(frozen=True)
class RPN:
    """The region proposal network: its head, its targets, its losses and its proposals."""

    depth: Count = 1
    """3x3 convolutions of the head."""
    positive_iou: SomeShare = 0.7
    """IoU from which an anchor is positive."""
    negative_iou: Share = 0.3
    """IoU below which an anchor is background."""
    samples: Count = 256
    """Anchors of a picture that are sampled for the losses."""
    positive_fraction: Share = 0.5
    """Largest share of positives among these."""
    nms: Share = 0.7
    """IoU above which the lower scored of two proposals of a level is suppressed."""
    min_size: NonNegative = 0.001
    """Side in pixels below which a proposal is dropped."""
    pre_nms_train: Count = 2000
    """Proposals of a level before the suppression, in training."""
    pre_nms_test: Count = 1000
    """Proposals of a level before the suppression, in `detect`."""
    post_nms_train: Count = 1000
    """Proposals of a picture after the suppression, in training."""
    post_nms_test: Count = 1000
    """Proposals of a picture after the suppression, in `detect`."""
    box_weights: parts.BoxWeights = (1.0, 1.0, 1.0, 1.0)
    """Factors on the deltas dx, dy, dw and dh."""
    smooth_l1_beta: NonNegative = 0.0
    """Difference at which smooth L1 becomes linear; 0 is L1."""
    box_loss_weight: NonNegative = 1.0
    """Factor on the box loss."""


@dataclass(frozen=True)
class RoIs:
    """The regions that are sampled from proposals and truth for the head."""

    positive_iou: SomeShare = 0.5
    """IoU from which a region is positive."""
    negative_iou: Share = 0.5
    """IoU below which a region is background."""
    samples: Count = 512
    """Regions of a picture."""
    positive_fraction: Share = 0.25
    """Largest share of positives among these."""


@dataclass(frozen=True)
class RoIPooling:
    """From the levels to the grid of a region; see `ops.roi_align`."""

    resolution: Count = 7
    """Bins on a side of the grid."""
    sampling_ratio: Count = 2
    """Samples on a side of a bin; with `compat.roi_align_adaptive` the most of them."""
    canonical_scale: Positive = 224.0
    """Side in pixels of a square box that is pooled from `canonical_level`."""
    canonical_level: Whole = 4
    """Number of that level; its stride is 2^canonical_level."""


@dataclass(frozen=True)
class Head:
    """The box head: its layers, its box code and its box loss."""

    convs: Natural = 0
    """3x3 convolutions, as wide as the pyramid."""
    dense: Count = 2
    """Dense layers after them."""
    hidden: Count = 1024
    """Width of the dense layers."""
    norm: Literal["frozen_batch", "group", "bias"] = "group"
    """Norm after each convolution."""
    groups: Count = 32
    """Number of groups of "group" norm."""
    class_agnostic: bool = False
    """Class-agnostic box regression: one box for all classes."""
    box_weights: parts.BoxWeights = (10.0, 10.0, 5.0, 5.0)
    """Factors on the deltas dx, dy, dw and dh."""
    smooth_l1_beta: NonNegative = 0.0
    """Difference at which smooth L1 becomes linear; 0 is L1."""
    box_loss_weight: NonNegative = 1.0
    """Factor on the box loss."""


@dataclass(frozen=True)
class Compat(parts.Compat):
    """What only imitates another library, RoIAlign included."""

    roi_align_adaptive: bool = False
    """Adaptive sampling: as many samples as a bin has cells, up to the sampling ratio (detectron2, mmdetection)."""
    roi_align_aligned: bool = True
    """Pixel centres at .5, the `aligned=True` of other libraries; torchvision's detectors have False."""


@dataclass(frozen=True)
class Config:
    """Faster R-CNN; the defaults are the common COCO recipe."""

    backbone: Any = field(default_factory=resnet.Config)
    """A component of `nets` that gives four levels."""
    neck: Any = field(default_factory=fpn.Config)
    """A component of `nets`: the neck, by default a feature pyramid."""
    anchors: parts.Anchors = field(default_factory=parts.Anchors)
    """The anchors of the region proposal network."""
    rpn: RPN = field(default_factory=RPN)
    """The region proposal network."""
    rois: RoIs = field(default_factory=RoIs)
    """The regions on which the head is trained."""
    pooling: RoIPooling = field(default_factory=RoIPooling)
    """RoIAlign."""
    head: Head = field(default_factory=Head)
    """The box head."""
    postprocess: parts.Postprocess = field(default_factory=parts.Postprocess)
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


def build(config: Config, *, classes: Sequence[str]) -> "FasterRCNN":
    """The detector for these classes.

    Raises ConfigError where the anchors do not fit the pyramid's levels, or thresholds are out of order.
    """
    detector = FasterRCNN(config, tuple(classes))
    detector.check(("rpn.negative_iou", "rpn.positive_iou"), ("rois.negative_iou", "rois.positive_iou"))
    return detector


@dataclass(frozen=True)
class FasterRCNN(AnchorBased):
    """The detector as functions of its parameters; see `detectors.base` for the protocol."""

    config: Config

    @functools.cached_property
    def traits(self) -> Traits:
        """The constants that methods may need."""
        code = BoxCode(weights=self.config.head.box_weights)
        return self.common_traits("box_predictions", box_code=code, background=len(self.classes), anchors=None)

    def init_heads(self, key: Key[Array, ""]) -> Params:
        """Random parameters of the region proposal network and the box head."""
        side = self.config.pooling.resolution
        pooled = jnp.zeros((1, side, side, self.neck_channels))
        level, valid = jnp.zeros((1, 2, 2, self.neck_channels)), jnp.ones((1, 2, 2, 1))
        return {
            "rpn": self._rpn.init(jax.random.fold_in(key, 2), level, valid)["params"],
            "head": self._head.init(jax.random.fold_in(key, 3), pooled)["params"],
        }

    def sample_regions(
        self, params: Params, features: Features, batch: Batch, keys: Key[Array, "b"], *, stage: Stage = "sampled"
    ) -> tuple[Regions, dict[str, Term]]:
        """Regions sampled from proposals and truth (or the best proposals), and the losses of the proposal network."""
        rpn = self.config.rpn
        anchors, logits, deltas = self._rpn_predictions(params, features, batch)
        proposals = self._propose(anchors, logits, deltas, batch, before=rpn.pre_nms_train, after=rpn.post_nms_train)
        rpn_keys, roi_keys = (jax.vmap(jax.random.fold_in, (0, None))(keys, index) for index in (0, 1))
        terms = self._rpn_losses(anchors, logits, deltas, batch, rpn_keys)
        select = self._sampled_regions if stage == "sampled" else self._top_proposals
        return select(proposals, batch, roi_keys), terms

    def predict(self, params: Params, features: Features, boxes: Float[Array, "b r 4"], batch: Batch) -> Predictions:
        """Class logits [b r k+1], background last, and box deltas [b r m 4] of any boxes."""
        strides = tuple(stride for stride in self.traits.strides if stride <= max(self.traits.backbone_strides))
        pooled = roi_align_batch(
            features.neck[: len(strides)],
            boxes,
            strides=strides,
            extents=self.extents(batch),
            pooling=self._pooling,
        )
        b, r = pooled.shape[:2]
        logits, deltas = apply(self._head, params["head"], pooled.reshape(b * r, *pooled.shape[2:]))
        return Predictions(logits=logits.reshape(b, r, -1), deltas=deltas.reshape(b, r, -1, 4))

    def losses(self, predictions: Predictions, regions: Regions) -> dict[str, Term]:
        """Cross-entropy over the valid regions and L1 over the positive ones, both divided by the valid."""
        head = self.config.head
        count = regions.count(regions.valid)
        classes = optax.softmax_cross_entropy_with_integer_labels(predictions.logits, regions.labels)
        deltas = box_ops.of_class(predictions.deltas, regions.labels)
        boxes = box_ops.smooth_l1(deltas - regions.deltas, beta=head.smooth_l1_beta).sum(-1)
        return {
            "class": Term(regions.total(classes, regions.valid), count),
            "box": Term(head.box_loss_weight * regions.total(boxes, regions.positive), count),
        }

    def detect(self, params: Params, batch: Batch) -> Detections:
        """Boxes with a score over the threshold after suppression class by class, best first."""
        rpn = self.config.rpn
        features = self.features(params, batch)
        anchors, logits, deltas = self._rpn_predictions(params, features, batch)
        proposals = self._propose(anchors, logits, deltas, batch, before=rpn.pre_nms_test, after=rpn.post_nms_test)
        predictions = self.predict(params, features, proposals.boxes, batch)
        return jax.vmap(self._detections)(predictions, proposals.boxes, proposals.valid, batch.sizes)

    @functools.cached_property
    def _pooling(self) -> Pooling:
        config = self.config
        return Pooling(
            resolution=config.pooling.resolution,
            sampling_ratio=config.pooling.sampling_ratio,
            adaptive=config.compat.roi_align_adaptive,
            aligned=config.compat.roi_align_aligned,
            canonical_scale=config.pooling.canonical_scale,
            canonical_level=config.pooling.canonical_level,
            first_level=int(math.log2(self.traits.strides[0])),
        )

    @functools.cached_property
    def _rpn(self) -> RPNHead:
        config = self.config
        return RPNHead(
            self.neck_channels,
            anchors=config.anchors.octaves * len(config.anchors.ratios),
            depth=config.rpn.depth,
            dtype=config.dtype,
        )

    @functools.cached_property
    def _head(self) -> BoxHead:
        classes, head = len(self.classes), self.config.head
        return BoxHead(
            classes + 1,
            1 if head.class_agnostic else classes,
            convs=head.convs,
            dense=head.dense,
            hidden=head.hidden,
            norm=head.norm,
            groups=head.groups,
            dtype=self.config.dtype,
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
        anchors = self.anchors(features, batch, sizes=self.config.anchors.of_levels())
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
        rpn = self.config.rpn
        matches, within = self.match_anchors(anchors, batch, positive=rpn.positive_iou, negative=rpn.negative_iou)
        sampled = sample(
            key,
            positive=matches.positive & within,
            negative=matches.negative & within,
            size=rpn.samples,
            fraction=rpn.positive_fraction,
            ids=anchors.ids,
        )
        index = sampled.index
        weights = truth_weights(batch, matches.truth[index], sampled.positive)
        count = (sampled.valid if weights is None else sampled.valid * weights).sum().astype(jnp.float32)
        objectness = optax.sigmoid_binary_cross_entropy(logits[index], sampled.positive.astype(jnp.float32))
        targets = box_ops.encode(batch.boxes[matches.truth[index]], anchors.boxes[index], weights=rpn.box_weights)
        boxes = box_ops.smooth_l1(deltas[index] - targets, beta=rpn.smooth_l1_beta).sum(-1)
        if weights is not None:
            objectness, boxes = objectness * weights, boxes * weights
        return {
            "rpn_object": Term(jnp.where(sampled.valid, objectness, 0.0).sum(), count),
            "rpn_box": Term(rpn.box_loss_weight * jnp.where(sampled.positive, boxes, 0.0).sum(), count),
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
        rpn = self.config.rpn
        return propose(
            anchors,
            logits,
            deltas,
            batch.sizes,
            extents=self.extents(batch),
            weights=rpn.box_weights,
            before=before,
            after=after,
            threshold=rpn.nms,
            min_size=rpn.min_size,
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
                size=self.config.rois.samples,
                fraction=self.config.rois.positive_fraction,
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

        count = self.config.rois.samples
        return jax.vmap(label_one)(proposals.boxes[:, :count], proposals.valid[:, :count], batch)

    def _matches(self, boxes: Float[Array, "p 4"], batch: Batch) -> Matches:
        return match(
            boxes,
            batch.boxes,
            valid=batch.valid,
            crowd=batch.crowd,
            positive=self.config.rois.positive_iou,
            negative=self.config.rois.negative_iou,
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
        deltas = box_ops.encode(batch.boxes[truth], boxes, weights=self.config.head.box_weights)
        return Regions(
            boxes=jnp.where(valid[:, None], boxes, 0.0),
            labels=jnp.where(positive, batch.labels[truth], len(self.classes)).astype(jnp.int32),
            deltas=jnp.where(positive[:, None], deltas, 0.0),
            truth=truth,
            positive=positive,
            valid=valid,
            weights=truth_weights(batch, truth, positive),
        )

    def _detections(
        self, predictions: Predictions, proposals: Float[Array, "p 4"], valid: Bool[Array, "p"], size: Int[Array, "2"]
    ) -> Detections:
        """Detections of one picture."""
        postprocess, classes = self.config.postprocess, len(self.classes)
        scores = jax.nn.softmax(predictions.logits, axis=-1)[:, :classes]
        scores = jnp.where(valid[:, None] & (scores > postprocess.score_threshold), scores, -1.0)
        scores, best = jax.lax.top_k(scores.reshape(-1), min(postprocess.candidates, scores.size))
        proposal, label = best // classes, (best % classes).astype(jnp.int32)
        deltas = box_ops.of_class(predictions.deltas[proposal], label)
        weights = self.config.head.box_weights
        boxes = box_ops.clip(box_ops.decode(deltas, proposals[proposal], weights=weights), size)
        return best_of(
            boxes,
            scores,
            label,
            valid=scores > 0,
            threshold=postprocess.nms,
            limit=postprocess.max_detections,
        )

"""FCOS: one stage without anchors, the distances from points to the sides of their boxes (Tian et al. 2019).

arXiv 1904.01355; the defaults are the improvements of its second version, arXiv 2006.09214: only points near the centre
of an object are positive, distances are in strides, and centre-ness is predicted beside the boxes.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import optax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Key

from jaxkd.detectors import dense, parts
from jaxkd.detectors.base import Params, Stage
from jaxkd.errors import ConfigError
from jaxkd.nets import fpn, resnet
from jaxkd.nets.dense_head import Output, logit
from jaxkd.nets.remat import Remat
from jaxkd.ops import box_codes, points
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.anchors import Anchors, inside
from jaxkd.ranges import NonNegative, Share
from jaxkd.types import Batch, BoxCode, Features, Predictions, Regions, Term, Traits

LIKE = {
    "torchvision": {
        "points": {"offset": 0.0},
        "assignment": {"closed": False},
        "head": {"bias": True, "level_scales": False},
        "loss": {"box_weighting": False},
        "postprocess": {"score": "root", "score_threshold": 0.2},
        "compat": {"anchor_step": "canvas", "padding": "seen"},
    },
    "mmdetection": {"head": {"bias": True}, "compat": {"padding": "seen"}},
}
ONLY_WITH = parts.HEAD_ONLY_WITH | {  # fields that do nothing unless another one is so; see `train.unused`
    "head.bias": ("head.norm", ("group", "frozen_batch")),
}
LEAST_CENTERNESS = 1e-6  # lower bound of the sum of centre-ness by which box losses are divided
LEAST_IOU = 1e-6  # below which the logarithm of an IoU has no gradient
MOST_PIXELS = 1e5  # the largest distance that "exp" gives


@dataclass(frozen=True)
class Points:
    """The points: one for each cell."""

    offset: Share = 0.5
    """Where in its cell a point lies; 0.5 is the middle."""


@dataclass(frozen=True)
class Assignment:
    """Which points are objects."""

    radius: NonNegative = 1.5
    """Distance from an object's centre, by rows and by columns, below which points are positive, in strides; 0: all
    points inside its box."""
    closed: bool = True
    """Whether both ends of a level's range of sizes belong to it, so that an object can be on two levels."""


@dataclass(frozen=True)
class Head(parts.Head):
    """The head, with distances to the sides of boxes, and centre-ness."""

    bias: bool = False
    """A bias of the towers' convolutions beside a norm, which has one of its own."""
    box_activation: Literal["relu", "exp"] = "relu"
    """From outputs to distances: 0 or more in strides, or as in the paper's first version the exponential in pixels."""
    centerness_tower: Literal["class", "box"] = "box"
    """The tower from which centre-ness is predicted; "class" in the paper's first version."""


@dataclass(frozen=True)
class Loss:
    """The focal loss of classes, and the losses of boxes and of centre-ness."""

    focal_alpha: Share = 0.25
    """Weight of positives; negatives have the rest up to 1."""
    focal_gamma: NonNegative = 2.0
    """Exponent by which easy points lose weight."""
    box_loss: Literal["giou", "iou"] = "giou"
    """Of positives: 1 - generalized IoU of the box and the truth, or as in the paper's first version -ln IoU."""
    box_loss_weight: NonNegative = 1.0
    """Factor on the box loss."""
    box_weighting: bool = True
    """Whether the box loss is a mean weighted by the points' centre-ness."""
    centerness_weight: NonNegative = 1.0
    """Factor on the loss of centre-ness."""


@dataclass(frozen=True)
class Postprocess(parts.Postprocess):
    """From predictions to detections."""

    score: Literal["product", "root"] = "product"
    """Score of a box: the class probability times its centre-ness, with the threshold and the limit of candidates on
    the class probability; or the root of that product, with both on the root."""


@dataclass(frozen=True)
class Config:
    """FCOS; the defaults are the common COCO recipe with the improvements of the paper's second version."""

    backbone: Any = field(default_factory=resnet.Config)
    """A component of `nets` that gives four levels."""
    neck: Any = field(default_factory=lambda: fpn.Config(first=1, extra="conv_p5", extra_relu=True))
    """A component of `nets`: the neck, by default a feature pyramid P3 to P7 with both extra levels from P5."""
    points: Points = field(default_factory=Points)
    """The points, for each of which the head predicts."""
    assignment: Assignment = field(default_factory=Assignment)
    """From points and truth to targets."""
    head: Head = field(default_factory=Head)
    """The head."""
    loss: Loss = field(default_factory=Loss)
    """The losses."""
    postprocess: Postprocess = field(default_factory=lambda: Postprocess(candidates=1000, nms=0.6))
    """From predictions to detections."""
    pixels: parts.Pixels = field(default_factory=parts.Pixels)
    """Normalisation of the pictures."""
    compat: parts.Spacing = field(default_factory=parts.Spacing)
    """What only imitates another library."""
    frozen_stages: parts.Stages = -1
    """Backbone stages that are not trained: -1 none, 0 the stem, 1 the stem and the first, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which all nets compute; parameters, norms' statistics, boxes, predictions and losses are float32."""
    remat: Remat = "none"
    """Rematerialisation of the backbone's blocks: less memory, more time; see `nets.remat`."""


def build(config: Config, *, classes: Sequence[str]) -> "FCOS":
    """The detector for these classes.

    Raises ConfigError where the neck has levels of several widths that are to share a head, and for a separable head
    without norms or with biases beside them.
    """
    detector = FCOS(config, tuple(classes))
    detector.check_head()
    if config.head.separable and config.head.bias:
        raise ConfigError("head.bias is for full convolutions, and those of head.separable have none; leave one out.")
    return detector


@dataclass(frozen=True)
class FCOS(dense.DenseDetector):
    """The detector as functions of its parameters; see `detectors.base` for the protocol."""

    config: Config

    @functools.cached_property
    def traits(self) -> Traits:
        """The constants that methods may need."""
        return self.common_traits(
            "anchor_predictions",
            box_code=BoxCode("sides", strides=1.0),
            background=None,
            anchors=("points", self.feature_extractor.strides, self.config.points.offset, self.config.compat.step),
        )

    def sample_regions(
        self, params: Params, features: Features, batch: Batch, keys: Key[Array, "b"], *, stage: Stage = "sampled"
    ) -> tuple[Regions, dict[str, Term]]:
        """Squares of a stride around every point with their targets, at either stage, and no losses of proposing."""
        del params, keys, stage
        anchors = self._anchors(features, batch)
        return jax.vmap(self._assign_targets, (anchors.axes, 0))(anchors, batch), {}

    def predict(self, params: Params, features: Features, boxes: Float[Array, "b r 4"], batch: Batch) -> Predictions:
        """Class logits [b a k], distances [b a 1 4] to the sides in strides, and centre-ness [b a] as `quality`.

        `boxes` are the squares around the points. Raises ValueError where they cannot be; see Traits.anchors.
        """
        levels = self._predict_levels(params, features, batch)
        logits, sides, quality = (jnp.concatenate(parts, axis=1) for parts in zip(*levels, strict=True))
        dense.check_anchors("FCOS", asked=boxes.shape[1], anchors=logits.shape[1])
        return Predictions(logits=logits, deltas=sides[:, :, None], quality=quality)

    def losses(self, predictions: Predictions, regions: Regions) -> dict[str, Term]:
        """Focal loss of all valid points, and losses of box and centre-ness of the positive ones.

        All are divided by the positives, but for a box loss that is weighted by centre-ness: that by the sum of it.
        """
        loss, positive = self.config.loss, regions.positive
        count, centerness = regions.count(positive), points.centerness(regions.deltas)
        classes = dense.focal_losses(predictions.logits, regions.labels, alpha=loss.focal_alpha, gamma=loss.focal_gamma)
        quality = optax.sigmoid_binary_cross_entropy(predictions.quality, centerness)
        boxes = loss.box_loss_weight * self._box_losses(predictions.deltas[:, :, 0], regions)
        if loss.box_weighting:
            weight = regions.total(centerness, positive)
            box = Term(regions.total(boxes * centerness, positive), weight, least=LEAST_CENTERNESS)
        else:
            box = Term(regions.total(boxes, positive), count, least=1.0)
        return {
            "class": Term(regions.total(classes, regions.valid), count, least=1.0),
            "box": box,
            "centerness": Term(loss.centerness_weight * regions.total(quality, positive), count, least=1.0),
        }

    def _box_losses(self, sides: Float[Array, "b a 4"], regions: Regions) -> Float[Array, "b a"]:
        """The box loss of each point, as if it were positive."""
        boxes, truth = (box_codes.decode(self.traits.box_code, of, regions.boxes) for of in (sides, regions.deltas))
        if self.config.loss.box_loss == "giou":
            return 1.0 - box_ops.generalized_iou(boxes, truth)
        return -jnp.log(jnp.maximum(box_ops.paired_iou(boxes, truth), LEAST_IOU))

    def candidates(self, params: Params, features: Features, batch: Batch) -> Iterator[dense.Level]:
        """The points of each level with their scores."""
        anchors = self._anchors(features, batch)
        within = jax.vmap(inside, (anchors.axes, 0))(anchors, self.extents(batch))
        scored = (self._scored(*level) for level in self._predict_levels(params, features, batch))
        decode = functools.partial(box_codes.decode, self.traits.box_code)
        return dense.candidates_of(scored, anchors, within=within, decode=decode)

    def _scored(
        self, logits: Float[Array, "b a k"], sides: Float[Array, "b a 4"], quality: Float[Array, "b a"]
    ) -> dense.Scored:
        """The scores of a level's points; with "product" centre-ness is a factor once the best are selected."""
        classes, centerness = jax.nn.sigmoid(logits), jax.nn.sigmoid(quality)
        if self.config.postprocess.score == "product":
            return dense.Scored(classes, sides, centerness)
        return dense.Scored(jnp.sqrt(classes * centerness[..., None]), sides)

    def _predict_levels(
        self, params: Params, features: Features, batch: Batch
    ) -> Iterator[tuple[Float[Array, "b _ k"], Float[Array, "b _ 4"], Float[Array, "b _"]]]:
        """For each level the class logits of its points, the distances to their sides, and centre-ness logits."""
        strides = self.feature_extractor.strides
        outputs = self.dense_head.outputs(params["head"], features, self.extents(batch), strides=strides)
        for level, stride in zip(outputs, strides, strict=True):
            yield (
                dense.by_anchor(level["logits"], len(self.classes)),
                self._distances(dense.by_anchor(level["deltas"], 4), stride=stride),
                dense.by_anchor(level["quality"], 1)[..., 0],
            )

    def _distances(self, numbers: Float[Array, "b a 4"], *, stride: int) -> Float[Array, "b a 4"]:
        """The distances to the sides in strides, 0 or more, of the head's numbers."""
        if self.config.head.box_activation == "relu":
            return jax.nn.relu(numbers)
        return jnp.exp(jnp.minimum(numbers, math.log(MOST_PIXELS))) / stride

    @functools.cached_property
    def dense_head(self) -> dense.PyramidHead:
        """The head."""
        head = self.config.head
        outputs = (
            Output("logits", len(self.classes), tower="class", bias=(logit(head.prior),)),
            Output("deltas", 4, tower="box"),
            Output("quality", 1, tower=head.centerness_tower),
        )
        return dense.pyramid_head(head, outputs, scaled="deltas", bias=head.bias, dtype=self.config.dtype)

    def _anchors(self, features: Features, batch: Batch) -> Anchors:
        """Squares of a stride around the points of every level."""
        sizes = [(float(stride),) for stride in self.feature_extractor.strides]
        return self.spaced_anchors(features, batch, sizes=sizes, ratios=(1.0,), offset=self.config.points.offset)

    def _assign_targets(self, anchors: Anchors, batch: Batch) -> Regions:
        """The points of one picture with their targets; `anchors` and `batch` without their leading axes."""
        assignment, strides = self.config.assignment, self.feature_extractor.strides
        matches, distances = points.assign(
            anchors,
            batch.boxes,
            rule=points.Rule(strides, radius=assignment.radius or None, closed=assignment.closed),
            size=self.extents(batch),
            valid=batch.valid,
            crowd=batch.crowd,
        )
        sides = distances / jnp.asarray(strides, jnp.float32)[anchors.levels, None]
        return dense.targets(batch, matches, boxes=anchors.boxes, deltas=sides, background=len(self.classes))

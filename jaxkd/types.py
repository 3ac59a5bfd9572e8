"""The records that data, detectors, distillation methods and the training step exchange.

Every record is a pytree. Letters in the shapes: b image, g truth, r region, k class, d detection, c channel, h w.
Boxes are (x0, y0, x1, y1) in pixels of the padded picture, half-open, float32.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

from flax import struct
from jax import numpy as jnp

Array = Any  # of jax or numpy; while a tree is mapped, also a shape, a sharding or None in its place
Capability = Literal[
    "features",  # feature maps
    "box_predictions",  # predictions for any boxes, and regions of its own
    "anchor_predictions",  # predictions for its own anchors or points alone, which are its regions
    "query_predictions",  # predictions for queries alone, its own and those of other detectors with queries
    "detections",  # final detections
    "head",  # its head can be run on other feature maps
    "box_distributions",  # distributions of a box's sides
]


class BoxCode(NamedTuple):
    """What the four numbers of `Predictions.deltas` say of a box; see `ops.box_codes`."""

    kind: Literal["deltas", "sides"] = "deltas"  # shifts and ratios; or distances left, top, right and bottom
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)  # of "deltas": factors on dx, dy, dw and dh
    strides: float = 1.0  # of "sides": a region's side in strides of its level, which are the unit of distances


DELTAS = BoxCode()


class TeacherView(struct.PyTreeNode):
    """The pictures of a batch on the teacher's own canvas."""

    images: Array  # [b H W 3] uint8 RGB; black outside the picture
    sizes: Array  # [b 2] int32: height and width of the picture in this canvas
    scales: Array  # [b 2] float32: (y, x) factors from pixels of the student's canvas to those of this one

    def from_student(self, boxes: Array) -> Array:
        """Boxes [b n 4] of the student's canvas, in pixels of this one."""
        return boxes * self._factors

    def to_student(self, boxes: Array) -> Array:
        """Boxes [b n 4] of this canvas, in pixels of the student's."""
        return boxes / self._factors

    @property
    def _factors(self) -> Array:
        """[b 1 4], for (x0, y0, x1, y1)."""
        return jnp.concatenate([self.scales[:, None, ::-1]] * 2, axis=-1)


class Batch(struct.PyTreeNode):
    """Pictures of one bucket with their ground truth, padded to static sizes."""

    images: Array  # [b H W 3] uint8 RGB; black outside the picture
    sizes: Array  # [b 2] int32: height and width of the picture in its canvas (its extent)
    boxes: Array  # [b g 4] float32
    labels: Array  # [b g] int32: index into the class list
    valid: Array  # [b g] bool: a real object
    crowd: Array  # [b g] bool: a region in which nothing counts as background; never also valid
    ids: Array  # [b] int32: the picture's index in its source
    scales: Array  # [b 2] float32: (y, x) factors from the original picture to this one
    real: Array  # [b] bool: False for a repeated picture that fills the last batch of an evaluation
    teacher: TeacherView | None = None  # None where the teacher sees the same canvas
    further: dict[str, TeacherView] = struct.field(default_factory=dict)  # of other teachers with a canvas, by name
    detections: Any = None  # Detections with the teacher's labels, of a teacher that is a file of them; else None
    weights: Array | None = None  # [b g] float32: what an object counts that a teacher found; None where all count 1

    def for_teacher(self, name: str) -> "Batch":
        """The batch with the canvas of one teacher alone, as `teacher`; the name "" is that of `config.teacher`."""
        return self.replace(teacher=self.further.get(name) if name else self.teacher, further={})

    def as_teacher_sees(self) -> "Batch":
        """The batch on the teacher's canvas, with truth in its pixels; this one where that is the same canvas."""
        if self.teacher is None:
            return self
        view = self.teacher
        return self.replace(
            images=view.images,
            sizes=view.sizes,
            boxes=view.from_student(self.boxes),
            scales=self.scales * view.scales,
            teacher=None,
            further={},
            detections=self.detections and self.detections.replace(boxes=view.from_student(self.detections.boxes)),
        )


class Regions(struct.PyTreeNode):
    """The boxes that teacher and student both predict for, with their assignment to the ground truth."""

    boxes: Array  # [b r 4] float32; no gradient flows through them
    labels: Array  # [b r] int32: class of the matched truth; the number of classes for background
    deltas: Array  # [b r 4] float32: targets in `Traits.box_code`, zero where not positive
    truth: Array  # [b r] int32: index of the matched truth in the batch
    positive: Array  # [b r] bool
    valid: Array  # [b r] bool: positive or background; False for padding and for regions to ignore
    weights: Array | None = None  # [b r] float32: of the matched truth, 1 for background; None where all count 1
    queries: Any = None  # of a detector whose regions are queries, what these start from; for that detector alone

    def total(self, losses: Array, mask: Array) -> Array:
        """The sum of the losses [b r] of the regions in a mask [b r], each times its weight."""
        losses = jnp.where(mask, losses, 0.0)
        return losses.sum() if self.weights is None else (losses * self.weights).sum()

    def count(self, mask: Array) -> Array:
        """The number of the regions in a mask [b r], each counted with its weight; float32."""
        return (mask if self.weights is None else mask * self.weights).sum().astype(jnp.float32)


class Predictions(struct.PyTreeNode):
    """The predictions of a head for regions."""

    logits: Array  # [b r k] float32; with a background column where `Traits.background` is set
    deltas: Array  # [b r m 4] float32 in `Traits.box_code`: m is the number of classes, or 1 if all share one box
    distributions: Any = None  # [b r 4 n + 1] float32: logits of each side's distance being 0 to n; else None
    quality: Any = None  # [b r] float32: logits of how good each box is; else None
    layers: Any = None  # of a detector with queries, what each layer of its decoder says, for its own losses; else None


class Features(struct.PyTreeNode):
    """The feature maps of a batch, finest level first, zero outside what the nets see of the canvas."""

    backbone: tuple[Array, ...]  # input of the neck, levels of [b h w c]
    neck: tuple[Array, ...]  # the feature pyramid, levels of [b h w c]
    # Whether they are of training, so that batch norms of heads take the statistics of the batch as well.
    training: bool = struct.field(pytree_node=False, default=False)


class DetectorOutputs(struct.PyTreeNode):
    """One detector's outputs on one batch, as distillation methods get them."""

    features: Any  # Features; None where the teacher gives none
    predictions: Any  # Predictions; None where the detector cannot predict for the other's regions
    traits: "Traits" = struct.field(pytree_node=False)
    detections: Any = None  # Detections with the student's labels, of a teacher of which a method needs them; else None


@dataclasses.dataclass(frozen=True)
class Traits:
    """The constants of a detector that a method may need; by default those of one without levels and box code."""

    classes: tuple[str, ...]
    capabilities: frozenset[Capability]  # what the detector gives; see `detectors.base` for the functions of each
    strides: tuple[int, ...] = ()  # of the neck's levels
    channels: tuple[int, ...] = ()  # of the neck's levels
    backbone_strides: tuple[int, ...] = ()
    backbone_channels: tuple[int, ...] = ()
    box_code: BoxCode = DELTAS  # of `Predictions.deltas`
    background: int | None = None  # column of `Predictions.logits`; None where classes are independent
    anchors: tuple | None = None  # a description of its anchors, where it predicts for these alone


class Reliability(struct.PyTreeNode):
    """The reliability of each object by one method, as a weight for the terms of another method; 1 is full."""

    regions: Array  # [b r] float32, 1 where a region is not positive
    maps: dict[int, Array]  # by stride of a neck's level [b h w] float32, 1 where there is no object


class Inputs(struct.PyTreeNode):
    """The inputs of a distillation method: both detectors' outputs on the same regions of one batch."""

    student: DetectorOutputs
    teacher: DetectorOutputs  # without gradients
    regions: Regions
    batch: Batch
    memory: Any = None  # rebuilt between epochs, such as prototypes; None where the method has no memory
    key: Array = None  # [] the random key of this step and this method; None outside of training
    reliability: Reliability | None = None  # of the method in `reliability_from`; None where all weights are 1


class Term(struct.PyTreeNode):
    """A sum and its divisor, kept apart so that both are summed over devices before the division."""

    total: Array  # [] float32
    count: Array  # [] float32
    least: float = struct.field(pytree_node=False, default=0.0)  # lower bound of the divisor

    def mean(self) -> Array:
        """The total over the count, and 0 where the count is 0."""
        count = jnp.maximum(self.count, self.least) if self.least else self.count
        return jnp.where(count > 0, self.total / jnp.where(count > 0, count, 1.0), 0.0)


class Losses(struct.PyTreeNode):
    """The losses of a detector or a method: terms that are minimised, and metrics that are only reported."""

    terms: dict[str, Term]
    metrics: dict[str, Term]
    undecayed: dict[str, Term] = struct.field(default_factory=dict)  # terms that are minimised and never decay


class Explanation(struct.PyTreeNode):
    """What a method weights and selects on a batch, to be drawn."""

    masks: dict[str, Array]  # by name [b h w] in [0, 1]: the weight of each cell of a level
    gates: dict[str, Array]  # by name [b r] bool: the positive regions that pass a gate
    captions: tuple[tuple[str, str], ...] = struct.field(pytree_node=False, default=())  # (prefix of names, caption)
    empty: str = struct.field(pytree_node=False, default="no cell counts")  # caption of a level whose mask is all 0


class Detections(struct.PyTreeNode):
    """The detections of a detector, best first, padded to a static number."""

    boxes: Array  # [b d 4] float32, in pixels of the padded picture
    scores: Array  # [b d] float32
    labels: Array  # [b d] int32
    valid: Array  # [b d] bool
    # [b d k] float32: scores of each of the student's classes, below 0 where nothing is said of one; None for none.
    class_scores: Any = None

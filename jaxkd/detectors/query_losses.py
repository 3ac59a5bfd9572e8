"""Losses of detectors with queries: every layer of the decoder is matched with the truth, one query to an object.

Sources: Carion et al. 2020, DETR (arXiv 2005.12872); Zhao et al. 2024, RT-DETR (arXiv 2304.08069), section 4.3. Boxes
are (centre x, centre y, width, height) in shares of the canvas's sides.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxkd.nets.query_decoder import Layers, Outputs
from jaxkd.ops import boxes as box_ops
from jaxkd.ops import query_matching
from jaxkd.ops.denoising import KINDS
from jaxkd.ops.varifocal import varifocal_loss
from jaxkd.ranges import NonNegative
from jaxkd.types import Batch, Term

ENCODER, DENOISING = "encoder", "denoising"  # in names of terms, where others have the number of a layer


@dataclass(frozen=True)
class Loss:
    """The losses of every layer and of the encoder's choice; the defaults are those of the paper."""

    class_weight: NonNegative = 1.0
    """Factor on the class loss."""
    l1_weight: NonNegative = 5.0
    """Factor on the distance of boxes."""
    giou_weight: NonNegative = 2.0
    """Factor on 1 - generalized IoU."""
    alpha: NonNegative = 0.75
    """Weight of the classes that are not the label, in the varifocal loss."""
    gamma: NonNegative = 2.0
    """Exponent by which those of low probability lose weight."""


class Truth(NamedTuple):
    """The truth of a batch."""

    boxes: Float[Array, "b g 4"]
    labels: Int[Array, "b g"]
    valid: Bool[Array, "b g"]
    crowd: Bool[Array, "b g"]
    weights: Float[Array, "b g"]  # what each object counts, 0 where not valid

    @property
    def count(self) -> Float[Array, ""]:
        """The number of objects, each counted with its weight."""
        return self.weights.sum()


class Denoised(NamedTuple):
    """What the denoising queries, in front of the others, are to say."""

    truth: Int[Array, "b n"]  # -1 for background
    valid: Bool[Array, "b n"]


class Started(NamedTuple):
    """What a decoder starts from in training: denoising queries, if any, and the selected ones behind them."""

    content: Float[Array, "b n d"]
    boxes: Float[Array, "b n 4"]
    seen: Bool[Array, "b n n"] | None  # which queries each attends to; None for all
    selected: Outputs  # what the encoder says of the selected queries
    truth: Truth
    denoised: Denoised | None


class Pairs(NamedTuple):
    """The truth of each query."""

    positive: Bool[Array, "b q"]  # whether it has one
    boxes: Float[Array, "b q 4"]
    labels: Int[Array, "b q"]  # the number of classes where it has none
    weights: Float[Array, "b q"]  # 0 where it has none


class Sums(NamedTuple):
    """The losses of a stage, summed over queries; of several ones with a leading axis."""

    classes: Float[Array, "*s"]
    distance: Float[Array, "*s"]
    overlap: Float[Array, "*s"]


def truth_of(batch: Batch) -> Truth:
    """The truth of a batch; padding is a box of zeros."""
    real = jnp.logical_or(batch.valid, batch.crowd)
    boxes = jnp.where(real[..., None], box_ops.centred(batch.boxes) / box_ops.sides_of(batch.images), 0.0)
    weights = batch.valid * (1.0 if batch.weights is None else batch.weights)
    labels = jnp.where(batch.valid, batch.labels, 0)
    return Truth(boxes, labels, batch.valid, batch.crowd, weights.astype(jnp.float32))


def parted(layers: Layers, started: Started) -> tuple[Layers, Layers]:
    """What the layers say of the denoising queries, and of the selected ones."""
    count = 0 if started.denoised is None else started.denoised.truth.shape[1]

    def part(which: slice) -> Layers:
        by_query = layers._replace(values=None, scale=None)
        cut = jax.tree.map(lambda leaf: leaf[:, which], by_query)
        return cut._replace(values=layers.values, scale=layers.scale)

    return part(slice(count)), part(slice(count, None))


def outputs_of(layers: Layers) -> dict[str, Outputs]:
    """What each layer says, by its number."""
    pairs = zip(layers.logits, layers.boxes, strict=True)
    return {str(index): Outputs(*said) for index, said in enumerate(pairs)}


def stacked(stages: Mapping[str, Outputs]) -> Outputs:
    """What all stages say, with a leading axis of stages."""
    return Outputs(*(jnp.stack(parts) for parts in zip(*stages.values(), strict=True)))


def matched(said: Outputs, truth: Truth) -> Int[Array, "s b q"]:
    """The truth of each query by each stage of a stack, -1 where it has none."""

    def of_picture(said: Outputs, truth: Truth) -> Int[Array, "q"]:
        return query_matching.matched(*said, truth=truth.boxes, labels=truth.labels, valid=truth.valid)

    return jax.vmap(jax.vmap(of_picture), (0, None))(said, truth)


def pairs_of(index: Int[Array, "b q"], truth: Truth, *, classes: int) -> Pairs:
    """The truth of each query by its index, -1 for none."""
    positive = index >= 0
    boxes, labels, weights = (
        jax.vmap(lambda rows, places: rows[places])(rows, jnp.maximum(index, 0))
        for rows in (truth.boxes, truth.labels, truth.weights)
    )
    return Pairs(positive, boxes, jnp.where(positive, labels, classes), jnp.where(positive, weights, 0.0))


def overlaps(said: Outputs, pairs: Pairs) -> Float[Array, "b q"]:
    """The IoU of each query's box with its truth, 0 where it has none; without a gradient."""
    corners = box_ops.corners_of(said.boxes), box_ops.corners_of(pairs.boxes)
    return lax.stop_gradient(jnp.where(pairs.positive, box_ops.paired_iou(*corners), 0.0))


def class_loss(
    said: Outputs, pairs: Pairs, truth: Truth, loss: Loss, valid: Bool[Array, "b q"] | None = None
) -> Float[Array, ""]:
    """The sum of the varifocal losses.

    A query without truth counts only where it is `valid` and not more than half inside of a crowd.
    """
    losses = varifocal_loss(
        said.logits, pairs.labels, quality=overlaps(said, pairs), alpha=loss.alpha, gamma=loss.gamma
    ).sum(-1)
    counted = ~_in_crowd(said.boxes, truth)
    counted = counted if valid is None else counted & valid
    return (losses * jnp.where(pairs.positive, pairs.weights, counted)).sum()


def box_losses(said: Outputs, pairs: Pairs) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The sums over the pairs of the distance of boxes, and of 1 - generalized IoU."""
    distance = jnp.abs(said.boxes - pairs.boxes).sum(-1)
    overlap = box_ops.generalized_iou(box_ops.corners_of(said.boxes), box_ops.corners_of(pairs.boxes))
    return (distance * pairs.weights).sum(), ((1.0 - overlap) * pairs.weights).sum()


def sums_of(
    said: Outputs, pairs: Pairs, truth: Truth, loss: Loss, *, boxes: Pairs | None = None, valid: Array | None = None
) -> Sums:
    """The losses of a stage, of classes by `pairs`, and of boxes by the same or by those in `boxes`."""
    return Sums(class_loss(said, pairs, truth, loss, valid), *box_losses(said, pairs if boxes is None else boxes))


def stage_terms(names: Iterable[str], sums: Sums, loss: Loss, *, count: Array, box_count: Array) -> dict[str, Term]:
    """The terms of stages of these names; `count` and `box_count` are the divisors for classes and boxes."""
    terms = {}
    for index, name in enumerate(names):
        terms |= {
            f"class_{name}": Term(loss.class_weight * sums.classes[index], count),
            f"box_{name}": Term(loss.l1_weight * sums.distance[index], box_count),
            f"giou_{name}": Term(loss.giou_weight * sums.overlap[index], box_count),
        }
    return terms


def denoising_count(started: Started) -> Float[Array, ""]:
    """The number of objects times that of the groups of denoising queries."""
    assert started.denoised is not None
    groups = started.denoised.truth.shape[1] // (KINDS * started.truth.valid.shape[1])
    return started.truth.count * groups


def set_losses(layers: Layers, started: Started, loss: Loss, *, classes: int) -> dict[str, Term]:
    """The terms of RT-DETR: of each layer, of the encoder's choice, and of all layers on denoising queries."""
    denoising, selected = parted(layers, started)
    truth, stages = started.truth, outputs_of(selected) | {ENCODER: started.selected}
    said = stacked(stages)

    def of_stage(said: Outputs, index: Int[Array, "b q"]) -> Sums:
        return sums_of(said, pairs_of(index, truth, classes=classes), truth, loss)

    sums = jax.vmap(of_stage)(said, matched(said, truth))
    terms = stage_terms(stages, sums, loss, count=truth.count, box_count=truth.count)
    if started.denoised is None:
        return terms
    pairs = pairs_of(started.denoised.truth, truth, classes=classes)
    return terms | denoising_terms(outputs_of(denoising), pairs, started, loss)


def denoising_terms(stages: Mapping[str, Outputs], pairs: Pairs, started: Started, loss: Loss) -> dict[str, Term]:
    """The terms of class and box on denoising queries, summed over the stages."""
    assert started.denoised is not None
    valid, count = started.denoised.valid, denoising_count(started)
    sums = jax.vmap(lambda said: sums_of(said, pairs, started.truth, loss, valid=valid))(stacked(stages))
    total = jax.tree.map(lambda parts: parts.sum(keepdims=True), sums)
    return stage_terms([DENOISING], total, loss, count=count, box_count=count)


def _in_crowd(boxes: Float[Array, "b q 4"], truth: Truth) -> Bool[Array, "b q"]:
    """Whether more than half of a box lies in one crowd."""
    corners, crowds = box_ops.corners_of(boxes), box_ops.corners_of(truth.boxes)
    shared = jnp.where(truth.crowd[:, None], jax.vmap(box_ops.intersection)(corners, crowds), 0.0)
    area = box_ops.area(corners)
    return (area > 0) & (shared.max(-1) > 0.5 * area)

"""A teacher's final detections as targets of regions with an object: all that a file, or any detector, can give.

For a positive region whose truth is g, the teacher's box is its detection of g's class with an IoU with g of at least
`overlap`, the best by score times IoU. It pulls the region's box where it overlaps g more than the region does, as
TAR's box term does (Sun et al. 2020, section 5), and the class probability towards its score where that is the greater
one. A file may have the scores of all classes for a detection: these are then targets of all their probabilities. A
region without such a detection, and background, learn from the truth alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxkd.distill import base, gated
from jaxkd.distill.decay import Config as Decay
from jaxkd.ops import box_codes
from jaxkd.ops import boxes as box_ops
from jaxkd.ranges import NonNegative, Share
from jaxkd.types import Inputs, Losses, Term

UNSAID = -1.0  # in place of the score of a class that takes no part


@dataclass(frozen=True)
class Classification:
    """The class term."""

    weight: NonNegative = 1.0
    """Factor on the term; 0 leaves it out."""
    least: Share = 0.5
    """Least target probability of the truth's class: a detection with a lower score counts as one with this."""
    gate: Literal["teacher_better", "none"] = "teacher_better"
    """Regions that learn: where that target is above the student's probability, or all with a detection ("none")."""


@dataclass(frozen=True)
class Box:
    """The box term."""

    weight: NonNegative = 1.0
    """Factor on the term; 0 leaves it out."""
    gate: Literal["teacher_vs_proposal", "none"] = "teacher_vs_proposal"
    """Regions that learn: where the detection overlaps the truth more than the region, or all with one ("none")."""
    beta: NonNegative = 1.0
    """Where smooth L1 turns from a square into a line; 0 for L1."""


@dataclass(frozen=True)
class Config:
    """Detections as targets."""

    overlap: Share = 0.5
    """Least IoU of a detection with the truth that it stands for."""
    classification: Classification = field(default_factory=Classification)
    """The class term."""
    box: Box = field(default_factory=Box)
    """The box term."""
    decay: Decay = field(default_factory=Decay)
    """Factor on the terms over the run; see `distill.decay`."""


region_sources = base.student_regions


def needs(config: Config) -> base.Needs:
    """Detections of the teacher; any student predicts for its own regions."""
    del config
    return base.Needs(student=frozenset(), teacher=frozenset[base.Need]({"detections"}))


init = base.no_parameters


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """The terms class and box, and the shares of positive regions that a detection teaches."""
    del params
    regions = inputs.regions
    best, score = _best(config, inputs)
    teacher_boxes = jnp.take_along_axis(inputs.teacher.detections.boxes, best[..., None], axis=1)
    taught = regions.positive & (score > 0)
    terms, metrics = {}, {"detected": Term(taught.sum() * 1.0, regions.positive.sum() * 1.0)}
    if config.classification.weight:
        terms["class"], metrics["class_gate"] = _class(config.classification, inputs, best, score, taught)
    if config.box.weight:
        terms["box"], metrics["box_gate"] = _box(config.box, inputs, teacher_boxes, taught)
    return Losses(terms=terms, metrics=lax.stop_gradient(metrics))


def zero_reasons(config: Config, metrics: Mapping[str, float]) -> dict[str, str]:
    """Why a term of each kind is 0 in a step with these metrics."""
    del config
    if not metrics.get("detected"):
        return dict.fromkeys(("class", "box"), "no object of the batch has a detection of its class")
    closed = "the detections are no better than {}"
    return {"class": closed.format("the student's classes"), "box": closed.format("the regions")}


def _best(config: Config, inputs: Inputs) -> tuple[Int[Array, "b r"], Float[Array, "b r"]]:
    """The detection of each region's truth, and its score; a score of 0 where there is none."""
    truth, detections, batch = inputs.regions.truth, inputs.teacher.detections, inputs.batch
    overlap = jax.vmap(box_ops.iou)(batch.boxes, detections.boxes)  # [b g d]
    same = batch.labels[..., None] == detections.labels[:, None]
    fits = same & (overlap >= config.overlap) & batch.valid[..., None] & detections.valid[:, None]
    quality = jnp.where(fits, overlap * detections.scores[:, None], 0.0)
    best = quality.argmax(-1)  # [b g]
    score = jnp.where(quality.max(-1) > 0, jnp.take_along_axis(detections.scores, best, axis=1), 0.0)
    of_region = jnp.take_along_axis(best, truth, axis=1), jnp.take_along_axis(score, truth, axis=1)
    return lax.stop_gradient(of_region)


def _class(
    config: Classification,
    inputs: Inputs,
    best: Int[Array, "b r"],
    score: Float[Array, "b r"],
    taught: Bool[Array, "b r"],
) -> tuple[Term, Term]:
    """Binary cross-entropy of the truth's class with the score as target, and of the classes that have scores."""
    regions, logits = inputs.regions, inputs.student.predictions.logits
    safe = jnp.where(taught[..., None], logits, 0.0)  # rows that do not count may hold NaN
    column = jnp.where(taught, regions.labels, 0)[..., None]
    if inputs.student.traits.background is not None:
        log_p, log_not_p = jax.nn.log_softmax(safe), gated.log_one_minus_softmax(safe)
    else:
        log_p, log_not_p = jax.nn.log_sigmoid(safe), jax.nn.log_sigmoid(-safe)
    log_p_of_truth = jnp.take_along_axis(log_p, column, axis=-1)[..., 0]
    log_not_p_of_truth = jnp.take_along_axis(log_not_p, column, axis=-1)[..., 0]
    class_scores = inputs.teacher.detections.class_scores
    if class_scores is not None:
        class_scores = lax.stop_gradient(jnp.take_along_axis(class_scores, best[..., None], axis=1))
        said = jnp.take_along_axis(class_scores, column, axis=-1)[..., 0]
        score = jnp.where(said >= 0, said, score)
    target = jnp.maximum(score, config.least)
    gate = taught if config.gate == "none" else taught & (target > lax.stop_gradient(jnp.exp(log_p_of_truth)))
    loss = _divergence(log_p_of_truth, log_not_p_of_truth, target)
    if class_scores is not None:
        others = jnp.where(jnp.arange(class_scores.shape[-1]) == column, UNSAID, class_scores)
        if inputs.student.traits.background is not None:
            others = _within(others, 1 - target)
        loss = loss + _of_classes(log_p, log_not_p, others)
    count = regions.positive.sum() * 1.0
    term = Term(config.weight * jnp.where(gate, loss, 0.0).sum(), count)
    return term, Term(gate.sum() * 1.0, count)


def _divergence(
    log_p: Float[Array, "*n"], log_not_p: Float[Array, "*n"], target: Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Binary cross-entropy less the target's entropy, so that it is 0 where the probability is the target."""
    entropy = -(jax.scipy.special.xlogy(target, target) + jax.scipy.special.xlogy(1 - target, 1 - target))
    return -(target * log_p + (1 - target) * log_not_p) - entropy


def _of_classes(
    log_p: Float[Array, "b r m"], log_not_p: Float[Array, "b r m"], scores: Float[Array, "b r k"]
) -> Float[Array, "b r"]:
    """The divergences of those classes whose scores are not below 0; behind them there may be a background."""
    classes = scores.shape[-1]
    each = _divergence(log_p[..., :classes], log_not_p[..., :classes], jnp.maximum(scores, 0.0))
    return jnp.where(scores >= 0, each, 0.0).sum(-1)


def _within(scores: Float[Array, "b r k"], room: Float[Array, "b r"]) -> Float[Array, "b r k"]:
    """The scores of classes that exclude each other, divided where they sum to more than `room`; below 0 they stay."""
    total = jnp.maximum(scores, 0.0).sum(-1)
    factor = jnp.where(total > room, room / jnp.where(total > 0, total, 1.0), 1.0)
    return jnp.where(scores < 0, scores, scores * factor[..., None])


def _box(
    config: Box, inputs: Inputs, teacher_boxes: Float[Array, "b r 4"], taught: Bool[Array, "b r"]
) -> tuple[Term, Term]:
    """Distance of the deltas to those of the teacher's box."""
    regions, code = inputs.regions, inputs.student.traits.box_code
    deltas = box_ops.of_class(inputs.student.predictions.deltas, regions.labels)
    target = box_codes.encode(code, teacher_boxes, regions.boxes)
    truth = jnp.take_along_axis(inputs.batch.boxes, regions.truth[..., None], axis=1)
    gate = taught & gated.box_gate(deltas, target, regions.boxes, truth, code=code, kind=config.gate)
    term = gated.box_term(deltas, target, positive=regions.positive, valid=regions.valid, gate=gate, beta=config.beta)
    return term.replace(total=config.weight * term.total), Term(gate.sum() * 1.0, term.count)

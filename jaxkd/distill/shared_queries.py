"""Both detectors answer about the same boxes, and every layer of the student's decoder learns the teacher's answers.

Sources: Wang et al. 2024, KD-DETR (arXiv 2211.08071), section 3.2, for shared points and their weights; Peng et al.
2024, D-FINE (arXiv 2410.13842), section 4.2, for the distance of two distributions of an edge. For detectors with
queries; others have one layer and no distributions.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import optax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float

from jaxkd.distill import base
from jaxkd.distill.decay import Config as Decay
from jaxkd.ops import box_codes, edge_bins
from jaxkd.ops import boxes as box_ops
from jaxkd.ranges import Natural, NonNegative, Positive, Share
from jaxkd.types import DetectorOutputs, Inputs, Losses, Term

ZERO_AT_TEACHER = {"layers": "last"}


@dataclass(frozen=True)
class Config:
    """Answers about shared boxes."""

    shared: base.Who = "teacher"
    """Whose boxes both answer about: the queries, or proposals, of which detector."""
    random: Natural = 0
    """Boxes drawn in each picture, about which both answer too; the terms are then the means of both sets."""
    layers: Literal["all", "last"] = "all"
    """The layers of the student's decoder that learn of the teacher's last one."""
    least: Share = 0.05
    """Score of the teacher's best class below which a box teaches nothing; above, it is the weight of the box."""
    class_weight: NonNegative = 1.0
    """Factor on the class term."""
    l1_weight: NonNegative = 5.0
    """Factor on the distance of boxes, in shares of the picture's sides."""
    giou_weight: NonNegative = 2.0
    """Factor on 1 - generalized IoU."""
    distribution_weight: NonNegative = 1.5
    """Factor on the distance of distributions of edges, where both detectors have some."""
    temperature: Positive = 5.0
    """Temperature of these distributions."""
    decay: Decay = field(default_factory=Decay)
    """Factor on the terms over the run; see `distill.decay`."""


class Answer(NamedTuple):
    """What a layer says of each region."""

    logits: Float[Array, "b r k"]
    boxes: Float[Array, "b r 4"]  # (centre x, centre y, width, height) in shares of the picture's sides
    edges: Float[Array, "b r 4 n"] | None = None  # logits of the bins of each edge


def region_sources(config: Config) -> tuple[base.RegionSource, ...]:
    """The best proposals, or all queries, of the detector in `config.shared`; and boxes at random."""
    own = base.RegionSource(config.shared, "proposals")
    return (own, base.RegionSource(config.shared, "random", config.random)) if config.random else (own,)


def needs(config: Config) -> base.Needs:
    """Classes and boxes of both detectors for the same regions."""
    both = frozenset[base.Need]({"shared_logits", "shared_deltas"})
    return base.Needs(student=both, teacher=both)


init = base.no_parameters


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """Classes, boxes and distributions of edges, each box weighted by the score of the teacher's best class.

    Terms are named KIND_LAYER, and divided by the sum of the weights. "outermost" is the weighted share of the
    teacher's edges that the student's first and last bins get.
    """
    del params
    exclusive = inputs.teacher.traits.background is not None
    wanted = lax.stop_gradient(_teacher_answer(inputs))
    weights = _weights(config, wanted.logits, inputs, exclusive)
    total = weights.sum()

    def term(factor: float, values: Float[Array, "b r"]) -> Term:
        return Term(factor * jnp.where(weights > 0, weights * values, 0.0).sum(), total)

    terms, metrics = {}, {"weight": Term(total, inputs.regions.valid.sum() * 1.0)}
    answers = list(enumerate(_student_answers(inputs)))
    for layer, answer in answers[-1:] if config.layers == "last" else answers:
        # Rows that do not count may hold NaN, which would reach their gradient.
        answer = jax.tree.map(functools.partial(_counted, weights), answer)
        overlap = box_ops.generalized_iou(box_ops.corners_of(answer.boxes), box_ops.corners_of(wanted.boxes))
        terms[f"class_{layer}"] = term(config.class_weight, _divergence(answer.logits, wanted.logits, exclusive))
        terms[f"box_{layer}"] = term(config.l1_weight, jnp.abs(answer.boxes - wanted.boxes).sum(-1))
        terms[f"giou_{layer}"] = term(config.giou_weight, 1.0 - overlap)
        if answer.edges is not None and wanted.edges is not None:
            chances = lax.stop_gradient(_carried(wanted.edges / config.temperature, inputs))
            said = jax.nn.log_softmax(answer.edges / config.temperature)
            apart = config.temperature**2 * optax.losses.kl_divergence(said, chances).mean(-1)
            terms[f"distribution_{layer}"] = term(config.distribution_weight, apart)
            metrics["outermost"] = term(1.0, (chances[..., 0] + chances[..., -1]).mean(-1))
    return Losses(terms=terms, metrics=metrics)


def _weights(config: Config, logits: Float[Array, "b r k"], inputs: Inputs, exclusive: bool) -> Float[Array, "b r"]:
    """What each region counts: the teacher's score of its best class, 0 below the least and for padding."""
    scores = jax.nn.softmax(logits)[..., :-1] if exclusive else jax.nn.sigmoid(logits)
    best = jnp.where(inputs.regions.valid, scores.max(-1), 0.0)
    return lax.stop_gradient(jnp.where(best >= config.least, best, 0.0))


def _divergence(student: Float[Array, "b r k"], teacher: Float[Array, "b r k"], exclusive: bool) -> Float[Array, "b r"]:
    """KL(teacher || student) of the classes of each region, which exclude each other, or each for itself and summed."""
    if exclusive:
        return optax.losses.kl_divergence(jax.nn.log_softmax(student), jax.nn.softmax(teacher))
    chances = jax.nn.sigmoid(teacher)
    entropy = optax.sigmoid_binary_cross_entropy(teacher, chances)
    return (optax.sigmoid_binary_cross_entropy(student, chances) - entropy).sum(-1)


def _teacher_answer(inputs: Inputs) -> Answer:
    """What the teacher's last layer says of each region."""
    predictions, regions = inputs.teacher.predictions, inputs.regions.boxes
    layers = predictions.layers
    edges = layers.edges[-1][:, -regions.shape[1] :] if layers is not None and layers.edges else None
    return Answer(predictions.logits, _decoded(inputs.teacher, inputs), edges)


def _student_answers(inputs: Inputs) -> Iterator[Answer]:
    """What each layer of the student says of each region, the last one last."""
    predictions, count = inputs.student.predictions, inputs.regions.boxes.shape[1]
    layers = predictions.layers
    if layers is None:
        yield Answer(predictions.logits, _decoded(inputs.student, inputs))
        return
    for layer, (logits, boxes) in enumerate(zip(layers.logits, layers.boxes, strict=True)):
        edges = layers.edges[layer][:, -count:] if layers.edges else None
        pixels = boxes[:, -count:] * box_ops.sides_of(inputs.batch.images)
        yield Answer(logits[:, -count:], pixels / _picture(inputs), edges)


def _decoded(detector: DetectorOutputs, inputs: Inputs) -> Float[Array, "b r 4"]:
    """The box of each region, that of the teacher's best class where each class has its own."""
    valid = inputs.regions.valid[..., None]
    regions = lax.stop_gradient(jnp.where(valid, inputs.regions.boxes, 0.0))
    deltas = jnp.where(valid[..., None], detector.predictions.deltas, 0.0)
    if deltas.shape[2] > 1:
        best = inputs.teacher.predictions.logits[..., : deltas.shape[2]].argmax(-1)
        deltas = jnp.take_along_axis(deltas, best[..., None, None], axis=2)
    boxes = box_codes.decode(detector.traits.box_code, deltas[:, :, 0], regions)
    return box_ops.centred(boxes) / _picture(inputs)


def _carried(edges: Float[Array, "b r 4 n"], inputs: Inputs) -> Float[Array, "b r 4 m"]:
    """The teacher's distributions of edges over the student's bins."""
    of_teacher, of_student = (
        _frame(one.predictions.layers, inputs.regions.boxes.shape[1]) for one in (inputs.teacher, inputs.student)
    )
    view = inputs.batch.teacher
    if view is not None:
        factors = box_ops.sides_of(view.images) / box_ops.sides_of(inputs.batch.images)
        of_teacher = of_teacher._replace(start=view.to_student(of_teacher.start) * factors)
    return edge_bins.carried(jax.nn.softmax(edges), of_teacher, of_student)


def _frame(layers: Any, count: int) -> edge_bins.Frame:
    """The frame of the last `count` queries."""
    start = layers.first.boxes[:, -count:]
    values, scale = (
        jnp.broadcast_to(constant[:, None], (*start.shape[:2], *constant.shape[1:]))
        for constant in (layers.values, layers.scale)
    )
    return edge_bins.Frame(start, values, scale)


def _picture(inputs: Inputs) -> Float[Array, "b 1 4"]:
    """Width, height, width and height of each picture in pixels."""
    return jnp.tile(inputs.batch.sizes[:, None, ::-1], 2).astype(jnp.float32)


def _counted(weights: Float[Array, "b r"], values: Array) -> Array:
    """The values [b r ...] with 0 for the regions that do not count."""
    return jnp.where(jnp.expand_dims(weights > 0, range(2, values.ndim)), values, 0.0)


def zero_reasons(config: Config, metrics: Mapping[str, float]) -> dict[str, str]:
    """Why a term of each kind is 0 in a step with these metrics."""
    none = f"no shared box has a score of {config.least:g} or more by the teacher"
    kinds = ("class", "box", "giou", *(["distribution"] if "outermost" in metrics else []))
    return dict.fromkeys(kinds, "both answer alike" if metrics["weight"] else none)

"""Class and box terms of gated regions, and the gates: conditions on the teacher's predictions."""

from typing import Literal

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxkd.ops import box_codes
from jaxkd.ops import boxes as box_ops
from jaxkd.types import BoxCode, Term


def class_gate(
    student: Float[Array, "*r k"],
    teacher: Float[Array, "*r k"],
    labels: Int[Array, "*r"],
    *,
    kind: Literal["none", "teacher_correct", "teacher_better"],
    background: int | None,
) -> Bool[Array, "*r"]:
    """The regions whose class is distilled."""
    if kind == "none":
        return jnp.ones(labels.shape, bool)
    if kind == "teacher_correct":
        correct = teacher.argmax(-1) == labels
        return correct if background is not None else jnp.where(labels < teacher.shape[-1], correct, False)
    student_truth, teacher_truth = (_truth_probability(logits, labels, background) for logits in (student, teacher))
    return lax.stop_gradient(teacher_truth > student_truth)


def _truth_probability(
    logits: Float[Array, "*r k"], labels: Int[Array, "*r"], background: int | None
) -> Float[Array, "*r"]:
    """The probability of each region's label; for background without a column, that of no class."""
    if background is not None:
        return jnp.take_along_axis(jax.nn.softmax(logits), labels[..., None], axis=-1)[..., 0]
    probability = jax.nn.sigmoid(logits)
    column = jnp.minimum(labels, logits.shape[-1] - 1)
    of_label = jnp.take_along_axis(probability, column[..., None], axis=-1)[..., 0]
    return jnp.where(labels < logits.shape[-1], of_label, 1.0 - probability.max(-1))


def class_term(
    student: Float[Array, "*r k"],
    teacher: Float[Array, "*r k"],
    *,
    selected: Bool[Array, "*r"],
    gate: Bool[Array, "*r"],
    weights: Float[Array, "*r"] | float = 1.0,
    form: Literal["bce", "kl", "ce"] = "bce",
    reduce: Literal["mean", "sum"] = "mean",
    temperature: float = 1.0,
    norm: Literal["subset", "gated"] = "subset",
    softmax: bool = True,
) -> tuple[Term, Float[Array, ""]]:
    """The class term (paper section 4) and its total where student and teacher agree, which is not 0 for bce and ce.

    Args:
      student, teacher: logits.
      selected: regions that count.
      gate: regions of these that are distilled.
      weights: factors on the regions, which leave the count as it is.
      form, reduce, temperature, norm: see `task_adaptive.Classification`.
      softmax: whether the classes of a region exclude each other; if not, each has its own sigmoid and the form
        "ce" is the same as "bce".
    """
    gated = selected & gate
    # Rows that do not count may hold NaN, which would reach their gradient through the softmax.
    student = jnp.where(gated[..., None], student, 0.0) / temperature
    teacher = lax.stop_gradient(teacher / temperature)

    def value(logits: Float[Array, "*r k"]) -> Float[Array, ""]:
        per_class = _divergence(logits, teacher, form, softmax)
        per_region = per_class.mean(-1) if reduce == "mean" else per_class.sum(-1)
        return jnp.where(gated, weights * per_region, 0.0).sum() * temperature**2

    count = (selected if norm == "subset" else gated).sum().astype(jnp.float32)
    return Term(value(student), count), value(teacher)


def _divergence(
    student: Float[Array, "*r k"], teacher: Float[Array, "*r k"], form: str, softmax: bool
) -> Float[Array, "*r k"]:
    """The contribution of each class of each region."""
    if softmax:
        log_p, log_not_p = jax.nn.log_softmax(student), log_one_minus_softmax(student)
        log_q, log_not_q = jax.nn.log_softmax(teacher), log_one_minus_softmax(teacher)
    else:
        log_p, log_not_p = jax.nn.log_sigmoid(student), jax.nn.log_sigmoid(-student)
        log_q, log_not_q = jax.nn.log_sigmoid(teacher), jax.nn.log_sigmoid(-teacher)
    q, not_q = jnp.exp(log_q), jnp.exp(log_not_q)
    if form == "kl":
        return q * (log_q - log_p) + (0.0 if softmax else not_q * (log_not_q - log_not_p))
    if form == "ce" and softmax:
        return -q * log_p
    return -(q * log_p + not_q * log_not_p)


def log_one_minus_softmax(logits: Float[Array, "*r k"]) -> Float[Array, "*r k"]:
    """log(1 - softmax), exact also where one class has all the probability."""
    log_p = jax.nn.log_softmax(logits)
    winner = jax.nn.one_hot(lax.stop_gradient(logits).argmax(-1), logits.shape[-1], dtype=bool)
    # 1 - p of the winner is the sum of the others, which a subtraction would lose.
    others = jax.nn.logsumexp(jnp.where(winner, -jnp.inf, log_p), axis=-1, keepdims=True)
    return jnp.where(winner, others, jnp.log1p(-jnp.exp(jnp.where(winner, -1.0, log_p))))


def box_gate(
    student: Float[Array, "*r 4"],
    teacher: Float[Array, "*r 4"],
    boxes: Float[Array, "*r 4"],
    truth: Float[Array, "*r 4"],
    *,
    code: BoxCode,
    kind: Literal["teacher_vs_proposal", "teacher_vs_student", "both", "none"] = "teacher_vs_proposal",
    margin: float = 0.0,
) -> Bool[Array, "*r"]:
    """The regions whose box is distilled: the teacher's refined box overlaps the truth more, strictly."""
    if kind == "none":
        return jnp.ones(boxes.shape[:-1], bool)

    def quality(refined: Float[Array, "*r 4"]) -> Float[Array, "*r"]:
        return box_ops.paired_iou(refined, truth)

    teacher_quality = quality(box_codes.decode(code, teacher, boxes))
    over_proposal = teacher_quality > quality(boxes) + margin
    over_student = teacher_quality > quality(box_codes.decode(code, lax.stop_gradient(student), boxes)) + margin
    passed = {
        "teacher_vs_proposal": over_proposal,
        "teacher_vs_student": over_student,
        "both": over_proposal & over_student,
    }[kind]
    return lax.stop_gradient(passed)


def box_term(
    student: Float[Array, "*r 4"],
    teacher: Float[Array, "*r 4"],
    *,
    positive: Bool[Array, "*r"],
    valid: Bool[Array, "*r"],
    gate: Bool[Array, "*r"],
    weights: Float[Array, "*r"] | float = 1.0,
    form: Literal["smooth_l1", "l1", "l2"] = "smooth_l1",
    beta: float = 1.0,
    norm: Literal["num_pos", "gated", "num_rois"] = "num_pos",
) -> Term:
    """Distance of normalised deltas on gated positive regions, the four summed (paper section 5)."""
    gated = positive & gate
    gap = jnp.where(gated[..., None], student - lax.stop_gradient(teacher), 0.0)
    size = 0.5 * gap**2 if form == "l2" else box_ops.smooth_l1(gap, beta=beta if form == "smooth_l1" else 0.0)
    count = {"num_pos": positive, "gated": gated, "num_rois": valid}[norm]
    return Term((jnp.where(gated, weights, 0.0) * size.sum(-1)).sum(), count.sum().astype(jnp.float32))

"""A teacher with another class list: its predictions and detections in the student's columns, matched by name."""

from collections.abc import Sequence

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float

from jaxkd.types import Detections, Predictions

LACKING = -1  # in place of a column


def columns(student: Sequence[str], teacher: Sequence[str]) -> tuple[int, ...]:
    """For each class of the student the teacher's column of that name, or LACKING."""
    indices = {name: index for index, name in enumerate(teacher)}
    return tuple(indices.get(name, LACKING) for name in student)


def translated(
    teacher: Predictions,
    student: Predictions,
    teacher_columns: tuple[int, ...],
    *,
    background: bool,
) -> Predictions:
    """The teacher's predictions [b r ...] in the student's columns; constants to gradients.

    The student's total probability of the classes that both know (and of the background) is divided among these in the
    teacher's proportions. In a column that the teacher lacks, logits and boxes are the student's, so that no term
    differs there.

    Args:
      teacher, student: both heads' predictions for the same regions, boxes in one code.
      teacher_columns: by `columns`, at least one of them not LACKING.
      background: whether both have a last column for the background, so that classes exclude each other; if not, each
        class has a probability of its own.
    """
    student = lax.stop_gradient(student)
    known = [*(column for column, of_teacher in enumerate(teacher_columns) if of_teacher != LACKING)]
    known_teacher = [teacher_columns[column] for column in known]
    logits = jax.nn.log_softmax(student.logits) if background else student.logits
    if background:
        shared = jnp.asarray([*known, len(teacher_columns)])  # with the background
        of_teacher = jnp.asarray([*known_teacher, teacher.logits.shape[-1] - 1])
        total = jax.nn.logsumexp(logits[..., shared], axis=-1, keepdims=True)
        logits = logits.at[..., shared].set(jax.nn.log_softmax(teacher.logits[..., of_teacher]) + total)
    else:
        logits = logits.at[..., jnp.asarray(known)].set(teacher.logits[..., jnp.asarray(known_teacher)])
    boxes = _boxes(teacher.deltas, student.deltas, known, known_teacher, len(teacher_columns))
    return lax.stop_gradient(teacher.replace(logits=logits, deltas=boxes))


def relabelled(detections: Detections, teacher_columns: tuple[int, ...], *, classes: int) -> Detections:
    """The detections of a teacher of so many `classes` with the student's labels; those of other classes not valid."""
    label_of = np.full(classes, LACKING, np.int32)
    for label, column in enumerate(teacher_columns):
        if column >= 0:
            label_of[column] = label
    labels = jnp.asarray(label_of)[detections.labels]
    return detections.replace(labels=jnp.maximum(labels, 0), valid=detections.valid & (labels >= 0))


def _boxes(
    teacher: Float[Array, "b r m 4"],
    student: Float[Array, "b r n 4"],
    known: Sequence[int],
    known_teacher: Sequence[int],
    classes: int,
) -> Float[Array, "b r k 4"]:
    """Deltas of each of the student's classes."""
    student = jnp.broadcast_to(student, (*student.shape[:2], classes, 4))
    if teacher.shape[2] == 1:
        teacher = jnp.broadcast_to(teacher, (*teacher.shape[:2], len(known), 4))
    else:
        teacher = teacher[:, :, jnp.asarray(known_teacher)]
    return student.at[:, :, jnp.asarray(known)].set(teacher)

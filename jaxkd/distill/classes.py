"""A teacher whose class list is not the student's: its answers in the student's columns, class by name."""

from collections.abc import Sequence

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float

from jaxkd.types import Predictions

LACKING = -1  # in place of a column


def columns(student: Sequence[str], teacher: Sequence[str]) -> tuple[int, ...]:
    """For each class of the student the teacher's column of that name, or LACKING."""
    places = {name: place for place, name in enumerate(teacher)}
    return tuple(places.get(name, LACKING) for name in student)


def translated(
    teacher: Predictions, student: Predictions, found: tuple[int, ...], *, background: bool, code: Sequence[float]
) -> Predictions:
    """The teacher's answers [b r ...] in the student's columns; constants to gradients.

    The classes that both know share what probability the student gives to them (and to the background) as the teacher
    would divide it. In a column that the teacher lacks it says what the student says, so that no term sees a
    difference there; the same holds for the boxes of classes that it lacks.

    Args:
      teacher, student: both heads' answers about the same regions.
      found: what `columns` gave, at least one of them not LACKING.
      background: whether both have a last column for the background, so that classes exclude each other; if not, each
        class has a probability of its own.
      code: the teacher's weights of the box code divided by the student's.
    """
    student = lax.stop_gradient(student)
    known = [*(place for place, column in enumerate(found) if column != LACKING)]
    theirs = [found[place] for place in known]
    logits = jax.nn.log_softmax(student.logits) if background else student.logits
    if background:
        known_too, theirs_too = [*known, len(found)], [*theirs, teacher.logits.shape[-1] - 1]
        share = jax.nn.logsumexp(logits[..., jnp.asarray(known_too)], axis=-1, keepdims=True)
        divided = jax.nn.log_softmax(teacher.logits[..., jnp.asarray(theirs_too)]) + share
        logits = logits.at[..., jnp.asarray(known_too)].set(divided)
    else:
        logits = logits.at[..., jnp.asarray(known)].set(teacher.logits[..., jnp.asarray(theirs)])
    boxes = _boxes(teacher.deltas, student.deltas * jnp.asarray(code), known, theirs, found)
    return lax.stop_gradient(Predictions(logits=logits, deltas=boxes))


def _boxes(
    teacher: Float[Array, "b r m 4"],
    student: Float[Array, "b r n 4"],
    known: Sequence[int],
    theirs: Sequence[int],
    found: tuple[int, ...],
) -> Float[Array, "b r k 4"]:
    """Deltas of each of the student's classes."""
    shape = (*student.shape[:2], len(found), 4)
    own = jnp.broadcast_to(student, shape)
    if teacher.shape[2] == 1:
        taught = jnp.broadcast_to(teacher, (*teacher.shape[:2], len(known), 4))
    else:
        taught = teacher[:, :, jnp.asarray(theirs)]
    return own.at[:, :, jnp.asarray(known)].set(taught)

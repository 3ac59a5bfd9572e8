"""Coordinates of objects among prototypes, their reliabilities, and the global and soft terms (Tang et al. 2022).

For one level: n objects with vectors of the student's and of the teacher's width, and m prototypes in either space,
class by class: those of class c are rows c k to (c + 1) k - 1.
"""

from typing import Literal

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxkd.distill.matching_pursuit import unit
from jaxkd.types import Term


def coordinates(vectors: Float[Array, "*n d"], prototypes: Float[Array, "m d"]) -> Float[Array, "*n m"]:
    """Cosines between objects and prototypes."""
    return jnp.einsum("...d,md->...m", unit(vectors), unit(prototypes), precision=lax.Precision.HIGHEST)


def reliability(
    student: Float[Array, "*n m"], teacher: Float[Array, "*n m"], labels: Int[Array, "*n"], *, known: Bool[Array, "k"]
) -> Float[Array, "*n"]:
    """1 - |q_S - q_T|, q the greatest coordinate of an object among the prototypes of its own class.

    Args:
      student, teacher: coordinates of the objects.
      labels: class of each object.
      known: classes that have prototypes; an object of another class has a reliability of 1.

    At most 1, at least -1; a constant to gradients.
    """
    label = jnp.clip(labels, 0, len(known) - 1)

    def nearest(coordinate: Float[Array, "*n m"]) -> Float[Array, "*n"]:
        best = coordinate.reshape(*coordinate.shape[:-1], len(known), -1).max(-1)
        return jnp.take_along_axis(best, label[..., None], axis=-1)[..., 0]

    sigma = 1.0 - jnp.abs(nearest(student) - nearest(teacher))
    return lax.stop_gradient(jnp.where(known[label], sigma, 1.0))


def global_term(
    student: Float[Array, "*n m"],
    teacher: Float[Array, "*n m"],
    *,
    sigma: Float[Array, "*n"],
    valid: Bool[Array, "*n"],
    known: Bool[Array, "k"],
    form: Literal["huber", "squared"] = "huber",
) -> Term:
    """Distance of the coordinates in both spaces, averaged over known prototypes, over the valid objects.

    "huber" is the Huber function of sigma times the gap, with its threshold at 1; "squared" weighs half the squared gap
    with sigma^2 (the paper's sum over prototypes, divided by their number), which is the same while a gap is below 1.
    """
    teacher = lax.stop_gradient(teacher)
    gap = jnp.where(valid[..., None], student - teacher, 0.0) * jnp.where(valid, sigma, 0.0)[..., None]
    size = jnp.abs(gap)
    cost = 0.5 * jnp.square(gap)
    if form == "huber":
        cost = jnp.where(size < 1, cost, size - 0.5)
    rows = jnp.repeat(known, student.shape[-1] // len(known))
    cost = jnp.where(rows, cost, 0.0)
    return Term(cost.sum() / jnp.maximum(rows.sum(), 1), valid.sum().astype(jnp.float32))


def soft_term(
    student: Float[Array, "*n k"],
    teacher: Float[Array, "*n k"],
    *,
    sigma: Float[Array, "*n"],
    valid: Bool[Array, "*n"],
    temperature: float,
) -> Term:
    """Divergence (Kullback-Leibler) of softened classes, averaged over columns, times sigma, over the valid objects."""
    log_p = jax.nn.log_softmax(jnp.where(valid[..., None], student, 0.0) / temperature)
    log_q = jax.nn.log_softmax(jnp.where(valid[..., None], lax.stop_gradient(teacher), 0.0) / temperature)
    divergence = temperature**2 * (jnp.exp(log_q) * (log_q - log_p)).mean(-1)
    return Term(jnp.where(valid, sigma * divergence, 0.0).sum(), valid.sum().astype(jnp.float32))

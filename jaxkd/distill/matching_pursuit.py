"""Coupled matching pursuit: selection of objects that reconstruct their class in two feature spaces (Tang et al. 2022).

Each of n objects has a vector in the student's and in the teacher's feature space. The search selects some of them, the
prototypes, such that in both spaces every object is a combination of them with nearly the same coefficients. Everything
works on the Gram matrices of unit vectors, [n n] a space, so the width of the vectors costs nothing after the first
product. Functions are for one class on one level; `vmap` over both.
"""

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

DENSITY_WIDTH = 0.1  # of the kernel over cosine distances
DENSITY_SHARE = 0.4  # of the objects, those of lowest density, cannot become prototypes


def unit(vectors: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """The vectors at length 1; those shorter than 1e-12 are divided by that."""
    square = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.maximum(square, 1e-24))  # whose gradient at zero is finite


def gram(vectors: Float[Array, "n d"], *, valid: Bool[Array, "n"]) -> Float[Array, "n n"]:
    """Cosines between all vectors, 0 for those that are not valid."""
    rows = jnp.where(valid[:, None], unit(jnp.where(valid[:, None], vectors, 0.0)), 0.0)
    return jnp.matmul(rows, rows.T, precision=lax.Precision.HIGHEST)


def densities(cosines: Float[Array, "n n"], *, valid: Bool[Array, "n"]) -> Float[Array, "n"]:
    """Number of objects near each, itself included, weighted by a Gaussian of the cosine distance."""
    kernel = jnp.exp(-jnp.square((1.0 - cosines) / DENSITY_WIDTH))
    return jnp.where(valid, jnp.where(valid[None], kernel, 0.0).sum(-1), 0.0)


def dense(density: Float[Array, "n"], *, valid: Bool[Array, "n"]) -> Bool[Array, "n"]:
    """The objects strictly denser than the one at place floor(0.4 n) of the ascending order."""
    order = jnp.sort(jnp.where(valid, density, jnp.inf))
    # In integers: a share in floating point may fall just short of a whole place.
    place = valid.sum() * round(10 * DENSITY_SHARE) // 10
    return valid & (density > order[jnp.clip(place, 0, len(order) - 1)])


def candidates(
    student: Float[Array, "n n"], teacher: Float[Array, "n n"], *, valid: Bool[Array, "n"]
) -> Bool[Array, "n"]:
    """The objects dense in both spaces; all objects where there is none."""
    both = dense(densities(student, valid=valid), valid=valid) & dense(densities(teacher, valid=valid), valid=valid)
    return jnp.where(both.any(), both, valid)


def coefficients(
    student: Float[Array, "*n"], teacher: Float[Array, "*n"], *, alpha: float
) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """The pair (u, v) that minimises (u - student)^2 + (v - teacher)^2 + alpha (u - v)^2."""
    both = alpha * (student + teacher)
    return (student + both) / (1 + 2 * alpha), (teacher + both) / (1 + 2 * alpha)


def gains(student: Float[Array, "n n"], teacher: Float[Array, "n n"], *, alpha: float) -> Float[Array, "n"]:
    """By how much the residual falls with each row's object as the next prototype.

    The arguments are the products of every object with the residual of every other.
    """
    value = jnp.square(student) + jnp.square(teacher) + alpha * jnp.square(student + teacher)
    return value.sum(-1) / (1 + 2 * alpha)


def select(
    student: Float[Array, "n n"],
    teacher: Float[Array, "n n"],
    *,
    candidate: Bool[Array, "n"],
    count: int,
    alpha: float = 10.0,
) -> Int[Array, "count"]:
    """The objects chosen as prototypes, in the order of choice; one may be chosen twice.

    Args:
      student, teacher: Gram matrices of both spaces.
      candidate: objects that may be chosen; all objects of the matrices are reconstructed.
      count: how many to choose.
      alpha: coupling of the coefficients of both spaces.

    Of equal gains the first is taken; where there is no candidate, object 0.
    """

    def choose(
        place: Int[Array, ""], carry: tuple[Float[Array, "n n"], Float[Array, "n n"], Int[Array, "count"]]
    ) -> tuple[Float[Array, "n n"], Float[Array, "n n"], Int[Array, "count"]]:
        student_residual, teacher_residual, chosen = carry
        gain = jnp.where(candidate, gains(student_residual, teacher_residual, alpha=alpha), -jnp.inf)
        best = jnp.argmax(gain).astype(jnp.int32)
        u, v = coefficients(student_residual[best], teacher_residual[best], alpha=alpha)
        # A product k . R_n changes by the share that the chosen object takes out of R_n.
        student_residual = student_residual - jnp.outer(student[:, best], u)
        teacher_residual = teacher_residual - jnp.outer(teacher[:, best], v)
        return student_residual, teacher_residual, chosen.at[place].set(best)

    start = (student, teacher, jnp.zeros(count, jnp.int32))
    return jax.lax.fori_loop(0, count, choose, start)[2]

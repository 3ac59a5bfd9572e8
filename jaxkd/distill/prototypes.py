"""Prototypes: the candidate objects of the training set, and the selection of those that represent their class."""

import functools
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from flax import struct
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxkd.distill import matching_pursuit
from jaxkd.types import Array as Leaf

ROUNDING = 1e-3  # pixels that scaling a box down and up again may add to a side
Kind = Literal["matching_pursuit", "random", "density", "class_mean"]


class Prototypes(struct.PyTreeNode):
    """The prototypes of every level in both feature spaces, class by class; row j is the same object in both."""

    student: tuple[Leaf, ...]  # levels of [m d_student] float32
    teacher: tuple[Leaf, ...]  # levels of [m d_teacher] float32
    objects: tuple[Leaf, ...]  # levels of [m] int32: the object's index among the candidates; -1 for none
    known: Leaf  # [k] bool: classes that have prototypes


@dataclass(frozen=True)
class Truth:
    """All objects of a training set, none of them a crowd."""

    pictures: Int[np.ndarray, "n"]  # index of the picture in its source
    labels: Int[np.ndarray, "n"]
    sides: Float[np.ndarray, "n 2"]  # height and width in pixels of the original picture


@dataclass(frozen=True)
class Vectors:
    """The candidate objects with their vectors in both detectors' feature spaces."""

    labels: Int[np.ndarray, "n"]
    student: tuple[Float[np.ndarray, "n _"], ...]  # levels
    teacher: tuple[Float[np.ndarray, "n _"], ...]


def empty(*, classes: int, count: int, student: tuple[int, ...], teacher: tuple[int, ...]) -> Prototypes:
    """No prototypes yet: zeros of the right shapes, for levels of these widths."""
    rows = classes * count
    return Prototypes(
        student=tuple(jnp.zeros((rows, width)) for width in student),
        teacher=tuple(jnp.zeros((rows, width)) for width in teacher),
        objects=tuple(jnp.full(rows, -1, jnp.int32) for _ in student),
        known=jnp.zeros(classes, bool),
    )


@dataclass(frozen=True)
class Choice:
    """The candidate objects: those of a class on its drawn pictures, if they are large enough."""

    drawn: Bool[np.ndarray, "p k"]  # whether picture p of the source was drawn for class k
    least: Float[np.ndarray, "k"]  # both sides of an object must be above this, in pixels of the original picture

    @property
    def pictures(self) -> Int[np.ndarray, "v"]:
        """The pictures to visit, each once."""
        return np.flatnonzero(self.drawn.any(1))

    def holds(self, truth: Truth) -> Bool[np.ndarray, "n"]:
        """A mask of these objects: the candidates."""
        large = (truth.sides > self.least[truth.labels, None] + ROUNDING).all(-1)
        return large & self.drawn[truth.pictures, truth.labels]


def choose(truth: Truth, *, sources: int, classes: int, min_side: float, pictures: int, seed: int) -> Choice:
    """The candidates: objects with both sides above `min_side`, on at most `pictures` drawn pictures a class.

    A class without an object that large has all of its objects. The draw depends on the seed and the class alone;
    `sources` is the number of pictures there are.
    """
    large = (truth.sides > min_side + ROUNDING).all(-1)
    drawn = np.zeros((sources, classes), bool)
    least = np.full(classes, min_side)
    for label in range(classes):
        of_class = truth.labels == label
        if not (of_class & large).any():
            least[label] = -np.inf
        with_class = np.unique(truth.pictures[of_class & (large | np.isneginf(least[label]))])
        if len(with_class) > pictures:
            with_class = np.random.default_rng((seed, label)).choice(with_class, pictures, replace=False)
        drawn[with_class, label] = True
    return Choice(drawn, least)


def find(vectors: Vectors, *, classes: int, count: int, alpha: float, kind: Kind, seed: int) -> Prototypes:
    """`count` prototypes of each class on each level, the same on every host that is given the same vectors.

    Args:
      vectors: of the candidates.
      classes: number of classes; one without an object stays unknown.
      count: prototypes a class.
      alpha: coupling of the two spaces in the matching pursuit.
      kind: "matching_pursuit", the densest objects, random ones, or the mean of the class in every row.
      seed: of the random ones.
    """
    members = [np.flatnonzero(vectors.labels == label) for label in range(classes)]
    most = max(map(len, members), default=0)
    levels = list(zip(vectors.student, vectors.teacher, strict=True))
    if most == 0:
        widths = [tuple(level.shape[1] for level in space) for space in (vectors.student, vectors.teacher)]
        return empty(classes=classes, count=count, student=widths[0], teacher=widths[1])
    size = 1 << (most - 1).bit_length()  # a power of two, so that a slowly changing number compiles once
    places = np.full((classes, size), -1, np.int32)
    for label, member in enumerate(members):
        places[label, : len(member)] = member
    selected = [
        _level(places, student, teacher, count=count, alpha=alpha, kind=kind, seed=seed) for student, teacher in levels
    ]
    return Prototypes(
        student=tuple(jnp.asarray(student) for student, _, _ in selected),
        teacher=tuple(jnp.asarray(teacher) for _, teacher, _ in selected),
        objects=tuple(jnp.asarray(objects) for _, _, objects in selected),
        known=jnp.asarray([len(member) > 0 for member in members]),
    )


def _level(
    places: Int[np.ndarray, "k most"],
    student: Float[np.ndarray, "n d_student"],
    teacher: Float[np.ndarray, "n d_teacher"],
    *,
    count: int,
    alpha: float,
    kind: Kind,
    seed: int,
) -> tuple[Float[np.ndarray, "m d_student"], Float[np.ndarray, "m d_teacher"], Int[np.ndarray, "m"]]:
    """Student's rows, teacher's rows and objects of one level."""
    known = (places >= 0).any(1)
    if kind == "class_mean":

        def means(space: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "m d"]:
            rows = [space[row[row >= 0]].mean(0) if (row >= 0).any() else np.zeros(space.shape[1]) for row in places]
            return np.repeat(np.stack(rows), count, axis=0).astype(np.float32)

        return means(student), means(teacher), np.full(len(places) * count, -1, np.int32)
    if kind == "random":
        chosen = np.zeros((len(places), count), np.int32)
        for label, row in enumerate(places):
            members = max(int((row >= 0).sum()), 1)
            draw = np.random.default_rng((seed, label))
            chosen[label] = draw.choice(members, count, replace=members < count)
    else:
        chosen = np.asarray(
            _search(places, student, teacher, count=count, alpha=alpha, pursue=kind == "matching_pursuit")
        )
    objects = np.take_along_axis(places, chosen, axis=1)
    flat = objects.reshape(-1)
    blank = np.repeat(~known, count)[:, None]
    student, teacher = (np.where(blank, 0.0, space[np.maximum(flat, 0)]) for space in (student, teacher))
    objects = np.where(blank[:, 0], -1, flat).astype(np.int32)
    return student.astype(np.float32), teacher.astype(np.float32), objects


@functools.partial(jax.jit, static_argnames=("count", "alpha", "pursue"))
def _search(
    places: Int[Array, "k most"],
    student: Float[Array, "n d_student"],
    teacher: Float[Array, "n d_teacher"],
    *,
    count: int,
    alpha: float,
    pursue: bool,
) -> Int[Array, "k {count}"]:
    """For each class the columns of its prototypes in its row of `places`."""

    def search_class(row: Int[Array, "most"]) -> Int[Array, "count"]:
        valid = row >= 0
        cosines = [matching_pursuit.gram(space[jnp.maximum(row, 0)], valid=valid) for space in (student, teacher)]
        candidate = matching_pursuit.candidates(*cosines, valid=valid)
        if pursue:
            return matching_pursuit.select(*cosines, candidate=candidate, count=count, alpha=alpha)
        density = sum(matching_pursuit.densities(space, valid=valid) for space in cosines)
        ranked = jnp.argsort(jnp.where(candidate, -density, jnp.inf)).astype(jnp.int32)
        return ranked[jnp.arange(count) % jnp.maximum(candidate.sum(), 1)]

    return lax.map(search_class, jnp.asarray(places))  # one class at a time, for one Gram matrix in memory

"""Truths with noise, from which a decoder is to find the truth again, beside its own queries.

Source: Zhang et al. 2022, DINO (arXiv 2203.03605), section 3.3 (contrastive denoising). Every group has a positive and
a negative query for each truth, the first near to it, the second farther away. Boxes are (centre x, centre y, width,
height) in shares of a picture's sides.
"""

from typing import NamedTuple

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from jaxkd.ops import boxes as box_ops
from jaxkd.ops.assign import NONE

KINDS = 2  # of a group's queries: positives, then negatives
LABEL, CLASS, SIGN, SIZE = range(4)  # uses of random numbers


class Noised(NamedTuple):
    """The denoising queries of a picture: group by group positives, then negatives, each one for every truth."""

    labels: Int[Array, "n"]
    boxes: Float[Array, "n 4"]
    truth: Int[Array, "n"]  # that is to be found; NONE of negatives, and where there is no truth
    valid: Bool[Array, "n"]  # whether there is a truth


def group_count(most: int, *, queries: int) -> int:
    """The number of groups for pictures of `most` truths, padding included: at least one, of `queries` positives."""
    return max(1, queries // max(most, 1))


def noised(
    key: Key[Array, ""],
    boxes: Float[Array, "g 4"],
    labels: Int[Array, "g"],
    valid: Bool[Array, "g"],
    *,
    classes: int,
    groups: int,
    label_noise: float = 0.5,
    box_noise: float = 1.0,
) -> Noised:
    """The denoising queries of a picture, groups * 2 * g of them; finite also where there is no truth.

    Half of `label_noise` is the probability that a label is drawn anew. An edge moves by up to half a side of its box
    times `box_noise`, of a negative by as much more, and stays in the picture; edges that pass each other change roles.

    Args:
      key: of the picture.
      boxes: of the truths, padded.
      labels: of the truths.
      valid: whether each is a real truth.
      classes: number of classes.
      groups: number of groups.
      label_noise: share of labels that are changed, twice.
      box_noise: factor on the movements of edges.
    """
    shape, keys = (groups, KINDS, len(boxes)), [jax.random.fold_in(key, use) for use in range(4)]
    drawn = jax.random.randint(keys[CLASS], shape, 0, classes)
    is_new = jax.random.uniform(keys[LABEL], shape) < label_noise / 2
    real = jnp.where(valid[:, None], boxes, 0.5)
    size = jax.random.uniform(keys[SIZE], (*shape, 4)) + jnp.arange(KINDS, dtype=jnp.float32)[:, None, None]
    sign = jnp.where(jax.random.bernoulli(keys[SIGN], shape=(*shape, 4)), 1.0, -1.0)
    half = jnp.concatenate((real[:, 2:], real[:, 2:]), -1) / 2
    corners = jnp.clip(box_ops.corners_of(real) + sign * size * half * box_noise, 0.0, 1.0)
    centred = box_ops.centred(corners)
    centred = jnp.concatenate((centred[..., :2], jnp.abs(centred[..., 2:])), -1)
    is_positive = (jnp.arange(KINDS) == 0)[:, None] & valid
    truth = jnp.where(is_positive, jnp.arange(len(boxes)), NONE)
    return Noised(
        labels=jnp.where(is_new | ~valid, drawn, labels).reshape(-1).astype(jnp.int32),
        boxes=centred.reshape(-1, 4),
        truth=jnp.broadcast_to(truth, shape).reshape(-1).astype(jnp.int32),
        valid=jnp.broadcast_to(valid, shape).reshape(-1),
    )


def seen(valid: Bool[Array, "n"], *, groups: int, queries: int) -> Bool[Array, "m m"]:
    """Which of the n denoising queries and the others, behind them, each of them attends to.

    All attend to the others; a denoising query also to those of its own group that are `valid`.

    Args:
      valid: of the denoising queries, group by group.
      groups: number of groups.
      queries: number of the others, at least one.
    """
    count = len(valid)
    group = jnp.arange(count) // max(count // groups, 1)
    within = (group[:, None] == group[None]) & valid
    return jnp.pad(jnp.pad(within, ((0, queries), (0, 0))), ((0, 0), (0, queries)), constant_values=True)

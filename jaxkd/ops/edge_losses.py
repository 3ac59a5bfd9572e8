"""Losses of boxes whose edges are distributions over bins of unequal width.

Source: Peng et al. 2024, D-FINE (arXiv 2410.13842), sections 4.1 (FGL) and 4.2 (GO-LSD). Boxes are (centre x, centre y,
width, height) in shares of the picture's sides, edges left, top, right, bottom; for bins see `ops.edge_bins`.
"""

from typing import NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int

TEMPERATURE = 5.0  # of the distributions that a layer learns of the last one


class Bins(NamedTuple):
    """A target between two bins."""

    lower: Int[Array, "*n"]  # index of the lower one
    share: Float[Array, "*n"]  # of the upper one, in [0, 1]; the lower one has the rest


def shifts_to(
    start: Float[Array, "*n 4"], boxes: Float[Array, "*n 4"], *, scale: Float[Array, ""]
) -> Float[Array, "*n 4"]:
    """How far the edges of `start` are to move outwards to those of `boxes`: the inverse of `edge_bins.moved`.

    One unit is the `scale`-th part of a side; a side of `start` that is 0 counts as very short.
    """
    unit = jnp.maximum(start[..., 2:], 1e-6) / scale
    low = (start[..., :2] - boxes[..., :2] + boxes[..., 2:] / 2) / unit
    high = (boxes[..., :2] + boxes[..., 2:] / 2 - start[..., :2]) / unit
    return jnp.concatenate((low, high), -1) - scale / 2


def between_bins(shifts: Float[Array, "*n"], values: Float[Array, "bins"]) -> Bins:
    """The two bins around each shift; beyond the outermost bins those count alone."""
    shifts = jnp.clip(shifts, values[0], values[-1])
    lower = jnp.clip((values <= shifts[..., None]).sum(-1) - 1, 0, len(values) - 2).astype(jnp.int32)
    below, above = values[lower], values[lower + 1]
    return Bins(lower, (shifts - below) / (above - below))


def fine_grained_loss(
    edges: Float[Array, "*n bins"], shifts: Float[Array, "*n"], values: Float[Array, "bins"]
) -> Float[Array, "*n"]:
    """Cross entropy with the two bins next to each target (equation 4, without its weight); float32.

    Args:
      edges: logits of the bins.
      shifts: the targets; no gradient flows into them.
      values: what the bins stand for, ascending.
    """
    lower, share = between_bins(lax.stop_gradient(shifts), values)
    chances = jax.nn.log_softmax(edges.astype(jnp.float32), axis=-1)
    below, above = (jnp.take_along_axis(chances, index[..., None], axis=-1)[..., 0] for index in (lower, lower + 1))
    return -(1.0 - share) * below - share * above


def self_distillation_loss(
    edges: Float[Array, "*n bins"], teacher: Float[Array, "*n bins"], *, temperature: float = TEMPERATURE
) -> Float[Array, "*n"]:
    """T^2 KL(teacher || edges) of the distributions at temperature T (equation 7, without its weights); float32.

    No gradient flows into the teacher, which is the last layer.
    """
    teacher = lax.stop_gradient(teacher.astype(jnp.float32)) / temperature
    wanted, said = jax.nn.log_softmax(teacher), jax.nn.log_softmax(edges.astype(jnp.float32) / temperature)
    return temperature**2 * (jnp.exp(wanted) * (wanted - said)).sum(-1)

"""Adapters: learned maps from the student's features to the teacher's width, dropped after training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Key

from jaxkd.distill import base
from jaxkd.errors import ConfigError

Kind = Literal["conv3", "conv3_relu", "conv1", "auto", "identity"]
Init = Literal["small", "lecun", "uniform"]
TRAINED = get_args(Kind)[:-1]  # those with parameters, "auto" where widths differ


@dataclass(frozen=True)
class Adapter:
    """The adapter of each level."""

    kind: Kind = "conv3"
    """A convolution of 3x3 cells, with a ReLU after it ("conv3_relu"), of 1x1, the "identity", or "auto": one of 1x1
    where widths differ, else the identity."""
    init: Init = "small"
    """How weights are drawn: with a standard deviation of 1e-4 ("small"; Wang et al. 2019), such that the variance is
    kept ("lecun"), or weights and biases within 1 / sqrt(fan in) ("uniform")."""


def init(
    key: Key[Array, ""], *, kind: Kind, student_channels: int, teacher_channels: int, start: Init = "small"
) -> dict:
    """Parameters of one adapter: `kernel` [k k c_student c_teacher] and `bias` [c_teacher]; {} for none.

    For `start` see `Adapter.init`. Raises ConfigError where the widths differ and the adapter is the identity.
    """
    if kind == "auto" and student_channels == teacher_channels:
        return {}
    if kind == "identity":
        if student_channels != teacher_channels:
            raise ConfigError(
                f"adapter.kind='identity' needs equal widths; the student has {student_channels} channels, the teacher "
                f"{teacher_channels}; take one of {', '.join(TRAINED)}."
            )
        return {}
    side = 1 if kind in ("conv1", "auto") else 3
    shape = (side, side, student_channels, teacher_channels)
    if start == "uniform":
        kernel_key, bias_key = (jax.random.fold_in(key, index) for index in range(2))
        bound = (side * side * student_channels) ** -0.5
        kernel = jax.random.uniform(kernel_key, shape, minval=-bound, maxval=bound)
        return {"kernel": kernel, "bias": jax.random.uniform(bias_key, shape[-1:], minval=-bound, maxval=bound)}
    draw = jax.nn.initializers.truncated_normal(1e-4) if start == "small" else jax.nn.initializers.lecun_normal()
    return {"kernel": draw(key, shape, jnp.float32), "bias": jnp.zeros(teacher_channels)}


def init_levels(key: Key[Array, ""], pairs: Sequence[base.LevelPair], adapter: Adapter) -> dict:
    """An adapter for each pair of levels, under the name that `of_level` gives it."""
    return {
        of_level(pair): init(
            jax.random.fold_in(key, pair.stride),
            kind=adapter.kind,
            student_channels=pair.student_channels,
            teacher_channels=pair.teacher_channels,
            start=adapter.init,
        )
        for pair in pairs
    }


def of_level(pair: base.LevelPair) -> str:
    """The name of the adapter of a pair of levels."""
    return f"adapter_{pair.stride}"


def apply(params: dict, level: Float[Array, "b h w c"], *, kind: Kind) -> Float[Array, "b h w d"]:
    """The adapted level, in the level's own dtype."""
    if not params:
        return level
    out = lax.conv_general_dilated(
        level, params["kernel"].astype(level.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    out = (out + params["bias"]).astype(level.dtype)
    return jax.nn.relu(out) if kind == "conv3_relu" else out

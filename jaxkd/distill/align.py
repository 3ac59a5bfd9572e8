"""Alignment with a foundation backbone: the student's map points where the teacher's does, cell by cell.

A linear layer takes the student's cells to the teacher's width, and the term is 1 - cosine, as the semantic injection
of RT-DETRv4 has it (Liao et al. 2025). It needs neither classes nor boxes of the teacher, and no labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key

from jaxkd.distill import adapters, base
from jaxkd.distill.decay import Config as Decay
from jaxkd.errors import ConfigError
from jaxkd.ops.masks import extent_mask
from jaxkd.ranges import Natural, NonNegative
from jaxkd.types import Inputs, Losses, Term, Traits

EPSILON = 1e-6  # least length of a vector
ZERO_AT_TEACHER = {"adapter": "identity"}
KINDS: dict[str, adapters.Kind] = {"linear": "conv1", "identity": "identity"}


@dataclass(frozen=True)
class Config:
    """Alignment of every cell inside the picture."""

    weight: NonNegative = 1.0
    """Factor on the term."""
    source: base.Source = "backbone"
    """Which of the student's maps: those of the "backbone" or of the "neck"."""
    stride: Natural = 0
    """Pixels of a cell of the level that is aligned; 0 for the coarsest that both detectors have."""
    adapter: Literal["linear", "identity"] = "linear"
    """A linear layer from the student's width to the teacher's, or none ("identity")."""
    decay: Decay = field(default_factory=Decay)
    """Factor on the terms over the run; see `distill.decay`."""


region_sources = base.student_regions
needs = base.both_features


def init(config: Config, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """The linear layer; raises ConfigError where the level is not there, or is of another width without a layer."""
    pair = _pair(config, student, teacher)
    if config.adapter == "identity" and pair.student_channels != pair.teacher_channels:
        raise ConfigError(
            f"adapter='identity' needs equal widths; the student has {pair.student_channels} channels, the teacher "
            f"{pair.teacher_channels}; take 'linear'."
        )
    return adapters.init(
        key,
        kind=KINDS[config.adapter],
        student_channels=pair.student_channels,
        teacher_channels=pair.teacher_channels,
        start="lecun",
    )


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """1 - cosine of the two vectors of a cell, averaged over the cells inside the pictures."""
    student, teacher = inputs.student, inputs.teacher
    pair = _pair(config, student.traits, teacher.traits)
    student_map = base.maps(student.features, config.source)[pair.student]
    teacher_map = lax.stop_gradient(base.maps(teacher.features, config.source)[pair.teacher])
    adapted = adapters.apply(params, student_map, kind=KINDS[config.adapter])
    mask = extent_mask(inputs.batch.sizes, shape=adapted.shape[1:3], stride=pair.stride)
    error = 1.0 - cosine(adapted.astype(jnp.float32), teacher_map.astype(jnp.float32))
    term = Term(config.weight * (mask * error).sum(), mask.sum())
    metrics = {"cosine": Term((mask * (1.0 - error)).sum(), mask.sum())}
    return Losses(terms={f"align_{pair.stride}": term}, metrics=lax.stop_gradient(metrics))


def cosine(a: Float[Array, "*n c"], b: Float[Array, "*n c"]) -> Float[Array, "*n"]:
    """The cosine of the angle between vectors, 0 where one of them is 0; its gradient is finite everywhere."""
    squares = [jnp.maximum((vector * vector).sum(-1), EPSILON**2) for vector in (a, b)]
    return (a * b).sum(-1) * lax.rsqrt(squares[0]) * lax.rsqrt(squares[1])


def _pair(config: Config, student: Traits, teacher: Traits) -> base.LevelPair:
    pairs = base.level_pairs(student, teacher, source=config.source)
    if not config.stride:
        return pairs[-1]
    for pair in pairs:
        if pair.stride == config.stride:
            return pair
    strides = [pair.stride for pair in pairs]
    raise ConfigError(f"No level of stride {config.stride} is common to both; the {config.source} has {strides}.")


def zero_reasons(config: Config, metrics: Mapping[str, float]) -> dict[str, str]:
    """Why a term of each kind is 0 in a step with these metrics."""
    del config, metrics
    return {"align": "the maps point to the same side in all cells that count"}

"""Decay of distillation terms over the run, as optax schedules."""

import math
from dataclasses import dataclass
from typing import Literal

import optax
from jax import numpy as jnp

from jaxkd.errors import ConfigError
from jaxkd.ranges import Natural, SomeShare


@dataclass(frozen=True)
class Config:
    """A factor in [0, 1] that multiplies every term of a method, and never the detection loss."""

    kind: Literal["linear_epoch", "linear_step", "cosine_epoch", "none"] = "linear_epoch"
    """Shape of the fall: "linear_epoch" once an epoch from 1 to 1 / epochs (Sun et al. 2020), "linear_step" at every
    step from 1 to 0, "cosine_epoch" along half a cosine once an epoch, "none" at 1 throughout."""
    stop_at: SomeShare = 1.0
    """Share of the run after which the factor is 0."""
    warmup_steps: Natural = 0
    """Steps over which the factor first rises from 0, on top of the fall; terms that do not decay rise with it."""


def schedule(config: Config, *, steps: int, steps_per_epoch: int) -> optax.Schedule:
    """The factor as a function of the step, counted from 0.

    Args:
      config: its shape.
      steps: length of the run.
      steps_per_epoch: length of an epoch; an incomplete last one counts.

    Raises:
      ConfigError: if a length is below 1.
    """
    if min(steps, steps_per_epoch) < 1:
        raise ConfigError(f"A decay needs at least one step and one step an epoch, not {steps} and {steps_per_epoch}.")
    epochs = math.ceil(steps / steps_per_epoch)
    fall = {
        "linear_epoch": _by_epoch(optax.linear_schedule(1.0, 0.0, epochs), steps_per_epoch),
        "linear_step": optax.linear_schedule(1.0, 0.0, steps),
        "cosine_epoch": _by_epoch(optax.cosine_decay_schedule(1.0, epochs), steps_per_epoch),
        "none": optax.constant_schedule(1.0),
    }[config.kind]
    rise = warmup(config)
    end = math.ceil(round(config.stop_at * steps, 6))  # 0.55 * 100 is a rounding more than 55
    return lambda step: jnp.where(jnp.asarray(step) < end, fall(step) * rise(step), 0.0)


def warmup(config: Config) -> optax.Schedule:
    """The rise of the factor as a function of the step, counted from 0: from 0 to 1, and 1 without `warmup_steps`."""
    return optax.linear_schedule(0.0, 1.0, config.warmup_steps) if config.warmup_steps else optax.constant_schedule(1.0)


def _by_epoch(fall: optax.Schedule, steps_per_epoch: int) -> optax.Schedule:
    return lambda step: fall(jnp.asarray(step) // steps_per_epoch)

"""The optimizer: learning rate schedule, clipping, weight decay and the guard against non-finite steps."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import optax
from jax import numpy as jnp

from jaxkd.ranges import Count, Natural, NonNegative, PartShare, Share, SomeShare

NEVER = 2**31 - 1  # after so many errors in a row optax lets them in; the run gives up long before
ONLY_WITH = {  # fields that do nothing unless another one is so; see `train.unused`
    "momentum": ("kind", "sgd"),
    "decay_norms": ("weight_decay", True),
    "milestones": ("schedule", "milestones"),
    "milestone_factor": ("schedule", "milestones"),
    "warmup_factor": ("warmup_steps", True),
}


@dataclass(frozen=True)
class Config:
    """How parameters follow gradients; the defaults are the common COCO recipe for a batch of 16.

    Attributes:
      kind: "sgd" with momentum, or "adamw".
      learning_rate: after the warm-up.
      momentum: of SGD.
      weight_decay: of matrices and kernels; biases and norms follow `decay_norms`.
      decay_norms: whether parameters of one dimension decay too.
      schedule: "milestones" multiplies by `milestone_factor` at each of `milestones`, "cosine" falls to 0.
      milestones: shares of the run.
      milestone_factor: what is left after each milestone.
      warmup_steps, warmup_factor: linear rise from `warmup_factor` x learning_rate.
      clip_norm: largest norm of a whole gradient; 0 for none.
      skip_nonfinite: non-finite steps in a row that are skipped before the run gives up.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    learning_rate: NonNegative = 0.02
    momentum: PartShare = 0.9
    weight_decay: NonNegative = 1e-4
    decay_norms: bool = False
    schedule: Literal["milestones", "cosine", "constant"] = "milestones"
    milestones: tuple[SomeShare, ...] = (8 / 12, 11 / 12)
    milestone_factor: NonNegative = 0.1
    warmup_steps: Natural = 500
    warmup_factor: Share = 0.001
    clip_norm: NonNegative = 0.0
    skip_nonfinite: Count = 10


def learning_rate(config: Config, *, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step, counted from 0."""
    rate = config.learning_rate
    main = {
        "milestones": optax.piecewise_constant_schedule(
            rate, {round(share * steps): config.milestone_factor for share in config.milestones}
        ),
        "cosine": optax.cosine_decay_schedule(rate, max(steps, 1)),
        "constant": optax.constant_schedule(rate),
    }[config.schedule]
    if not config.warmup_steps:
        return main
    rise = optax.linear_schedule(config.warmup_factor, 1.0, config.warmup_steps)
    return lambda step: main(step) * rise(step)


def build(config: Config) -> optax.GradientTransformation:
    """The optax transformation for a tree of trainable parameters; `update` wants a `learning_rate`."""
    decayed = None if config.decay_norms else _matrices
    chain = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if config.kind == "sgd":
        chain += [optax.add_decayed_weights(config.weight_decay, mask=decayed)] if config.weight_decay else []
        moved = [optax.trace(config.momentum)] if config.momentum else [optax.identity()]
    else:
        moved = [optax.scale_by_adam(), optax.add_decayed_weights(config.weight_decay, mask=decayed)]
    chain.append(optax.chain(*moved, _scale_by_rate()))
    return optax.apply_if_finite(optax.chain(*chain), max_consecutive_errors=NEVER)


def _scale_by_rate() -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus the `learning_rate` of the update, and counts as optax's schedules do."""

    def init(params: optax.Params) -> optax.OptState:
        del params
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        del params
        rate = more["learning_rate"]
        scaled = jax.tree.map(lambda leaf: (-rate).astype(leaf.dtype) * leaf, updates)
        return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

"""The optimizer: learning rate schedule, clipping, weight decay and the guard against non-finite steps."""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import jax
import optax
from jax import numpy as jnp

from jaxkd.ranges import Count, Natural, NonNegative, PartShare, Share, SomeShare
from jaxkd.train.state import names

BACKBONE = ("detector", "backbone")  # in the tree of trained parameters
NEVER = 2**31 - 1  # after so many errors in a row optax applies them; the run ends long before
ONLY_WITH = {  # fields that do nothing unless another one is so; see `train.unused`
    "momentum": ("kind", "sgd"),
    "decay_norms": ("weight_decay", True),
    "milestones": ("schedule", "milestones"),
    "milestone_factor": ("schedule", "milestones"),
    "warmup_factor": ("warmup_steps", True),
}


@dataclass(frozen=True)
class Config:
    """SGD or AdamW with its schedule; the defaults are the common COCO recipe for a batch of 16."""

    kind: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum ("sgd"), or AdamW ("adamw")."""
    learning_rate: NonNegative = 0.02
    """Learning rate after the warm-up."""
    backbone_factor: NonNegative = 1.0
    """Factor on the learning rate of the student's backbone, as its weights are often trained already."""
    momentum: PartShare = 0.9
    """Momentum of SGD."""
    weight_decay: NonNegative = 1e-4
    """Decay of matrices and kernels; biases and norms follow `decay_norms`."""
    decay_norms: bool = False
    """Whether parameters of one dimension decay too."""
    schedule: Literal["milestones", "cosine", "constant"] = "milestones"
    """How the rate falls: "milestones" multiplies it by `milestone_factor` at each of `milestones`; "cosine" ends at 0,
    "constant" stays."""
    milestones: tuple[SomeShare, ...] = (8 / 12, 11 / 12)
    """Shares of the run."""
    milestone_factor: NonNegative = 0.1
    """Factor of the learning rate at each milestone."""
    warmup_steps: Natural = 500
    """Steps of linear warm-up from `warmup_factor` x `learning_rate`; 0 for none."""
    warmup_factor: Share = 0.001
    """Share of `learning_rate` that the warm-up starts from."""
    clip_norm: NonNegative = 0.0
    """Largest global norm of the gradient; 0 for no clipping."""
    skip_nonfinite: Count = 10
    """Non-finite steps in a row that are skipped before the run ends with an error."""


def learning_rate(config: Config, *, steps: int) -> optax.Schedule:
    """The learning rate as a function of the step, counted from 0."""
    rate = config.learning_rate
    base = {
        "milestones": optax.piecewise_constant_schedule(
            rate, {round(share * steps): config.milestone_factor for share in config.milestones}
        ),
        "cosine": optax.cosine_decay_schedule(rate, max(steps, 1)),
        "constant": optax.constant_schedule(rate),
    }[config.schedule]
    if not config.warmup_steps:
        return base
    warmup = optax.linear_schedule(config.warmup_factor, 1.0, config.warmup_steps)
    return lambda step: base(step) * warmup(step)


def build(config: Config) -> optax.GradientTransformation:
    """The optax transformation for a tree of trainable parameters; `update` takes the `learning_rate`.

    It is the same object for settings that differ in the learning rate's schedule alone.
    """
    fields = {name: getattr(config, name) for name in ("clip_norm", "weight_decay", "decay_norms", "momentum")}
    return _build(config.kind, backbone_factor=config.backbone_factor, **fields)


@functools.lru_cache(maxsize=8)
def _build(
    kind: str,
    *,
    clip_norm: float,
    weight_decay: float,
    decay_norms: bool,
    momentum: float,
    backbone_factor: float,
) -> optax.GradientTransformation:
    decay_mask = None if decay_norms else _matrices
    chain = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if kind == "sgd":
        chain += [optax.add_decayed_weights(weight_decay, mask=decay_mask)] if weight_decay else []
        transforms = [optax.trace(momentum)] if momentum else [optax.identity()]
    else:
        transforms = [optax.scale_by_adam(), optax.add_decayed_weights(weight_decay, mask=decay_mask)]
    chain.append(optax.chain(*transforms, _scale_by_rate(backbone_factor)))
    return optax.apply_if_finite(optax.chain(*chain), max_consecutive_errors=NEVER)


def _scale_by_rate(backbone_factor: float) -> optax.GradientTransformationExtraArgs:
    """Multiplies by minus the `learning_rate` of the update, and counts as optax's schedules do.

    Leaves of the student's backbone are multiplied by `backbone_factor` too.
    """

    def init(params: Any) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None, **more: Any) -> tuple[Any, Any]:
        del params
        rate = more["learning_rate"]

        def scale(path: tuple, leaf: Any) -> Any:
            factor = backbone_factor if names(path)[:2] == BACKBONE else 1.0
            return (-rate if factor == 1.0 else -rate * factor).astype(leaf.dtype) * leaf

        scaled = jax.tree_util.tree_map_with_path(scale, updates)
        return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

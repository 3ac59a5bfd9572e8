"""The training state: all that a run carries from step to step and stores in a checkpoint."""

from collections.abc import Callable
from typing import Any

import jax
from flax import struct
from jax import Array
from jax import numpy as jnp

Tree = Any


class State(struct.PyTreeNode):
    """The state of a run between two steps, without the teacher, which never changes."""

    # Checkpointing puts placeholders in the place of leaves, so no field is declared an Array.
    step: Tree  # [] int32: steps done
    params: Tree  # {"detector": ..., "distill": {method: ...}}
    opt_state: Tree  # over the trainable leaves of `params`
    ema: Tree  # moving average of params["detector"]; {} where `ema_decay` is 0
    key: Tree  # [] the run's random key; the step is folded in for a key a step
    memory: Tree  # {method: what it rebuilds between epochs, such as prototypes}


def split(params: Tree, trainable: Callable[[tuple[str, ...]], bool]) -> tuple[Tree, Tree]:
    """The trainable leaves and the others, each with None where the other has a leaf."""
    is_trainable = jax.tree_util.tree_map_with_path(lambda path, _: trainable(names(path)), params)
    trained = jax.tree.map(lambda leaf, keep: leaf if keep else None, params, is_trainable)
    fixed = jax.tree.map(lambda leaf, keep: None if keep else leaf, params, is_trainable)
    return trained, fixed


def join(trained: Tree, fixed: Tree) -> Tree:
    """The inverse of `split`."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, fixed, is_leaf=lambda leaf: leaf is None)


def names(path: tuple) -> tuple[str, ...]:
    """The names along a tree path."""
    return tuple(str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path)


def moving_average(ema: Tree, params: Tree, *, decay: float, step: Array, warmup: float = 0.0) -> Tree:
    """The average after one more step; its decay grows to `decay`, so that the initial parameters lose weight soon.

    With a `warmup` the decay is 1 - exp(-t / warmup) of `decay` after t steps.
    """
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    if warmup:
        rate = -decay * jnp.expm1(-(step + 1.0) / warmup)
    return jax.tree.map(lambda old, new: rate * old + (1.0 - rate) * new, ema, params)

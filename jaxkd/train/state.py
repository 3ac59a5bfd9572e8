"""What a run carries from step to step; all of it is in the checkpoint."""

from collections.abc import Callable
from typing import Any

import jax
from flax import struct
from jax import Array
from jax import numpy as jnp

Tree = Any


class State(struct.PyTreeNode):
    """A run between two steps. The teacher is not in it."""

    # Checkpointing puts placeholders in the place of leaves, so no field is declared an Array.
    step: Tree  # [] int32: steps done
    params: Tree  # {"detector": ..., "distill": {method: ...}}
    opt_state: Tree  # over the trainable leaves of `params`
    ema: Tree  # moving average of params["detector"]; {} where none is kept
    key: Tree  # [] the run's key; a step's key is folded in
    memory: Tree  # {method: what it rebuilds between epochs}


def split(params: Tree, trainable: Callable[[tuple[str, ...]], bool]) -> tuple[Tree, Tree]:
    """The trainable leaves and the others, each with None where the other has a leaf."""
    chosen = jax.tree_util.tree_map_with_path(lambda path, _: trainable(names(path)), params)
    learned = jax.tree.map(lambda leaf, keep: leaf if keep else None, params, chosen)
    fixed = jax.tree.map(lambda leaf, keep: None if keep else leaf, params, chosen)
    return learned, fixed


def join(learned: Tree, fixed: Tree) -> Tree:
    """The inverse of `split`."""
    return jax.tree.map(lambda a, b: b if a is None else a, learned, fixed, is_leaf=lambda leaf: leaf is None)


def names(path: tuple) -> tuple[str, ...]:
    """A tree path as names."""
    return tuple(str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path)


def moving_average(ema: Tree, params: Tree, *, decay: float, step: Array) -> Tree:
    """The average after one more step; it follows fast at first, so that the start is soon forgotten."""
    rate = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: rate * old + (1.0 - rate) * new, ema, params)

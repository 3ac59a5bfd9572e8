"""Values of a step that are arguments of its program: the learning rate, and factors on the methods' terms."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import struct
from jax import numpy as jnp


class Scheduled(struct.PyTreeNode):
    """The values at one step: arguments of the compiled step, so that it is compiled once for all values."""

    learning_rate: Any  # [] float32
    decay: dict[str, Any]  # [] float32 for each method, which multiplies its terms
    warmup: dict[str, Any] = struct.field(default_factory=dict)  # [] float32 for methods that have one, the rise
    balance: dict[str, Any] = struct.field(default_factory=dict)  # [] float32 for kinds of terms; see `train.balance`


class Schedules:
    """The values of all schedules at each step of a run, which depend on the step alone."""

    def __init__(
        self,
        learning_rate: optax.Schedule,
        decays: Mapping[str, optax.Schedule],
        *,
        steps: int,
        warmups: Mapping[str, optax.Schedule] | None = None,
    ):
        schedules = Scheduled(learning_rate, dict(decays), dict(warmups or {}))
        values = jax.jit(jax.vmap(lambda step: jax.tree.map(lambda schedule: schedule(step), schedules)))
        self._values = jax.tree.map(np.float32, jax.device_get(values(jnp.arange(steps))))

    def at(self, step: int) -> Scheduled:
        """The values at a step, counted from 0."""
        return jax.tree.map(lambda values: values[step], self._values)


def shapes(methods: Mapping[str, object]) -> Scheduled:
    """The shapes of the values for a step with these methods."""
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    return Scheduled(scalar, dict.fromkeys(methods, scalar))

"""What the step's number alone decides: the learning rate and how much each method counts."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import struct
from jax import numpy as jnp


class Scheduled(struct.PyTreeNode):
    """The schedules' values at one step: arguments of the compiled step, so that no other value compiles it anew."""

    learning_rate: Any  # [] float32
    decay: dict[str, Any]  # [] float32 for each method, which multiplies its terms


class Schedules:
    """The values of all schedules at each step of a run."""

    def __init__(self, learning_rate: optax.Schedule, decays: Mapping[str, optax.Schedule], *, steps: int):
        found = jax.jit(jax.vmap(lambda step: (learning_rate(step), {name: of(step) for name, of in decays.items()})))
        rates, factors = jax.device_get(found(jnp.arange(steps)))
        self._values = jax.tree.map(np.float32, Scheduled(rates, factors))

    def at(self, step: int) -> Scheduled:
        """The values at a step, counted from 0."""
        return jax.tree.map(lambda values: values[step], self._values)


def shapes(methods: Mapping[str, object]) -> Scheduled:
    """The shapes of what a step with these methods is given."""
    number = jax.ShapeDtypeStruct((), jnp.float32)
    return Scheduled(number, dict.fromkeys(methods, number))

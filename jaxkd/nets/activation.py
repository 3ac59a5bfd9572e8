"""Activations by name."""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
from jax import Array

Activation = Literal["relu", "leaky"]
LEAK = 0.1  # slope of "leaky" below 0
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "leaky": functools.partial(nn.leaky_relu, negative_slope=LEAK),
}

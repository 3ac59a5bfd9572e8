"""The head of a dense detector: towers of convolutions over a level, and a predictor for each of its outputs."""

import math
from typing import Literal, NamedTuple

import flax.linen as nn
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from jaxkd.nets.activation import ACTIVATIONS, Activation
from jaxkd.nets.conv import HE_FAN_OUT, conv
from jaxkd.nets.depthwise import SeparableConv
from jaxkd.nets.norm import norm

Norm = Literal["none", "group", "frozen_batch", "batch", "sync_batch", "bias"]
SMALL = nn.initializers.normal(0.01)


class Output(NamedTuple):
    """One of a head's outputs."""

    name: str
    width: int  # numbers of a cell
    tower: Literal["class", "box"]  # that it is predicted from
    bias: tuple[float, ...] = (0.0,)  # what it is before training, repeated over the width


def logit(probability: float) -> float:
    """The logit of a probability."""
    return -math.log((1 - probability) / probability)


class DenseHead(nn.Module):
    """A tower of convolutions for classes and one for boxes, or one for both, and a convolution for each output.

    Attributes:
      outputs: what is predicted.
      channels: width of the towers.
      depth: convolutions in each.
      kernel: their size, and `last_kernel` that of the predictors.
      separable: whether each is a depth-wise convolution and a 1x1, both with a norm, which is not "none", and
        activation.
      shared_tower: whether all outputs are of one tower, called "tower".
      norm: after each convolution; with "none", and with `bias`, they have a bias.
      groups: number of groups of "group" norm.
      activation: after each convolution.
      dtype: what the towers compute in; the predictors compute in float32, and the parameters are float32.
    """

    outputs: tuple[Output, ...]
    channels: int
    depth: int
    kernel: int = 3
    last_kernel: int = 3
    separable: bool = False
    shared_tower: bool = False
    norm: Norm = "none"
    bias: bool = False
    groups: int = 32
    activation: Activation = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, level: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]
    ) -> dict[str, Float[Array, "b h w _"]]:
        """Each output of one level, in float32; `valid` is 1 inside the pictures, and outside nothing counts."""
        towers = {}
        for output in self.outputs:
            tower = "tower" if self.shared_tower else output.tower
            if tower not in towers:
                towers[tower] = self._tower(level, valid, tower)
        return {output.name: self._predicted(output, towers) for output in self.outputs}

    def _predicted(self, output: Output, towers: dict[str, Array]) -> Float[Array, "b h w _"]:
        bias = jnp.tile(jnp.asarray(output.bias, jnp.float32), output.width // len(output.bias))
        last = conv(
            output.width,
            self.last_kernel,
            bias=True,
            dtype="float32",
            init=SMALL,
            bias_init=lambda *_: bias,
            name=output.name,
        )
        return last(towers["tower" if self.shared_tower else output.tower])

    def _tower(self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"], name: str) -> Float[Array, "b h w d"]:
        valid = valid.astype(self.dtype)
        for index in range(self.depth):
            convolved = self._separable if self.separable else self._plain
            x = convolved(x, valid, name=f"{name}_{index}")
        return x

    def _separable(
        self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"], *, name: str
    ) -> Float[Array, "b h w d"]:
        norm_options = {"norm": self.norm, "groups": self.groups, "activation": self.activation}
        return SeparableConv(self.channels, self.kernel, dtype=self.dtype, name=name, **norm_options)(x, valid)

    def _plain(
        self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"], *, name: str
    ) -> Float[Array, "b h w d"]:
        plain = self.norm == "none"
        init = SMALL if plain else HE_FAN_OUT
        x = conv(self.channels, self.kernel, bias=plain or self.bias, dtype=self.dtype, init=init, name=name)(x)
        if not plain:
            x = norm(self.norm, groups=self.groups, dtype=self.dtype, name=f"{name}_norm")(x, valid)
        return ACTIVATIONS[self.activation](x) * valid

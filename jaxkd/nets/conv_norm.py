"""A convolution, its norm and an activation as one module: the unit of residual, HGNet and hybrid encoder nets."""

import functools
from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import flax.linen as nn
from jax import Array
from jaxtyping import Float

from jaxkd.nets.conv import conv
from jaxkd.nets.depthwise import DepthwiseConv
from jaxkd.nets.norm import EPS, norm

After = Literal["none", "relu", "silu"]
FUNCTIONS: dict[After, Callable[[Array], Array]] = {"none": lambda x: x, "relu": nn.relu, "silu": nn.silu}


@runtime_checkable
class Normed(Protocol):
    """A Config that says which norm is behind each convolution."""

    @property
    def norm(self) -> str:
        """See `nets.norm`."""
        ...

    @property
    def groups(self) -> int:
        """Number of groups of "group" norm."""
        ...

    @property
    def eps(self) -> float:
        """Added to a variance by the norms."""
        ...


class ConvNorm(nn.Module):
    """A convolution `conv`, padded by size // 2 on all four sides, a norm `norm` and an activation.

    Attributes:
      features: channels of the output; of a depthwise convolution those of the input.
      size, stride: of the convolution.
      activation: behind the norm.
      depthwise: whether every channel is convolved by itself.
      affine: whether the output is multiplied by one learned number and another one is added.
      later: whether the window begins at its cell and zeros are padded below and on the right alone; for a size of 2.
      norm, groups, eps: see `nets.norm`.
      dtype: what all computes in; parameters are float32.
    """

    features: int
    size: int = 1
    stride: int = 1
    activation: After = "none"
    depthwise: bool = False
    affine: bool = False
    later: bool = False
    norm: str = "frozen_batch"
    groups: int = 32
    eps: float = EPS
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], valid: Float[Array, "b i j 1"]) -> Float[Array, "b i j d"]:
        """[b ceil(h / stride) ceil(w / stride) features], zero outside `valid`, which are its own valid cells."""
        if self.depthwise:
            x = DepthwiseConv(self.size, self.stride, self.dtype, name="conv")(x)
        else:
            x = conv(self.features, self.size, stride=self.stride, dtype=self.dtype, name="conv")(x)
        if self.later:
            x = x[:, 1:, 1:]
        x = norm(self.norm, groups=self.groups, eps=self.eps, dtype=self.dtype, name="norm")(x, valid)
        x = FUNCTIONS[self.activation](x)
        if self.affine:
            factor = self.param("affine_scale", nn.initializers.ones, (1,))
            shift = self.param("affine_bias", nn.initializers.zeros, (1,))
            x = x * factor.astype(x.dtype) + shift.astype(x.dtype)
        return x * valid


def unit_of(config: Normed, dtype: str) -> functools.partial[ConvNorm]:
    """The unit with the norms of a net's Config."""
    return functools.partial(ConvNorm, norm=config.norm, groups=config.groups, eps=config.eps, dtype=dtype)

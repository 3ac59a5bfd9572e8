"""The backbone of NanoDet-g: cross-stage partial stages of 3x3 convolutions (Wang et al. 2020).

It returns four feature levels at strides 4, 8, 16 and 32. Half of a level's channels are those of the stage's first
convolution and pass it by, the other half went through its blocks.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from jaxkd.errors import ConfigError
from jaxkd.nets.activation import ACTIVATIONS
from jaxkd.nets.conv import conv
from jaxkd.nets.norm import Norm, masks_of, norm
from jaxkd.nets.pool import halved
from jaxkd.nets.remat import Remat, rematted
from jaxkd.ranges import Count

STAGES = 4
ONLY_WITH = {"groups": ("norm", "group")}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config:
    """A stem and four cross-stage partial stages; the defaults are those of NanoDet-g."""

    width: Count = 32
    """Channels of the stem, an even number; stage i gives 2^i times as many."""
    blocks: tuple[Count, ...] = (1, 2, 2, 3)
    """Blocks of each of the four stages."""
    norm: Literal["none", Norm] = "none"
    """Norm after each convolution, in place of its bias: "none" for pretrained weights, whose norms are folded into the
    convolutions, the others as in `nets.norm`."""
    groups: Count = 32
    """Number of groups of "group" norm, or its greatest common divisor with the channels."""


def build(config: Config, *, dtype: str = "float32", remat: Remat = "none") -> nn.Module:
    """The network as a module to be called with (images, extents); it computes in `dtype` from float32 parameters.

    Raises ConfigError for an odd width, or numbers of blocks that are not those of four stages.
    """
    if config.width % 2:
        raise ConfigError(f"nets.csp.width is {config.width}; give an even number, for a block halves its channels.")
    if len(config.blocks) != STAGES:
        raise ConfigError(f"nets.csp.blocks is {config.blocks}; give one number for each of the {STAGES} stages.")
    return CSPNet(config, dtype, remat)


def strides(config: Config) -> tuple[int, ...]:
    """Input pixels per cell of each level."""
    return (4, 8, 16, 32)


def channels(config: Config) -> tuple[int, ...]:
    """Width of each level."""
    return tuple(config.width * 2**stage for stage in range(1, STAGES + 1))


def stage_of(path: tuple[str, ...]) -> int:
    """The stage that a parameter belongs to, by its path in the net: 0 for the stem, 1 to 4 for the levels."""
    return int(path[0].removeprefix("stage")) if path[0].startswith("stage") else 0


class CSPNet(nn.Module):
    """Stem `conv`, max-pooling, and the stages stage1 to stage4."""

    config: Config
    dtype: str = "float32"
    remat: Remat = "none"

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], extents: Int[Array, "b 2"]
    ) -> tuple[Float[Array, "b _ _ _"], ...]:
        """Four levels [b ceil(h / stride) ceil(w / stride) c], zero outside the pictures.

        Args:
          images: normalised pictures, padded at the bottom and on the right with anything finite.
          extents: height and width in pixels of each picture.
        """
        config = self.config

        valid_at = masks_of(extents, dtype=self.dtype)
        x = images.astype(self.dtype) * valid_at(1, images)
        valid = valid_at(2, x[:, ::2, ::2])
        x = _convolved(config, x, valid, width=config.width, stride=2, dtype=self.dtype, name="conv")
        lowest = float(jnp.finfo(self.dtype).min)  # so that a zero of the padding is not the greatest of a window
        x = halved(jnp.where(valid > 0, x, lowest), beyond=lowest)
        valid = valid_at(4, x)
        x = jnp.where(valid > 0, x, 0)
        stage_class, levels = rematted(Stage, self.remat), []
        for stage, blocks in enumerate(config.blocks, start=1):
            stride = 2 if stage > 1 else 1
            valid = valid_at(2 ** (stage + 1), x[:, ::stride, ::stride])
            options = {"blocks": blocks, "stride": stride, "dtype": self.dtype}
            x = stage_class(config, name=f"stage{stage}", **options)(x, valid)
            levels.append(x)
        return tuple(levels)


class Stage(nn.Module):
    """Convolution `in`, blocks block_0, block_1, ..., convolution `out`, and the result of `in` beside its own."""

    config: Config
    blocks: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], valid: Float[Array, "b i j 1"]) -> Float[Array, "b i j 2*c"]:
        """The stage's output; `valid` are its own valid cells."""
        config, dtype, width = self.config, self.dtype, x.shape[-1]
        x = _convolved(config, x, valid, width=width, stride=self.stride, dtype=dtype, name="in")
        y = x
        for block in range(self.blocks):
            y = Block(config, dtype, name=f"block_{block}")(y, valid)
        y = _convolved(config, y, valid, width=width, dtype=dtype, name="out")
        return jnp.concatenate((y, x), axis=-1)


class Block(nn.Module):
    """Convolutions `in` and `mid` of half the channels each, side by side."""

    config: Config
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        """The block's output; `valid` are the valid cells of its input and output."""
        config, dtype, half = self.config, self.dtype, x.shape[-1] // 2
        first = _convolved(config, x, valid, width=half, dtype=dtype, name="in")
        second = _convolved(config, first, valid, width=half, dtype=dtype, name="mid")
        return jnp.concatenate((second, first), axis=-1)


def _convolved(
    config: Config,
    x: Float[Array, "b h w c"],
    valid: Float[Array, "b i j 1"],
    *,
    width: int,
    name: str,
    dtype: str,
    stride: int = 1,
) -> Float[Array, "b i j {width}"]:
    """A 3x3 convolution with its norm and a leaky ReLU, zero outside the `valid` cells of the result."""
    x = conv(width, 3, stride=stride, bias=config.norm == "none", dtype=dtype, name=name)(x)
    if config.norm != "none":
        x = norm(config.norm, groups=config.groups, dtype=dtype, name=f"{name}_norm")(x, valid)
    return ACTIVATIONS["leaky"](x) * valid

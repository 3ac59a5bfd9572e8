"""ResNet-D, the backbone of RT-DETR: a deep stem, and pooling in front of a shortcut that halves the map.

Sources: He et al. 2019, "Bag of tricks", section 4.2 (ResNet-D); Zhao et al. 2024, RT-DETR. It returns the feature
levels at strides 4, 8, 16 and 32.
"""

import functools
from dataclasses import dataclass

import flax.linen as nn
import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from jaxkd.errors import ConfigError
from jaxkd.nets.conv_norm import unit_of
from jaxkd.nets.norm import Norm, masks_of
from jaxkd.nets.pool import halved
from jaxkd.nets.remat import Remat, rematted
from jaxkd.ranges import Count, NonNegative

STAGES, EXPANSION = 4, 4
ONLY_WITH = {"groups": ("norm", "group")}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config:
    """A ResNet-D; the defaults are those of 50 layers."""

    stem: Count = 64
    """Channels of the stem's last convolution; the two before it have half as many."""
    widths: tuple[Count, ...] = (256, 512, 1024, 2048)
    """Channels of each of the four stages."""
    blocks: tuple[Count, ...] = (3, 4, 6, 3)
    """Blocks of each stage: 2, 2, 2, 2 of a ResNet-18, 3, 4, 6, 3 of 34 and 50 layers, 3, 4, 23, 3 of 101."""
    bottleneck: bool = True
    """Blocks of convolutions 1x1, 3x3, 1x1 with a quarter of the channels inside; else of two 3x3."""
    norm: Norm = "frozen_batch"
    """Norm after each convolution; see `nets.norm`."""
    groups: Count = 32
    """Number of groups of "group" norm, or its greatest common divisor with the channels."""
    eps: NonNegative = 1e-5
    """Added to a variance by the norms."""


def build(config: Config, *, dtype: str = "float32", remat: Remat = "none") -> nn.Module:
    """The network as a module to be called with (images, extents); it computes in `dtype` from float32 parameters.

    Raises ConfigError for widths or blocks that are not those of four stages.
    """
    if {len(config.widths), len(config.blocks)} != {STAGES}:
        raise ConfigError(
            f"nets.resnet_d.widths is {config.widths} and blocks is {config.blocks}; give one number for each of the "
            f"{STAGES} stages."
        )
    return ResNetD(config, dtype, remat)


def strides(config: Config) -> tuple[int, ...]:
    """Input pixels per cell of each level."""
    return (4, 8, 16, 32)


def channels(config: Config) -> tuple[int, ...]:
    """Width of each level."""
    return config.widths


def stage_of(path: tuple[str, ...]) -> int:
    """The stage that a parameter belongs to, by its path in the net: 0 for the stem, 1 to 4 for the levels."""
    return int(path[0].removeprefix("stage").split("_")[0]) if path[0].startswith("stage") else 0


class ResNetD(nn.Module):
    """Stem convolutions stem_0 to stem_2, max-pooling and four stages; block j of stage i is called stage{i}_{j}."""

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
        config, valid_at = self.config, masks_of(extents, dtype=self.dtype)
        unit = functools.partial(unit_of(config, self.dtype), size=3, activation="relu")
        x = images.astype(self.dtype) * valid_at(1, images)
        valid = valid_at(2, x[:, ::2, ::2])
        for index, width in enumerate((config.stem // 2, config.stem // 2, config.stem)):
            x = unit(width, stride=1 if index else 2, name=f"stem_{index}")(x, valid)
        x = halved(x)  # behind a ReLU a zero of the padding is never greater than all of a window
        valid = valid_at(4, x)
        x, block, levels = x * valid, rematted(Block, self.remat), []
        for stage, (width, count) in enumerate(zip(config.widths, config.blocks, strict=True), start=1):
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                after = valid_at(2 ** (stage + 1), x[:, ::2, ::2]) if stride == 2 else valid
                x = block(config, width, stride, index == 0, self.dtype, name=f"stage{stage}_{index}")(x, valid, after)
                valid = after
            levels.append(x)
        return tuple(levels)


class Block(nn.Module):
    """Convolutions conv_0, conv_1, ... and a shortcut, projected in the first block of a stage."""

    config: Config
    width: int
    stride: int
    projected: bool
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], before: Float[Array, "b h w 1"], after: Float[Array, "b i j 1"]
    ) -> Float[Array, "b i j d"]:
        """The block's output; `before` and `after` are the valid cells of its input and of its output."""
        unit, width, stride = unit_of(self.config, self.dtype), self.width, self.stride
        if self.config.bottleneck:
            y = unit(width // EXPANSION, 1, activation="relu", name="conv_0")(x, before)
            y = unit(width // EXPANSION, 3, stride, activation="relu", name="conv_1")(y, after)
            y = unit(width, 1, name="conv_2")(y, after)
        else:
            y = unit(width, 3, stride, activation="relu", name="conv_0")(x, after)
            y = unit(width, 3, name="conv_1")(y, after)
        if self.projected:
            x = mean_pooled(x, before) if stride == 2 else x
            x = unit(width, 1, name="shortcut")(x, after)
        return nn.relu(y + x)


def mean_pooled(x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b i j c"]:
    """The mean of the valid cells of each 2x2 window with stride 2; [b ceil(h / 2) ceil(w / 2) c]."""
    cells = _window_sums(valid.astype(jnp.float32))
    return (_window_sums(x.astype(jnp.float32)) / jnp.maximum(cells, 1.0)).astype(x.dtype)


@jax.jit
def _window_sums(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    _, high, wide, _ = x.shape
    x = jnp.pad(x, ((0, 0), (0, high % 2), (0, wide % 2), (0, 0)))
    x = x[:, ::2] + x[:, 1::2]
    return x[:, :, ::2] + x[:, :, 1::2]

"""HGNetV2, the backbone of D-FINE: stages of blocks that gather the outputs of all their layers.

Source: PaddlePaddle's PP-HGNetV2, as Peng et al. 2024 (D-FINE, arXiv 2410.13842) use it. It returns the feature levels
at strides 4, 8, 16 and 32.
"""

import functools
from dataclasses import dataclass

import flax.linen as nn
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from jaxkd.errors import ConfigError
from jaxkd.nets.conv_norm import unit_of
from jaxkd.nets.norm import Norm, masks_of
from jaxkd.nets.remat import Remat, rematted
from jaxkd.ranges import Count, NonNegative

STAGES = 4
ONLY_WITH = {"groups": ("norm", "group")}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config:
    """An HGNetV2; the defaults are those of B0."""

    stem: tuple[Count, Count] = (16, 16)
    """Channels inside of the stem and behind it."""
    inner: tuple[Count, ...] = (16, 32, 64, 128)
    """Channels of the layers in each of the four stages."""
    widths: tuple[Count, ...] = (64, 256, 512, 1024)
    """Channels of each stage."""
    blocks: tuple[Count, ...] = (1, 1, 2, 1)
    """Blocks of each stage."""
    layers: tuple[Count, ...] = (3, 3, 3, 3)
    """Layers of a block of each stage."""
    kernels: tuple[Count, ...] = (3, 3, 5, 5)
    """Sizes of the layers' convolutions in each stage."""
    light: tuple[bool, ...] = (False, False, True, True)
    """Whether the layers of a stage are a 1x1 and a depthwise convolution."""
    affine: bool = True
    """Whether each activation is followed by one learned factor and one learned shift."""
    norm: Norm = "frozen_batch"
    """Norm after each convolution; see `nets.norm`."""
    groups: Count = 32
    """Number of groups of "group" norm, or its greatest common divisor with the channels."""
    eps: NonNegative = 1e-5
    """Added to a variance by the norms."""


def build(config: Config, *, dtype: str = "float32", remat: Remat = "none") -> nn.Module:
    """The network as a module to be called with (images, extents); it computes in `dtype` from float32 parameters.

    Raises ConfigError where a field is not that of four stages, or a kernel's size is even.
    """
    fields = ("inner", "widths", "blocks", "layers", "kernels", "light")
    if wrong := [name for name in fields if len(getattr(config, name)) != STAGES]:
        raise ConfigError(
            f"nets.hgnet.{wrong[0]} is {getattr(config, wrong[0])}; give one value for each of the {STAGES} stages."
        )
    if not all(size % 2 for size in config.kernels):
        raise ConfigError(f"nets.hgnet.kernels is {config.kernels}; give odd sizes.")
    return HGNet(config, dtype, remat)


def strides(config: Config) -> tuple[int, ...]:
    """Input pixels per cell of each level."""
    return (4, 8, 16, 32)


def channels(config: Config) -> tuple[int, ...]:
    """Width of each level."""
    return config.widths


def stage_of(path: tuple[str, ...]) -> int:
    """The stage that a parameter belongs to, by its path in the net: 0 for the stem, 1 to 4 for the levels."""
    return int(path[0].removeprefix("stage").split("_")[0]) if path[0].startswith("stage") else 0


class HGNet(nn.Module):
    """`stem` and four stages: stage{i}_down, a depthwise convolution in all but the first, and blocks stage{i}_{j}."""

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
        x = images.astype(self.dtype) * valid_at(1, images)
        half = valid_at(2, x[:, ::2, ::2])
        valid = valid_at(4, half[:, ::2, ::2])
        x = Stem(config, self.dtype, name="stem")(x, half, valid)
        block, levels = rematted(Block, self.remat), []
        for stage in range(1, STAGES + 1):
            if stage > 1:
                valid, width = valid_at(2 ** (stage + 1), x[:, ::2, ::2]), x.shape[-1]
                unit = unit_of(config, self.dtype)
                x = unit(width, 3, 2, depthwise=True, name=f"stage{stage}_down")(x, valid)
            for index in range(config.blocks[stage - 1]):
                x = block(config, stage - 1, index > 0, self.dtype, name=f"stage{stage}_{index}")(x, valid)
            levels.append(x)
        return tuple(levels)


class Stem(nn.Module):
    """Convolutions conv_1, conv_2a and conv_2b beside a max-pooling, conv_3 and conv_4: to a stride of 4."""

    config: Config
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"], half: Float[Array, "b i j 1"], valid: Float[Array, "b y x 1"]
    ) -> Float[Array, "b y x c"]:
        """The map at a stride of 4; `half` and `valid` are the valid cells at strides of 2 and 4."""
        inner, out = self.config.stem
        unit = functools.partial(unit_of(self.config, self.dtype), activation="relu", affine=self.config.affine)
        x = unit(inner, 3, 2, name="conv_1")(x, half)
        pooled = _greatest_later(x) * half
        y = unit(inner // 2, 2, later=True, name="conv_2a")(x, half)
        y = unit(inner, 2, later=True, name="conv_2b")(y, half)
        x = jnp.concatenate((pooled, y), -1)
        x = unit(inner, 3, 2, name="conv_3")(x, valid)
        return unit(out, 1, name="conv_4")(x, valid)


class Block(nn.Module):
    """Layers layer_0, layer_1, ..., and convolutions gather_0 and gather_1 of the input and all their outputs."""

    config: Config
    stage: int  # from 0
    residual: bool  # whether the input is added to the output
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w d"]:
        """The block's output; `valid` are the valid cells of its input and output."""
        config, stage = self.config, self.stage
        plain, kernel, inner = unit_of(config, self.dtype), config.kernels[stage], config.inner[stage]
        unit = functools.partial(plain, activation="relu", affine=config.affine)
        gathered = [x]
        for index in range(config.layers[stage]):
            y, name = gathered[-1], f"layer_{index}"
            if config.light[stage]:
                y = plain(inner, 1, name=f"{name}_point")(y, valid)
                y = unit(inner, kernel, depthwise=True, name=f"{name}_depth")(y, valid)
            else:
                y = unit(inner, kernel, name=name)(y, valid)
            gathered.append(y)
        width = config.widths[stage]
        y = unit(width // 2, 1, name="gather_0")(jnp.concatenate(gathered, -1), valid)
        y = unit(width, 1, name="gather_1")(y, valid)
        return y + x if self.residual else y


def _greatest_later(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The greatest of each cell, the next ones below it and on its right, and the one between; zero beyond the map."""
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    x = jnp.maximum(x[:, :-1], x[:, 1:])
    return jnp.maximum(x[:, :, :-1], x[:, :, 1:])

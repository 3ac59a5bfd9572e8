"""The hybrid encoder of RT-DETR: attention on the coarsest level, then fusion of all levels down and up again.

Source: Zhao et al. 2024, "DETRs beat YOLOs on real-time object detection" (arXiv 2304.08069), section 4.2.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Float32, Int

from jaxkd.errors import ConfigError
from jaxkd.nets.attention import LAYER_EPS, EncoderLayer
from jaxkd.nets.conv_norm import After, ConvNorm, unit_of
from jaxkd.nets.norm import Norm, valid_cells
from jaxkd.nets.pyramid import doubled, pyramid_strides, used_levels
from jaxkd.ranges import Count, Natural, NonNegative, Positive

STEPS = 3  # of two convolutions side by side, in a block
ONLY_WITH = {"groups": ("norm", "group")}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config:
    """A hybrid encoder; the defaults are those of RT-DETR with a ResNet-50."""

    channels: Count = 256
    """Width of every level, a multiple of 4 and of `heads`."""
    first: Natural = 1
    """Index of the first backbone level used; 1 starts at stride 8, 2 at stride 16."""
    layers: Natural = 1
    """Layers of attention among the cells of the coarsest level."""
    heads: Count = 8
    """Heads of the attention."""
    hidden: Count = 1024
    """Width between the dense layers that follow an attention."""
    temperature: Positive = 10000.0
    """The longest period of the positions' sines, over 2 pi."""
    expansion: Positive = 1.0
    """Channels inside a block of fusion for each one of `channels`."""
    norm: Norm = "frozen_batch"
    """Norm after each convolution; see `nets.norm`."""
    groups: Count = 32
    """Number of groups of "group" norm, or its greatest common divisor with the channels."""
    eps: NonNegative = 1e-5
    """Added to a variance by the norms of convolutions."""
    layer_eps: NonNegative = LAYER_EPS
    """Added to a variance by the norms of the attention's layers."""


def build(
    config: Config,
    *,
    backbone_strides: Sequence[int] = (4, 8, 16, 32),
    backbone_channels: Sequence[int] = (),
    dtype: str = "float32",
) -> nn.Module:
    """The encoder as a module to be called with (all levels of the backbone, extents).

    It computes in `dtype` from float32 parameters, and its attention in float32. The widths of the backbone's levels
    are read off the maps. Raises ConfigError where the channels do not divide.
    """
    del backbone_channels
    check_channels(config)
    return HybridEncoder(config, tuple(backbone_strides), dtype)


def check_channels(config: Config) -> None:
    """Raises ConfigError where the channels do not divide over the heads, or over sines and cosines."""
    if config.channels % config.heads or config.channels % 4:
        raise ConfigError(
            f"A hybrid encoder of {config.channels} channels and {config.heads} heads does not divide; take a multiple "
            "of the heads and of 4."
        )


def strides(config: Config, backbone_strides: Sequence[int] = (4, 8, 16, 32)) -> tuple[int, ...]:
    """Input pixels per cell of each level.

    Raises ConfigError where the backbone has no level that is to be the first.
    """
    return pyramid_strides(backbone_strides, first=config.first, extra=0)


def channels(config: Config, backbone_channels: Sequence[int]) -> tuple[int, ...]:
    """Width of each level; ConfigError as for `strides`."""
    return (config.channels,) * len(used_levels(backbone_channels, first=config.first))


class HybridEncoder(nn.Module):
    """The encoder; an index of a part counts from the coarsest level where it goes down, from the finest upwards."""

    config: Config
    backbone_strides: tuple[int, ...]
    dtype: str = "float32"
    lateral_activation: After = "silu"

    @nn.compact
    def __call__(
        self, levels: tuple[Float[Array, "b _ _ _"], ...], extents: Int[Array, "b 2"]
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """The fused levels, finest first, zero outside the pictures."""
        config, unit = self.config, unit_of(self.config, self.dtype)
        steps = strides(config, self.backbone_strides)
        used = used_levels(range(len(levels)), first=config.first)
        valid = [
            valid_cells(extents, stride=step, shape=levels[index].shape[1:3], dtype=self.dtype)
            for index, step in zip(used, steps, strict=True)
        ]
        maps = [
            unit(config.channels, 1, name=f"input_{place}")(levels[index].astype(self.dtype), valid[place])
            for place, index in enumerate(used)
        ]
        maps[-1] = self._attended(maps[-1], valid[-1])
        for index, place in enumerate(reversed(range(1, len(maps)))):
            lateral = unit(config.channels, 1, activation=self.lateral_activation, name=f"lateral_{index}")
            maps[place] = lateral(maps[place], valid[place])
            finer = maps[place - 1]
            joined = jnp.concatenate((doubled(maps[place], like=finer) * valid[place - 1], finer), -1)
            maps[place - 1] = self._fused(joined, valid[place - 1], name=f"down_{index}")
        for index, place in enumerate(range(1, len(maps))):
            smaller = self._halved(maps[index], valid[place], valid[index], name=f"half_{index}")
            joined = jnp.concatenate((smaller, maps[place]), -1)
            maps[place] = self._fused(joined, valid[place], name=f"up_{index}")
        return tuple(maps)

    def _attended(self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        """The level after attention among its cells."""
        config, (batch, height, width, size) = self.config, x.shape
        seen = valid.reshape(batch, -1) > 0
        places = sine_positions(height, width, channels=size, temperature=config.temperature)
        tokens, positions = x.astype(jnp.float32).reshape(batch, -1, size), jnp.asarray(places.reshape(-1, size))
        for index in range(config.layers):
            layer = EncoderLayer(config.heads, config.hidden, config.layer_eps, name=f"attention_{index}")
            tokens = layer(tokens, positions, seen)
        return tokens.reshape(x.shape).astype(x.dtype) * valid

    def _fused(
        self, x: Float[Array, "b h w e"], valid: Float[Array, "b h w 1"], *, name: str
    ) -> Float[Array, "b h w c"]:
        """Two levels that lie side by side in channels as one."""
        return RepBlock(self.config, self.dtype, name=name)(x, valid)

    def _halved(
        self, x: Float[Array, "b h w c"], valid: Float[Array, "b i j 1"], before: Float[Array, "b h w 1"], *, name: str
    ) -> Float[Array, "b i j c"]:
        """The level at twice its stride; `valid` are the valid cells there, `before` those of the level."""
        del before
        unit = unit_of(self.config, self.dtype)
        return unit(self.config.channels, 3, 2, activation="silu", name=name)(x, valid)


class RepBlock(nn.Module):
    """A `RepCSP`, and a convolution `out` where it is of another width than the levels."""

    config: Config
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w e"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        """The block's output; `valid` are the valid cells of its input and output."""
        config, unit = self.config, functools.partial(unit_of(self.config, self.dtype), activation="silu")
        inner = int(config.channels * config.expansion)
        x = RepCSP(unit, inner, STEPS, name="csp")(x, valid)
        return x if inner == config.channels else unit(config.channels, 1, name="out")(x, valid)


class RepCSP(nn.Module):
    """A convolution `main`, steps of a 3x3 beside a 1x1 convolution, and the sum with a convolution `side`.

    Attributes:
      unit: convolution, norm and activation; the steps take its norm alone.
      features: channels of the output.
      steps: number of steps: step_0_wide and step_0_point, ...
    """

    unit: functools.partial[ConvNorm]
    features: int
    steps: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w e"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        """The block's output; `valid` are the valid cells of its input and output."""
        plain = functools.partial(self.unit, activation="none")
        y = self.unit(self.features, 1, name="main")(x, valid)
        for index in range(self.steps):
            wide = plain(self.features, 3, name=f"step_{index}_wide")(y, valid)
            y = nn.silu(wide + plain(self.features, 1, name=f"step_{index}_point")(y, valid))
        return y + self.unit(self.features, 1, name="side")(x, valid)


def sine_positions(height: int, width: int, *, channels: int, temperature: float) -> Float32[np.ndarray, "h w c"]:
    """Of each cell the sines and cosines of its row, then those of its column, at `channels` / 4 frequencies."""
    count = channels // 4
    frequencies = temperature ** -(np.arange(count) / count)
    rows, columns = (np.arange(side)[:, None] * frequencies for side in (height, width))
    by_row, by_column = (np.concatenate((np.sin(angles), np.cos(angles)), -1) for angles in (rows, columns))
    shape = (height, width, 2 * count)
    both = np.broadcast_to(by_row[:, None], shape), np.broadcast_to(by_column[None], shape)
    return np.concatenate(both, -1).astype(np.float32)

"""A path aggregation network of sums alone (NanoDet, version 0): 1x1 convolutions, and no other parameter."""

from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from jaxkd.nets.conv import conv
from jaxkd.nets.depthwise import shifted_products
from jaxkd.nets.fpn import LECUN_UNIFORM
from jaxkd.nets.norm import valid_cells
from jaxkd.nets.pyramid import pyramid_strides, repeated, used_levels
from jaxkd.ranges import Count, Natural

BINOMIAL = np.array([0.25, 0.5, 0.25], np.float32)  # it makes bilinear interpolation of a map with every cell twice


@dataclass(frozen=True)
class Config:
    """A path aggregation network of sums."""

    channels: Count = 128
    """Width of every level."""
    first: Natural = 1
    """Index of the first backbone level used; 0 starts at stride 4, 1 at stride 8."""


def build(
    config: Config,
    *,
    backbone_strides: Sequence[int] = (4, 8, 16, 32),
    backbone_channels: Sequence[int] = (),
    dtype: str = "float32",
) -> nn.Module:
    """The network as a module to be called with (all levels of the backbone, extents).

    It computes in `dtype` from float32 parameters. The widths of the backbone's levels are read off the maps.
    """
    del backbone_channels
    return SumPAN(config, tuple(backbone_strides), dtype)


def strides(config: Config, backbone_strides: Sequence[int] = (4, 8, 16, 32)) -> tuple[int, ...]:
    """Input pixels per cell of each level.

    Raises ConfigError where the backbone has no level that is to be the first.
    """
    return pyramid_strides(backbone_strides, first=config.first, extra=0)


def channels(config: Config, backbone_channels: Sequence[int]) -> tuple[int, ...]:
    """Width of each level; ConfigError as for `strides`."""
    return (config.channels,) * len(used_levels(backbone_channels, first=config.first))


class SumPAN(nn.Module):
    """Convolutions lateral_{i} (1x1) with bias, i counting the levels used; then sums down and up the levels."""

    config: Config
    backbone_strides: tuple[int, ...] = (4, 8, 16, 32)
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, levels: tuple[Float[Array, "b _ _ _"], ...], extents: Int[Array, "b 2"]
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Levels [b h_l w_l channels] at `strides`, finest first, zero outside the pictures.

        Args:
          levels: all levels of the backbone, also those before `first`.
          extents: height and width in pixels of each picture.
        """
        out: list[Array] = []
        valid: list[Array] = []
        steps = strides(self.config, self.backbone_strides)
        for index, (level, stride) in enumerate(zip(levels[self.config.first :], steps, strict=True)):
            valid.append(valid_cells(extents, stride=stride, shape=level.shape[1:3], dtype=self.dtype))
            options = {"bias": True, "dtype": self.dtype, "init": LECUN_UNIFORM, "name": f"lateral_{index}"}
            out.append(conv(self.config.channels, 1, **options)(level) * valid[index])
        for index in reversed(range(len(out) - 1)):
            out[index] += interpolated(out[index + 1], valid[index + 1], like=out[index]) * valid[index]
        for index in range(1, len(out)):
            out[index] += halved(out[index - 1], valid[index - 1])
        return tuple(out)


@jax.jit
def interpolated(
    x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"], *, like: Float[Array, "b i j _"]
) -> Float[Array, "b i j c"]:
    """The map at twice its size, bilinear between the centres of cells, and cropped to the size of `like`.

    Only `valid` cells count, so that the last one is continued to the picture's edge. `x` is zero outside of them, and
    what comes out is not. A separate jitted function, as `ops.nms.greedy`.
    """
    total, weight = (_smoothed(repeated(y))[:, : like.shape[1], : like.shape[2]] for y in (x, valid))
    return (total / jnp.where(weight > 0, weight, 1.0)).astype(x.dtype)


def _smoothed(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Cells and their neighbours with the weights 1, 2, 1 over 4 along both axes, in float32."""
    kernel = np.broadcast_to(np.outer(BINOMIAL, BINOMIAL)[:, :, None], (3, 3, x.shape[-1]))
    return shifted_products(x.astype(jnp.float32), jnp.asarray(kernel), 1)


@jax.jit
def halved(x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b i j c"]:
    """The mean of the `valid` ones of every 2 x 2 cells, 0 where there is none; `x` is zero outside of them.

    A separate jitted function, as `ops.nms.greedy`.
    """

    def summed(x: Float[Array, "b h w _"]) -> Float[Array, "b i j _"]:
        even = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        return even[:, ::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, ::2] + even[:, 1::2, 1::2]

    return summed(x) / jnp.maximum(summed(valid), 1.0)

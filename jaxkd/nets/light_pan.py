"""A light pyramid for small devices: sums up and down a backbone's levels, through separable convolutions of 5 x 5."""

from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
from jax import Array
from jaxtyping import Float, Int

from jaxkd.nets.conv import conv
from jaxkd.nets.depthwise import SeparableConv
from jaxkd.nets.norm import Norm, norm, valid_cells
from jaxkd.nets.pyramid import doubled, pyramid_strides, used_levels
from jaxkd.ranges import Count, Natural

ONLY_WITH = {"groups": ("norm", "group")}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config:
    """A light pyramid."""

    channels: Count = 96
    """Width of every level."""
    extra: Natural = 1
    """Coarser levels on top of the backbone's, each of twice the stride."""
    first: Natural = 1
    """Index of the first backbone level used; 0 starts at stride 4, 1 at stride 8."""
    norm: Norm = "group"
    """Norm after each convolution; see `nets.norm`."""
    groups: Count = 32
    """Number of groups of "group" norm, or its greatest common divisor with the channels."""


def build(
    config: Config,
    *,
    backbone_strides: Sequence[int] = (4, 8, 16, 32),
    backbone_channels: Sequence[int] = (),
    dtype: str = "float32",
) -> nn.Module:
    """The pyramid as a module to be called with (all levels of the backbone, extents).

    It computes in `dtype` from float32 parameters. The widths of the backbone's levels are read off the maps.
    """
    del backbone_channels
    return LightPAN(config, tuple(backbone_strides), dtype)


def strides(config: Config, backbone_strides: Sequence[int] = (4, 8, 16, 32)) -> tuple[int, ...]:
    """Input pixels per cell of each level.

    Raises ConfigError where the backbone has no level that is to be the first.
    """
    return pyramid_strides(backbone_strides, first=config.first, extra=config.extra)


def channels(config: Config, backbone_channels: Sequence[int]) -> tuple[int, ...]:
    """Width of each level; ConfigError as for `strides`."""
    return (config.channels,) * (len(used_levels(backbone_channels, first=config.first)) + config.extra)


class LightPAN(nn.Module):
    """Convolutions lateral_{i} (1x1), and separable ones top_down_{i}, halved_{i}, bottom_up_{i} and extra_{i}.

    i counts the levels used; each is the level that the convolution gives.
    """

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
        used = [level.astype(self.dtype) for level in levels[self.config.first :]]
        steps = strides(self.config, self.backbone_strides)

        def valid_at(index: int, x: Float[Array, "b h w _"]) -> Float[Array, "b h w 1"]:
            return valid_cells(extents, stride=steps[index], shape=x.shape[1:3], dtype=self.dtype)

        valid = [valid_at(index, level) for index, level in enumerate(used)]
        out = [self._lateral(x, mask, index) for index, (x, mask) in enumerate(zip(used, valid, strict=True))]
        for index in reversed(range(len(used) - 1)):
            x = (out[index] + doubled(out[index + 1], like=out[index])) * valid[index]
            out[index] = self._separable(f"top_down_{index}")(x, valid[index])
        for index in range(1, len(used)):
            x = out[index] + self._separable(f"halved_{index}", stride=2)(out[index - 1], valid[index])
            out[index] = self._separable(f"bottom_up_{index}")(x, valid[index])
        for index in range(len(used), len(steps)):
            mask = valid_at(index, out[-1][:, ::2, ::2])
            out.append(self._separable(f"extra_{index}", stride=2)(out[-1], mask))
        return tuple(out)

    def _lateral(
        self, x: Float[Array, "b h w _"], valid: Float[Array, "b h w 1"], index: int
    ) -> Float[Array, "b h w c"]:
        config = self.config
        x = conv(config.channels, 1, dtype=self.dtype, name=f"lateral_{index}")(x)
        x = norm(config.norm, groups=config.groups, dtype=self.dtype, name=f"lateral_{index}_norm")(x, valid)
        return nn.relu(x) * valid

    def _separable(self, name: str, *, stride: int = 1) -> SeparableConv:
        config = self.config
        return SeparableConv(
            config.channels, stride=stride, norm=config.norm, groups=config.groups, dtype=self.dtype, name=name
        )

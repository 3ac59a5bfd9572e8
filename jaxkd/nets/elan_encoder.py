"""The hybrid encoder of D-FINE: that of RT-DETR with blocks that gather several depths, and lighter halving.

Source: Peng et al. 2024, D-FINE (arXiv 2410.13842), appendix; the blocks are GELANs (Wang et al. 2024, YOLOv9).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from jaxkd.nets import hybrid_encoder
from jaxkd.nets.conv_norm import After, unit_of
from jaxkd.nets.hybrid_encoder import RepCSP, channels, strides
from jaxkd.ranges import Count

ONLY_WITH = hybrid_encoder.ONLY_WITH
__all__ = ["Config", "ELANEncoder", "build", "channels", "strides"]


@dataclass(frozen=True)
class Config(hybrid_encoder.Config):
    """A hybrid encoder as D-FINE has it; the defaults are those of its size L."""

    steps: Count = 3
    """Steps of two convolutions side by side, of which a block has twice so many."""


def build(
    config: Config,
    *,
    backbone_strides: Sequence[int] = (4, 8, 16, 32),
    backbone_channels: Sequence[int] = (),
    dtype: str = "float32",
) -> nn.Module:
    """As `hybrid_encoder.build`."""
    del backbone_channels
    hybrid_encoder.check_channels(config)
    return ELANEncoder(config, tuple(backbone_strides), dtype)


class ELANEncoder(hybrid_encoder.HybridEncoder):
    """The encoder; see `hybrid_encoder.HybridEncoder`."""

    config: Config
    lateral_activation: After = "none"

    def _fused(
        self, x: Float[Array, "b h w e"], valid: Float[Array, "b h w 1"], *, name: str
    ) -> Float[Array, "b h w c"]:
        """Two levels that lie side by side in channels as one."""
        return ELANBlock(self.config, self.dtype, name=name)(x, valid)

    def _halved(
        self, x: Float[Array, "b h w c"], valid: Float[Array, "b i j 1"], before: Float[Array, "b h w 1"], *, name: str
    ) -> Float[Array, "b i j c"]:
        """The level at twice its stride; `valid` are the valid cells there, `before` those of the level."""
        unit, width = unit_of(self.config, self.dtype), self.config.channels
        x = unit(width, 1, name=f"{name}_point")(x, before)
        return unit(width, 3, 2, depthwise=True, name=f"{name}_depth")(x, valid)


class ELANBlock(nn.Module):
    """Convolution `in`, of whose channels half go through two `RepCSP` with a convolution each; then `out` of all."""

    config: Config
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w e"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        """The block's output; `valid` are the valid cells of its input and output."""
        config, unit = self.config, functools.partial(unit_of(self.config, self.dtype), activation="silu")
        inner = int(config.expansion * config.channels // 2)
        gathered = jnp.split(unit(2 * config.channels, 1, name="in")(x, valid), 2, -1)
        for index in range(2):
            y = RepCSP(unit, inner, config.steps, name=f"csp_{index}")(gathered[-1], valid)
            gathered.append(unit(inner, 3, name=f"conv_{index}")(y, valid))
        return unit(config.channels, 1, name="out")(jnp.concatenate(gathered, -1), valid)

"""Feature pyramids (Lin et al. 2017): top-down sums of a backbone's levels, all of one width."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
from jax import Array
from jaxtyping import Float, Int

from jaxkd.nets.conv import conv
from jaxkd.nets.norm import Norm, norm, valid_cells
from jaxkd.nets.pyramid import doubled, pyramid_strides, used_levels
from jaxkd.ranges import Count, Natural

LIKE = {"torchvision": {}, "detectron2": {}, "mmdetection": {"extra_relu": False}}
EXTRA = {"none": 0, "pool": 1, "conv_c5": 2, "conv_p5": 2}  # levels above the backbone's
LECUN_UNIFORM = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
ONLY_WITH = {  # fields that do nothing unless another one is so; see `train.unused`
    "extra_relu": ("extra", ("conv_c5", "conv_p5")),
    "groups": ("norm", "group"),
}


@dataclass(frozen=True)
class Config:
    """A feature pyramid."""

    channels: Count = 256
    """Width of every level."""
    extra: Literal["none", "pool", "conv_c5", "conv_p5"] = "pool"
    """Coarser levels on top: "pool" takes every second cell of the last (Faster R-CNN), "conv_c5" and "conv_p5" add two
    3x3 convolutions of stride 2 that start from the backbone's or the pyramid's last level (RetinaNet)."""
    extra_relu: bool = True
    """A ReLU between these two convolutions; not in mmdetection, but for its FCOS."""
    first: Natural = 0
    """Index of the first backbone level used; 0 starts at stride 4 (P2), 1 at stride 8 (P3)."""
    norm: Literal["none", Norm] = "none"
    """Norm after each convolution of the sums, in place of its bias; the extra levels have none with "frozen_batch"
    and "bias"."""
    groups: Count = 32
    """Number of groups of "group" norm."""


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
    return FPN(config, tuple(backbone_strides), dtype)


def strides(config: Config, backbone_strides: Sequence[int] = (4, 8, 16, 32)) -> tuple[int, ...]:
    """Input pixels per cell of each level.

    Raises ConfigError where the backbone has no level that is to be the first.
    """
    return pyramid_strides(backbone_strides, first=config.first, extra=EXTRA[config.extra])


def channels(config: Config, backbone_channels: Sequence[int]) -> tuple[int, ...]:
    """Width of each level; ConfigError as for `strides`."""
    used = used_levels(backbone_channels, first=config.first)
    return (config.channels,) * (len(used) + EXTRA[config.extra])


class FPN(nn.Module):
    """Convolutions lateral_{i} (1x1) and output_{i} (3x3), i counting the levels used; extra_{i} (3x3) above them."""

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
        config = self.config
        used = tuple(level.astype(self.dtype) for level in levels[config.first :])
        steps = strides(config, self.backbone_strides)

        def valid_at(index: int, x: Float[Array, "b h w _"]) -> Float[Array, "b h w 1"]:
            return valid_cells(extents, stride=steps[index], shape=x.shape[1:3], dtype=self.dtype)

        valid = [valid_at(index, level) for index, level in enumerate(used)]
        sums: list[Array] = []
        for index in reversed(range(len(used))):
            x = self._conv(used[index], valid[index], size=1, name=f"lateral_{index}")
            sums.insert(0, (x + doubled(sums[0], like=x) if sums else x) * valid[index])
        out = [
            self._conv(x, mask, size=3, name=f"output_{index}") * mask
            for index, (x, mask) in enumerate(zip(sums, valid, strict=True))
        ]
        if config.extra == "pool":
            out.append(out[-1][:, ::2, ::2])
        elif config.extra != "none":
            x = used[-1] if config.extra == "conv_c5" else out[-1]
            for index in range(len(used), len(steps)):
                mask = valid_at(index, x[:, ::2, ::2])
                kind = "none" if config.norm in ("frozen_batch", "bias") else config.norm
                out.append(self._conv(x, mask, size=3, stride=2, norm_kind=kind, name=f"extra_{index}") * mask)
                x = nn.relu(out[-1]) if config.extra_relu else out[-1]
        return tuple(out)

    def _conv(
        self,
        x: Float[Array, "b h w c"],
        valid: Float[Array, "b i j 1"],
        *,
        size: int,
        name: str,
        stride: int = 1,
        norm_kind: str | None = None,
    ) -> Float[Array, "b i j d"]:
        config, kind = self.config, norm_kind or self.config.norm
        options = {"stride": stride, "bias": kind == "none", "dtype": self.dtype, "init": LECUN_UNIFORM}
        x = conv(config.channels, size, name=name, **options)(x)
        if kind == "none":
            return x
        return norm(kind, groups=config.groups, dtype=self.dtype, name=f"{name}_norm")(x, valid)

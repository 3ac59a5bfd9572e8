"""MobileNetV2 (Sandler et al. 2018) that returns four feature levels at strides 4, 8, 16 and 32."""

from dataclasses import dataclass

import flax.linen as nn
from jax import Array
from jaxtyping import Float, Int

from jaxkd.nets.conv import conv
from jaxkd.nets.depthwise import DepthwiseConv
from jaxkd.nets.norm import Norm, masks_of, norm
from jaxkd.nets.remat import Remat, rematted
from jaxkd.ranges import Count, Positive

# Sandler et al. 2018, table 2: expansion t, channels c, repeats n, stride s of the first.
ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM = 32
ENDS = (3, 6, 13, 17)  # the last block of each level
ONLY_WITH = {"groups": ("norm", "group")}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config:
    """A MobileNetV2 without its last 1x1 convolution and classifier."""

    width: Positive = 1.0
    """Factor on all channels, rounded to multiples of 8; 1.0 gives levels of 24, 32, 96 and 320 channels."""
    norm: Norm = "frozen_batch"
    """Norm after each convolution: "frozen_batch" for pretrained weights, "group" for training from random numbers or
    in small batches, "batch" of each device's own pictures, "sync_batch" of those of all devices."""
    groups: Count = 32
    """Number of groups of "group" norm, or its greatest common divisor with the channels."""


def build(config: Config, *, dtype: str = "float32", remat: Remat = "none") -> nn.Module:
    """The network as a module to be called with (images, extents); it computes in `dtype` from float32 parameters."""
    return MobileNetV2(config, dtype, remat)


def strides(config: Config) -> tuple[int, ...]:
    """Input pixels per cell of each level."""
    return (4, 8, 16, 32)


def channels(config: Config) -> tuple[int, ...]:
    """Width of each level."""
    return tuple(rounded(wide * config.width) for wide in (24, 32, 96, 320))


def stage_of(path: tuple[str, ...]) -> int:
    """The stage that a parameter belongs to, by its path in the net: 0 for strides 1 and 2, 1 to 4 for the levels."""
    block = int(path[0].removeprefix("features_"))
    return 0 if block < 2 else sum(block > end for end in ENDS) + 1


class MobileNetV2(nn.Module):
    """Stem features_0 and inverted residuals features_1 to features_17."""

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
        valid, stride = valid_at(2, x[:, ::2, ::2]), 2
        x = Stem(config, self.dtype, name="features_0")(x, valid)
        levels, block = [], 0
        for expansion, wide, repeats, first in ROWS:
            for step in (first, *[1] * (repeats - 1)):
                block, stride = block + 1, stride * step
                after = valid_at(stride, x[:, ::2, ::2]) if step == 2 else valid
                width = rounded(wide * config.width)
                options = {"width": width, "expansion": expansion, "stride": step, "dtype": self.dtype}
                x = rematted(InvertedResidual, self.remat)(config, name=f"features_{block}", **options)(x, valid, after)
                valid = after
                if block in ENDS:
                    levels.append(x)
        return tuple(levels)


class Stem(nn.Module):
    """A 3x3 convolution of stride 2 with norm and ReLU6."""

    config: Config
    dtype: str

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], valid: Float[Array, "b i j 1"]) -> Float[Array, "b i j c"]:
        """The stem's output; `valid` are its own valid cells."""
        config = self.config
        x = conv(rounded(STEM * config.width), 3, stride=2, dtype=self.dtype, name="conv")(x)
        x = norm(config.norm, groups=config.groups, dtype=self.dtype, name="norm")(x, valid)
        return nn.relu6(x) * valid


class InvertedResidual(nn.Module):
    """Expansion 1x1, depthwise 3x3 and linear projection 1x1 (Sandler et al. 2018, table 1)."""

    config: Config
    width: int
    expansion: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], before: Float[Array, "b h w 1"], after: Float[Array, "b i j 1"]
    ) -> Float[Array, "b i j d"]:
        """The block's output; `before` and `after` are the valid cells of its input and of its output."""
        config = self.config
        options = {"groups": config.groups, "dtype": self.dtype}
        y = x
        if self.expansion > 1:
            y = conv(x.shape[-1] * self.expansion, 1, dtype=self.dtype, name="expand_conv")(y)
            y = nn.relu6(norm(config.norm, name="expand_norm", **options)(y, before)) * before
        y = DepthwiseConv(stride=self.stride, dtype=self.dtype, name="depthwise_conv")(y)
        y = nn.relu6(norm(config.norm, name="depthwise_norm", **options)(y, after))
        y = conv(self.width, 1, dtype=self.dtype, name="project_conv")(y)
        y = norm(config.norm, name="project_norm", **options)(y, after) * after
        return x + y if self.stride == 1 and x.shape[-1] == self.width else y


def rounded(width: int | float) -> int:
    """The multiple of 8 nearest to `width`, at least 8 and never more than a tenth below it."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest

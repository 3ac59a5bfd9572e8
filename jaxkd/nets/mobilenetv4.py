"""MobileNetV4 of convolutions alone (Qin et al. 2024, arXiv 2404.10518): four levels at strides 4, 8, 16 and 32."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
from jax import Array
from jaxtyping import Float, Int

from jaxkd.nets.conv import conv
from jaxkd.nets.depthwise import DepthwiseConv
from jaxkd.nets.mobilenet import rounded
from jaxkd.nets.norm import AnyNorm, Norm, masks_of, norm
from jaxkd.nets.remat import Remat, rematted
from jaxkd.ranges import Count, Positive


class Plain(NamedTuple):
    """A convolution."""

    size: int
    width: int
    stride: int = 1


class Fused(NamedTuple):
    """A 3x3 convolution to `expansion` times the channels, and a projection."""

    expansion: int
    width: int
    stride: int = 1


class Inverted(NamedTuple):
    """A universal inverted bottleneck; `start` and `middle` are the sizes of its depthwise convolutions, 0 for none."""

    start: int
    middle: int
    expansion: int
    width: int
    stride: int = 1


Row = Plain | Fused | Inverted

STEM, TOP = Plain(3, 32, 2), Plain(1, 960)
STAGES: dict[str, tuple[tuple[Row, ...], ...]] = {  # the blocks at stride 4, 8, 16 and 32
    "small": (
        (Plain(3, 32, 2), Plain(1, 32)),
        (Plain(3, 96, 2), Plain(1, 64)),
        (Inverted(5, 5, 3, 96, 2), *[Inverted(0, 3, 2, 96)] * 4, Inverted(3, 0, 4, 96)),
        (
            Inverted(3, 3, 6, 128, 2),
            Inverted(5, 5, 4, 128),
            Inverted(0, 5, 4, 128),
            Inverted(0, 5, 3, 128),
            *[Inverted(0, 3, 4, 128)] * 2,
        ),
    ),
    "medium": (
        (Fused(4, 48, 2),),
        (Inverted(3, 5, 4, 80, 2), Inverted(3, 3, 2, 80)),
        (
            Inverted(3, 5, 6, 160, 2),
            *[Inverted(3, 3, 4, 160)] * 2,
            Inverted(3, 5, 4, 160),
            Inverted(3, 3, 4, 160),
            Inverted(3, 0, 4, 160),
            Inverted(0, 0, 2, 160),
            Inverted(3, 0, 4, 160),
        ),
        (
            Inverted(5, 5, 6, 256, 2),
            Inverted(5, 5, 4, 256),
            *[Inverted(3, 5, 4, 256)] * 2,
            Inverted(0, 0, 4, 256),
            Inverted(3, 0, 4, 256),
            Inverted(3, 5, 2, 256),
            Inverted(5, 5, 4, 256),
            *[Inverted(0, 0, 4, 256)] * 2,
            Inverted(5, 0, 2, 256),
        ),
    ),
}
ONLY_WITH = {"groups": ("norm", "group")}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config:
    """A MobileNetV4 without the layers behind its pooling."""

    size: Literal["small", "medium"] = "small"
    """Which of the two nets of convolutions: levels of 32, 64, 96 and 128 channels, or of 48, 80, 160 and 256."""
    width: Positive = 1.0
    """Factor on all channels, rounded to multiples of 8. timm's small net of width 0.5 was trained with a mean and a
    standard deviation of 127.5 for every colour."""
    top: Literal["stage", "wide"] = "wide"
    """Where the level at stride 32 ends: with its blocks ("stage"), or with the 1x1 convolution to 960 channels that
    follows them ("wide")."""
    norm: Norm = "frozen_batch"
    """Norm after each convolution: "frozen_batch" for pretrained weights, "group" for training from random numbers or
    in small batches, "batch" of each device's own pictures, "sync_batch" of those of all devices."""
    groups: Count = 32
    """Number of groups of "group" norm, or its greatest common divisor with the channels."""


def build(config: Config, *, dtype: str = "float32", remat: Remat = "none") -> nn.Module:
    """The network as a module to be called with (images, extents); it computes in `dtype` from float32 parameters."""
    return MobileNetV4(config, dtype, remat)


def strides(config: Config) -> tuple[int, ...]:
    """Input pixels per cell of each level."""
    return (4, 8, 16, 32)


def channels(config: Config) -> tuple[int, ...]:
    """Width of each level."""
    return tuple(rounded(rows[-1].width * config.width) for rows in _stages(config))


def stage_of(path: tuple[str, ...]) -> int:
    """The stage that a parameter belongs to, by its path in the net: 0 for the stem, 1 to 4 for the levels."""
    if path[0] == "features_0":
        return 0
    return min(int(path[0].split("_")[1]) + 1, 4)


class MobileNetV4(nn.Module):
    """Stem features_0, and blocks block_{i}_{j}; block_4_0 is the wide convolution on top."""

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
        valid_at = masks_of(extents, dtype=self.dtype)
        inside, valid, stride = valid_at(1, images), valid_at(2, images[:, ::2, ::2]), 2
        x = images.astype(self.dtype) * inside
        x = PlainBlock(self.config, STEM, self.dtype, name="features_0")(x, inside, valid)
        levels = []
        for stage, rows in enumerate(_stages(self.config)):
            for index, row in enumerate(rows):
                stride = stride * row.stride
                after = valid_at(stride, x[:, ::2, ::2]) if row.stride == 2 else valid
                block = rematted(BLOCKS[type(row)], self.remat)
                name = "block_4_0" if row is TOP else f"block_{stage}_{index}"
                x = block(self.config, row, self.dtype, name=name)(x, valid, after)
                valid = after
            levels.append(x)
        return tuple(levels)


def _stages(config: Config) -> tuple[tuple[Row, ...], ...]:
    """The blocks of each level."""
    *stages, last = STAGES[config.size]
    return (*stages, (*last, TOP) if config.top == "wide" else last)


class PlainBlock(nn.Module):
    """A convolution with norm and ReLU."""

    config: Config
    row: Plain
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], before: Float[Array, "b h w 1"], after: Float[Array, "b i j 1"]
    ) -> Float[Array, "b i j d"]:
        """The block's output; `before` and `after` are the valid cells of its input and of its output."""
        width = rounded(self.row.width * self.config.width)
        x = conv(width, self.row.size, stride=self.row.stride, dtype=self.dtype, name="conv")(x)
        return nn.relu(_norm(self, "norm")(x, after)) * after


class FusedBlock(nn.Module):
    """A 3x3 convolution that expands, and a linear projection."""

    config: Config
    row: Fused
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], before: Float[Array, "b h w 1"], after: Float[Array, "b i j 1"]
    ) -> Float[Array, "b i j d"]:
        """The block's output, as that of `PlainBlock`."""
        row, wide = self.row, rounded(x.shape[-1] * self.row.expansion)
        x = conv(wide, 3, stride=row.stride, dtype=self.dtype, name="expand_conv")(x)
        x = nn.relu(_norm(self, "expand_norm")(x, after))
        x = conv(rounded(row.width * self.config.width), 1, dtype=self.dtype, name="project_conv")(x)
        return _norm(self, "project_norm")(x, after) * after


class InvertedBlock(nn.Module):
    """A universal inverted bottleneck: depthwise, expansion 1x1, depthwise and linear projection 1x1 (figure 4).

    There is no activation behind the first depthwise convolution; a stride is in the second one.
    """

    config: Config
    row: Inverted
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], before: Float[Array, "b h w 1"], after: Float[Array, "b i j 1"]
    ) -> Float[Array, "b i j d"]:
        """The block's output, as that of `PlainBlock`."""
        row, y = self.row, x
        width = rounded(row.width * self.config.width)
        if row.start:
            y = DepthwiseConv(row.start, dtype=self.dtype, name="start_conv")(y)
            y = _norm(self, "start_norm")(y, before)
        y = conv(rounded(x.shape[-1] * row.expansion), 1, dtype=self.dtype, name="expand_conv")(y)
        y = nn.relu(_norm(self, "expand_norm")(y, before)) * before
        if row.middle:
            y = DepthwiseConv(row.middle, row.stride, self.dtype, name="middle_conv")(y)
            y = nn.relu(_norm(self, "middle_norm")(y, after))
        y = conv(width, 1, dtype=self.dtype, name="project_conv")(y)
        y = _norm(self, "project_norm")(y, after) * after
        return x + y if row.stride == 1 and x.shape[-1] == width else y


BLOCKS: dict[type[Row], type[nn.Module]] = {Plain: PlainBlock, Fused: FusedBlock, Inverted: InvertedBlock}


def _norm(block: PlainBlock | FusedBlock | InvertedBlock, name: str) -> AnyNorm:
    """The block's norm of this name."""
    return norm(block.config.norm, groups=block.config.groups, dtype=block.dtype, name=name)

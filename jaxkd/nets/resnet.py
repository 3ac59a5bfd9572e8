"""Residual networks (He et al. 2016; Xie et al. 2017) that return the feature levels at strides 4, 8, 16 and 32."""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
from jax import Array
from jaxtyping import Float, Int

from jaxkd.errors import ConfigError
from jaxkd.nets.conv import conv
from jaxkd.nets.norm import Norm, masks_of, norm
from jaxkd.nets.pool import halved
from jaxkd.nets.remat import Remat, rematted
from jaxkd.ranges import Count, Natural, NonNegative

BLOCKS = {  # He et al. 2016, table 1; depth 10 has one basic block a stage
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
EXPANSION = 4
LIKE = {"torchvision": {}, "detectron2": {"stride_in_1x1": True}, "mmdetection": {}}
ONLY_WITH = {"groups": ("norm", "group")}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config:
    """A residual network."""

    depth: Literal[10, 18, 34, 50, 101, 152] = 50
    """Number of layers; up to 34 of basic blocks, from 50 of bottlenecks."""
    width: Count = 64
    """Channels of the stem and of the first stage's inner convolutions; each stage doubles them."""
    norm: Norm = "frozen_batch"
    """Norm after each convolution: "frozen_batch" for pretrained weights, "group" for training from random numbers or
    in small batches, "batch" of each device's own pictures, "sync_batch" of those of all devices."""
    groups: Count = 32
    """Number of groups of "group" norm."""
    eps: NonNegative = 1e-5
    """Added to a variance by the norms."""
    cardinality: Count = 1
    """Groups of a bottleneck's 3x3 convolution; 32 in ResNeXt (Xie et al. 2017). Every device convolves its pictures
    only, so a grouped convolution adds no traffic between devices."""
    part_width: Natural = 0
    """Channels of each of these groups in the first stage, 0 for `width`: 4 in ResNeXt-50 32x4d, 8 in ResNeXt-101
    32x8d; 128 with a cardinality of 1 gives the wide networks (Zagoruyko & Komodakis 2016)."""
    stride_in_1x1: bool = False
    """A bottleneck's stride is in its first 1x1 convolution (He et al. 2016) and not in its 3x3."""


def build(config: Config, *, dtype: str = "float32", remat: Remat = "none") -> nn.Module:
    """The network as a module to be called with (images, extents); it computes in `dtype` from float32 parameters.

    Raises ConfigError where basic blocks are to be split.
    """
    if config.depth < 50 and _inner(config, 1) != config.width:
        raise ConfigError(
            f"cardinality {config.cardinality} and part_width {config.part_width} do not fit a ResNet of depth "
            f"{config.depth}; networks up to 34 have basic blocks, which are not split."
        )
    return ResNet(config, dtype, remat)


def strides(config: Config) -> tuple[int, ...]:
    """Input pixels per cell of each level."""
    return (4, 8, 16, 32)


def channels(config: Config) -> tuple[int, ...]:
    """Width of each level."""
    expansion = EXPANSION if config.depth >= 50 else 1
    return tuple(config.width * 2**stage * expansion for stage in range(4))


def stage_of(path: tuple[str, ...]) -> int:
    """The stage that a parameter belongs to, by its path in the net: 0 for the stem, 1 to 4 for the levels."""
    return int(path[0].removeprefix("layer").split("_")[0]) if path[0].startswith("layer") else 0


class ResNet(nn.Module):
    """Stem and four stages; block j of stage i is called layer{i}_{j}."""

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
        x = conv(config.width, 7, stride=2, dtype=self.dtype, name="conv1")(x)
        valid = valid_at(2, x)
        x = norm(config.norm, name="bn1", **_norm_options(config, self.dtype))(x, valid)
        x = halved(nn.relu(x) * valid)
        valid = valid_at(4, x)
        x = x * valid  # a window of the max-pool may begin in the padding and end in the picture
        bottleneck, basic = rematted(Bottleneck, self.remat), rematted(Basic, self.remat)
        levels = []
        for stage, count in enumerate(BLOCKS[config.depth], start=1):
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                after = valid_at(2 ** (stage + 1), x[:, ::2, ::2]) if stride == 2 else valid
                options = {"width": config.width * 2 ** (stage - 1), "stride": stride, "dtype": self.dtype}
                if config.depth >= 50:
                    block = bottleneck(config, inner=_inner(config, stage), name=f"layer{stage}_{index}", **options)
                else:
                    block = basic(config, name=f"layer{stage}_{index}", **options)
                x = block(x, valid, after)
                valid = after
            levels.append(x)
        return tuple(levels)


class Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 5 left)."""

    config: Config
    width: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], before: Float[Array, "b h w 1"], after: Float[Array, "b i j 1"]
    ) -> Float[Array, "b i j d"]:
        """The block's output; `before` and `after` are the valid cells of its input and of its output."""
        config = self.config
        options = _norm_options(config, self.dtype)
        y = conv(self.width, 3, stride=self.stride, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(config.norm, name="bn1", **options)(y, after)) * after
        y = conv(self.width, 3, dtype=self.dtype, name="conv2")(y)
        y = norm(config.norm, name="bn2", **options)(y, after)
        return nn.relu(y + _shortcut(self, x, after, width=self.width)) * after


class Bottleneck(nn.Module):
    """Convolutions 1x1, 3x3, 1x1 and a shortcut (He et al. 2016, figure 5 right; Xie et al. 2017, figure 3c)."""

    config: Config
    width: int
    stride: int
    inner: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], before: Float[Array, "b h w 1"], after: Float[Array, "b i j 1"]
    ) -> Float[Array, "b i j d"]:
        """The block's output; `before` and `after` are the valid cells of its input and of its output."""
        config = self.config
        options = _norm_options(config, self.dtype)
        first, second = (self.stride, 1) if config.stride_in_1x1 else (1, self.stride)
        between = after if config.stride_in_1x1 else before
        y = conv(self.inner, 1, stride=first, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(config.norm, name="bn1", **options)(y, between)) * between
        y = conv(self.inner, 3, stride=second, parts=config.cardinality, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(norm(config.norm, name="bn2", **options)(y, after))
        y = conv(self.width * EXPANSION, 1, dtype=self.dtype, name="conv3")(y)
        y = norm(config.norm, name="bn3", **options)(y, after)
        return nn.relu(y + _shortcut(self, x, after, width=self.width * EXPANSION)) * after


def _shortcut(
    block: Basic | Bottleneck, x: Float[Array, "b h w c"], after: Float[Array, "b i j 1"], *, width: int
) -> Float[Array, "b i j {width}"]:
    if block.stride == 1 and x.shape[-1] == width:
        return x
    y = conv(width, 1, stride=block.stride, dtype=block.dtype, name="downsample_conv")(x)
    options = _norm_options(block.config, block.dtype)
    return norm(block.config.norm, name="downsample_norm", **options)(y, after)


def _norm_options(config: Config, dtype: str) -> dict:
    return {"groups": config.groups, "dtype": dtype, "eps": config.eps}


def _inner(config: Config, stage: int) -> int:
    """Channels of a bottleneck's 3x3 convolution in stage 1, 2, ..."""
    return config.cardinality * (config.part_width or config.width) * 2 ** (stage - 1)

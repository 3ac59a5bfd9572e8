"""MobileNetV2 (Sandler et al. 2018) that returns four feature levels at strides 4, 8, 16 and 32."""

import functools
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int

from jaxkd.nets.conv import HE_FAN_OUT, conv
from jaxkd.nets.norm import norm, valid_cells
from jaxkd.nets.remat import Remat, kept, rematted
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
    norm: Literal["frozen_batch", "group"] = "frozen_batch"
    """Norm after each convolution: "frozen_batch" for pretrained weights, "group" for training from random numbers or
    in small batches."""
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
    return tuple(_rounded(wide * config.width) for wide in (24, 32, 96, 320))


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

        def valid_at(stride: int, x: Float[Array, "b h w _"]) -> Float[Array, "b h w 1"]:
            return valid_cells(extents, stride=stride, shape=x.shape[1:3], dtype=self.dtype)

        x = images.astype(self.dtype) * valid_at(1, images)
        valid, stride = valid_at(2, x[:, ::2, ::2]), 2
        x = Stem(config, self.dtype, name="features_0")(x, valid)
        levels, block = [], 0
        for expansion, wide, repeats, first in ROWS:
            for step in (first, *[1] * (repeats - 1)):
                block, stride = block + 1, stride * step
                after = valid_at(stride, x[:, ::2, ::2]) if step == 2 else valid
                width = _rounded(wide * config.width)
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
        x = conv(_rounded(STEM * config.width), 3, stride=2, dtype=self.dtype, name="conv")(x)
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


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of each channel by itself, as a sum of nine shifted products.

    XLA's grouped convolution takes a slow path on CPU, above all in its gradient; the sum of products is far faster.
    """

    stride: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
        """[b ceil(h / stride) ceil(w / stride) c]; the nine products are added up in float32."""
        kernel = self.param("kernel", HE_FAN_OUT, (3, 3, 1, x.shape[-1]))
        kernel = kernel.astype(self.dtype).astype(jnp.float32)[:, :, 0]
        out: Array = shifted_products(x.astype(jnp.float32), kernel, self.stride)
        return kept(out.astype(self.dtype))


def _products(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c"], stride: int) -> Float[Array, "b i j c"]:
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = [_shifted(padded, i, j, stride) * kernel[i, j] for i in range(3) for j in range(3)]
    return functools.reduce(jnp.add, parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def shifted_products(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c"], stride: int) -> Float[Array, "b i j c"]:
    """The depthwise convolution of `x`, zero beyond its border.

    The kernel's gradient is nine sums over a whole map, which a CPU sums faster row by row in a scan than by XLA's
    reduction.
    """
    return _products(x, kernel, stride)


def _shifted(padded: Float[Array, "b h w c"], i: int, j: int, stride: int) -> Float[Array, "b y x c"]:
    return padded[:, i : padded.shape[1] - 2 + i : stride, j : padded.shape[2] - 2 + j : stride]


def _products_forward(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c"], stride: int
) -> tuple[Float[Array, "b i j c"], tuple[Float[Array, "b h w c"], Float[Array, "3 3 c"]]]:
    return _products(x, kernel, stride), (x, kernel)


def _products_backward(
    stride: int, saved: tuple[Float[Array, "b h w c"], Float[Array, "3 3 c"]], gradient: Float[Array, "b i j c"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "3 3 c"]]:
    x, kernel = saved
    (to_x,) = jax.vjp(lambda x: _products(x, kernel, stride), x)[1](gradient)
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def add_row(total: Float[Array, "3 3 c"], row: Int[Array, ""]) -> tuple[Float[Array, "3 3 c"], None]:
        band = lax.dynamic_slice_in_dim(padded, row * stride, 3, axis=1)
        row_gradient = lax.dynamic_index_in_dim(gradient, row, axis=1, keepdims=False)
        parts = [
            (band[:, i, j : padded.shape[2] - 2 + j : stride] * row_gradient).sum((0, 1))
            for i in range(3)
            for j in range(3)
        ]
        return total + jnp.stack(parts).reshape(total.shape), None

    to_kernel, _ = lax.scan(add_row, jnp.zeros_like(kernel), jnp.arange(gradient.shape[1]))
    return to_x, to_kernel


shifted_products.defvjp(_products_forward, _products_backward)


def _rounded(width: float) -> int:
    """The multiple of 8 nearest to `width`, at least 8 and never more than a tenth below it."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest

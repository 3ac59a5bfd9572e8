"""Masks, norms and convolutions that never let the padding of a picture change a result.

Pictures of several sizes share a bucket, padded at the bottom and on the right. A cell of a feature map at some stride
is valid where it lies within ceil(extent / stride). Whatever feeds a spatial operation is multiplied by that mask
first, so that a convolution sees beyond a picture's edge the zeros that it would see at the edge of an unpadded array.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

WIDE, LARGE = 128, 2**22  # channels, and numbers in a map, from which a kernel's gradient is worked out by taps
HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def valid_cells(
    extents: Int[Array, "b 2"], *, stride: int, shape: tuple[int, ...], dtype: str = "float32"
) -> Float[Array, "b h w 1"]:
    """1 where a cell of a map of `shape` (height, width) at `stride` lies in the picture, 0 in the padding."""
    cells = (extents + stride - 1) // stride
    rows = jnp.arange(shape[0]) < cells[:, :1]
    columns = jnp.arange(shape[1]) < cells[:, 1:]
    return (rows[:, :, None, None] & columns[:, None, :, None]).astype(dtype)


class FrozenBatchNorm(nn.Module):
    """Batch norm with stored statistics, folded into one multiply-add.

    The leaves `mean` and `var` live beside `scale` and `bias`, so that converted weights have one home, but no gradient
    reaches them.
    """

    dtype: str = "float32"
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        """`x` normalised in the net's dtype; `valid` is not needed, since no statistics are taken."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = jax.lax.stop_gradient(self.param("mean", nn.initializers.zeros, channels))
        var = jax.lax.stop_gradient(self.param("var", nn.initializers.ones, channels))
        factor = scale * jax.lax.rsqrt(var + self.eps)
        return scaled(x, factor.astype(self.dtype), (bias - mean * factor).astype(self.dtype))


@jax.custom_vjp
def scaled(x: Float[Array, "b h w c"], factor: Float[Array, "c"], shift: Float[Array, "c"]) -> Float[Array, "b h w c"]:
    """x * factor + shift, with a gradient whose sums over the map are not fused with what lies behind them.

    XLA on a CPU else sums a whole chain of selects cell by cell: behind a ReLU6 on [8 72 96 96] the gradient takes
    18 ms, of which all but 2 ms are these two sums.
    """
    return x * factor + shift


def _scaled_forward(x, factor, shift):
    return x * factor + shift, (x, factor, shift)


def _scaled_backward(saved, gradient):
    x, factor, shift = saved
    gradient = jax.lax.optimization_barrier(gradient)
    exact = gradient.astype(jnp.float32)
    to_factor, to_shift = (exact * x.astype(jnp.float32)).sum((0, 1, 2)), exact.sum((0, 1, 2))
    return gradient * factor, to_factor.astype(factor.dtype), to_shift.astype(shift.dtype)


scaled.defvjp(_scaled_forward, _scaled_backward)


class GroupNorm(nn.Module):
    """Group norm (Wu & He 2018) over the valid cells of each picture.

    Both moments are sums in float32 taken in one pass over the map; the result is one multiply-add with factors of
    [b c]. Where `groups` does not divide the channels, their greatest common divisor is taken.
    """

    groups: int = 32
    dtype: str = "float32"
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        """`x` normalised in the net's dtype; cells outside `valid` neither count nor become zero."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        groups = math.gcd(self.groups, channels)
        exact = x.astype(jnp.float32) * valid.astype(jnp.float32)
        cells = jnp.maximum(valid.astype(jnp.float32).sum((1, 2)), 1.0) * (channels // groups)

        def mean_of(sums: Array) -> Array:
            return jnp.repeat(sums.reshape(-1, groups, channels // groups).sum(-1) / cells, channels // groups, axis=1)

        mean = mean_of(exact.sum((1, 2)))
        var = jnp.maximum(mean_of(jnp.square(exact).sum((1, 2))) - jnp.square(mean), 0.0)
        factor = scale * jax.lax.rsqrt(var + self.eps)
        shift = bias - mean * factor
        return x * factor[:, None, None].astype(self.dtype) + shift[:, None, None].astype(self.dtype)


def norm(kind: str, *, name: str, dtype: str, groups: int = 32, eps: float = 1e-5) -> FrozenBatchNorm | GroupNorm:
    """The norm called "frozen_batch" or "group", to be applied to (x, valid)."""
    if kind == "group":
        return GroupNorm(groups=groups, dtype=dtype, eps=eps, name=name)
    return FrozenBatchNorm(dtype=dtype, eps=eps, name=name)


def conv(
    features: int,
    size: int,
    *,
    name: str,
    dtype: str,
    stride: int = 1,
    bias: bool = False,
    parts: int = 1,
    init: Callable = HE_FAN_OUT,
) -> "Conv":
    """A convolution of `size` x `size` padded by size // 2 on all four sides: [b h w c] to ceil(h / stride)."""
    return Conv(features, size, stride=stride, bias=bias, parts=parts, dtype=dtype, init=init, name=name)


class Conv(nn.Module):
    """A square convolution with torch's padding; one of 1 x 1 is a product of matrices.

    With `parts` above 1 the channels are convolved in so many parts that do not see each other (ResNeXt).
    As a convolution, the gradient of a 1 x 1 on [8 72 96 16] to 96 channels takes XLA on a CPU 30 ms, as a product 4.
    """

    features: int
    size: int
    stride: int = 1
    bias: bool = False
    parts: int = 1
    dtype: str = "float32"
    init: Callable = HE_FAN_OUT

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        """[b ceil(h / stride) ceil(w / stride) features] in the net's dtype."""
        kernel = self.param("kernel", self.init, (self.size, self.size, x.shape[-1] // self.parts, self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.size == 1 and self.parts == 1:
            out = x[:, :: self.stride, :: self.stride] @ kernel[0, 0]
        else:
            wide = min(kernel.shape[2:]) >= WIDE and x.size >= LARGE and self.stride == self.parts == 1
            out = convolved_wide(x, kernel) if wide else convolved(x, kernel, stride=self.stride, parts=self.parts)
        if not self.bias:
            return out
        return out + self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)


def convolved(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s _ d"], *, stride: int = 1, parts: int = 1
) -> Float[Array, "b i j d"]:
    """The convolution padded by s // 2 on all four sides; `parts` of the channels do not see each other."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((kernel.shape[0] // 2, kernel.shape[0] // 2),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=parts,
    )


@jax.custom_vjp
def convolved_wide(x: Float[Array, "b h w c"], kernel: Float[Array, "s s c d"]) -> Float[Array, "b h w d"]:
    """`convolved` with a gradient of the kernel that a CPU sums tap by tap, as products of matrices.

    Of a 3x3 convolution of [2 128 128 256] to 256 channels one core sums it in 390 ms, and in 830 as XLA has it; below
    WIDE channels or LARGE numbers XLA is as fast or faster.
    """
    return convolved(x, kernel)


def _wide_forward(x, kernel):
    return convolved(x, kernel), (x, kernel)


def _wide_backward(saved, gradient):
    x, kernel = saved
    (to_x,) = jax.linear_transpose(lambda x: convolved(x, kernel), x)(gradient)
    by_conv = lambda x, gradient: jax.linear_transpose(lambda k: convolved(x, k), kernel)(gradient)[0]  # noqa: E731
    return to_x, jax.lax.platform_dependent(x, gradient, cpu=_by_taps(kernel.shape[0]), default=by_conv)


def _by_taps(size: int) -> Callable[[Array, Array], Array]:
    """The kernel's gradient as size * size products of matrices."""

    def summed(x, gradient):
        _, height, width, channels = x.shape
        x = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
        rows = gradient.reshape(-1, gradient.shape[-1])
        taps = [
            x[:, i : i + height, j : j + width].reshape(-1, channels).T @ rows for i in range(size) for j in range(size)
        ]
        return jnp.stack(taps).reshape(size, size, channels, -1)

    return summed


convolved_wide.defvjp(_wide_forward, _wide_backward)

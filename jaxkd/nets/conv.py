"""Convolutions with torch's padding, in the fastest formulation for their size."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.export
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from jaxkd.nets.remat import kept

HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
WIDE, LARGE = 128, 2**21  # channels, and numbers in a map, from which a kernel's gradient is computed by taps


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
    bias_init: Callable = nn.initializers.zeros,
) -> "Conv":
    """A convolution of `size` x `size` padded by size // 2 on all four sides: [b h w c] to ceil(h / stride)."""
    return Conv(
        features, size, stride=stride, bias=bias, parts=parts, dtype=dtype, init=init, bias_init=bias_init, name=name
    )


class Conv(nn.Module):
    """A square convolution with torch's padding; one of 1 x 1 is a product of matrices.

    With `parts` above 1 it is a grouped convolution with so many groups (ResNeXt).
    On a CPU the gradient of a 1 x 1 is much faster as a product than as a convolution, and on large maps that of its
    kernel as a product of rows than as one of maps.
    """

    features: int
    size: int
    stride: int = 1
    bias: bool = False
    parts: int = 1
    dtype: str = "float32"
    init: Callable = HE_FAN_OUT
    bias_init: Callable = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j d"]:
        """[b ceil(h / stride) ceil(w / stride) features] in the net's dtype."""
        kernel = self.param("kernel", self.init, (self.size, self.size, x.shape[-1] // self.parts, self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        large = _cells(x) * max(kernel.shape[2:]) >= LARGE
        if self.size == 1 and self.parts == 1:
            out = pointwise(x, kernel[0, 0], stride=self.stride, large=large)
        elif large and min(kernel.shape[2:]) >= WIDE and self.stride == self.parts == 1:
            out = convolved_wide(x, kernel)
        else:
            out = convolved(x, kernel, stride=self.stride, parts=self.parts)
        out = kept(out)
        if not self.bias:
            return out
        bias = self.param("bias", self.bias_init, (self.features,))
        return (out + bias).astype(self.dtype)  # the bias in float32, so that its gradient is summed in float32


def _cells(x: Float[Array, "b h w c"]) -> int:
    """Cells of the maps of a batch; of one map where the program is exported for any number of them."""
    return math.prod(x.shape[jax.export.is_symbolic_dim(x.shape[0]) : -1])


@functools.partial(jax.jit, static_argnames=("stride", "large"))
def pointwise(x: Float[Array, "b h w c"], kernel: Float[Array, "c d"], *, stride: int, large: bool) -> Array:
    """The 1 x 1 convolution [b ceil(h / stride) ceil(w / stride) d] as a product; of rows where the maps are `large`.

    A separate jitted function, as `ops.nms.greedy`.
    """
    x = x[:, ::stride, ::stride]
    rows = x.reshape(-1, x.shape[-1]) if large else x
    return (rows @ kernel).reshape(*x.shape[:3], kernel.shape[-1])


def convolved(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s _ d"], *, stride: int = 1, parts: int = 1
) -> Float[Array, "b i j d"]:
    """The convolution padded by s // 2 on all four sides, in `parts` groups."""
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
    """`convolved`; on a CPU the gradient of its kernel is computed tap by tap, as products of matrices.

    That is faster than XLA's for many channels on large maps. Below WIDE channels or LARGE numbers, in the larger one
    of the two maps, XLA is as fast or faster.
    """
    return convolved(x, kernel)


def _wide_forward(
    x: Float[Array, "b h w c"], kernel: Float[Array, "s s c d"]
) -> tuple[Float[Array, "b h w d"], tuple[Float[Array, "b h w c"], Float[Array, "s s c d"]]]:
    return convolved(x, kernel), (x, kernel)


def _wide_backward(
    saved: tuple[Float[Array, "b h w c"], Float[Array, "s s c d"]], gradient: Float[Array, "b h w d"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "s s c d"]]:
    x, kernel = saved
    (to_x,) = jax.linear_transpose(lambda x: convolved(x, kernel), x)(gradient)

    def by_conv(x: Float[Array, "b h w c"], gradient: Float[Array, "b h w d"]) -> Float[Array, "s s c d"]:
        return jax.linear_transpose(lambda kernel: convolved(x, kernel), kernel)(gradient)[0]

    return to_x, jax.lax.platform_dependent(x, gradient, cpu=_by_taps(kernel.shape[0]), default=by_conv)


def _by_taps(size: int) -> Callable[[Array, Array], Array]:
    """The kernel's gradient as size * size products of matrices."""

    def summed(x: Float[Array, "b h w c"], gradient: Float[Array, "b h w d"]) -> Float[Array, "s s c d"]:
        _, height, width, channels = x.shape
        x = jnp.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
        rows = gradient.reshape(-1, gradient.shape[-1])
        taps = [
            x[:, i : i + height, j : j + width].reshape(-1, channels).T @ rows for i in range(size) for j in range(size)
        ]
        return jnp.stack(taps).reshape(size, size, channels, -1)

    return summed


convolved_wide.defvjp(_wide_forward, _wide_backward)

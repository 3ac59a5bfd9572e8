"""Depthwise convolutions of k x k, as sums of shifted products, and separable ones."""

import functools

import flax.linen as nn
import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int

from jaxkd.nets.activation import ACTIVATIONS, Activation
from jaxkd.nets.conv import HE_FAN_OUT, conv
from jaxkd.nets.norm import norm
from jaxkd.nets.remat import kept


class DepthwiseConv(nn.Module):
    """A convolution of each channel by itself, of an odd `size` and padded by size // 2 on all four sides.

    XLA's grouped convolution takes a slow path on CPU, above all in its gradient; the sum of products is far faster.
    """

    size: int = 3
    stride: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
        """[b ceil(h / stride) ceil(w / stride) c]; the products are added up in float32."""
        kernel = self.param("kernel", HE_FAN_OUT, (self.size, self.size, 1, x.shape[-1]))
        kernel = kernel.astype(self.dtype).astype(jnp.float32)[:, :, 0]
        out: Array = shifted_products(x.astype(jnp.float32), kernel, self.stride)
        return kept(out.astype(self.dtype))


class SeparableConv(nn.Module):
    """A depthwise convolution and one of 1 x 1, each with norm and activation.

    Attributes:
      features: channels of the output.
      size: of the depthwise convolution.
      stride: likewise.
      norm: "group" or "frozen_batch".
      groups: number of groups of "group" norm.
      activation: after each norm.
      dtype: what both compute in; their parameters are float32.
    """

    features: int
    size: int = 5
    stride: int = 1
    norm: str = "group"
    groups: int = 32
    activation: Activation = "relu"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], valid: Float[Array, "b i j 1"]) -> Float[Array, "b i j d"]:
        """[b ceil(h / stride) ceil(w / stride) features], zero outside `valid`, which are its own valid cells."""

        def normed(x: Float[Array, "b i j _"], name: str) -> Float[Array, "b i j _"]:
            x = norm(self.norm, groups=self.groups, dtype=self.dtype, name=name)(x, valid)
            return ACTIVATIONS[self.activation](x)

        x = DepthwiseConv(self.size, self.stride, self.dtype, name="depthwise_conv")(x)
        x = normed(x, "depthwise_norm")
        x = conv(self.features, 1, dtype=self.dtype, name="project_conv")(x)
        return normed(x, "project_norm") * valid


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def shifted_products(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c"], stride: int) -> Float[Array, "b i j c"]:
    """The depthwise convolution of `x`, zero beyond its border.

    The kernel's gradient is k * k sums over a whole map, which a CPU sums faster row by row in a scan than by XLA's
    reduction.
    """
    return _products(x, kernel, stride)


def _products(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c"], stride: int) -> Float[Array, "b i j c"]:
    return _summed(_padded(x, len(kernel)), kernel, stride)


def _padded(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b y x c"]:
    margin = (size // 2, size // 2)
    return jnp.pad(x, ((0, 0), margin, margin, (0, 0)))


def _summed(padded: Float[Array, "b y x c"], kernel: Float[Array, "k k c"], stride: int) -> Float[Array, "b i j c"]:
    rows, columns = (_shifts(length, len(kernel), stride) for length in padded.shape[1:3])
    parts = [padded[:, row, column] * kernel[i, j] for i, row in enumerate(rows) for j, column in enumerate(columns)]
    return functools.reduce(jnp.add, parts)


def _shifts(length: int, size: int, stride: int) -> list[slice]:
    """Of the rows or columns of a padded map, those that are multiplied with each row or column of the kernel."""
    return [slice(offset, length - size + 1 + offset, stride) for offset in range(size)]


def _products_forward(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c"], stride: int
) -> tuple[Float[Array, "b i j c"], tuple[Float[Array, "b h w c"], Float[Array, "k k c"]]]:
    return _products(x, kernel, stride), (x, kernel)


def _products_backward(
    stride: int, saved: tuple[Float[Array, "b h w c"], Float[Array, "k k c"]], gradient: Float[Array, "b i j c"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "k k c"]]:
    x, kernel = saved
    return _to_map(gradient, kernel, stride, x.shape), _to_kernel(x, gradient, stride, len(kernel))


def _to_map(
    gradient: Float[Array, "b i j c"], kernel: Float[Array, "k k c"], stride: int, shape: tuple[int, ...]
) -> Float[Array, "b h w c"]:
    """The gradient of a map of `shape`: products of the output's, spread by the stride, and the kernel turned round."""
    margin = len(kernel) // 2
    sides = zip(shape[1:3], gradient.shape[1:3], strict=True)
    spread = [(margin, margin + side - 1 - (count - 1) * stride, stride - 1) for side, count in sides]
    padded = lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *spread, (0, 0, 0)))
    return _summed(padded, kernel[::-1, ::-1], 1)


def _to_kernel(
    x: Float[Array, "b h w c"], gradient: Float[Array, "b i j c"], stride: int, size: int
) -> Float[Array, "k k c"]:
    padded = _padded(x, size)
    columns = _shifts(padded.shape[2], size, stride)

    def add_row(total: Float[Array, "k k c"], row: Int[Array, ""]) -> tuple[Float[Array, "k k c"], None]:
        band = lax.dynamic_slice_in_dim(padded, row * stride, size, axis=1)
        row_gradient = lax.dynamic_index_in_dim(gradient, row, axis=1, keepdims=False)
        parts = [(band[:, i, column] * row_gradient).sum((0, 1)) for i in range(size) for column in columns]
        return total + jnp.stack(parts).reshape(total.shape), None

    start = jnp.zeros((size, size, x.shape[-1]), gradient.dtype)
    return lax.scan(add_row, start, jnp.arange(gradient.shape[1]))[0]


shifted_products.defvjp(_products_forward, _products_backward)

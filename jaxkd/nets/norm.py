"""Masks and norms with which the padding of a picture changes no result.

Pictures of several sizes share a bucket, padded at the bottom and on the right. A cell of a feature map at some stride
is valid where it lies within ceil(extent / stride). The input of every spatial operation is multiplied by that mask
first, so that a convolution reads zeros beyond a picture's edge, as at the edge of an unpadded array.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
from flax import struct
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

Norm = Literal["frozen_batch", "group", "batch", "sync_batch", "bias"]  # see the classes below; the last is `Bias`
BATCH = ("batch", "sync_batch")  # those that take statistics of a batch, in training
STORED = ("frozen_batch", *BATCH)  # those with stored statistics
EPS = 1e-5
TRAINING, MOMENTS = "training", "moments"  # collections of batch norms: which are trained, and what they have seen
DEVICES = "data"  # the mesh's axis of devices
MOMENTUM = 0.1  # of a step's statistics in the stored ones


def valid_cells(
    extents: Int[Array, "b 2"], *, stride: int, shape: tuple[int, ...], dtype: str = "float32"
) -> Float[Array, "b h w 1"]:
    """1 where a cell of a map of `shape` (height, width) at `stride` lies in the picture, 0 in the padding."""
    cells = (extents + stride - 1) // stride
    rows = jnp.arange(shape[0]) < cells[:, :1]
    columns = jnp.arange(shape[1]) < cells[:, 1:]
    return (rows[:, :, None, None] & columns[:, None, :, None]).astype(dtype)


def masks_of(extents: Int[Array, "b 2"], *, dtype: str) -> Callable[[int, Array], Float[Array, "b h w 1"]]:
    """A function of a stride and a map at that stride: the mask of the map's cells that lie in the pictures."""
    return lambda stride, x: valid_cells(extents, stride=stride, shape=x.shape[1:3], dtype=dtype)


class FrozenBatchNorm(nn.Module):
    """Batch norm with stored statistics, folded into one multiply-add.

    The leaves `mean` and `var` are parameters beside `scale` and `bias`, so that converted weights are in one tree, but
    no gradient reaches them.
    """

    dtype: str = "float32"
    eps: float = EPS

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        """`x` normalised in the net's dtype; `valid` is not needed, since no statistics are taken."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = jax.lax.stop_gradient(self.param("mean", nn.initializers.zeros, channels))
        var = jax.lax.stop_gradient(self.param("var", nn.initializers.ones, channels))
        factor = scale * jax.lax.rsqrt(var + self.eps)
        return scaled(x.astype(self.dtype), factor, bias - mean * factor)


@jax.custom_vjp
def scaled(x: Float[Array, "b h w c"], factor: Float[Array, "c"], shift: Float[Array, "c"]) -> Float[Array, "b h w c"]:
    """x * factor + shift in the dtype of `x`, with a gradient whose sums over the map are float32 and not fused.

    Otherwise XLA on a CPU recomputes a chain of selects in these sums: after a ReLU6 they take nearly all of the
    gradient's time.
    """
    return x * factor.astype(x.dtype) + shift.astype(x.dtype)


def _scaled_forward(
    x: Float[Array, "b h w c"], factor: Float[Array, "c"], shift: Float[Array, "c"]
) -> tuple[Float[Array, "b h w c"], tuple[Float[Array, "b h w c"], Float[Array, "c"]]]:
    return x * factor.astype(x.dtype) + shift.astype(x.dtype), (x, factor)


def _scaled_backward(
    saved: tuple[Float[Array, "b h w c"], Float[Array, "c"]], gradient: Float[Array, "b h w c"]
) -> tuple[Float[Array, "b h w c"], Float[Array, "c"], Float[Array, "c"]]:
    x, factor = saved
    gradient = jax.lax.optimization_barrier(gradient)
    exact = gradient.astype(jnp.float32)
    to_factor, to_shift = (exact * x.astype(jnp.float32)).sum((0, 1, 2)), exact.sum((0, 1, 2))
    return gradient * factor.astype(x.dtype), to_factor, to_shift


scaled.defvjp(_scaled_forward, _scaled_backward)


class GroupNorm(nn.Module):
    """Group norm (Wu & He 2018) over the valid cells of each picture.

    Both moments are sums in float32 taken in one pass over the map; the result is one multiply-add with factors of
    [b c]. Where `groups` does not divide the channels, their greatest common divisor is taken.
    """

    groups: int = 32
    dtype: str = "float32"
    eps: float = EPS

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        """`x` normalised in the net's dtype; cells outside `valid` neither count nor become zero."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        groups = math.gcd(self.groups, channels)
        exact = x.astype(jnp.float32) * valid.astype(jnp.float32)
        cells = jnp.maximum(valid.astype(jnp.float32).sum((1, 2)), 1.0) * (channels // groups)

        def mean_of(sums: Float[Array, "b c"]) -> Float[Array, "b c"]:
            return jnp.repeat(sums.reshape(-1, groups, channels // groups).sum(-1) / cells, channels // groups, axis=1)

        mean = mean_of(exact.sum((1, 2)))
        var = jnp.maximum(mean_of(jnp.square(exact).sum((1, 2))) - jnp.square(mean), 0.0)
        factor = scale * jax.lax.rsqrt(var + self.eps)
        shift = bias - mean * factor
        return (x * factor[:, None, None] + shift[:, None, None]).astype(self.dtype)


class Moments(struct.PyTreeNode):
    """Sums over the valid cells that a batch norm has seen in a step, of each channel."""

    # While a tree is mapped, shapes or shardings are in the place of arrays.
    cells: Any  # [] float32: their number
    total: Any  # [c] float32
    squares: Any  # [c] float32

    def of_all_devices(self) -> "Moments":
        """The sums over devices; inside of a sharded step alone."""
        return jax.lax.psum(self, DEVICES)

    def mean_and_var(self) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
        """Mean and (biased) variance of each channel; 0 without a cell."""
        cells = jnp.maximum(self.cells, 1.0)
        mean = self.total / cells
        return mean, jnp.maximum(self.squares / cells - jnp.square(mean), 0.0)


class BatchNorm(nn.Module):
    """Batch norm (Ioffe & Szegedy 2015) over the valid cells of all pictures of a batch.

    In training, which a collection TRAINING with this norm in it says, the statistics are those of the batch and their
    sums are put into the collection MOMENTS; else they are the stored ones, and the norm is a `FrozenBatchNorm` with
    the same leaves. `running` brings the stored ones up to date after a step.

    Attributes:
      synchronised: whether the batch is that of all devices, or each device's own pictures.
    """

    synchronised: bool = False
    dtype: str = "float32"
    eps: float = EPS

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        """`x` normalised in the net's dtype; cells outside `valid` neither count nor become zero."""
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = jax.lax.stop_gradient(self.param("mean", nn.initializers.zeros, channels))
        var = jax.lax.stop_gradient(self.param("var", nn.initializers.ones, channels))
        if self.has_variable(TRAINING, "mean"):
            exact, counted = x.astype(jnp.float32), valid.astype(jnp.float32)
            inside = exact * counted
            moments = Moments(counted.sum(), inside.sum((0, 1, 2)), jnp.square(inside).sum((0, 1, 2)))
            self.sow(MOMENTS, "batch", jax.lax.stop_gradient(moments), reduce_fn=_added, init_fn=lambda: None)
            mean, var = (moments.of_all_devices() if self.synchronised else moments).mean_and_var()
        factor = scale * jax.lax.rsqrt(var + self.eps)
        return scaled(x.astype(self.dtype), factor, bias - mean * factor)


def _added(before: Moments | None, new: Moments) -> Moments:
    return new if before is None else jax.tree.map(jnp.add, before, new)


def training(params: dict[str, Any], is_trained: Callable[[tuple[str, ...]], bool]) -> dict[str, Any]:
    """The collection TRAINING for a net's parameters: the norms with stored statistics whose leaves are trained.

    `is_trained` is asked about the path of each norm's scale.
    """

    def switches(node: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        if "mean" in node:
            return {"mean": node["mean"]} if is_trained((*path, "scale")) else {}
        inner = {name: switches(part, (*path, name)) for name, part in node.items() if isinstance(part, dict)}
        return {name: part for name, part in inner.items() if part}

    return switches(params, ())


def running(params: dict[str, Any], moments: dict[str, Any], *, finite: Bool[Array, ""]) -> dict[str, Any]:
    """A net's parameters with the stored statistics moved towards those of a step, by MOMENTUM.

    The stored variance is unbiased.

    Args:
      params: of the net.
      moments: the collection MOMENTS, summed over devices and micro-batches.
      finite: whether the step counts; if not, all stays.
    """
    out = dict(params)
    for name, part in moments.items():
        if isinstance(part, Moments):
            mean, var = part.mean_and_var()
            unbiased = var * part.cells / jnp.maximum(part.cells - 1.0, 1.0)
            for leaf, value in (("mean", mean), ("var", unbiased)):
                moved = params[leaf] + MOMENTUM * (value - params[leaf])
                out[leaf] = jnp.where(finite & (part.cells > 0), moved, params[leaf])
        else:
            out[name] = running(params[name], part, finite=finite)
    return out


class Bias(nn.Module):
    """What is left of a norm with stored statistics once its factors are in the kernel before it: a sum.

    `loading.fold` makes these norms.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]) -> Float[Array, "b h w c"]:
        """`x` plus a number of each channel, in the net's dtype; `valid` is not needed."""
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return x.astype(self.dtype) + bias.astype(self.dtype)


AnyNorm = FrozenBatchNorm | GroupNorm | BatchNorm | Bias


def norm(kind: str, *, name: str, dtype: str, groups: int = 32, eps: float = EPS) -> AnyNorm:
    """The norm of a `Norm` but "none", to be applied to (x, valid)."""
    if kind == "group":
        return GroupNorm(groups=groups, dtype=dtype, eps=eps, name=name)
    if kind in BATCH:
        return BatchNorm(synchronised=kind == "sync_batch", dtype=dtype, eps=eps, name=name)
    if kind == "bias":
        return Bias(dtype=dtype, name=name)
    return FrozenBatchNorm(dtype=dtype, eps=eps, name=name)

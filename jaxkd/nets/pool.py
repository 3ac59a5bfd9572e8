"""Pooling, in the fastest formulation for a CPU."""

import functools

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float


@functools.partial(jax.jit, static_argnames="beyond")
def halved(x: Float[Array, "b h w c"], *, beyond: float = 0.0) -> Float[Array, "b i j c"]:
    """The greatest of each 3x3 window of `x` with stride 2 and padding 1; the padding holds `beyond`.

    That is max-pooling where no number of `x` is below `beyond`. A maximum of shifted slices, first over rows and then
    over columns: on a CPU faster than XLA's window reduction, with and without the gradient. A separate jitted
    function, as `ops.nms.greedy`.
    """
    _, high, wide, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=beyond)
    x = jnp.maximum(jnp.maximum(x[:, :high:2], x[:, 1 : high + 1 : 2]), x[:, 2 : high + 2 : 2])
    return jnp.maximum(jnp.maximum(x[:, :, :wide:2], x[:, :, 1 : wide + 1 : 2]), x[:, :, 2 : wide + 2 : 2])

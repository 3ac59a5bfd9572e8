import math

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.nets import light_pan, mobilenetv4
from jaxkd.nets.conv import Conv
from jaxkd.nets.depthwise import DepthwiseConv

SIDE = 320


def convolutions(neck, levels):
    """Of each convolution: numbers in its kernel, and cells of its output."""
    seen = {}

    def watch(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, (Conv, DepthwiseConv)) and context.method_name == "__call__":
            kernel = context.module.variables["params"]["kernel"]
            seen["/".join(context.module.path)] = kernel.size, math.prod(out.shape[1:3])
        return out

    with nn.intercept_methods(watch):
        jax.eval_shape(neck.init, jax.random.key(0), levels, jnp.full((1, 2), SIDE))
    return seen


@pytest.mark.parametrize(
    ("channels", "weights", "products"),
    [(64, 111_552, 32_385_600), (96, 188_832, 57_871_200), (128, 280_448, 89_552_000)],
)
def test_cost_over_the_small_mobilenet_v4(channels, weights, products):
    """Numbers in kernels (norms are not counted), and multiplications for a picture of 320 x 320."""
    config = light_pan.Config(channels=channels)
    widths = mobilenetv4.channels(mobilenetv4.Config())
    levels = tuple(
        jax.ShapeDtypeStruct((1, SIDE // stride, SIDE // stride, wide), jnp.float32)
        for stride, wide in zip((4, 8, 16, 32), widths, strict=True)
    )
    seen = convolutions(light_pan.build(config), levels)
    assert light_pan.strides(config) == (8, 16, 32, 64)
    assert sum(size for size, _ in seen.values()) == weights
    assert sum(size * cells for size, cells in seen.values()) == products


def test_sums_by_hand():
    """One channel, convolutions that change nothing: all that is left is the sums."""
    config = light_pan.Config(channels=1, norm="frozen_batch", extra=1, first=0)
    neck = light_pan.build(config, backbone_strides=(1, 2))
    fine, coarse = np.zeros((1, 3, 3, 1), np.float32), np.array([[1, 2], [3, 4]], np.float32)[None, :, :, None]
    fine[0, 2, 2] = 5.0
    extents = np.array([[3, 3]], np.int32)
    shapes = jax.eval_shape(neck.init, jax.random.key(0), (fine, coarse), extents)

    def leaf(path, shape):
        value = np.zeros(shape.shape, np.float32)
        if path[-1].key == "kernel":
            value[shape.shape[0] // 2, shape.shape[1] // 2] = 1.0
        return value + {"scale": 1.0, "var": 1.0 - 1e-5}.get(path[-1].key, 0.0)

    params = jax.tree_util.tree_map_with_path(leaf, shapes)
    assert set(params["params"]) == {
        *("lateral_0", "lateral_0_norm", "lateral_1", "lateral_1_norm"),
        *("top_down_0", "halved_1", "bottom_up_1", "extra_2"),
    }
    out = jax.jit(neck.apply)(params, (fine, coarse), extents)
    expected = [[[1, 1, 2], [1, 1, 2], [3, 3, 9]], [[1 + 1, 2 + 2], [3 + 3, 4 + 9]], [[2]]]
    for level, values in zip(out, expected, strict=True):
        np.testing.assert_allclose(level[0, :, :, 0], values, rtol=1e-6)

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.nets import sum_pan
from jaxkd.nets.norm import valid_cells


def test_levels_are_those_of_the_formula():
    """On sides that halve without a rest, with jax's own bilinear interpolation."""
    neck = sum_pan.build(sum_pan.Config(channels=4, first=1))
    draw = np.random.default_rng(0)
    levels = tuple(
        draw.normal(size=(2, 64 // s, 96 // s, w)).astype(np.float32) for s, w in ((4, 3), (8, 5), (16, 6), (32, 7))
    )
    params = {
        f"lateral_{i}": {
            "kernel": draw.normal(size=(1, 1, level.shape[-1], 4)).astype(np.float32),
            "bias": draw.normal(size=4).astype(np.float32),
        }
        for i, level in enumerate(levels[1:])
    }
    found = jax.jit(neck.apply)({"params": params}, levels, np.array([[64, 96]] * 2))

    def up(x):
        return jax.image.resize(x, (len(x), 2 * x.shape[1], 2 * x.shape[2], 4), "bilinear")

    def half(x):
        return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, 4).mean((2, 4))

    a, b, c = (
        level @ params[f"lateral_{i}"]["kernel"][0, 0] + params[f"lateral_{i}"]["bias"]
        for i, level in enumerate(levels[1:])
    )
    b = b + up(c)
    a = a + up(b)
    b = b + half(a)
    c = c + half(b)
    for level, expected in zip(found, (a, b, c), strict=True):
        np.testing.assert_allclose(level, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("canvas", [(3, 5), (6, 8)])
def test_only_cells_of_the_picture_count(canvas):
    """A picture of 3 x 5 cells, whose sides do not halve, on two canvases."""
    picture = np.arange(15, dtype=np.float32).reshape(3, 5)
    x = np.zeros((1, *canvas, 1), np.float32)
    x[0, :3, :5, 0] = picture
    valid = valid_cells(jnp.array([[3, 5]]), stride=1, shape=canvas)
    small = np.asarray(jax.jit(sum_pan.halved)(x, valid))[0, :, :, 0]
    np.testing.assert_allclose(small[:2, :3], [[3, 5, 6.5], [10.5, 12.5, 14]])
    assert not small[2:].any() and not small[:, 3:].any()

    coarse = valid_cells(jnp.array([[3, 5]]), stride=2, shape=small.shape)
    large = jax.jit(sum_pan.interpolated)(small[None, :, :, None], coarse, like=x)
    assert large.shape == x.shape
    rows = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75]])
    columns = np.array([[1, 0, 0], [0.75, 0.25, 0], [0.25, 0.75, 0], [0, 0.75, 0.25], [0, 0.25, 0.75]])
    np.testing.assert_allclose(large[0, :3, :5, 0], rows @ small[:2, :3] @ columns.T, rtol=1e-6)


def test_the_only_parameters_are_of_the_first_convolutions():
    neck = sum_pan.build(sum_pan.Config(channels=128, first=1))
    levels = tuple(jax.ShapeDtypeStruct((1, 64 // s, 64 // s, 16 * s), jnp.float32) for s in (4, 8, 16, 32))
    params = jax.eval_shape(neck.init, jax.random.key(0), levels, jnp.full((1, 2), 64))["params"]
    shapes = {f"{name}/{leaf}": value.shape for name, leaves in params.items() for leaf, value in leaves.items()}
    assert shapes == {
        **{f"lateral_{i}/kernel": (1, 1, wide, 128) for i, wide in enumerate((128, 256, 512))},
        **{f"lateral_{i}/bias": (128,) for i in range(3)},
    }

"""A map on the grid of another canvas."""

import jax
import numpy as np
from jax import numpy as jnp

from jaxkd.ops.resample import resample


def on(level, shape, *, scale, size, new_size, stride=8):
    numbers = {"scale": jnp.asarray(scale, jnp.float32), "size": jnp.asarray(size), "new_size": jnp.asarray(new_size)}
    return np.asarray(resample(jnp.asarray(level), shape, stride=stride, **numbers))


def test_half_the_cells_golden():
    """Two cells for four: centres at 8 and 24 of 32 pixels lie between the second pair and its neighbours."""
    level = np.arange(4, dtype=np.float32).reshape(4, 1, 1)
    found = on(level, (2, 1), scale=(2, 1), size=(32, 8), new_size=(16, 8))
    np.testing.assert_allclose(found[:, 0, 0], [0.5, 2.5])


def test_the_same_canvas_gives_the_same_map():
    level = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    np.testing.assert_array_equal(on(level, (5, 7), scale=(1, 1), size=(40, 56), new_size=(40, 56)), level)


def test_padding_is_neither_read_nor_filled():
    level = np.full((4, 4, 1), np.float32(7))
    level[3:], level[:, 2:] = 1e6, 1e6  # the picture holds 24 x 16 pixels
    found = on(level, (6, 6), scale=(0.75, 0.5), size=(24, 16), new_size=(32, 32))
    np.testing.assert_allclose(found[:4, :4], 7)
    assert not found[4:].any() and not found[:, 4:].any()


def test_like_a_slow_one():
    draw = np.random.default_rng(1)
    level, scale, size, new = draw.normal(size=(6, 9, 2)).astype(np.float32), (1.5, 1.25), (41, 67), (27, 53)
    found = on(level, (4, 8), scale=scale, size=size, new_size=new)
    for row in range(4):
        for column in range(8):
            places = []
            for index, axis in ((row, 0), (column, 1)):
                place = np.clip((index + 0.5) * scale[axis] - 0.5, 0, -(-size[axis] // 8) - 1)
                low = int(place)
                places.append({low: 1 - place + low, min(low + 1, level.shape[axis] - 1): 0.0})
                places[-1][min(low + 1, level.shape[axis] - 1)] += place - low
            wanted = sum(a * b * level[y, x] for y, a in places[0].items() for x, b in places[1].items())
            inside = row * 8 < new[0] and column * 8 < new[1]
            np.testing.assert_allclose(found[row, column], wanted * inside, rtol=1e-5, atol=1e-5)


def test_half_precision_is_interpolated_in_float32():
    level = np.arange(240, 248, dtype=np.float32).reshape(8, 1, 1)
    numbers = {"scale": jnp.ones(2) * 2.0, "size": jnp.asarray((64, 8)), "new_size": jnp.asarray((32, 8))}
    run = jax.jit(lambda level: resample(level, (4, 1), stride=8, **numbers))
    found = run(jnp.asarray(level, jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    wanted = jnp.asarray([240.5, 242.5, 244.5, 246.5], jnp.bfloat16)  # rounded once
    np.testing.assert_array_equal(found[:, 0, 0], wanted)

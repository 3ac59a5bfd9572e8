"""Means of cells under boxes: by hand, against slices, at the border, and their gradient."""

import jax
import numpy as np
from jax import numpy as jnp

from jaxkd.ops.box_mean import box_mean

LEVEL = jnp.arange(32, dtype=jnp.float32).reshape(2, 4, 4).transpose(1, 2, 0)  # two channels of 4 x 4 cells


def test_by_hand():
    boxes = jnp.array([[4.0, 9, 23, 17]])
    np.testing.assert_array_equal(box_mean(LEVEL, boxes, scale=1 / 8), [[7, 23]])
    ratio = jnp.array([4 / 30, 4 / 28])  # the same box in a picture that no stride divides
    np.testing.assert_array_equal(box_mean(LEVEL, boxes, scale=ratio), [[7.5, 23.5]])


def test_equals_slices():
    draw = np.random.default_rng(0)
    level = draw.normal(size=(9, 13, 5)).astype(np.float32)
    corner = draw.uniform(0, [100, 70], (40, 2))
    boxes = np.concatenate([corner, corner + draw.uniform(0, 60, (40, 2))], 1).astype(np.float32)
    found = box_mean(jnp.asarray(level), jnp.asarray(boxes), scale=1 / 8)
    for box, vector in zip(np.floor(boxes / 8).astype(int), found, strict=True):
        x0, y0, x1, y1 = np.minimum(box, [12, 8, 12, 8])
        np.testing.assert_allclose(vector, level[y0 : y1 + 1, x0 : x1 + 1].mean((0, 1)), atol=1e-5)


def test_every_box_has_a_cell():
    boxes = jnp.array([[-90.0, -90, -50, -50], [500, 500, 600, 600], [12, 12, 12, 12], [20, 20, 4, 4]])
    found = box_mean(LEVEL, boxes, scale=1 / 8)
    np.testing.assert_array_equal(found[:, 0], [0, 15, 5, 10])


def test_the_gradient_is_spread_over_the_cells():
    boxes = jnp.array([[8.0, 0, 17, 9]])
    gradient, to_boxes = jax.grad(lambda level, boxes: box_mean(level, boxes, scale=1 / 8)[0, 0], (0, 1))(LEVEL, boxes)
    wanted = np.zeros((4, 4, 2))
    wanted[:2, 1:3, 0] = 1 / 4
    np.testing.assert_array_equal(gradient, wanted)
    assert not np.asarray(to_boxes).any()

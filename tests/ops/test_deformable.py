"""Values between cells and their weighted sums: the worked example, borders, and a slow form in numpy."""

import jax
import numpy as np
from jax import numpy as jnp

from jaxkd.ops import deformable

LEVELS = (np.arange(1.0, 9).reshape(2, 4, 1, 1), np.array([10.0, 20]).reshape(1, 2, 1, 1))
PLACES = np.array([[0.6, 0.5], [0.5, 0.3], [0.3, 0.5], [0.6, 0.7]]).reshape(1, 1, 4, 2)
WEIGHTS = np.array([0.125, 0.25, 0.125, 0.5]).reshape(1, 1, 4)


def attended(sample):
    given = [jnp.asarray(level, jnp.float32) for level in LEVELS]
    places, weights = jnp.asarray(PLACES, jnp.float32), jnp.asarray(WEIGHTS, jnp.float32)
    return float(deformable.attend(given, places, weights, points=(2, 2), sample=sample)[0, 0, 0])


def test_the_worked_example():
    level, other = (jnp.asarray(one[:, :, 0], jnp.float32) for one in LEVELS)
    np.testing.assert_allclose(deformable.bilinear(level, jnp.asarray(PLACES[0, 0, :2]))[:, 0], [4.9, 2.9], rtol=1e-5)
    np.testing.assert_allclose(deformable.bilinear(other, jnp.asarray(PLACES[0, 0, 2:]))[:, 0], [11.0, 13.6], rtol=1e-5)
    np.testing.assert_allclose(attended(deformable.bilinear), 9.5125, rtol=1e-5)


def test_one_cell_each():
    level, other = (jnp.asarray(one[:, :, 0], jnp.float32) for one in LEVELS)
    np.testing.assert_array_equal(deformable.nearest(level, jnp.asarray(PLACES[0, 0, :2]))[:, 0], [7, 7])
    np.testing.assert_array_equal(deformable.nearest(other, jnp.asarray(PLACES[0, 0, 2:]))[:, 0], [20, 20])
    np.testing.assert_allclose(attended(deformable.nearest), 15.125, rtol=1e-6)


def test_beyond_the_edges_is_zero():
    level = jnp.asarray(LEVELS[0][:, :, 0], jnp.float32)
    places = jnp.asarray([[0.0, 0.0], [0.125, 0.25], [-0.2, 0.5], [1.5, 0.5]])
    np.testing.assert_allclose(deformable.bilinear(level, places)[:, 0], [0.25, 1.0, 0.0, 0.0], atol=1e-6)


def slow(level, place):
    """The sum over all cells of a map, each weighted by how near it is."""
    height, width, channels = level.shape
    total = np.zeros(channels)
    for y in range(height):
        for x in range(width):
            near = [1 - abs(place[0] * width - 0.5 - x), 1 - abs(place[1] * height - 0.5 - y)]
            total += max(near[0], 0) * max(near[1], 0) * level[y, x]
    return total


def test_as_the_slow_form():
    draw = np.random.default_rng(0)
    levels = [draw.normal(size=(high, wide, 2, 3)).astype(np.float32) for high, wide in ((5, 7), (3, 4))]
    places = draw.uniform(-0.2, 1.2, (6, 2, 5, 2)).astype(np.float32)
    weights = draw.uniform(size=(6, 2, 5)).astype(np.float32)
    expected = np.zeros((6, 2, 3))
    for query, head, point in np.ndindex(6, 2, 5):
        level = levels[0 if point < 3 else 1][:, :, head]
        expected[query, head] += weights[query, head, point] * slow(level, places[query, head, point])
    attend = jax.jit(lambda *given: deformable.attend(given[:2], *given[2:], points=(3, 2)))
    np.testing.assert_allclose(attend(*levels, places, weights), expected, atol=1e-5)

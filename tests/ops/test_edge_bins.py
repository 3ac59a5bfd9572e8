"""Bins of unequal width for the edges of boxes, by the numbers of a worked example."""

import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.ops.edge_bins import bin_values, moved


@pytest.mark.parametrize(
    ("last", "scale", "expected"),
    [
        (4, 4.0, [-4, -2, 0, 2, 4]),
        (8, 4.0, [-4, -2, -1.080084, -0.44225, 0, 0.44225, 1.080084, 2, 4]),
    ],
)
def test_all_bins(last, scale, expected):
    values = bin_values(last, up=jnp.asarray(0.5), scale=jnp.asarray(scale))
    np.testing.assert_allclose(values, expected, atol=1e-5)


PUBLISHED = {4.0: {17: 0.07599, 18: 0.157754, 30: 1.788131, 31: 2, 32: 4}, 8.0: {17: 0.113264, 31: 4, 32: 8}}


def test_the_bins_of_published_nets():
    for scale, expected in PUBLISHED.items():
        values = bin_values(32, up=jnp.asarray(0.5), scale=jnp.asarray(scale))
        assert values.shape == (33,) and values[16] == 0
        np.testing.assert_allclose(values, -values[::-1], atol=1e-6)
        for index, value in expected.items():
            np.testing.assert_allclose(values[index], value, rtol=1e-4)


def test_an_expected_shift():
    chances = np.exp([0, 0, 0, np.log(3), 0]) / 7
    values = bin_values(4, up=jnp.asarray(0.5), scale=jnp.asarray(4.0))
    np.testing.assert_allclose(chances @ values, 0.571429, rtol=1e-5)


def test_edges_move_outwards_in_parts_of_a_side():
    box, scale = jnp.asarray([0.5, 0.5, 0.4, 0.2]), jnp.asarray(4.0)
    np.testing.assert_allclose(moved(box, jnp.zeros(4), scale=scale), box, atol=1e-6)
    shifted = np.asarray(moved(box, jnp.asarray([1.0, 0, -1, 2]), scale=scale))
    corners = [*(shifted[:2] - shifted[2:] / 2), *(shifted[:2] + shifted[2:] / 2)]
    np.testing.assert_allclose(corners, [0.2, 0.4, 0.6, 0.7], atol=1e-6)

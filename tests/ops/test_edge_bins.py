"""Bins of unequal width for the edges of boxes, by the numbers of a worked example."""

import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.ops.edge_bins import Frame, bin_values, carried, moved


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


def frame(box, last, scale):
    scale = jnp.asarray(scale)
    return Frame(jnp.asarray(box), bin_values(last, up=jnp.asarray(0.5), scale=scale), scale)


def test_a_distribution_in_another_frame():
    source, target = frame([0.5, 0.5, 0.4, 0.2], 4, 4.0), frame([0.52, 0.5, 0.36, 0.2], 4, 4.0)
    chances = jnp.broadcast_to(jnp.array([0, 0.1, 0.6, 0.3, 0]), (4, 5))
    got = carried(chances, source, target)
    np.testing.assert_allclose(got[0], [0, 0.088889, 0.477778, 0.333333, 0.1], atol=1e-5)
    np.testing.assert_allclose(got[1], chances[1], atol=1e-6)  # the same in y
    for where, of in ((source, chances), (target, got)):
        moved_box = moved(where.start, of @ where.values, scale=where.scale)
        np.testing.assert_allclose(moved_box[0] - moved_box[2] / 2, 0.26, atol=1e-5)


def test_carrying_keeps_the_expected_edges_and_the_sum_as_a_loop_has_it():
    rng = np.random.default_rng(0)
    source, target = frame([0.4, 0.5, 0.3, 0.2], 8, 4.0), frame([0.43, 0.48, 0.4, 0.3], 6, 8.0)
    chances = rng.dirichlet(np.ones(9), 4)
    got = np.asarray(carried(jnp.asarray(chances, jnp.float32), source, target))
    expected = np.zeros((4, 7))
    for edge, (axis, sign) in enumerate([(0, -1), (1, -1), (0, 1), (1, 1)]):
        centre, side = source.start[axis], source.start[axis + 2]
        for value, chance in zip(source.values, chances[edge], strict=True):
            place = centre + sign * (source.scale / 2 + value) * side / source.scale
            shift = sign * (place - target.start[axis]) / (target.start[axis + 2] / target.scale) - target.scale / 2
            shift = np.clip(shift, target.values[0], target.values[-1])
            above = min(int(np.searchsorted(target.values, shift, side="right")), 6)
            share = (shift - target.values[above - 1]) / (target.values[above] - target.values[above - 1])
            expected[edge, above] += chance * share
            expected[edge, above - 1] += chance * (1 - share)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(got.sum(-1), 1.0, atol=1e-5)

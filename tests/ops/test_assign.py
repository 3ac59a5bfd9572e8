"""The one-to-one assignment with the least total: a table by hand, equality with SciPy, ties, padding and refusals."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scipy.optimize import linear_sum_assignment

from jaxkd.ops import assign

SOLVE = jax.jit(jax.vmap(assign.least_total))
SHAPES = [(1, 5), (3, 3), (4, 6), (5, 12), (7, 7)]  # truths and queries


def totals(cost, chosen, valid):
    """The sum of each problem's costs; fails where a truth has no query, or shares one."""
    sums = []
    for one, queries, real in zip(cost, chosen, valid, strict=True):
        assert (queries[~real] == -1).all()
        rows = np.flatnonzero(real)
        assert len(set(queries[rows])) == len(rows)
        assert ((queries[rows] >= 0) & (queries[rows] < one.shape[1])).all()
        sums.append(one[rows, queries[rows]].sum(dtype=np.float64))
    return np.array(sums)


def least(cost, valid):
    """The least sum of each problem, by SciPy."""
    sums = []
    for one, real in zip(cost, valid, strict=True):
        rows = one[real].astype(np.float64)
        sums.append(rows[linear_sum_assignment(rows)].sum())
    return np.array(sums)


def test_the_second_truth_leaves_its_cheapest_query():
    cost = jnp.asarray([[-4.474215, -0.173287, 6.377889], [-3.057549, -0.923287, 6.516778]])
    chosen = assign.least_total(cost, jnp.ones(2, bool))
    np.testing.assert_array_equal(chosen, [0, 1])
    assert float(cost[0, 0] + cost[1, 1]) == pytest.approx(-5.397502, abs=1e-6)
    np.testing.assert_array_equal(assign.least_total(cost, jnp.asarray([False, True])), [-1, 0])
    np.testing.assert_array_equal(assign.truth_of_queries(chosen, queries=3), [0, 1, -1])


@pytest.mark.parametrize("shape", SHAPES)
def test_ten_thousand_totals_are_those_of_scipy(shape):
    """2000 of each shape: normal numbers, and small whole ones, among which there are ties; some truths are padding."""
    draw = np.random.default_rng(shape)
    cost = draw.normal(size=(2000, *shape)).astype(np.float32)
    cost[1000:] = draw.integers(0, 4, (1000, *shape))
    valid = draw.random((2000, shape[0])) < 0.8
    chosen = np.asarray(SOLVE(cost, valid))
    np.testing.assert_allclose(totals(cost, chosen, valid), least(cost, valid), atol=1e-5)


def test_a_large_problem_with_rivals():
    """Truths in groups that want the same queries, so that paths are long."""
    draw = np.random.default_rng(0)
    cost = draw.normal(size=(4, 40, 120)).astype(np.float32)
    cost[:, :, :20] -= 4.0
    cost[:, 10:20] = cost[:, :10] + 0.01 * draw.normal(size=(4, 10, 120))
    valid = np.ones((4, 40), bool)
    np.testing.assert_allclose(totals(cost, np.asarray(SOLVE(cost, valid)), valid), least(cost, valid), atol=1e-3)


def test_what_padding_holds_changes_nothing():
    draw = np.random.default_rng(1)
    cost, valid = draw.normal(size=(200, 4, 6)).astype(np.float32), draw.random((200, 4)) < 0.5
    junk = np.where(draw.random(cost.shape) < 0.3, np.nan, -1000.0).astype(np.float32)
    other = np.where(valid[..., None], cost, junk)
    np.testing.assert_array_equal(SOLVE(cost, valid), SOLVE(other, valid))
    nobody = SOLVE(other, np.zeros_like(valid))
    assert (np.asarray(nobody) == -1).all()


def test_numbers_that_are_none_count_as_one_and_infinite_ones_as_large():
    cost = jnp.asarray([[jnp.nan, 2.0, 3.0], [0.5, jnp.inf, 0.6]])
    np.testing.assert_array_equal(assign.least_total(cost, jnp.ones(2, bool)), [0, 2])  # 1 + .6 < 2 + .5
    cost = jnp.asarray([[jnp.nan, 0.1], [jnp.nan, jnp.nan]])
    np.testing.assert_array_equal(assign.least_total(cost, jnp.ones(2, bool)), [1, 0])
    worst = jnp.full((3, 3), jnp.nan).at[0].set(-jnp.inf).at[1].set(jnp.inf)
    assert sorted(np.asarray(assign.least_total(worst, jnp.ones(3, bool))).tolist()) == [0, 1, 2]


def test_fewer_queries_than_truths_are_refused():
    with pytest.raises(ValueError, match="3 truths cannot have a query each of 2"):
        assign.least_total(jnp.zeros((3, 2)), jnp.ones(3, bool))

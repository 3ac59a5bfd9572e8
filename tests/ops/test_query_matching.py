"""Costs of queries and truths: an example by hand, a slow form, padding, and the union of several matchings."""

import jax
import numpy as np
from jax import numpy as jnp

from jaxkd.ops import boxes as box_ops
from jaxkd.ops import query_matching

BOXES = jnp.asarray([[0.3, 0.3, 0.2, 0.2], [0.3, 0.3, 0.2, 0.4], [0.7, 0.7, 0.2, 0.2]])
LOGITS = jnp.asarray([[2.0, -1.0], [0.0, -1.0], [-2.0, -1.0]])
TRUTH = jnp.asarray([[0.3, 0.3, 0.2, 0.2], [0.3, 0.35, 0.2, 0.3]])


def test_costs_by_hand():
    cost = query_matching.costs(LOGITS, BOXES, truth=TRUTH, labels=jnp.zeros(2, int))
    expected = [[-4.474215, -3.057549], [-0.173287, -0.923287], [6.377889, 6.516778]]
    np.testing.assert_allclose(cost.T, expected, atol=1e-5)
    corners = box_ops.corners_of(BOXES[:2]), box_ops.corners_of(jnp.stack([TRUTH[1]] * 2))
    np.testing.assert_allclose(box_ops.generalized_iou(*corners), [0.666667, 0.75], atol=1e-5)


def test_the_matching_by_hand():
    match = jax.jit(query_matching.matched)
    both = match(LOGITS, BOXES, truth=TRUTH, labels=jnp.zeros(2, int), valid=jnp.ones(2, bool))
    np.testing.assert_array_equal(both, [0, 1, -1])
    alone = match(LOGITS, BOXES, truth=TRUTH, labels=jnp.asarray([99, 0]), valid=jnp.asarray([False, True]))
    np.testing.assert_array_equal(alone, [1, -1, -1])  # the second truth alone takes query 0


def test_odd_boxes_and_logits_give_a_matching():
    """Sides below 0, huge logits and no numbers at all."""
    boxes = BOXES.at[0, 2].set(-0.3).at[1].set(jnp.nan)
    found = query_matching.matched(
        LOGITS * 1e4, boxes, truth=TRUTH, labels=jnp.asarray([0, 1]), valid=jnp.ones(2, bool)
    )
    assert sorted(np.asarray(found).tolist()) == [-1, 0, 1]


def test_the_union_is_by_votes():
    truth = jnp.asarray([[0, -1, 1, -1], [0, -1, -1, 1], [1, -1, -1, 1]])
    np.testing.assert_array_equal(query_matching.united(truth, truths=3), [0, -1, 1, 1])

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from jaxkd.ops import match as ops
from jaxkd.ops.boxes import area, intersection, iou

# IoU with the 10 x 10 truth at the origin: 1, 0.6, 0.3, 0.
BOXES = jnp.array([[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 3], [20, 20, 30, 30]])
TRUTH = jnp.array([[0.0, 0, 10, 10], [0, 0, 0, 0]])
FIRST, NONE = jnp.array([True, False]), jnp.array([False, False])


@pytest.fixture(autouse=True, params=[ops.TABLE_LIMIT, 0], ids=["at_once", "one_by_one"])
def table(request, monkeypatch):
    """Either way of looking at the truths."""
    monkeypatch.setattr(ops, "TABLE_LIMIT", request.param)


def slow_match(boxes, truth, valid, crowd, positive, negative, low_quality):
    table, shared, areas = np.array(iou(boxes, truth)), np.array(intersection(boxes, truth)), np.array(area(boxes))
    outcome = []
    for a in range(len(boxes)):
        best, chosen = 0.0, 0
        for g in range(len(truth)):
            if valid[g] and table[a, g] > best:
                best, chosen = table[a, g], g
        is_positive = best >= positive
        if low_quality:
            for g in range(len(truth)):
                is_positive |= bool(valid[g] and table[a, g] > 0 and table[a, g] == table[:, g].max())
        in_crowd = any(crowd[g] and shared[a, g] > 0.5 * areas[a] for g in range(len(truth)))
        outcome.append((chosen, is_positive, best < negative and not is_positive and not in_crowd))
    return [np.array(column) for column in zip(*outcome, strict=True)]


def assert_same(matches, expected):
    for got, want in zip((matches.truth, matches.positive, matches.negative), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def grid_boxes(rng, count):
    corner = rng.integers(0, 12, (count, 2))
    return jnp.array(np.concatenate([corner, corner + rng.integers(1, 9, (count, 2))], axis=1), jnp.float32)


def test_golden():
    matches = ops.match(BOXES, TRUTH, valid=FIRST, crowd=NONE, positive=0.5, negative=0.3)
    assert_same(matches, ([0, 0, 0, 0], [True, True, False, False], [False, False, False, True]))


def test_thresholds_are_inclusive_above():
    matches = ops.match(BOXES, TRUTH, valid=FIRST, crowd=NONE, positive=1.0, negative=1.0)
    assert_same(matches, ([0, 0, 0, 0], [True, False, False, False], [False, True, True, True]))


def test_low_quality_takes_all_that_tie_and_keeps_their_best_truth():
    boxes = jnp.array([[0.0, 0, 4, 4], [6, 0, 10, 4], [40, 40, 50, 50]])
    truth = jnp.array([[0.0, 0, 10, 10], [0, 0, 4, 8], [60, 60, 70, 70]])
    rule = partial(ops.match, boxes, truth, valid=jnp.ones(3, bool), crowd=jnp.zeros(3, bool), positive=0.7)
    assert not np.any(rule(negative=0.3).positive)
    assert_same(rule(negative=0.3, low_quality=True), ([1, 0, 0], [True, True, False], [False, False, True]))


def test_crowd_shields_boxes_from_being_background():
    crowd = jnp.array([[20.0, 20, 30, 26], [0, 0, 0, 0]])
    rule = partial(ops.match, BOXES, crowd, valid=NONE, crowd=FIRST, positive=0.5, negative=0.5)
    assert_same(rule(), ([0] * 4, [False] * 4, [True, True, True, False]))
    assert np.all(rule(crowd_overlap=0.6).negative)


def test_no_truth_is_all_background():
    matches = ops.match(BOXES, TRUTH, valid=NONE, crowd=NONE, positive=0.5, negative=0.5, low_quality=True)
    assert_same(matches, ([0] * 4, [False] * 4, [True] * 4))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), low_quality=st.booleans())
def test_is_the_slow_one_and_padding_changes_nothing(seed, low_quality):
    rng = np.random.default_rng(seed)
    boxes, truth, kind = grid_boxes(rng, 12), grid_boxes(rng, 4), rng.integers(0, 3, 4)
    valid, crowd = jnp.array(kind == 1), jnp.array(kind == 2)
    rule = partial(ops.match, boxes, positive=0.5, negative=0.3, low_quality=low_quality)
    expected = slow_match(boxes, truth, kind == 1, kind == 2, np.float32(0.5), np.float32(0.3), low_quality)
    assert_same(rule(truth, valid=valid, crowd=crowd), expected)
    junk = jnp.concatenate([truth, boxes[:2], jnp.full((1, 4), jnp.nan)])
    assert_same(rule(junk, valid=jnp.pad(valid, (0, 3)), crowd=jnp.pad(crowd, (0, 3))), expected)


def test_works_under_vmap_and_jit():
    rule = partial(ops.match, crowd=NONE, positive=0.5, negative=0.3, low_quality=True)
    matches = jax.jit(jax.vmap(lambda valid: rule(BOXES, TRUTH, valid=valid)))(jnp.stack([FIRST, NONE]))
    np.testing.assert_array_equal(matches.positive.sum(axis=1), [2, 0])


def test_refuses_misuse():
    rule = partial(ops.match, BOXES, TRUTH, valid=FIRST, crowd=NONE)
    with pytest.raises(ValueError, match="negative <= positive"):
        rule(positive=0.3, negative=0.7)
    with pytest.raises(ValueError, match="at least one truth"):
        ops.match(BOXES, TRUTH[:0], valid=FIRST[:0], crowd=NONE[:0], positive=0.5, negative=0.5)

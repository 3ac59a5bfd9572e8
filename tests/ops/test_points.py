"""FCOS's points: worked examples, a slow form in numpy, and what changes nothing."""

import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.ops import points as ops
from jaxkd.ops.anchors import pyramid_anchors

A, B, C = [10.0, 20, 70, 60], [30.0, 30, 50, 54], [44.0, 44, 140, 130]
OBJECT, CROWD = 1, 2  # kinds of truth; 0 is padding
STRIDES, CANVAS = (8, 16, 32), (96, 160)


@functools.cache
def points_of(strides, canvas, offset=0.5):
    shapes = [tuple(-(-side // stride) for side in canvas) for stride in strides]
    sizes = [(float(stride),) for stride in strides]
    return pyramid_anchors(shapes, strides=strides, sizes=sizes, ratios=(1.0,), offset=offset)


@functools.partial(jax.jit, static_argnums=0)
def assign_all(rule, anchors, truth, kind, size):
    """The matches and distances of pictures [b]."""

    def one(truth, kind, size):
        return ops.assign(anchors, truth, rule=rule, size=size, valid=kind == OBJECT, crowd=kind == CROWD)

    return jax.vmap(one)(truth, kind, size)


def slow_assign(rule, anchors, truth, kind, size):
    boxes, cells, levels = np.array(anchors.boxes), np.array(anchors.cells), np.array(anchors.levels)
    last, outcome = len(rule.strides) - 1, []
    for (x, y), level, cell in zip((boxes[:, :2] + boxes[:, 2:]) / 2, levels, cells, strict=True):
        stride, best, smallest, in_crowd = rule.strides[level], None, np.inf, False
        low, high = 8 * rule.strides[level - 1] if level else -1, 8 * stride if level < last else np.inf
        within = cell[0] < size[0] and cell[1] < size[1]
        for g, (x0, y0, x1, y1) in enumerate(truth):
            in_crowd |= kind[g] == CROWD and x0 <= x < x1 and y0 <= y < y1
            sides = [x - x0, y - y0, x1 - x, y1 - y]
            if kind[g] != OBJECT or not within or min(sides) <= 0:
                continue
            reach, middle = (rule.radius or np.inf) * stride, ((x0 + x1) / 2, (y0 + y1) / 2)
            if abs(x - middle[0]) >= reach or abs(y - middle[1]) >= reach:
                continue
            fits = low <= max(sides) <= high if rule.closed else low < max(sides) < high
            if fits and (x1 - x0) * (y1 - y0) < smallest:
                best, smallest, distances = g, (x1 - x0) * (y1 - y0), sides
        positive = best is not None
        outcome.append(
            (best or 0, positive, within and not positive and not in_crowd, distances if positive else [0] * 4)
        )
    return [np.array(column) for column in zip(*outcome, strict=True)]


def random_pictures(rng, *, count=10, truths=7, whole=False):
    """Truth, kinds and sizes of pictures that leave a part of their canvas, with objects that leave the pictures."""
    sizes = rng.integers(np.array(CANVAS) // 3, np.array(CANVAS) + 1, (count, 2))
    side = np.exp(rng.uniform(np.log(6), np.log(300), (count, truths, 2)))
    middle = rng.uniform(-0.1, 1.1, (count, truths, 2)) * sizes[:, None, ::-1]
    boxes = np.concatenate([middle - side / 2, middle + side / 2], axis=-1).astype(np.float32)
    kinds = rng.choice(3, (count, truths), p=[0.2, 0.7, 0.1])
    return 4 * np.round(boxes / 4) if whole else boxes, kinds, sizes


def assert_same(outcome, expected):
    matches, distances = outcome
    for got, want in zip((matches.truth, matches.positive, matches.negative), expected[:3], strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(distances, expected[3], atol=1e-4)


def test_golden():
    anchors = points_of((8, 16), (144, 144))
    truth, size = jnp.array([[A, B, C]]), jnp.array([[144, 144]])
    sampled, free = (
        assign_all(ops.Rule(strides=(8, 16), radius=radius), anchors, truth, jnp.ones((1, 3)), size)
        for radius in (1.5, None)
    )
    near, middle, far = (row * 18 + column for row, column in ((5, 5), (4, 4), (6, 7)))  # (44 44), (36 36), (60 52)
    for matches, distances in (sampled, free):
        np.testing.assert_array_equal(matches.truth[0, np.array([near, middle])], [1, 1])
        np.testing.assert_allclose(distances[0, near] / 8, [1.75, 1.75, 0.75, 1.25])
        np.testing.assert_allclose(distances[0, middle] / 8, [0.75, 0.75, 1.75, 2.25])
        shares = ops.centerness(distances[0, np.array([near, middle])])
        np.testing.assert_allclose(shares, [0.553283, 0.377964], atol=1e-6)
    assert not sampled[0].positive[0, far]
    assert free[0].positive[0, far] and free[0].truth[0, far] == 0
    np.testing.assert_allclose(free[1][0, far] / 8, [6.25, 4, 1.25, 1])
    np.testing.assert_allclose(ops.centerness(free[1][0, far]), 0.223607, atol=1e-6)


def test_ends_of_ranges_belong_to_two_levels_or_to_none():
    anchors, truth = points_of((8, 16), (144, 144), 0.0), jnp.array([[[0.0, 0, 128, 128]]])
    center = 8 * 18 + 8, 18 * 18 + 4 * 9 + 4  # of both levels, 64 from each side
    for closed in (True, False):
        rule = ops.Rule(strides=(8, 16), closed=closed)
        matches, _ = assign_all(rule, anchors, truth, jnp.ones((1, 1)), jnp.array([[144, 144]]))
        np.testing.assert_array_equal(matches.positive[0, np.array(center)], [closed, closed])


@pytest.mark.parametrize("rule", [ops.Rule(STRIDES), ops.Rule(STRIDES, radius=None, closed=False)])
def test_is_the_slow_one(rule):
    anchors, rng, positives = points_of(STRIDES, CANVAS), np.random.default_rng(0), 0
    for whole in (False, True):
        pictures = random_pictures(rng, whole=whole)
        matches, distances = assign_all(rule, anchors, *pictures)
        for b, picture in enumerate(zip(*pictures, strict=True)):
            expected = slow_assign(rule, anchors, *picture)
            assert_same((jax.tree.map(lambda x, b=b: x[b], matches), distances[b]), expected)
            positives += expected[1].sum()
    assert positives > 200


def test_padding_changes_nothing_and_order_only_ties():
    rule, anchors = ops.Rule(STRIDES), points_of(STRIDES, CANVAS)
    boxes, kinds, sizes = random_pictures(np.random.default_rng(1))
    matches, distances = assign_all(rule, anchors, boxes, kinds, sizes)
    expected = matches.truth, matches.positive, matches.negative, distances
    junk = np.concatenate([boxes[:, :1], np.full_like(boxes[:, :1], np.nan)], axis=1)
    padded = np.concatenate([boxes, junk], axis=1), np.pad(kinds, ((0, 0), (0, 2)))
    assert_same(assign_all(rule, anchors, *padded, sizes), expected)
    turned = assign_all(rule, anchors, boxes[:, ::-1], kinds[:, ::-1], sizes)
    assert_same(turned, (np.where(matches.positive, boxes.shape[1] - 1 - matches.truth, 0), *expected[1:]))
    twice = assign_all(rule, anchors, np.concatenate([boxes] * 2, 1), np.concatenate([kinds] * 2, 1), sizes)
    assert_same(twice, expected)  # of equal truths the first has the points


def test_no_truth_all_crowd_and_a_truth_as_large_as_the_picture():
    anchors = points_of((8, 16), (32, 32))
    truth = jnp.array([[[0.0, 0, 32, 32], [0.0, 0, 16, 32]]] * 3)
    kinds = jnp.array([[0, 0], [CROWD, 0], [OBJECT, CROWD]])
    rule = ops.Rule((8, 16), radius=1.0)
    matches, distances = assign_all(rule, anchors, truth, kinds, jnp.full((3, 2), 32))
    np.testing.assert_array_equal(matches.positive.sum(1), [0, 0, 4])
    np.testing.assert_array_equal(matches.negative.sum(1), [20, 0, 8])
    np.testing.assert_array_equal(np.flatnonzero(matches.positive[2]), [5, 6, 9, 10])
    assert not np.any(distances[:2]) and not np.any(matches.truth)


def test_centerness_is_one_in_the_middle_and_zero_outside_with_finite_gradients():
    distances = jnp.array([[3.0, 2, 3, 2], [0, 1, 4, 1], [-1, 1, 4, 1], [1, 1, 4, 1]])
    values, gradient = jax.jit(
        jax.value_and_grad(lambda x: (ops.centerness(x).sum(), ops.centerness(x)), has_aux=True)
    )(distances)
    np.testing.assert_allclose(values[1], [1, 0, 0, 0.5])
    assert np.all(np.isfinite(gradient))


def test_refuses_misuse():
    with pytest.raises(ValueError, match="radius above 0"):
        ops.Rule(STRIDES, radius=0.0)
    none = {"size": jnp.array([32, 32]), "valid": jnp.zeros(0, bool), "crowd": jnp.zeros(0, bool)}
    with pytest.raises(ValueError, match="at least one truth"):
        ops.assign(points_of((8, 16), (32, 32)), jnp.zeros((0, 4)), rule=ops.Rule((8, 16)), **none)

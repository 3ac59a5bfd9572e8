import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp

from jaxkd.ops import boxes as ops

A = jnp.array([[0.0, 0.0, 4.0, 2.0], [1.0, 1.0, 3.0, 3.0]])
B = jnp.array([[2.0, 0.0, 6.0, 2.0], [1.0, 1.0, 3.0, 3.0], [4.0, 0.0, 8.0, 2.0]])
DEGENERATE = jnp.array([[0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 9.0], [3.0, 3.0, 1.0, 1.0], [2.0, 2.0, 6.0, 4.0]])


def random_boxes(rng, count):
    corner = rng.uniform(0, 50, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(1, 40, (count, 2))], axis=1).astype(np.float32)


def slow_iou(a, b):
    table = np.zeros((len(a), len(b)))
    for i, (ax0, ay0, ax1, ay1) in enumerate(a.astype(float)):
        for j, (bx0, by0, bx1, by1) in enumerate(b.astype(float)):
            shared = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
            table[i, j] = shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)
    return table


def test_golden():
    np.testing.assert_allclose(ops.area(A), [8, 4])
    np.testing.assert_allclose(ops.intersection(A, B), [[4, 2, 0], [1, 4, 0]])
    np.testing.assert_allclose(ops.iou(A, B), [[4 / 12, 2 / 10, 0], [1 / 11, 1, 0]], rtol=1e-6)
    np.testing.assert_allclose(ops.paired_iou(A, B[:2]), [4 / 12, 1], rtol=1e-6)


def test_generalized_iou_golden():
    a = jnp.array([[0.0, 0.0, 2.0, 2.0]] * 3)
    b = jnp.array([[0.0, 0.0, 2.0, 2.0], [2.0, 0.0, 4.0, 2.0], [2.0, 2.0, 4.0, 4.0]])
    np.testing.assert_allclose(ops.generalized_iou(a, b), [1, 0, -0.5])


def test_code_golden():
    anchor = jnp.array([[0.0, 0.0, 10.0, 20.0]])
    box = jnp.array([[5.0, 0.0, 25.0, 20.0]])
    expected = np.array([[1.0, 0.0, np.log(2), 0.0]])
    np.testing.assert_allclose(ops.encode(box, anchor), expected, atol=1e-6)
    weights = (10.0, 10.0, 5.0, 5.0)
    np.testing.assert_allclose(ops.encode(box, anchor, weights=weights), expected * np.array(weights), atol=1e-5)
    np.testing.assert_allclose(ops.decode(jnp.asarray(expected, jnp.float32), anchor), box, atol=1e-5)


def test_sides_golden():
    centers, boxes = jnp.array([[44.0, 44.0], [60.0, 52.0]]), jnp.array([[30.0, 30, 50, 54], [10, 20, 70, 60]])
    np.testing.assert_allclose(ops.center(boxes), [[40, 42], [40, 40]])
    np.testing.assert_allclose(ops.encode_sides(boxes, centers), [[14, 14, 6, 10], [50, 32, 10, 8]])
    unit = jnp.array([8.0, 16.0])
    sides = ops.encode_sides(boxes, centers, unit=unit)
    np.testing.assert_allclose(sides, [[1.75, 1.75, 0.75, 1.25], [3.125, 2, 0.625, 0.5]])
    np.testing.assert_allclose(ops.decode_sides(sides, centers, unit=unit), boxes)
    stack = ops.decode_sides(jnp.stack([sides, -sides]), jnp.stack([centers, centers]), unit=unit)
    np.testing.assert_allclose(stack, [boxes, np.concatenate([2 * centers, 2 * centers], 1) - boxes])


def test_clip_and_flip_golden():
    boxes = jnp.array([[-3.0, 2.0, 12.0, 30.0], [20.0, 0.0, 25.0, 5.0]])
    np.testing.assert_allclose(ops.clip(boxes, jnp.array([20, 10])), [[0, 2, 10, 20], [10, 0, 10, 5]])
    np.testing.assert_allclose(ops.flip(boxes, 30), [[18, 2, 33, 30], [5, 0, 10, 5]])


def test_iou_is_the_slow_one():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 7), random_boxes(rng, 5)
    np.testing.assert_allclose(ops.iou(jnp.array(a), jnp.array(b)), slow_iou(a, b), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ops.paired_iou(jnp.array(a[:5]), jnp.array(b)), np.diag(slow_iou(a, b)), rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), shift=st.integers(-100, 100))
def test_invariances(seed, shift):
    rng = np.random.default_rng(seed)
    a, b = jnp.array(random_boxes(rng, 4)), jnp.array(random_boxes(rng, 4))
    np.testing.assert_allclose(ops.iou(a, b), ops.iou(b, a).T, rtol=1e-5)
    np.testing.assert_allclose(ops.iou(a + shift, b + shift), ops.iou(a, b), atol=1e-4)
    np.testing.assert_allclose(ops.iou(ops.flip(a, 90.0), ops.flip(b, 90.0)), ops.iou(a, b), atol=1e-4)
    assert np.all(ops.generalized_iou(a, b) <= ops.paired_iou(a, b) + 1e-6)
    weights = (10.0, 10.0, 5.0, 5.0)
    np.testing.assert_allclose(ops.decode(ops.encode(a, b, weights=weights), b, weights=weights), a, atol=1e-3)


def test_decode_caps_the_growth():
    anchor = jnp.array([[0.0, 0.0, 16.0, 16.0]])
    grown = ops.decode(jnp.array([[0.0, 0.0, 80.0, -80.0]]), anchor)
    np.testing.assert_allclose(grown, [[8 - 500, 8, 8 + 500, 8]], rtol=1e-5)


def test_degenerate_boxes_are_finite_and_encode_to_zero():
    whole = jnp.tile(DEGENERATE[3:], (4, 1))
    for boxes, anchors in ((DEGENERATE, whole), (whole, DEGENERATE), (DEGENERATE, DEGENERATE)):
        assert not np.any(ops.encode(boxes, anchors)[:3])
        for op in (ops.encode, ops.decode, ops.paired_iou, ops.generalized_iou, ops.iou):
            value, gradient = jax.value_and_grad(lambda pair, op=op: jnp.sum(op(*pair)))((boxes, anchors))
            assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient)), op


def test_leading_axes_are_kept():
    stack = jnp.stack([A, B[:2], A])
    assert ops.area(stack).shape == (3, 2)
    assert ops.encode(stack, stack).shape == stack.shape
    np.testing.assert_allclose(ops.area(stack)[1], ops.area(B[:2]))
    assert ops.area(A.astype(jnp.bfloat16)).dtype == jnp.float32


def test_refuses_three_weights():
    with pytest.raises(ValueError, match="four weights"):
        ops.encode(A, A, weights=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="four weights"):
        ops.decode(A, A, weights=(1.0, 1.0, 1.0))

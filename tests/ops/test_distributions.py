import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.ops import distributions as ops
from jaxkd.ops.boxes import decode_sides, encode_sides, generalized_iou, paired_iou
from jaxkd.ops.quality_focal import quality_focal_loss

LOGITS = jnp.array([[1.0, 2, 0, -1], [0, 0, 0, 0], [2, -1, 0, 3]])


def test_golden():
    losses = ops.distribution_focal_loss(LOGITS, jnp.array([0.75, 2.9, 0.0]))
    np.testing.assert_allclose(losses, [0.690190, 1.386294, 1.361849], atol=1e-6)
    np.testing.assert_allclose(ops.expectation(LOGITS), [0.914379, 1.5, 2.171259], atol=1e-6)


def test_one_positive_of_gfl_golden():
    """A point at (20, 20) of stride 8, with four distributions of five bins."""
    bins = jnp.array([[0.0, 1, 2, 0, 0], [0, 2, 1, 0, 0], [0, 0, 1, 2, 0], [1, 1, 1, 0, 0]])
    center, truth = jnp.array([20.0, 20]), jnp.array([4.0, 6, 38, 30])
    sides, targets = ops.expectation(bins), encode_sides(truth, center, unit=8.0)
    np.testing.assert_allclose(sides, [1.868907, 1.512559, 2.487441, 1.492376], atol=1e-6)
    np.testing.assert_allclose(targets, [2, 1.75, 2.25, 1.25])
    losses = ops.distribution_focal_loss(bins, targets)
    np.testing.assert_allclose(losses, [0.573172, 1.323172, 1.323172, 1.317951], atol=1e-6)
    box = decode_sides(sides, center, unit=8.0)
    overlap = paired_iou(box, truth)
    np.testing.assert_allclose([overlap, generalized_iou(box, truth)], [0.786811, 0.780753], atol=1e-6)
    classes = quality_focal_loss(jnp.array([0.5, -1, -2]), jnp.array(1), quality=overlap)
    np.testing.assert_allclose(classes, [0.377412, 0.295028, 0.001804], atol=1e-6)


def test_is_the_slow_one_with_targets_clipped():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 40, 6)).astype(np.float32)
    targets = rng.uniform(-1, 7, (2, 40)).astype(np.float32)
    targets[0, :8] = [0, 1, 2, 3, 4, 4.9, 5, 6]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.zeros_like(targets)
    for place in np.ndindex(*targets.shape):
        t = min(max(targets[place], 0.0), 4.9)
        i = int(np.floor(t))
        expected[place] = -(i + 1 - t) * logs[place][i] - (t - i) * logs[place][i + 1]
    losses = ops.distribution_focal_loss(jnp.array(logits), jnp.array(targets))
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    np.testing.assert_allclose(ops.expectation(jnp.array(logits)), np.exp(logs) @ np.arange(6), atol=1e-5)


def test_gradient_at_a_bin_is_that_of_cross_entropy():
    def total(logits, targets):
        return ops.distribution_focal_loss(logits, targets).sum()

    logits, targets = jax.jit(jax.grad(total, argnums=(0, 1)))(LOGITS, jnp.array([2.0, 1.0, 0.0]))
    expected = jax.nn.softmax(LOGITS) - jax.nn.one_hot(jnp.array([2, 1, 0]), 4)
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    assert not np.any(targets)


def test_bfloat16_logits_are_computed_in_float32():
    rounded = LOGITS.astype(jnp.bfloat16)
    for op in (ops.expectation, lambda logits: ops.distribution_focal_loss(logits, jnp.ones(3, jnp.bfloat16))):
        assert op(rounded).dtype == jnp.float32
        np.testing.assert_allclose(op(rounded), op(rounded.astype(jnp.float32)), atol=1e-6)


def test_refuses_one_bin():
    with pytest.raises(ValueError, match="two bins"):
        ops.distribution_focal_loss(LOGITS[:, :1], jnp.zeros(3))

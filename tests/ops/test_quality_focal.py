import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.ops import quality_focal as ops

LOGITS = jnp.array([[0.0, -2, 1], [2, 0, -1], [-3, -3, -3]])
LABELS, QUALITY = jnp.array([0, 3, 2]), jnp.array([0.8, 0.7, 0.25])  # the second is background


def test_golden():
    losses = ops.quality_focal_loss(LOGITS, LABELS, quality=QUALITY)
    expected = [[0.062383, 0.001804, 0.701868], [1.650078, 0.173287, 0.022658], [0.000109, 0.000109, 0.032771]]
    np.testing.assert_allclose(losses, expected, atol=1e-6)
    np.testing.assert_allclose(losses.sum(-1), [0.766055, 1.846023, 0.032990], atol=1e-6)


def test_is_least_at_the_quality_and_without_gradient_there():
    quality = jax.nn.sigmoid(LOGITS)

    def total(logits, quality):
        return ops.soft_focal_loss(logits, quality).sum()

    for logits in (LOGITS, jnp.array([[-200.0, 200, 0]])):
        value, gradients = jax.value_and_grad(total, argnums=(0, 1))(logits, jax.nn.sigmoid(logits))
        np.testing.assert_allclose(value, 0, atol=1e-6)
        assert not np.any(gradients[0]) and not np.any(gradients[1])
    low, high = (jax.grad(total)(LOGITS + shift, quality) for shift in (-1.0, 1.0))
    assert np.all(low < 0) and np.all(high > 0)


def test_bfloat16_logits_are_computed_in_float32():
    losses = ops.quality_focal_loss(LOGITS.astype(jnp.bfloat16), LABELS, quality=QUALITY.astype(jnp.bfloat16))
    assert losses.dtype == jnp.float32


def test_refuses_a_small_beta():
    with pytest.raises(ValueError, match="beta >= 1"):
        ops.quality_focal_loss(LOGITS, LABELS, quality=QUALITY, beta=0.5)

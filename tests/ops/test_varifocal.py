"""Varifocal loss: an example by hand, equality with a slow form, the perfect case, and gradients."""

import jax
import numpy as np
from jax import numpy as jnp

from jaxkd.ops.varifocal import varifocal_loss

LOGITS = jnp.asarray([[0.0, -2.0], [1.0, -1.0]])
LABELS, QUALITY = jnp.asarray([0, 2]), jnp.asarray([0.8, 0.0])


def test_a_query_with_its_truth_and_one_without():
    parts = varifocal_loss(LOGITS, LABELS, quality=QUALITY)
    np.testing.assert_allclose(parts, [[0.554518, 0.001353], [0.526401, 0.016994]], atol=2e-6)
    np.testing.assert_allclose(parts.sum(), 1.099265, atol=2e-6)


def slow(logits, labels, quality, alpha, gamma):
    out = np.zeros(logits.shape)
    for row, one in enumerate(logits):
        for column, z in enumerate(one):
            p = 1 / (1 + np.exp(-z))
            target = quality[row] if labels[row] == column else 0.0
            weight = target if labels[row] == column else alpha * p**gamma
            out[row, column] = -weight * (target * np.log(p) + (1 - target) * np.log(1 - p))
    return out


def test_it_is_the_slow_form():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(20, 3)), draw.integers(0, 4, 20)
    quality = draw.random(20)
    found = varifocal_loss(jnp.asarray(logits), jnp.asarray(labels), quality=jnp.asarray(quality), alpha=0.6, gamma=1.5)
    np.testing.assert_allclose(found, slow(logits, labels, quality, 0.6, 1.5), rtol=1e-4, atol=1e-6)


def test_gradients_go_through_the_cross_entropy_alone():
    def loss(logits, quality):
        return varifocal_loss(logits, LABELS, quality=quality).sum()

    to_logits, to_quality = jax.grad(loss, argnums=(0, 1))(LOGITS, QUALITY)
    p = jax.nn.sigmoid(LOGITS)
    targets = jnp.asarray([[0.8, 0], [0, 0]])
    weights = jnp.where(targets > 0, targets, 0.75 * p**2)
    np.testing.assert_allclose(to_logits, weights * (p - targets), rtol=1e-5)
    assert not np.asarray(to_quality).any()
    assert np.isfinite(jax.grad(loss)(LOGITS * 1000, QUALITY)).all()

"""Learning rates over a run, decay and clipping, and steps that are not finite."""

import jax
import numpy as np
import optax
import pytest
from jax import numpy as jnp

from jaxkd.train.optimizer import Config, build, learning_rate

PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "frozen": None}


def updated(config, grads, *, times=1, steps=10):
    transform, rate = build(config), learning_rate(config, steps=steps)
    params, state = PARAMS, transform.init(PARAMS)
    for step in range(times):
        updates, state = transform.update(grads, state, params, learning_rate=jnp.asarray(rate(step)))
        params = optax.apply_updates(params, updates)
    return params, state


def zeros():
    return jax.tree.map(jnp.zeros_like, PARAMS)


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        ({"schedule": "milestones"}, {0: 1.0, 79: 1.0, 80: 0.1, 109: 0.1, 110: 0.01, 119: 0.01}),
        ({"schedule": "milestones", "milestones": (0.5,), "milestone_factor": 0.5}, {59: 1.0, 60: 0.5, 119: 0.5}),
        ({"schedule": "constant"}, {0: 1.0, 119: 1.0}),
        ({"schedule": "cosine"}, {0: 1.0, 30: 0.853553, 60: 0.5, 120: 0.0}),
    ],
)
def test_rates_without_warm_up(options, rates):
    rate = learning_rate(Config(learning_rate=1.0, warmup_steps=0, **options), steps=120)
    for step, wanted in rates.items():
        np.testing.assert_allclose(rate(step), wanted, atol=1e-6, err_msg=str(step))


def test_warm_up_rises_in_a_line():
    rate = learning_rate(Config(learning_rate=2.0, schedule="constant", warmup_steps=10, warmup_factor=0.1), steps=100)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(50)], [0.2, 1.1, 2.0, 2.0], rtol=1e-6)


@pytest.mark.parametrize(("kind", "rate"), [("sgd", 0.1), ("adamw", 0.1)])
def test_only_matrices_decay(kind, rate):
    options = {"kind": kind, "learning_rate": rate, "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.5}
    params, _ = updated(Config(**options), zeros())
    np.testing.assert_allclose(params["kernel"], 1 - rate * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(params["bias"], 1.0)
    params, _ = updated(Config(**options, decay_norms=True), zeros())
    np.testing.assert_allclose(params["bias"], 1 - rate * 0.5, rtol=1e-6)


def test_momentum_by_hand():
    config = Config(learning_rate=0.1, schedule="constant", warmup_steps=0, weight_decay=0.0)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    params, _ = updated(config, grads, times=2)
    np.testing.assert_allclose(params["bias"], 1 - 0.1 - 0.1 * 1.9, rtol=1e-6)


def test_a_long_gradient_is_cut():
    config = Config(learning_rate=1.0, schedule="constant", warmup_steps=0, weight_decay=0.0, clip_norm=0.5)
    grads = jax.tree.map(lambda leaf: 100 * jnp.ones_like(leaf), PARAMS)
    params, _ = updated(config, grads)
    moved = optax.tree.norm(jax.tree.map(lambda new, old: new - old, params, PARAMS))
    np.testing.assert_allclose(moved, 0.5, rtol=1e-5)


def test_gradients_that_are_not_finite_never_get_in():
    grads = zeros() | {"bias": jnp.array([0.0, jnp.inf])}
    params, state = updated(Config(skip_nonfinite=2), grads, times=5)
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(params[name], PARAMS[name])
    assert state.notfinite_count == state.total_notfinite == 5


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_backbone_has_a_rate_of_its_own(kind):
    params = {"detector": {"backbone": {"kernel": jnp.ones((2, 2))}, "neck": {"kernel": jnp.ones((2, 2))}}}
    moves = []
    for factor in (1.0, 0.1):
        config = Config(kind=kind, schedule="constant", warmup_steps=0, backbone_factor=factor)
        transform = build(config)
        grads = jax.tree.map(jnp.ones_like, params)
        updates, _ = transform.update(grads, transform.init(params), params, learning_rate=jnp.asarray(0.5))
        moves.append(updates["detector"])
    np.testing.assert_allclose(moves[1]["backbone"]["kernel"], 0.1 * moves[0]["backbone"]["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(moves[1]["neck"]["kernel"], moves[0]["neck"]["kernel"])

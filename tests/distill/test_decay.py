import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import base, decay
from jaxkd.errors import ConfigError
from jaxkd.types import Losses, Term


def factors(config=None, *, steps=12, steps_per_epoch=1, **fields):
    schedule = decay.schedule(config or decay.Config(**fields), steps=steps, steps_per_epoch=steps_per_epoch)
    return np.array([schedule(step) for step in range(steps)])


def test_linear_epoch_golden():
    expected = [1, 0.9167, 0.8333, 0.75, 0.6667, 0.5833, 0.5, 0.4167, 0.3333, 0.25, 0.1667, 0.0833]
    np.testing.assert_allclose(factors(), expected, atol=5e-5)


@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_linear_epoch_falls_in_equal_steps_to_one_over_epochs(epochs):
    by_epoch = factors(steps=3 * epochs, steps_per_epoch=3).reshape(epochs, 3)
    np.testing.assert_array_equal(by_epoch, by_epoch[:, :1].repeat(3, axis=1))
    np.testing.assert_allclose(by_epoch[[0, -1], 0], [1, 1 / epochs], rtol=1e-6)
    np.testing.assert_allclose(np.diff(by_epoch[:, 0]), -1 / epochs, rtol=1e-5)
    np.testing.assert_allclose(by_epoch[:, 0].sum(), (epochs + 1) / 2, rtol=1e-6)


def test_a_last_epoch_that_is_not_whole_counts():
    np.testing.assert_allclose(factors(steps=5, steps_per_epoch=2), np.array([3, 3, 2, 2, 1]) / 3, rtol=1e-6)


def test_linear_step_falls_within_the_epoch():
    np.testing.assert_allclose(factors(kind="linear_step", steps=4, steps_per_epoch=2), [1, 0.75, 0.5, 0.25])


def test_cosine_epoch_golden():
    expected = [0.5 + 0.5 * np.cos(np.pi * epoch / 4) for epoch in (0, 0, 1, 1, 2, 2, 3, 3)]
    np.testing.assert_allclose(factors(kind="cosine_epoch", steps=8, steps_per_epoch=2), expected, rtol=1e-6)


def test_none_stays():
    np.testing.assert_array_equal(factors(kind="none", steps=4), 1)


def test_stops_where_told():
    np.testing.assert_array_equal(factors(kind="none", steps=10, stop_at=0.25), [1, 1, 1] + [0] * 7)


def test_stops_at_whole_shares_exactly():
    """0.55 times 100 is a rounding more than 55, and so are others."""
    for end in range(1, 100):
        config = decay.Config(kind="none", stop_at=end / 100)
        assert decay.schedule(config, steps=100, steps_per_epoch=10)(jnp.arange(100)).sum() == end


def test_warmup_alone():
    rise = decay.warmup(decay.Config(warmup_steps=4))
    np.testing.assert_allclose([rise(step) for step in range(6)], [0, 0.25, 0.5, 0.75, 1, 1])
    assert decay.warmup(decay.Config())(0) == 1


def test_terms_that_do_not_decay_rise_with_the_others():
    one, two = (Term(jnp.float32(total), jnp.float32(1)) for total in (1, 2))
    losses = Losses(terms={"global": one}, metrics={}, undecayed={"soft": two})
    whole, rising = base.factored(losses, decay=0.25), base.factored(losses, decay=0.25, warmup=0.5)
    assert (whole["global"].total, whole["soft"]) == (0.25, two)
    assert (rising["global"].total, rising["soft"].total) == (0.25, 1.0)


def test_warmup_rises_on_top_of_the_fall():
    np.testing.assert_allclose(factors(kind="none", steps=6, warmup_steps=4), [0, 0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(factors(steps=4, warmup_steps=2), [0, 0.375, 0.5, 0.25])


@pytest.mark.parametrize("kind", ["linear_epoch", "linear_step", "cosine_epoch", "none"])
def test_works_under_jit(kind):
    schedule = decay.schedule(decay.Config(kind=kind, warmup_steps=2), steps=6, steps_per_epoch=2)
    got = jax.jit(jax.vmap(schedule))(jnp.arange(6))
    np.testing.assert_allclose(got, [schedule(step) for step in range(6)], rtol=1e-6)


def test_scales_totals_and_not_counts():
    terms = {"a": Term(jnp.array(3.0), jnp.array(2.0)), "b": Term(jnp.array(5.0), jnp.array(0.0))}
    faded = base.scaled(terms, jnp.array(0.5))
    assert {name: (float(term.total), float(term.count)) for name, term in faded.items()} == {
        "a": (1.5, 2.0),
        "b": (2.5, 0.0),
    }
    assert sum(term.mean() for term in faded.values()) == 0.5 * sum(term.mean() for term in terms.values())


def test_refuses_misuse():
    with pytest.raises(ConfigError, match="at least one step"):
        factors(steps=0)

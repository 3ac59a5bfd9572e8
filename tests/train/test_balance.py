"""Factors on the weights of distillation terms: when they are measured, what they are, and what they multiply."""

import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.train.balance import Balance, Balancer, balanced, factor
from jaxkd.types import Term


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(68.0, 0.5 / 68.0), (0.5, 1.0), (0.1, 1.0), (0.0, 1.0), (float("nan"), 1.0), (float("inf"), 1.0)],
)
def test_a_factor_lowers_to_the_target_and_never_raises(ratio, expected):
    assert factor(ratio, target=0.5) == pytest.approx(expected)


def test_gradients_are_measured_before_the_first_step_and_at_shares_of_the_run():
    balancer = Balancer(Balance(target=0.5, again=(0.05, 0.55)), steps=100, say=print)
    assert [step for step in range(100) if balancer.due(step)] == [0, 5, 55]
    off = Balancer(Balance(), steps=100, say=print)
    assert not any(off.due(step) for step in range(100))
    assert off.factors == off.scheduled() == off.reported() == {}


def test_the_median_of_the_batches_counts_and_each_kind_is_said():
    said = []
    balancer = Balancer(Balance(target=0.5), steps=100, say=said.append)
    kinds = ("tar/feature", "tar/class", "gkd/global", "tar/box")
    rows = [(4.0, 0.2, 0.0, np.nan), (1.0, 0.3, 0.0, 1.0), (90.0, 0.1, 0.0, 1.0)]
    balancer.measure(70, [dict(zip(kinds, row, strict=True)) for row in rows])
    assert balancer.factors == {"tar/feature": 0.125, "tar/class": 1.0, "gkd/global": 1.0, "tar/box": 1.0}
    assert said == [
        "Gradients at the student's neck before step 71, the median of 3 batches (train.balance):",
        "  tar/feature: gradient 4 times the detection loss's, weight times 0.12.",
        "  tar/class: gradient 0.2 times the detection loss's, weight unchanged.",
        "  gkd/global: no gradient, weight unchanged.",
        "  tar/box: its gradient is not finite, weight unchanged.",
    ]
    assert balancer.scheduled()["tar/feature"].dtype == np.float32
    assert balancer.reported()["balance/tar/feature"] == 0.125


def test_a_later_measurement_replaces_the_factors():
    balancer = Balancer(Balance(target=0.5), steps=100, say=lambda _: None)
    for ratio, expected in ((50.0, 0.01), (0.25, 1.0)):
        balancer.measure(0, [{"tar/feature": ratio}])
        assert balancer.factors == {"tar/feature": pytest.approx(expected)}


def test_a_factor_multiplies_all_levels_of_its_kind_and_nothing_else():
    names = ("tar/feature_8", "tar/feature_16/1", "tar/feature", "tar/class", "mimic/feature_8")
    terms = {name: Term(jnp.float32(2), jnp.float32(3)) for name in names}
    totals = {name: float(term.total) for name, term in balanced(terms, {"tar/feature": jnp.float32(0.25)}).items()}
    assert totals == dict(zip(names, (0.5, 0.5, 0.5, 2.0, 2.0), strict=True))
    untouched = balanced(terms, {})
    assert all(untouched[name] is term for name, term in terms.items())

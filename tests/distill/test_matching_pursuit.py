"""The search for prototypes: worked examples, a slow version in numpy, and what must not change the choice."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import matching_pursuit

ANGLES = ([0, 11, 18, 80, 92, 101, 180], [0, 5, 21, 70, 95, 110, 170])


@pytest.fixture
def wide():
    """64-bit numbers, in which the worked examples are given."""
    with jax.enable_x64(True):
        yield


def plane(degrees):
    angles = np.deg2rad(np.asarray(degrees, np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def random_pair(seed, n=40, dims=(7, 5)):
    draw = np.random.default_rng(seed)
    return tuple(draw.normal(size=(n, d)) + 0.5 for d in dims)


def search(a, b, *, count=4, alpha=10.0, candidate=None, valid=None, filtered=False):
    valid = jnp.ones(len(a), bool) if valid is None else jnp.asarray(valid)
    student, teacher = (matching_pursuit.gram(jnp.asarray(space), valid=valid) for space in (a, b))
    if filtered:
        candidate = matching_pursuit.candidates(student, teacher, valid=valid)
    candidate = valid if candidate is None else jnp.asarray(candidate)
    return np.asarray(matching_pursuit.select(student, teacher, candidate=candidate, count=count, alpha=alpha))


def slow_search(a, b, *, count, alpha, candidate):
    """The search on residuals, every candidate's whole cost written out; also the energy after each choice."""
    a, b = (space / np.linalg.norm(space, axis=1, keepdims=True) for space in (a, b))
    left_a, left_b, chosen = a.copy(), b.copy(), []
    energies = [(left_a**2).sum() + (left_b**2).sum()]
    for _ in range(count):
        costs = np.full(len(a), np.inf)
        for k in np.flatnonzero(candidate):
            u, v = pursuit_coefficients(left_a @ a[k], left_b @ b[k], alpha)
            costs[k] = (
                ((left_a - np.outer(u, a[k])) ** 2).sum()
                + ((left_b - np.outer(v, b[k])) ** 2).sum()
                + alpha * ((u - v) ** 2).sum()
            )
        best = int(costs.argmin())
        u, v = pursuit_coefficients(left_a @ a[best], left_b @ b[best], alpha)
        left_a, left_b = left_a - np.outer(u, a[best]), left_b - np.outer(v, b[best])
        chosen.append(best)
        energies.append((left_a**2).sum() + (left_b**2).sum())
    return chosen, energies


def pursuit_coefficients(one, other, alpha):
    """By solving the two linear equations."""
    system = np.array([[1 + alpha, -alpha], [-alpha, 1 + alpha]])
    return np.linalg.solve(system, np.stack([one, other]))


def test_coefficients_of_example_1(wide):
    u, v = matching_pursuit.coefficients(jnp.array([0.8, -0.2]), jnp.array([0.5, 0.4]), alpha=10.0)
    np.testing.assert_allclose(u, [0.6571428571, 0.0857142857], rtol=1e-9)
    np.testing.assert_allclose(v, [0.6428571429, 0.1142857143], rtol=1e-9)


def test_coefficients_are_stationary(wide):
    draw = np.random.default_rng(0)
    one, other = (jnp.asarray(draw.normal(size=9)) for _ in range(2))
    for alpha in (0.0, 1.0, 10.0):
        u, v = matching_pursuit.coefficients(one, other, alpha=alpha)
        np.testing.assert_allclose(u - one + alpha * (u - v), 0, atol=1e-12)
        np.testing.assert_allclose(v - other + alpha * (v - u), 0, atol=1e-12)
    u, v = matching_pursuit.coefficients(one, other, alpha=0.0)
    np.testing.assert_array_equal((u, v), (one, other))
    np.testing.assert_allclose(matching_pursuit.coefficients(one, other, alpha=1e9)[0], (one + other) / 2, atol=1e-8)
    np.testing.assert_allclose(matching_pursuit.coefficients(one, one, alpha=3.0)[1], one, atol=1e-12)


def test_gains_and_choice_of_example_2(wide):
    a, b = (plane(degrees) for degrees in ANGLES)
    valid = jnp.ones(7, bool)
    first = matching_pursuit.gains(
        *(matching_pursuit.gram(jnp.asarray(space), valid=valid) for space in (a, b)), alpha=10.0
    )
    wanted = [
        7.98521011982,
        8.114062973776,
        8.115843155676,
        6.353985344349,
        5.900637659733,
        5.781782075425,
        7.846791389112,
    ]
    np.testing.assert_allclose(first, wanted, rtol=1e-9)
    assert search(a, b, count=3).tolist() == [2, 5, 1]
    chosen, energies = slow_search(a, b, count=3, alpha=10.0, candidate=np.ones(7, bool))
    assert chosen == [2, 5, 1]
    np.testing.assert_allclose(energies, [14, 5.882891150561, 0.117539795258, 0.083699717698], rtol=1e-9)


def test_filter_of_example_3(wide):
    a, b = (plane(degrees) for degrees in ANGLES)
    valid = jnp.ones(7, bool)
    cosines = [matching_pursuit.gram(jnp.asarray(space), valid=valid) for space in (a, b)]
    rho_a, rho_b = (matching_pursuit.densities(one, valid=valid) for one in cosines)
    wanted_a = [2.753792048747, 2.961266759749, 2.781444129814, 2.59666185408, 2.938326096396, 2.628248965493, 1.0]
    wanted_b = [
        2.64184537722,
        2.859204514117,
        2.503951146195,
        1.419890565396,
        2.306068635064,
        1.894578222985,
        1.000000000014,
    ]
    np.testing.assert_allclose(rho_a, wanted_a, rtol=1e-9)
    np.testing.assert_allclose(rho_b, wanted_b, rtol=1e-9)
    assert np.flatnonzero(matching_pursuit.candidates(*cosines, valid=valid)).tolist() == [0, 1, 2, 4]
    assert search(a, b, count=2, filtered=True).tolist() == [2, 4]


@pytest.mark.parametrize("alpha", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_search(wide, seed, alpha):
    a, b = random_pair(seed)
    candidate = np.random.default_rng(seed).random(len(a)) < 0.6
    chosen, energies = slow_search(a, b, count=6, alpha=alpha, candidate=candidate)
    assert search(a, b, count=6, alpha=alpha, candidate=candidate).tolist() == chosen
    assert (np.diff(energies) <= 1e-12).all()


def test_what_changes_nothing(wide):
    a, b = random_pair(7)
    draw = np.random.default_rng(7)
    chosen = search(a, b, filtered=True)
    assert search(b, a, filtered=True).tolist() == chosen.tolist()
    scaled = a * draw.uniform(0.1, 9, (len(a), 1))
    assert search(scaled, b, filtered=True).tolist() == chosen.tolist()
    turn = np.linalg.qr(draw.normal(size=(a.shape[1],) * 2))[0]
    assert search(a @ turn, b, filtered=True).tolist() == chosen.tolist()
    order = draw.permutation(len(a))
    assert order[search(a[order], b[order], filtered=True)].tolist() == chosen.tolist()


def test_padding_changes_nothing():
    a, b = random_pair(3)
    chosen = search(a, b, filtered=True)
    junk = [np.concatenate([space, np.full((9, space.shape[1]), np.nan)]) for space in (a, b)]
    valid = np.arange(len(a) + 9) < len(a)
    assert search(*junk, valid=valid, filtered=True).tolist() == chosen.tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 30])
def test_the_filter_keeps_to_its_share(n):
    a, b = random_pair(n, n=n)
    valid = jnp.ones(n, bool)
    cosines = [matching_pursuit.gram(jnp.asarray(space), valid=valid) for space in (a, b)]
    kept = np.asarray(matching_pursuit.candidates(*cosines, valid=valid))
    assert kept.any()
    both = np.ones(n, bool)
    for one in cosines:
        rho = np.asarray(matching_pursuit.densities(one, valid=valid))
        both &= rho > np.sort(rho)[int(4 * n / 10)]
    np.testing.assert_array_equal(kept, both if both.any() else np.ones(n, bool))
    chosen = search(a, b, count=4, filtered=True)
    assert chosen.shape == (4,)
    assert kept[chosen].all()


def test_nobody_at_all():
    nothing = np.full((4, 3), np.nan)
    assert search(nothing, nothing, valid=np.zeros(4, bool), filtered=True).tolist() == [0] * 4


def test_of_equals_the_first():
    same = np.tile(np.eye(2)[:1], (5, 1))
    assert search(same, same, count=2).tolist() == [0, 0]

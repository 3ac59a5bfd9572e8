"""Coordinates, reliabilities, the global and the soft term: worked examples, bounds, and what changes nothing."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import prototype_space

P_STUDENT = [[1.0, 0], [0, 1], [1, 1], [-1, 1]]
P_TEACHER = [[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, -2]]
F_STUDENT = [[3.0, 4], [1, -1], [-2, 2]]
F_TEACHER = [[1.0, 2, 2], [1, 0, -2], [1, 0, -3]]
LABELS = [0, 0, 1]


@pytest.fixture
def wide():
    """64-bit numbers, in which the worked examples are given."""
    with jax.enable_x64(True):
        yield


def seen(f_student, f_teacher, p_student, p_teacher, labels, *, frozen=None, valid=None, form="huber"):
    """Reliabilities and the global term's mean."""
    x, y = prototype_space.coordinates(f_student, p_student), prototype_space.coordinates(f_teacher, p_teacher)
    known = jnp.ones(2, bool)
    sigma = prototype_space.reliability(x, y, labels, known=known)
    valid = jnp.ones(len(labels), bool) if valid is None else valid
    term = prototype_space.global_term(
        x, y, sigma=sigma if frozen is None else frozen, valid=valid, known=known, form=form
    )
    return sigma, term.mean()


def example():
    return *(jnp.asarray(part) for part in (F_STUDENT, F_TEACHER, P_STUDENT, P_TEACHER)), jnp.asarray(LABELS)


def random_case(seed, n=6, dims=(4, 3)):
    draw = np.random.default_rng(seed)
    vectors = [jnp.asarray(draw.normal(size=(rows, d))) for rows in (n, 8) for d in dims]
    return *vectors, jnp.asarray(draw.integers(0, 2, n))


def test_example_4(wide):
    case = example()
    sigma, value = seen(*case)
    np.testing.assert_allclose(sigma, [0.8666666667, 0.7401068143, 0.9486832981], rtol=1e-9)
    np.testing.assert_allclose(value, 0.195538099256, rtol=1e-9)
    np.testing.assert_allclose(seen(*case, frozen=jnp.ones(3))[1], 0.270825779673, rtol=1e-9)
    gradient = jax.grad(lambda f: seen(f, *case[1:])[1])(case[0])
    wanted = [
        [-0.006609440570, 0.004957080428],
        [0.007217346633, 0.007217346633],
        [0.008385254916, 0.008385254916],
    ]
    np.testing.assert_allclose(gradient, wanted, rtol=1e-9)


def test_example_4_in_32_bits():
    sigma, value = seen(*example())
    np.testing.assert_allclose(sigma, [0.8666666667, 0.7401068143, 0.9486832981], rtol=1e-5)
    np.testing.assert_allclose(value, 0.195538099256, rtol=1e-5)


def test_example_7(wide):
    student, teacher = jnp.array([[2.0, 1, 0], [0, 0, 0]]), jnp.array([[1.0, 2, 0], [0, 3, 0]])

    def value(sigma):
        valid = jnp.ones(2, bool)
        return prototype_space.soft_term(student, teacher, sigma=jnp.array(sigma), valid=valid, temperature=2.0).mean()

    np.testing.assert_allclose(value([1.0, 1.0]), 0.244287391326, rtol=1e-9)
    np.testing.assert_allclose(value([0.9, 0.5]), 0.148714963042, rtol=1e-9)


def test_equal_spaces_agree(wide):
    f, _, p, _, labels = random_case(0)
    sigma, value = seen(f, f, p, p, labels)
    np.testing.assert_allclose(sigma, 1)
    assert value == 0


@pytest.mark.parametrize("seed", range(3))
def test_what_changes_nothing(wide, seed):
    f, g, p, q, labels = random_case(seed)
    sigma, value = seen(f, g, p, q, labels)
    draw = np.random.default_rng(seed)
    turn = jnp.asarray(np.linalg.qr(draw.normal(size=(4, 4)))[0])
    order, rows = draw.permutation(len(f)), np.concatenate([draw.permutation(4), 4 + draw.permutation(4)])
    cases = {
        "turned": ((f @ turn, g, p @ turn, q, labels), sigma),
        "scaled": ((f * 7, g * 0.1, p * jnp.arange(1, 9)[:, None], q, labels), sigma),
        "shuffled objects": ((f[order], g[order], p, q, labels[order]), sigma[order]),
        "shuffled prototypes": ((f, g, p[rows], q[rows], labels), sigma),
    }
    for name, (case, wanted) in cases.items():
        other, again = seen(*case)
        np.testing.assert_allclose(other, wanted, rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(again, value, rtol=1e-9, err_msg=name)


def test_gradients(wide):
    case = random_case(4)
    sigma, _ = seen(*case)
    gradient = jax.grad(lambda f: seen(f, *case[1:])[1])(case[0])
    np.testing.assert_allclose((gradient * case[0]).sum(-1), 0, atol=1e-12)  # turning, not stretching
    for step in np.eye(4):
        ahead, behind = (seen(case[0] + sign * 1e-6 * step, *case[1:], frozen=sigma)[1] for sign in (1, -1))
        np.testing.assert_allclose((gradient @ step).sum(), (ahead - behind) / 2e-6, atol=1e-8)
    to_teacher = jax.grad(lambda g: seen(case[0], g, *case[2:])[1])(case[1])
    assert not np.asarray(to_teacher).any()


def test_bounds(wide):
    for seed in range(20):
        sigma, value = seen(*random_case(seed))
        assert (np.abs(sigma) <= 1).all()
        assert 0 <= value <= 1.5


def test_forms_agree_while_gaps_are_small(wide):
    f, g, p, q, labels = random_case(2)
    near = (f, f + 0.01, p, p, labels)
    np.testing.assert_allclose(seen(*near)[1], seen(*near, form="squared")[1], rtol=1e-12)
    far = (f, g, p, q, labels)
    assert seen(*far, frozen=jnp.full(6, 3.0))[1] < seen(*far, frozen=jnp.full(6, 3.0), form="squared")[1]


def test_unknown_classes_are_left_out(wide):
    f, g, p, q, labels = random_case(1)
    x, y = prototype_space.coordinates(f, p), prototype_space.coordinates(g, q)
    known, everyone = jnp.array([True, False]), jnp.ones(6, bool)
    sigma = prototype_space.reliability(x, y, labels, known=known)
    np.testing.assert_array_equal(np.asarray(sigma)[np.asarray(labels) == 1], 1)
    found = prototype_space.global_term(x, y, sigma=sigma, valid=everyone, known=known)
    own = prototype_space.global_term(x[:, :4], y[:, :4], sigma=sigma, valid=everyone, known=known[:1])
    np.testing.assert_allclose(found.mean(), own.mean(), rtol=1e-12)
    nobody = prototype_space.global_term(x, y, sigma=sigma, valid=everyone, known=jnp.zeros(2, bool))
    assert nobody.mean() == 0


def test_objects_that_do_not_count_change_nothing():
    f, g, p, q, labels = example()
    _, value = seen(f, g, p, q, labels)
    junk = [jnp.concatenate([part, jnp.full((2, part.shape[1]), jnp.nan)]) for part in (f, g)]
    valid = jnp.arange(5) < 3

    def total(student):
        return seen(student, junk[1], p, q, jnp.concatenate([labels, jnp.array([9, -9])]), valid=valid)[1]

    np.testing.assert_allclose(total(junk[0]), value, rtol=1e-6)


def test_soft_labels(wide):
    draw = np.random.default_rng(0)
    student, teacher = (jnp.asarray(draw.normal(size=(5, 4))) for _ in range(2))
    valid = jnp.ones(5, bool)

    def value(student, teacher, sigma=1.0, temperature=2.0):
        weights = jnp.full(5, sigma)
        return prototype_space.soft_term(student, teacher, sigma=weights, valid=valid, temperature=temperature).mean()

    assert value(student, student) == 0
    np.testing.assert_allclose(value(student + 3, teacher - 1), value(student, teacher), rtol=1e-9)
    np.testing.assert_allclose(value(student, teacher, 0.25), 0.25 * value(student, teacher), rtol=1e-12)
    centred = (student - student.mean(-1, keepdims=True)) - (teacher - teacher.mean(-1, keepdims=True))
    np.testing.assert_allclose(
        value(student, teacher, temperature=1e4), (centred**2).sum(-1).mean() / (2 * 4**2), rtol=1e-3
    )
    nobody = prototype_space.soft_term(student, teacher, sigma=valid * 1.0, valid=~valid, temperature=2.0)
    assert nobody.mean() == 0

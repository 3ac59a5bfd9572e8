import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.nets import norm as norms
from jaxkd.nets.conv import convolved, convolved_wide
from jaxkd.nets.norm import BatchNorm, FrozenBatchNorm, GroupNorm, valid_cells

EXTENTS = jnp.array([[5, 3], [1, 7]], jnp.int32)


def test_valid_cells_by_hand():
    valid = valid_cells(EXTENTS, stride=2, shape=(3, 4))
    np.testing.assert_array_equal(valid[0, :, :, 0], [[1, 1, 0, 0]] * 3)
    np.testing.assert_array_equal(valid[1, :, :, 0], [[1, 1, 1, 1], [0] * 4, [0] * 4])


@pytest.mark.parametrize(("groups", "used"), [(4, 4), (32, 4), (1, 1)])
def test_group_norm_is_the_numpy_one_over_valid_cells(groups, used):  # 32 does not divide 12, their gcd is 4
    rng = np.random.default_rng(0)
    x = rng.normal(2.0, 3.0, (2, 5, 7, 12)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 12)).astype(np.float32)
    valid = valid_cells(EXTENTS, stride=1, shape=(5, 7))
    params = {"params": {"scale": scale, "bias": bias}}
    out = jax.jit(GroupNorm(groups=groups).apply)(params, x, valid)
    for picture, (h, w) in enumerate(EXTENTS.tolist()):
        inside = x[picture, :h, :w].astype(np.float64).reshape(h, w, used, -1)
        mean, var = inside.mean((0, 1, 3), keepdims=True), inside.var((0, 1, 3), keepdims=True)
        expected = ((inside - mean) / np.sqrt(var + 1e-5)).reshape(h, w, 12) * scale + bias
        np.testing.assert_allclose(out[picture, :h, :w], expected, rtol=1e-4, atol=1e-5)


def test_group_norm_of_an_empty_picture_is_finite_and_so_is_its_gradient():
    x = jnp.ones((1, 4, 4, 8))
    valid = valid_cells(jnp.zeros((1, 2), jnp.int32), stride=1, shape=(4, 4))
    params = {"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}
    loss = jax.jit(jax.value_and_grad(lambda x: jnp.sum(GroupNorm(groups=2).apply(params, x, valid) * valid)))
    value, gradient = loss(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_frozen_batch_norm_is_its_formula_and_holds_its_statistics():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 7, 6)).astype(np.float32)
    leaves = {name: rng.uniform(0.5, 2.0, 6).astype(np.float32) for name in ("scale", "bias", "mean", "var")}
    valid = valid_cells(EXTENTS, stride=1, shape=(5, 7))

    def loss(params):
        out = FrozenBatchNorm().apply({"params": params}, jnp.asarray(x), valid)
        return jnp.sum(out**2), out

    (_, out), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(leaves)
    expected = (x - leaves["mean"]) / np.sqrt(leaves["var"] + 1e-5) * leaves["scale"] + leaves["bias"]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    assert not gradient["mean"].any() and not gradient["var"].any()
    assert gradient["scale"].all() and gradient["bias"].all()


def batch_norm_leaves():
    rng = np.random.default_rng(0)
    return {name: rng.uniform(0.5, 2.0, 6).astype(np.float32) for name in ("scale", "bias", "mean", "var")}


def test_batch_norm_is_the_numpy_one_over_valid_cells_and_keeps_what_it_has_seen():
    x = np.random.default_rng(1).normal(2.0, 3.0, (2, 5, 7, 6)).astype(np.float32)
    x, valid, params = jnp.asarray(x), valid_cells(EXTENTS, stride=1, shape=(5, 7)), batch_norm_leaves()
    switches = norms.training(params, lambda path: path == ("scale",))
    out, seen = BatchNorm().apply({"params": params, norms.TRAINING: switches}, x, valid, mutable=[norms.MOMENTS])
    inside = np.asarray(x, np.float64)[np.asarray(valid, bool)[..., 0]]
    mean, var = inside.mean(0), inside.var(0)
    expected = (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    moved = norms.running(params, seen[norms.MOMENTS], finite=jnp.asarray(True))
    np.testing.assert_allclose(moved["mean"], 0.9 * params["mean"] + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.9 * params["var"] + 0.1 * inside.var(0, ddof=1), rtol=1e-5)
    left = norms.running(params, seen[norms.MOMENTS], finite=jnp.asarray(False))
    assert all((left[name] == params[name]).all() for name in params)


def test_the_padding_of_a_batch_changes_no_statistics():
    x = np.random.default_rng(1).normal(size=(2, 5, 7, 6)).astype(np.float32)
    wide = np.full((2, 8, 9, 6), 7, np.float32)
    wide[:, :5, :7] = x
    params = batch_norm_leaves()
    variables = {"params": params, norms.TRAINING: norms.training(params, lambda path: True)}

    def applied(x):
        valid = valid_cells(EXTENTS, stride=1, shape=x.shape[1:3])
        return BatchNorm().apply(variables, jnp.asarray(x), valid, mutable=[norms.MOMENTS])

    (out, seen), (other, same) = applied(x), applied(wide)
    for (high, low), one, two in zip(EXTENTS.tolist(), out, other, strict=True):
        np.testing.assert_allclose(one[:high, :low], two[:high, :low], atol=1e-6)
    for one, two in zip(jax.tree.leaves(seen), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


def test_outside_of_training_a_batch_norm_is_a_frozen_one():
    x = np.random.default_rng(1).normal(size=(2, 5, 7, 6)).astype(np.float32)
    x, valid, params = jnp.asarray(x), valid_cells(EXTENTS, stride=1, shape=(5, 7)), batch_norm_leaves()
    for variables in (
        {"params": params},
        {"params": params, norms.TRAINING: norms.training(params, lambda path: False)},
    ):
        np.testing.assert_array_equal(
            BatchNorm().apply(variables, x, valid), FrozenBatchNorm().apply({"params": params}, x, valid)
        )


def test_a_wide_convolution_has_the_gradient_of_any_other():
    draw = np.random.default_rng(0)
    x, kernel, gradient = (
        jnp.asarray(draw.normal(size=shape).astype(np.float32)) for shape in ((2, 6, 9, 4), (3, 3, 4, 5), (2, 6, 9, 5))
    )
    value, back = jax.vjp(convolved_wide, x, kernel)
    plain, plain_back = jax.vjp(convolved, x, kernel)
    np.testing.assert_array_equal(value, plain)
    for mine, other in zip(back(gradient), plain_back(gradient), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)

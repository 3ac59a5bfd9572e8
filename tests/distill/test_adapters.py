import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import adapters
from jaxkd.errors import ConfigError

KEY = jax.random.key(0)


def level(seed=0, shape=(2, 4, 5, 3)):
    return jnp.array(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def init(kind, teacher_channels=6, **options):
    return adapters.init(KEY, kind=kind, student_channels=3, teacher_channels=teacher_channels, **options)


@functools.cache
def drawn():
    return init("conv3", start="lecun") | {"bias": jnp.arange(-3.0, 3)}


def slow_conv3(level, kernel, bias):
    padded = np.pad(np.array(level, float), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = level.shape[1:3]
    parts = [padded[:, y : y + height, x : x + width] @ kernel[y, x] for y in range(3) for x in range(3)]
    return sum(parts) + bias


@pytest.mark.parametrize(("kind", "side"), [("conv3", 3), ("conv3_relu", 3), ("conv1", 1)])
def test_shapes_and_start(kind, side):
    params = init(kind)
    assert params["kernel"].shape == (side, side, 3, 6)
    np.testing.assert_array_equal(params["bias"], np.zeros(6))
    np.testing.assert_allclose(np.std(params["kernel"]), 1e-4, rtol=0.5)
    assert np.max(np.abs(params["kernel"])) < 3e-4


def test_lecun_start_keeps_variance():
    params = adapters.init(KEY, kind="conv3", student_channels=16, teacher_channels=16, start="lecun")
    out = adapters.apply(params, level(shape=(2, 8, 8, 16)), kind="conv3")
    np.testing.assert_allclose(np.std(out[:, 1:-1, 1:-1]), 1, rtol=0.2)


def test_conv3_is_the_slow_one_and_relu_cuts_it():
    params = drawn()
    expected = slow_conv3(level(), np.array(params["kernel"]), np.array(params["bias"]))
    np.testing.assert_allclose(adapters.apply(params, level(), kind="conv3"), expected, atol=1e-5)
    np.testing.assert_allclose(adapters.apply(params, level(), kind="conv3_relu"), np.maximum(expected, 0), atol=1e-5)


def test_conv1_is_a_product():
    params = init("conv1", start="lecun") | {"bias": jnp.arange(-3.0, 3)}
    expected = level() @ params["kernel"][0, 0] + params["bias"]
    np.testing.assert_allclose(adapters.apply(params, level(), kind="conv1"), expected, atol=1e-5)


def test_identity_has_no_parameters():
    assert init("identity", teacher_channels=3) == {}
    np.testing.assert_array_equal(adapters.apply({}, level(), kind="identity"), level())


def test_keeps_the_dtype_of_the_level():
    out = adapters.apply(drawn(), level().astype(jnp.bfloat16), kind="conv3")
    assert out.dtype == jnp.bfloat16


def test_refuses_the_identity_between_widths():
    with pytest.raises(ConfigError, match="3 channels, the teacher 6; take one of conv3, conv3_relu, conv1"):
        init("identity")

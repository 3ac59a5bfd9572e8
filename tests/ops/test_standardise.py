"""Standardised maps: beside NumPy, what they do not depend on, and constant channels."""

import jax
import numpy as np
from jax import numpy as jnp

from jaxkd.ops.standardise import standardised

RNG = np.random.default_rng(0)
MAPS = jnp.asarray(RNG.normal(2, 3, (2, 4, 5, 3)), jnp.float32)
MASK = jnp.ones((2, 4, 5)).at[1, 3:].set(0).at[1, :, 4:].set(0)


def test_as_numpy_has_it_inside_and_zero_outside():
    inside = np.asarray(MAPS)[np.asarray(MASK) > 0]
    expected = (inside - inside.mean(0)) / (inside.std(0, ddof=1) + 1e-6)
    found = np.asarray(standardised(MAPS, MASK))
    np.testing.assert_allclose(found[np.asarray(MASK) > 0], expected, atol=2e-6)
    assert not found[np.asarray(MASK) == 0].any()


def test_scale_and_offset_of_a_channel_do_not_matter():
    other = MAPS * jnp.asarray([2.0, 0.3, 11.0]) + jnp.asarray([1.0, -20.0, 3.0])
    np.testing.assert_allclose(standardised(other, MASK), standardised(MAPS, MASK), atol=2e-5)


def test_what_lies_outside_does_not_matter():
    strange = jnp.where(MASK[..., None] > 0, MAPS, jnp.nan)
    np.testing.assert_array_equal(standardised(strange, MASK), standardised(MAPS, MASK))


def test_constant_channels_and_no_cells_are_zero_with_finite_gradients():
    for maps, mask in ((jnp.full_like(MAPS, 7.0), MASK), (MAPS, jnp.zeros_like(MASK))):
        assert not standardised(maps, mask).any()
        slope = jax.grad(lambda maps, mask=mask: (standardised(maps, mask) ** 2).sum())(maps)
        assert np.isfinite(slope).all()


def test_statistics_of_all_devices():
    def mapped(one, mask):
        return standardised(one[None], mask[None], devices="data")[0]

    found = jax.vmap(mapped, axis_name="data")(MAPS, MASK)
    np.testing.assert_allclose(found, standardised(MAPS, MASK), atol=1e-6)

"""The moving average of the student, whose decay grows."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.train.state import moving_average


@pytest.mark.parametrize(
    ("warmup", "decays"),
    [
        (1000.0, {1: 0.000999, 100: 0.095153, 1000: 0.632057, 5000: 0.993163}),
        (0.0, {2: 0.181818, 101: 0.918182, 1001: 0.991089, 5001: 0.998204}),
    ],
)
def test_decays_by_hand(warmup, decays):
    """After so many steps, of 0.9999 at last."""
    for steps, decay in decays.items():
        found = moving_average(
            {"x": jnp.ones(())}, {"x": jnp.zeros(())}, decay=0.9999, step=jnp.asarray(steps - 1), warmup=warmup
        )
        np.testing.assert_allclose(found["x"], decay, atol=1e-6)

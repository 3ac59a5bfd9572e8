"""Which results of a function depend on its first argument."""

import jax
from jax import lax
from jax import numpy as jnp

from jaxkd.train.dependence import depends_on_first


def test_numbers_count_and_shapes_do_not():
    def results(nets, truth):
        features = nets["kernel"] @ truth
        _, both = lax.scan(lambda carry, row: (carry + row, (2 * row, carry)), features, jnp.ones((2, 3)))
        return {
            "features": jax.jit(jnp.tanh)(features).sum(),
            "count": jnp.where(truth > 0, 1, 0).sum(),
            "cells": features.shape[0] * truth.max(),
            "constant": jnp.float32(2.0),
            "chosen": truth[jnp.argmax(features)],
            "bias": nets["bias"],
            "loop": both[0],  # not truly, but the loop also carries what needs it
        }

    nets = {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(())}
    assert depends_on_first(results, nets, jnp.ones(3)) == {
        "features": True,
        "count": False,
        "cells": False,
        "constant": False,
        "chosen": True,
        "bias": True,
        "loop": True,
    }

"""Gradient ratios: the gradient of each distillation term at the student's neck, relative to the detection loss."""

import functools
from collections.abc import Callable

import jax
import optax
from jax import lax
from jax import numpy as jnp
from jax.sharding import Mesh

from jaxkd.distill import base
from jaxkd.train.mesh import AXIS, over_batch
from jaxkd.train.schedules import Scheduled
from jaxkd.train.state import State, Tree
from jaxkd.train.step import Pair, forward, step_inputs, with_teacher_outputs
from jaxkd.types import Batch

PREFIX = "gradient_ratio"  # of the names of the ratios


@functools.lru_cache(maxsize=4)
def make_probe(pair: Pair, mesh: Mesh) -> Callable[[State, Tree, Scheduled, Batch], dict[str, jax.Array]]:
    """The compiled function (state, teacher's parameters, schedules' values, batch) -> ratios of gradient norms.

    The gradients are those at the neck's output.

    One entry "gradient_ratio/METHOD/TERM" for each kind of term of each method, levels taken together: the norm of
    the term's gradient, decayed and weighted as in the step, over that of all detection terms together.
    """

    def probe(state: State, teacher_params: Tree, scheduled: Scheduled, batch: Batch) -> dict[str, jax.Array]:
        inputs = with_teacher_outputs(pair, step_inputs(state, teacher_params, scheduled, batch))
        features, _ = pair.student.training_features(state.params["detector"], batch)

        def groups(neck: tuple[jax.Array, ...]) -> dict[str, jax.Array]:
            student_features = features.replace(neck=neck)
            terms = forward(pair, state.params, student_features, inputs).terms
            counts = lax.psum(lax.stop_gradient({name: term.count for name, term in terms.items()}), AXIS)
            sums: dict[str, jax.Array] = {}
            for name, term in terms.items():
                group = base.kind(name) if "/" in name else "detection"
                sums[group] = sums.get(group, jnp.zeros(())) + term.replace(count=counts[name]).mean()
            return sums

        values, vjp = jax.vjp(groups, features.neck)
        seeds = dict(zip(values, jnp.eye(len(values)), strict=True))
        squares = jax.vmap(lambda seed: optax.tree.norm(vjp(seed)) ** 2)(seeds)
        norms = dict(zip(values, jnp.sqrt(lax.psum(squares, AXIS)), strict=True))
        detection = norms.pop("detection")
        return {f"{PREFIX}/{name}": norm / jnp.maximum(detection, 1e-12) for name, norm in norms.items()}

    return jax.jit(over_batch(probe, mesh, replicated=3))

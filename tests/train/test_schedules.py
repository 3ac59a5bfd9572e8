"""The schedules' values are arguments of the step, which is one program for runs of any length and rate."""

import jax
import numpy as np
import optax
import tiny

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import shapes
from jaxkd.loading import build
from jaxkd.preflight import preflight
from jaxkd.train import mesh, optimizer, pairing, schedules
from jaxkd.train.step import initial_state, make_step


def test_the_values_are_the_schedules():
    rate = optimizer.learning_rate(optimizer.Config(learning_rate=0.3, warmup_steps=3), steps=12)
    found = schedules.Schedules(rate, {"tar": optax.linear_schedule(1.0, 0.0, 12)}, steps=12)
    for step in range(12):
        values = found.at(step)
        assert values.learning_rate.dtype == values.decay["tar"].dtype == np.float32
        np.testing.assert_allclose(values.learning_rate, rate(step), rtol=1e-6)
        np.testing.assert_allclose(values.decay["tar"], 1 - step / 12, rtol=1e-6)
    rising = schedules.Schedules(rate, {}, steps=12, warmups={"gkd": optax.linear_schedule(0.0, 1.0, 4)})
    assert [rising.at(step).warmup["gkd"] for step in (0, 1, 4, 11)] == [0, 0.25, 1, 1]
    given = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(found.at(0))]
    assert given == [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(schedules.shapes({"tar": None}))]


def lowered(*, steps, rate, decay):
    """The text of the step of a taught run."""
    recipe = tiny.run(
        steps=steps,
        optimizer=component("train.optimizer", learning_rate=rate),
        distill={"tar": component("distill.task_adaptive", decay=component("distill.decay", kind=decay))},
    )
    student = build.detector(recipe.student, shapes.CLASSES)
    teacher = build.Loaded(student, {}, recipe.student, {}, {})
    pair = pairing.make_pair(recipe, configs.build(recipe.train), student, {"": teacher})
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: initial_state(pair, dict(student.init(key)), key), key)
    teacher_params = jax.eval_shape(lambda key: dict(student.init(key)), key)
    batch = preflight.shapes(configs.build(recipe.data.loader).canvas(0), pictures=4)
    step = make_step(pair, mesh.make_mesh(1))
    return step.lower(state, teacher_params, schedules.shapes(pair.methods), batch).as_text()


def test_another_length_and_rate_are_the_same_program():
    short = lowered(steps=12, rate=0.01, decay="linear_epoch")
    assert short == lowered(steps=9000, rate=0.5, decay="none")

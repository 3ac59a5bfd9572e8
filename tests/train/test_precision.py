"""A step in bfloat16: what it may compute in it, and how near it comes to the step in float32."""

import functools

import detector_scene
import jax
import numpy as np
import pytest
import tiny
from jax import numpy as jnp
from jax.extend.core import jaxprs_in_params

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import loader, shapes
from jaxkd.loading import build, prepare
from jaxkd.train import mesh, optimizer
from jaxkd.train.schedules import Scheduled
from jaxkd.train.step import Pair, initial_state, make_step

SCHEDULED = Scheduled(np.float32(0.01), {"tar": np.float32(1)})

# What loses its value in 8 bits: sums of many numbers, orders, and what probabilities are made of.
DELICATE = {
    "scatter-add",
    "cumsum",
    "sort",
    "top_k",
    "argmax",
    "exp",
    "log",
    "log1p",
    "logistic",
    "rsqrt",
    "reduce_max",
}


class Stepped:
    """One taught step of a detector in some dtype."""

    def __init__(self, kind, dtype):
        recipe, one = detector_scene.RECIPES[kind], mesh.make_mesh(1)
        tar = configs.build(
            component(
                "distill.task_adaptive",
                feature={"canonical_scale": 28.0},
                adapter={"init": "lecun"},
                box={"gate": "none"},
            )
        )
        self.pair = Pair(
            student=build.detector(recipe(norm="frozen_batch", dtype=dtype), shapes.CLASSES),
            teacher=build.detector(recipe(width=12, channels=24, dtype=dtype), shapes.CLASSES),
            methods={"tar": tar},
            optimizer=optimizer.build(optimizer.Config()),
        )
        source = shapes.load(shapes.Config(count=8, size=tiny.SIZE, seed=3))
        batch = next(loader.train_batches(source, configs.build(tiny.loader(flip=0.0)), seed=0, steps=1, batch=4))
        student = detector_scene.told_apart(self.pair.student.init(jax.random.key(0)))
        state = initial_state(self.pair, student, jax.random.key(1))
        teacher_params = detector_scene.told_apart(self.pair.teacher.init(jax.random.key(7)))
        placed = (
            mesh.put_replicated(state, one),
            mesh.put_replicated(teacher_params, one),
            SCHEDULED,
            mesh.put_batch(batch, one),
        )
        step = make_step(self.pair, one)
        self.traced = step.trace(*placed).jaxpr
        self.state, metrics = step(*placed)
        self.metrics = {name: float(value) for name, value in metrics.items()}


stepped = functools.cache(Stepped)


@pytest.fixture(scope="module", params=["faster_rcnn", "retinanet"])
def kind(request):
    return request.param


def test_the_loss_is_near_that_of_float32(kind):
    exact, rough = stepped(kind, "float32").metrics, stepped(kind, "bfloat16").metrics
    assert exact["loss"] != rough["loss"]
    np.testing.assert_allclose(rough["loss"], exact["loss"], rtol=0.03)
    np.testing.assert_allclose(rough["gradient_norm"], exact["gradient_norm"], rtol=0.1)
    assert rough["skipped_steps"] == 0


def test_what_is_learned_and_what_the_optimizer_remembers_stay_float32(kind):
    state = stepped(kind, "bfloat16").state
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state))}
    assert kinds <= {jnp.dtype(name) for name in ("float32", "int32", "bool")}


def test_delicate_sums_orders_and_probabilities_are_not_in_bfloat16(kind):
    traced = stepped(kind, "bfloat16").traced
    in_bfloat16 = [equation for equation in equations(traced) if jnp.dtype("bfloat16") in operands(equation)]
    moves = [equation for equation in in_bfloat16 if equation.params.get("unique_indices")]  # nothing meets there
    rough = {equation.primitive.name for equation in in_bfloat16 if equation not in moves}
    assert {"conv_general_dilated", "dot_general"} <= rough
    assert not rough & DELICATE
    assert {"exp", "log"} <= {equation.primitive.name for equation in equations(traced)}


def test_a_teacher_computes_in_what_its_student_computes_in(tmp_path):
    taught = tiny.detector(width=12)
    params = build.detector(taught, shapes.CLASSES).init(jax.random.key(0))
    build.save(tmp_path, params, config=taught, classes=shapes.CLASSES, scores={"AP": 0.5})
    methods = {"mimic": component("distill.mimic")}
    for dtype in ("float32", "bfloat16"):
        recipe = tiny.run(student=tiny.detector(dtype=dtype), teacher=str(tmp_path), distill=methods)
        teacher = prepare.load_teacher(recipe)
        assert teacher is not None and teacher.config.dtype == dtype and teacher.scores == {"AP": 0.5}
        batch = detector_scene.batch_in(tiny.SIZE)
        features = jax.eval_shape(teacher.detector.features, teacher.params, batch)
        assert {leaf.dtype for leaf in jax.tree.leaves(features)} == {jnp.dtype(dtype)}
        assert {leaf.dtype for leaf in jax.tree.leaves(teacher.params)} == {jnp.dtype("float32")}


def equations(jaxpr):
    """All equations, also those of inner functions."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def operands(equation):
    return {getattr(operand.aval, "dtype", None) for operand in equation.invars}

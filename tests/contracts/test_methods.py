"""What every module of jaxkd.distill that has `losses` promises, on what either kind of detector shows it; a new method
is found by listing the folder."""

import functools
import importlib
import pkgutil
from typing import get_args

import distill_scene as scenes
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd import distill
from jaxkd.config import build, component, nested
from jaxkd.distill import base, decay
from jaxkd.types import Term

MODULES = {
    found.name: importlib.import_module(f"jaxkd.distill.{found.name}")
    for found in pkgutil.iter_modules(distill.__path__)
}
METHODS = sorted(name for name, module in MODULES.items() if hasattr(module, "losses"))

every_method = pytest.mark.parametrize("name", METHODS)
every_kind = pytest.mark.parametrize("kind", scenes.KINDS)


@functools.cache
def scene(kind):
    return scenes.scene(kind=kind)


@functools.cache
def params(name):
    return scenes.parameters(MODULES[name], MODULES[name].Config(), scene("two_stage"))


@functools.cache
def compiled(name):
    """Terms of a scene, and the gradient of their sum in all that is not an integer."""
    module = MODULES[name]
    memory = scenes.remembered(module, module.Config(), scene("two_stage"))
    numbers, whole = split(memory)

    def total(floats, scene):
        student, teacher = (
            view.replace(features=floats[who]["features"], predictions=floats[who]["predictions"])
            for who, view in (("student", scene.student), ("teacher", scene.teacher))
        )
        regions = scene.regions.replace(boxes=floats["regions"], deltas=floats["deltas"])
        batch = scene.batch.replace(boxes=floats["truth"])
        now = scenes.Scene(student, teacher, regions, batch)
        outcome = scenes.ask(module, module.Config(), floats["params"], now, memory=join(floats["memory"], whole))
        return sum(term.mean() for term in (outcome.terms | outcome.undecayed).values()), outcome

    @jax.jit
    def run(params, scene):
        floats = {
            "params": params,
            "student": {"features": scene.student.features, "predictions": scene.student.predictions},
            "teacher": {"features": scene.teacher.features, "predictions": scene.teacher.predictions},
            "regions": scene.regions.boxes,
            "deltas": scene.regions.deltas,
            "truth": scene.batch.boxes,
            "memory": numbers,
        }
        gradient, outcome = jax.grad(total, has_aux=True)(floats, scene)
        return outcome, gradient

    return run


def split(tree):
    """The leaves that a gradient could reach, and the others, each in a tree with None elsewhere."""
    real = jax.tree.map(lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else None, tree)
    rest = jax.tree.map(lambda leaf: None if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)
    return real, rest


def join(one, other):
    return jax.tree.map(lambda a, b: b if a is None else a, one, other, is_leaf=lambda leaf: leaf is None)


def assert_finite(tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)


def test_the_folder_holds_methods():
    assert {"mimic", "task_adaptive"} <= set(METHODS)


@every_method
def test_has_the_parts_of_the_protocol(name):
    module = MODULES[name]
    assert all(callable(getattr(module, part)) for part in ("Config", "region_sources", "needs", "init", "losses"))
    assert isinstance(module.Config().decay, decay.Config)
    shared = module.region_sources(module.Config())
    assert shared and all(isinstance(one, base.RegionSource) for one in shared)
    assert build(component(f"distill.{name}")) == module.Config()
    needs = module.needs(module.Config())
    assert isinstance(needs, base.Needs) and needs.student | needs.teacher <= set(get_args(base.Need))
    assert set(needs.switches) <= set(get_args(base.Need))
    if hasattr(module, "init_memory"):
        assert "features" in needs.student & needs.teacher


@every_kind
@every_method
def test_terms_and_gradients_are_finite_and_teach(name, kind):
    outcome, gradient = compiled(name)(params(name), scene(kind))
    assert outcome.terms
    for part in (outcome.terms | outcome.undecayed | outcome.metrics).values():
        assert isinstance(part, Term)
        assert part.total.shape == part.count.shape == ()
        assert part.total.dtype == part.count.dtype == jnp.float32
    assert_finite((outcome, gradient))
    assert all(term.total > 0 or term.count == 0 for term in (outcome.terms | outcome.undecayed).values())
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient["student"]))


@every_kind
@every_method
def test_no_gradient_reaches_the_teacher_a_box_or_a_prototype(name, kind):
    _, gradient = compiled(name)(params(name), scene(kind))
    for part in ("teacher", "regions", "deltas", "truth", "memory"):
        for leaf in jax.tree.leaves(gradient[part]):
            np.testing.assert_array_equal(leaf, 0, err_msg=part)


@every_kind
@every_method
def test_junk_in_padding_changes_neither_value_nor_gradient(name, kind):
    outcome, gradient = compiled(name)(params(name), scene(kind))
    spoilt, spoilt_gradient = compiled(name)(params(name), scenes.with_junk_in_padding(scene(kind)))
    jax.tree.map(np.testing.assert_array_equal, spoilt, outcome)
    jax.tree.map(np.testing.assert_array_equal, spoilt_gradient, gradient)


@every_kind
@every_method
def test_nothing_to_learn_from_gives_zero(name, kind):
    outcome, gradient = compiled(name)(params(name), scenes.without_anything(scene(kind)))
    for term in (outcome.terms | outcome.undecayed).values():
        assert term.total == term.mean() == 0
    assert_finite((outcome, gradient))


@every_method
def test_a_term_that_is_zero_has_a_reason(name):
    """And no metric has: a run takes the names with a reason for those of terms."""
    outcome, _ = compiled(name)(params(name), scenes.without_anything(scene("two_stage")))
    metrics = {part: float(term.mean()) for part, term in outcome.metrics.items()}
    reasons = MODULES[name].zero_reasons(MODULES[name].Config(), metrics)
    assert set(reasons) == {base.kind(part) for part in outcome.terms | outcome.undecayed}
    assert all(reasons.values()) and not set(reasons) & {base.kind(part) for part in metrics}


@every_kind
@every_method
def test_every_parameter_is_used(name, kind):
    """Beside the start, at which a last layer may be 0 and hide those before it."""
    keys = iter(jax.random.split(jax.random.key(5), 1 + len(jax.tree.leaves(params(name)))))
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), params(name))
    _, gradient = compiled(name)(moved, scene(kind))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient["params"]):
        assert np.any(leaf), jax.tree_util.keystr(path)


@every_method
def test_the_same_key_draws_the_same_parameters(name):
    again = scenes.parameters(MODULES[name], MODULES[name].Config(), scene("two_stage"))
    jax.tree.map(np.testing.assert_array_equal, again, params(name))


@every_kind
@pytest.mark.parametrize("name", [name for name in METHODS if hasattr(MODULES[name], "ZERO_AT_TEACHER")])
def test_where_student_equals_teacher_nothing_is_left(name, kind):
    module = MODULES[name]
    config = build(component(f"distill.{name}", **nested(module.ZERO_AT_TEACHER)))
    same = scenes.scene(student=4, teacher=4, kind=kind)
    same = same._replace(student=same.teacher)
    memory = scenes.remembered(module, config, same)
    if memory is not None:
        memory = memory.replace(student=memory.teacher)
    outcome = scenes.ask(module, config, scenes.parameters(module, config, same), same, memory=memory)
    for part, term in (outcome.terms | outcome.undecayed).items():
        np.testing.assert_allclose(term.total, 0.0, atol=1e-5, err_msg=part)

"""Taught steps of every detector by every method at once: a new detector or method is found by listing its folder."""

import functools
import importlib
import pkgutil
from typing import NamedTuple

import detector_scene
import distill_scene
import jax
import numpy as np
import pytest
import tiny

from jaxkd import config as configs
from jaxkd import detectors, distill
from jaxkd.config import component
from jaxkd.data import loader, shapes
from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.train import mesh, optimizer
from jaxkd.train.lesson import check_reliability
from jaxkd.train.schedules import Scheduled
from jaxkd.train.step import Pair, initial_state, make_step


def having(package, part):
    """Names of the modules of a package that have this part."""
    names = [found.name for found in pkgutil.iter_modules(package.__path__)]
    return sorted(name for name in names if hasattr(importlib.import_module(f"{package.__name__}.{name}"), part))


METHODS = having(distill, "losses")
DETECTORS = [kind for kind in having(detectors, "build") if detector_scene.is_trained(kind)]
# For pictures of 64 x 96, weights that let no method drown the others, and reliabilities wherever they are understood.
FIELDS = {
    "task_adaptive": {
        "feature": {"canonical_scale": 28.0},
        "adapter": {"init": "lecun"},
        "box": {"gate": "none"},
        "reliability_from": "global_knowledge",
    },
    "global_knowledge": {"canonical_scale": 28.0, "adapter": {"init": "lecun"}, "prototypes": {"count": 3}},
    # Of six cells, beside all the others.
    "align": {"weight": 10.0},
    # An untrained teacher's detections lie anywhere.
    "detections": {"overlap": 0.01, "classification": {"gate": "none"}, "box": {"gate": "none"}},
    # Two levels show of a method on maps what more would, and compile sooner.
    "mimic": {"weight": 0.1, "adapter": {"init": "lecun"}, "reliability_from": "global_knowledge", "levels": 2},
    "pearson": {"statistics": "all", "weight": 1.0, "levels": 2},
    "channel_wise": {"weight": 1.0, "levels": 2},
    "masked_generative": {"weight": 1e-5, "levels": 2},
    "focal_global": {"foreground": 1e-4, "background": 1e-4, "attention": 1e-2, "relation": 1e-6, "levels": 2},
    # An untrained teacher's boxes lie anywhere, far from its detections' targets.
    "shared_queries": {"class_weight": 5.0, "l1_weight": 0.5, "giou_weight": 0.2},
}


def make_pair(kind, **changes):
    """A detector taught by a wider one of its kind, by every method at once."""
    fields = FIELDS | changes
    if detector_scene.sees_canvas(kind):  # those with queries, which predict for any boxes
        fields = fields | {"shared_queries": fields["shared_queries"] | {"random": 6}}
    methods = {name: configs.build(component(f"distill.{name}", **fields.get(name, {}))) for name in METHODS}
    recipe = detector_scene.RECIPES[kind]
    return Pair(
        student=build.detector(recipe(), shapes.CLASSES),
        teacher=build.detector(recipe(width=12, channels=24), shapes.CLASSES),
        methods=methods,
        optimizer=optimizer.build(optimizer.Config()),
    )


def batch_in(bucket):
    """Four drawn pictures, on a canvas that they may not fill."""
    source = shapes.load(shapes.Config(count=8, size=tiny.SIZE, seed=3))
    loader_config = configs.build(tiny.loader(buckets=(bucket,), flip=0.0))
    return next(loader.train_batches(source, loader_config, seed=0, steps=1, batch=4))


class Taught(NamedTuple):
    """What some steps on the same pictures with the same draws gave."""

    metrics: list[dict[str, float]]  # before each step
    params: dict  # after the first step
    text: str  # of the compiled step


def taught(kind, *, devices, steps=1, bucket=tiny.SIZE):
    """Steps from prototypes of a random past."""
    pair, meshed = make_pair(kind), mesh.make_mesh(devices)
    batch = mesh.put_batch(batch_in(bucket), meshed)
    state = initial_state(pair, pair.student.init(jax.random.key(0)), jax.random.key(1))
    draw = np.random.default_rng(0)

    def fill(leaf):
        return {"f": draw.normal(size=leaf.shape).astype(np.float32), "b": np.ones(leaf.shape, bool)}.get(
            leaf.dtype.kind, np.zeros(leaf.shape, np.int32)
        )

    state = state.replace(memory=jax.tree.map(fill, jax.device_get(state.memory)))
    teacher_params = detector_scene.told_apart(pair.teacher.init(jax.random.key(7)))
    state, teacher_params = (mesh.put_replicated(tree, meshed) for tree in (state, teacher_params))
    scheduled = Scheduled(np.float32(0.01), dict.fromkeys(pair.methods, np.float32(1)))
    compiled = make_step(pair, meshed).lower(state, teacher_params, scheduled, batch).compile()
    history, params = [], None
    for _ in range(steps):
        state, metrics = compiled(state.replace(step=0 * state.step), teacher_params, scheduled, batch)
        history.append({name: float(value) for name, value in metrics.items()})
        params = params or jax.device_get(state.params)
    return Taught(history, params, compiled.as_text())


@pytest.fixture(scope="module", params=DETECTORS)
def kind(request):
    return request.param


@functools.cache
def one(kind):
    return taught(kind, devices=1, steps=4)


def test_there_is_something_to_teach():
    assert {"faster_rcnn", "retinanet"} <= set(DETECTORS)
    assert {"task_adaptive", "global_knowledge", "mimic"} <= set(METHODS)


def test_every_method_has_finite_terms(kind):
    first = one(kind).metrics[0]
    assert all(np.isfinite(value) for value in first.values())
    assert first["skipped_steps"] == 0
    for name in METHODS:
        assert any(term.startswith(f"{name}/") for term in first), name
    for name in ("task_adaptive/class", "task_adaptive/box", "global_knowledge/global", "global_knowledge/soft"):
        assert first[name] > 0, name
    assert first["global_knowledge/sigma"] < 1


def test_three_steps_lower_every_method(kind):
    metrics = one(kind).metrics
    for name in METHODS:
        before, after = (own_loss(name, found) for found in (metrics[0], metrics[3]))
        assert after < before, name


def own_loss(name, metrics):
    """The sum of a method's terms, which are what it reports and is no metric of its own."""
    module, scene = importlib.import_module(f"jaxkd.distill.{name}"), distill_scene.scene()
    params = distill_scene.parameters(module, module.Config(), scene)
    outcome = jax.eval_shape(lambda: distill_scene.ask(module, module.Config(), params, scene))
    reported = {f"{name}/{part}" for part in (*outcome.metrics, "decay")}
    return sum(value for part, value in metrics.items() if part.startswith(f"{name}/") and part not in reported)


# D-FINE's terms agree like the others'. On one device, parameters that differ by 1e-6 of themselves change its gradient
# by 3e-4, and RT-DETR's by 4e-6: this untrained net amplifies rounding.
GRADIENT_TOLERANCE = {"d_fine": 1e-3}


def test_one_device_and_four_agree(kind):
    many, single = taught(kind, devices=4), one(kind)
    rounding = GRADIENT_TOLERANCE.get(kind, 1e-5)
    for name, value in single.metrics[0].items():
        close = rounding if name == "gradient_norm" else 1e-5
        np.testing.assert_allclose(value, many.metrics[0][name], rtol=close, atol=1e-5, err_msg=name)
    for (path, leaf), other in zip(jax.tree.leaves_with_path(single.params), jax.tree.leaves(many.params), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=rounding, err_msg=jax.tree_util.keystr(path))
    assert "all-reduce" in many.text and "all-gather" not in many.text


@pytest.mark.parametrize("kind", [kind for kind in DETECTORS if not detector_scene.sees_canvas(kind)])
def test_a_wider_canvas_changes_nothing(kind):
    wider = taught(kind, devices=1, bucket=(tiny.SIZE[0] + 32, tiny.SIZE[1] + 64))
    for name, value in one(kind).metrics[0].items():
        np.testing.assert_allclose(value, wider.metrics[0][name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_reliabilities_have_to_come_from_somewhere():
    pair = make_pair("retinanet", task_adaptive={"reliability_from": "mimic"})
    with pytest.raises(ConfigError, match=r"reliability_from is 'mimic', .* there are \['global_knowledge'\]"):
        check_reliability(pair)

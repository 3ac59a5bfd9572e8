"""Which method fits which two detectors: every pair is accepted and takes a step, or is refused in one sentence."""

import functools
import importlib

import detector_scene
import jax
import numpy as np
import pytest
import tiny
import toy_method
import toy_teachers
from jax import numpy as jnp

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import loader, shapes
from jaxkd.distill import base
from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.train import mesh, optimizer
from jaxkd.train.lesson import StepInputs, distill, with_teacher
from jaxkd.train.schedules import Scheduled
from jaxkd.train.step import Pair, initial_state, make_step, with_teacher_outputs
from jaxkd.types import DetectorOutputs

STUDENTS = {kind: build.detector(recipe(), shapes.CLASSES) for kind, recipe in detector_scene.RECIPES.items()}
TEACHERS = {
    kind: build.detector(recipe(width=12, channels=24), shapes.CLASSES)
    for kind, recipe in detector_scene.RECIPES.items()
} | {
    "features_only": toy_teachers.FeatureMaps(shapes.CLASSES),
    "detections_only": toy_teachers.FinalDetections(shapes.CLASSES),
}
METHODS = {
    name: configs.build(component(f"distill.{name}"))
    for name in ("align", "mimic", "task_adaptive", "global_knowledge", "detections")
} | {"toy_method": toy_method.Config()}
MIMIC, DETECTIONS, EITHER = "take align or mimic.", "take detections.", "take align or detections or mimic."
ANCHORS = "the teacher (detectors.retinanet) predicts for its own anchors only, which the student's regions are not"
BACKGROUND = (
    "the background column of the student (detectors.retinanet) is None, that of the teacher (detectors.faster_rcnn) 3 "
    "(None for no background class)"
)
NO_MAPS = "the teacher (toy_teachers) gives no feature maps"
NO_PREDICTIONS = "the teacher (toy_teachers) gives no predictions"
NO_DETECTIONS = "the teacher (toy_teachers) gives no detections"
NO_BOXES = "the student (detectors.retinanet) does not predict for any boxes"
BOTH = "set classification.weight and box.weight to 0, or"
ALL = "take align or detections or global_knowledge or mimic or task_adaptive."
# The end of the sentence by (method, student, teacher); "" where the method fits.
TABLE = {
    ("align", "faster_rcnn", "faster_rcnn"): "",
    ("align", "faster_rcnn", "retinanet"): "",
    ("align", "faster_rcnn", "features_only"): "",
    ("align", "faster_rcnn", "detections_only"): f"{NO_MAPS}: {DETECTIONS}",
    ("align", "retinanet", "faster_rcnn"): "",
    ("align", "retinanet", "retinanet"): "",
    ("align", "retinanet", "features_only"): "",
    ("align", "retinanet", "detections_only"): f"{NO_MAPS}: {DETECTIONS}",
    ("mimic", "faster_rcnn", "faster_rcnn"): "",
    ("mimic", "faster_rcnn", "retinanet"): "",
    ("mimic", "faster_rcnn", "features_only"): "",
    ("mimic", "faster_rcnn", "detections_only"): f"{NO_MAPS}: {DETECTIONS}",
    ("mimic", "retinanet", "faster_rcnn"): "",
    ("mimic", "retinanet", "retinanet"): "",
    ("mimic", "retinanet", "features_only"): "",
    ("mimic", "retinanet", "detections_only"): f"{NO_MAPS}: {DETECTIONS}",
    ("task_adaptive", "faster_rcnn", "faster_rcnn"): "",
    ("task_adaptive", "faster_rcnn", "retinanet"): f"{ANCHORS}: {BOTH} {EITHER}",
    ("task_adaptive", "faster_rcnn", "features_only"): f"{NO_PREDICTIONS}: {BOTH} {MIMIC}",
    ("task_adaptive", "faster_rcnn", "detections_only"): f"{NO_MAPS} and {NO_PREDICTIONS}: {DETECTIONS}",
    ("task_adaptive", "retinanet", "faster_rcnn"): f"{BACKGROUND}: set classification.weight to 0, or {EITHER}",
    ("task_adaptive", "retinanet", "retinanet"): "",
    ("task_adaptive", "retinanet", "features_only"): f"{NO_PREDICTIONS}: {BOTH} {MIMIC}",
    ("task_adaptive", "retinanet", "detections_only"): f"{NO_MAPS} and {NO_PREDICTIONS}: {DETECTIONS}",
    ("global_knowledge", "faster_rcnn", "faster_rcnn"): "",
    ("global_knowledge", "faster_rcnn", "retinanet"): f"{ANCHORS}: set soft.weight to 0, or {EITHER}",
    ("global_knowledge", "faster_rcnn", "features_only"): f"{NO_PREDICTIONS}: set soft.weight to 0, or {MIMIC}",
    ("global_knowledge", "faster_rcnn", "detections_only"): f"{NO_MAPS} and {NO_PREDICTIONS}: {DETECTIONS}",
    ("global_knowledge", "retinanet", "faster_rcnn"): f"{BACKGROUND}: set soft.weight to 0, or {EITHER}",
    ("global_knowledge", "retinanet", "retinanet"): "",
    ("global_knowledge", "retinanet", "features_only"): f"{NO_PREDICTIONS}: set soft.weight to 0, or {MIMIC}",
    ("global_knowledge", "retinanet", "detections_only"): f"{NO_MAPS} and {NO_PREDICTIONS}: {DETECTIONS}",
    ("toy_method", "faster_rcnn", "faster_rcnn"): "",
    ("toy_method", "faster_rcnn", "retinanet"): "",
    ("toy_method", "faster_rcnn", "features_only"): f"{NO_DETECTIONS}: {MIMIC}",
    ("toy_method", "faster_rcnn", "detections_only"): "",
    ("toy_method", "retinanet", "faster_rcnn"): f"{NO_BOXES}: {EITHER}",
    ("toy_method", "retinanet", "retinanet"): f"{NO_BOXES}: {ALL}",
    ("toy_method", "retinanet", "features_only"): f"{NO_BOXES} and {NO_DETECTIONS}: {MIMIC}",
    ("toy_method", "retinanet", "detections_only"): f"{NO_BOXES}: {DETECTIONS}",
    ("detections", "faster_rcnn", "faster_rcnn"): "",
    ("detections", "faster_rcnn", "retinanet"): "",
    ("detections", "faster_rcnn", "features_only"): f"{NO_DETECTIONS}: {MIMIC}",
    ("detections", "faster_rcnn", "detections_only"): "",
    ("detections", "retinanet", "faster_rcnn"): "",
    ("detections", "retinanet", "retinanet"): "",
    ("detections", "retinanet", "features_only"): f"{NO_DETECTIONS}: {MIMIC}",
    ("detections", "retinanet", "detections_only"): "",
}


def make_pair(student, teacher, **methods):
    return Pair(
        student=STUDENTS[student],
        teacher=TEACHERS[teacher],
        methods=methods,
        optimizer=optimizer.build(optimizer.Config()),
    )


def begin(pair):
    return initial_state(pair, pair.student.init(jax.random.key(0)), jax.random.key(1))


@functools.cache
def shapes_of(student):
    """The shapes of a student's parameters."""
    return jax.eval_shape(STUDENTS[student].init, jax.random.key(0))


def begun(student, pair):
    """The shapes of the state before step 1: nothing is compiled."""
    return jax.eval_shape(lambda params: initial_state(pair, params, jax.random.key(1)), shapes_of(student))


@functools.cache
def batch():
    source = shapes.load(shapes.Config(count=2, size=tiny.SIZE, seed=3))
    loader_config = configs.build(tiny.loader(flip=0.0))
    return next(loader.train_batches(source, loader_config, seed=0, steps=1, batch=2))


def test_the_table_has_every_pair():
    assert set(TABLE) == {
        (method, student, teacher) for method in METHODS for student in STUDENTS for teacher in TEACHERS
    }


@pytest.mark.parametrize(("method", "student", "teacher"), TABLE)
def test_a_method_fits_or_is_refused_by_name(method, student, teacher):
    pair, said = make_pair(student, teacher, mine=METHODS[method]), TABLE[method, student, teacher]
    if not said:
        assert "mine" in begun(student, pair).params["distill"]
        return
    with pytest.raises(ConfigError) as error:
        begun(student, pair)
    name = method if method == "toy_method" else f"distill.{method}"
    assert str(error.value) == f"distill.mine ({name}) does not fit, as {said}"


WITHOUT_PREDICTIONS = component(
    "distill.task_adaptive", classification={"weight": 0.0}, box={"weight": 0.0}, adapter={"init": "lecun"}
)
TAUGHT = [
    ("faster_rcnn", "features_only", {"mimic": METHODS["mimic"], "tar": configs.build(WITHOUT_PREDICTIONS)}),
    ("retinanet", "features_only", {"mimic": METHODS["mimic"], "tar": configs.build(WITHOUT_PREDICTIONS)}),
    ("faster_rcnn", "detections_only", {"toy": METHODS["toy_method"]}),
]


@pytest.mark.parametrize(("student", "teacher", "methods"), TAUGHT, ids=["two_stage", "dense", "detections"])
def test_a_teacher_that_gives_less_teaches(student, teacher, methods):
    """What methods make of the outputs of a student that other tests compile too."""
    pair, case = make_pair(student, teacher, **methods), detector_scene.case(student)
    scene = jax.tree.map(jnp.asarray, detector_scene.batch_in((64, 96)))
    method_params = begun(student, pair).params["distill"]
    method_params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), method_params)

    def loss(given, teacher_params):
        inputs = StepInputs(scene, teacher_params, key=jax.random.key(0), decay=dict.fromkeys(methods, jnp.ones(())))
        inputs, own = with_teacher_outputs(pair, inputs), pair.student.traits
        outputs = DetectorOutputs(features=given["features"], predictions=given["predictions"], traits=own)
        shared = with_teacher(pair, inputs, outputs, case.seen["regions"], owner=own)
        terms = distill(pair, {"distill": given["methods"]}, inputs, shared, keys=detector_scene.KEYS).terms
        return sum(term.mean() for term in terms.values()), terms

    given = {name: case.seen[name] for name in ("features", "predictions")} | {"methods": method_params}
    gradient, terms = jax.jit(jax.grad(loss, has_aux=True))(given, pair.teacher.init(jax.random.key(7)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, terms)))
    for name in methods:
        assert any(term.mean() > 0 for part, term in terms.items() if part.startswith(f"{name}/")), name
    taught = "predictions" if teacher == "detections_only" else "features"
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient[taught]))


@pytest.mark.parametrize(("teacher", "name"), [("features_only", "mimic")])
def test_a_step(teacher, name):
    pair, devices = make_pair("retinanet", teacher, **{name: METHODS[name]}), mesh.make_mesh(1)
    state = mesh.put_replicated(begin(pair), devices)
    teacher_params = mesh.put_replicated(pair.teacher.init(jax.random.key(7)), devices)
    scheduled = Scheduled(np.float32(0.01), {name: np.float32(1)})
    _, metrics = make_step(pair, devices)(state, teacher_params, scheduled, mesh.put_batch(batch(), devices))
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics[f"{name}/feature_8"] > 0


def test_detections_are_computed_where_a_method_needs_them():
    assert not make_pair("faster_rcnn", "faster_rcnn", mimic=METHODS["mimic"]).taught_from("detections")
    assert make_pair("faster_rcnn", "faster_rcnn", toy=METHODS["toy_method"]).taught_from("detections")
    assert not make_pair("faster_rcnn", "features_only", mimic=METHODS["mimic"]).taught_from("detections")
    assert DetectorOutputs(features=None, predictions=None, traits=None).detections is None


def test_regions_of_a_teacher_that_has_none_are_refused():
    off = {"classification": {"weight": 0.0}, "box": {"weight": 0.0}}
    shared = component("distill.task_adaptive", **off, sharing={"source": "teacher"})
    pair = make_pair("faster_rcnn", "features_only", tar=configs.build(shared))
    said = r"the teacher \(toy_teachers\) gives no regions to predict for: take align or mimic"
    with pytest.raises(ConfigError, match=said):
        begun("faster_rcnn", pair)


def test_every_shipped_method_says_what_it_needs():
    for name, config in METHODS.items():
        module = importlib.import_module(f"jaxkd.distill.{name}") if name != "toy_method" else toy_method
        assert isinstance(module.needs(config), base.Needs)

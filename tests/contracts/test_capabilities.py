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

DETECTORS = {kind: build.detector(recipe(), shapes.CLASSES) for kind, recipe in detector_scene.RECIPES.items()}
STUDENTS = {kind: detector for kind, detector in DETECTORS.items() if detector_scene.is_trained(kind)}
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
MIMIC = "take align, channel_wise, focal_global, masked_generative, mimic or pearson."
DETECTIONS = "take detections."
EITHER = "take align, channel_wise, detections, focal_global, masked_generative, mimic or pearson."
ANCHORS = "the teacher ({teacher}) predicts for its own anchors only, which the student's regions are not"
BACKGROUND = (
    "the background column of the student ({student}) is None, that of the teacher ({teacher}) 3 "
    "(None for no background class)"
)
NO_MAPS = "the teacher (toy_teachers) gives no feature maps"
NO_PREDICTIONS = "the teacher (toy_teachers) gives no predictions"
NO_DETECTIONS = "the teacher (toy_teachers) gives no detections"
NO_BOXES = "the student ({student}) does not predict for any boxes"
BOTH = "set classification.weight and box.weight to 0, or"
ALL = (
    "take align, channel_wise, detections, focal_global, global_knowledge, masked_generative, mimic, pearson, "
    "shared_queries or task_adaptive."
)
TWO_STAGE, DENSE, OTHER, QUERY = "faster_rcnn", "dense", "another dense detector", "with queries"
QUERIES = "the teacher ({teacher}) does not predict for as many boxes as the student ({student}) has anchors"
SIGMOID = BACKGROUND.replace("({student}) is None", "({student}) is 3").replace("({teacher}) 3 ", "({teacher}) None ")
# The end of the sentence by method, kind of student and kind of teacher; "" where the method fits. A dense teacher is
# of the dense student's module, OTHER of another one.
TABLE = {
    ("align", TWO_STAGE, TWO_STAGE): "",
    ("align", TWO_STAGE, DENSE): "",
    ("align", TWO_STAGE, "features_only"): "",
    ("align", TWO_STAGE, "detections_only"): f"{NO_MAPS}: {DETECTIONS}",
    ("align", DENSE, TWO_STAGE): "",
    ("align", DENSE, DENSE): "",
    ("align", DENSE, OTHER): "",
    ("align", DENSE, "features_only"): "",
    ("align", DENSE, "detections_only"): f"{NO_MAPS}: {DETECTIONS}",
    ("mimic", TWO_STAGE, TWO_STAGE): "",
    ("mimic", TWO_STAGE, DENSE): "",
    ("mimic", TWO_STAGE, "features_only"): "",
    ("mimic", TWO_STAGE, "detections_only"): f"{NO_MAPS}: {DETECTIONS}",
    ("mimic", DENSE, TWO_STAGE): "",
    ("mimic", DENSE, DENSE): "",
    ("mimic", DENSE, OTHER): "",
    ("mimic", DENSE, "features_only"): "",
    ("mimic", DENSE, "detections_only"): f"{NO_MAPS}: {DETECTIONS}",
    ("task_adaptive", TWO_STAGE, TWO_STAGE): "",
    ("task_adaptive", TWO_STAGE, DENSE): f"{ANCHORS}: {BOTH} {EITHER}",
    ("task_adaptive", TWO_STAGE, "features_only"): f"{NO_PREDICTIONS}: {BOTH} {MIMIC}",
    ("task_adaptive", TWO_STAGE, "detections_only"): f"{NO_MAPS} and {NO_PREDICTIONS}: {DETECTIONS}",
    ("task_adaptive", DENSE, TWO_STAGE): f"{BACKGROUND}: set classification.weight to 0, or {EITHER}",
    ("task_adaptive", DENSE, DENSE): "",
    ("task_adaptive", DENSE, OTHER): f"{ANCHORS}: {BOTH} {EITHER}",
    ("task_adaptive", DENSE, "features_only"): f"{NO_PREDICTIONS}: {BOTH} {MIMIC}",
    ("task_adaptive", DENSE, "detections_only"): f"{NO_MAPS} and {NO_PREDICTIONS}: {DETECTIONS}",
    ("global_knowledge", TWO_STAGE, TWO_STAGE): "",
    ("global_knowledge", TWO_STAGE, DENSE): f"{ANCHORS}: set soft.weight to 0, or {EITHER}",
    ("global_knowledge", TWO_STAGE, "features_only"): f"{NO_PREDICTIONS}: set soft.weight to 0, or {MIMIC}",
    ("global_knowledge", TWO_STAGE, "detections_only"): f"{NO_MAPS} and {NO_PREDICTIONS}: {DETECTIONS}",
    ("global_knowledge", DENSE, TWO_STAGE): f"{BACKGROUND}: set soft.weight to 0, or {EITHER}",
    ("global_knowledge", DENSE, DENSE): "",
    ("global_knowledge", DENSE, OTHER): f"{ANCHORS}: set soft.weight to 0, or {EITHER}",
    ("global_knowledge", DENSE, "features_only"): f"{NO_PREDICTIONS}: set soft.weight to 0, or {MIMIC}",
    ("global_knowledge", DENSE, "detections_only"): f"{NO_MAPS} and {NO_PREDICTIONS}: {DETECTIONS}",
    ("toy_method", TWO_STAGE, TWO_STAGE): "",
    ("toy_method", TWO_STAGE, DENSE): "",
    ("toy_method", TWO_STAGE, "features_only"): f"{NO_DETECTIONS}: {MIMIC}",
    ("toy_method", TWO_STAGE, "detections_only"): "",
    ("toy_method", DENSE, TWO_STAGE): f"{NO_BOXES}: {EITHER}",
    ("toy_method", DENSE, DENSE): f"{NO_BOXES}: {ALL}",
    ("toy_method", DENSE, OTHER): f"{NO_BOXES}: {EITHER}",
    ("toy_method", DENSE, "features_only"): f"{NO_BOXES} and {NO_DETECTIONS}: {MIMIC}",
    ("toy_method", DENSE, "detections_only"): f"{NO_BOXES}: {DETECTIONS}",
    ("detections", TWO_STAGE, TWO_STAGE): "",
    ("detections", TWO_STAGE, DENSE): "",
    ("detections", TWO_STAGE, "features_only"): f"{NO_DETECTIONS}: {MIMIC}",
    ("detections", TWO_STAGE, "detections_only"): "",
    ("detections", DENSE, TWO_STAGE): "",
    ("detections", DENSE, DENSE): "",
    ("detections", DENSE, OTHER): "",
    ("detections", DENSE, "features_only"): f"{NO_DETECTIONS}: {MIMIC}",
    ("detections", DENSE, "detections_only"): "",
}
TABLE |= {
    (method, student, QUERY): said
    for student in (TWO_STAGE, DENSE)
    for method, said in {
        "align": "",
        "mimic": "",
        "detections": "",
        "toy_method": "" if student == TWO_STAGE else f"{NO_BOXES}: {EITHER}",
        "task_adaptive": f"{SIGMOID}: set classification.weight to 0, or {EITHER}"
        if student == TWO_STAGE
        else f"{QUERIES}: {BOTH} {EITHER}",
        "global_knowledge": f"{SIGMOID if student == TWO_STAGE else QUERIES}: set soft.weight to 0, or {EITHER}",
    }.items()
}
# A student with queries is asked like one with anchors, but that all of its kind answer about each other's queries.
TABLE |= {
    (method, QUERY, teacher): TABLE[method, DENSE, {QUERY: DENSE, DENSE: OTHER}.get(teacher, teacher)]
    for method in METHODS
    for teacher in (TWO_STAGE, DENSE, QUERY, "features_only", "detections_only")
}
CASES = [(method, student, teacher) for method in METHODS for student in STUDENTS for teacher in TEACHERS]


def kind_of(name):
    """The kind of a detector, as the table calls it."""
    if name not in DETECTORS or name == TWO_STAGE:
        return name
    return QUERY if "query_predictions" in DETECTORS[name].traits.capabilities else DENSE


def said_of(method, student, teacher):
    """The end of the sentence about these two detectors."""
    kinds = kind_of(student), kind_of(teacher)
    if kinds == (DENSE, DENSE) and student != teacher:
        kinds = DENSE, OTHER
    return TABLE[method, *kinds].format(student=f"detectors.{student}", teacher=f"detectors.{teacher}")


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


@pytest.mark.parametrize(("method", "student", "teacher"), CASES)
def test_a_method_fits_or_is_refused_by_name(method, student, teacher):
    pair, said = make_pair(student, teacher, mine=METHODS[method]), said_of(method, student, teacher)
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
    said = r"the teacher \(toy_teachers\) gives no regions to predict for: take align, channel_wise"
    with pytest.raises(ConfigError, match=said):
        begun("faster_rcnn", pair)


def test_every_shipped_method_says_what_it_needs():
    for name, config in METHODS.items():
        module = importlib.import_module(f"jaxkd.distill.{name}") if name != "toy_method" else toy_method
        assert isinstance(module.needs(config), base.Needs)

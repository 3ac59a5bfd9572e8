"""What every module of jaxkd.detectors with a `build` promises; a new detector is found by listing the folder.

A detector without what a student needs (`detectors.base.Detector`) is held to what a teacher that detects promises.
"""

import dataclasses
import importlib
import pkgutil
from typing import get_args

import detector_scene as scenes
import jax
import numpy as np
import pytest
from detector_scene import CLASSES, KEYS, SIZES, assert_equal, batch_in
from jax import numpy as jnp

from jaxkd import detectors
from jaxkd.detectors.base import Detector, Teacher
from jaxkd.distill.fit import PREDICTIONS
from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.types import Capability
from jaxkd.weights.tree import flatten

MODULES = {
    found.name: importlib.import_module(f"jaxkd.detectors.{found.name}")
    for found in pkgutil.iter_modules(detectors.__path__)
}
DETECTORS = sorted(name for name, module in MODULES.items() if hasattr(module, "build"))
EARLY = ("conv1", "bn1", "layer1_", "stem", "stage1_")  # how leaves of the stem and the first stage begin
STUDENTS = [kind for kind in DETECTORS if kind in scenes.RECIPES and scenes.is_trained(kind)]


@pytest.fixture(scope="module", params=DETECTORS)
def kind(request):
    return request.param


@pytest.fixture(scope="module", params=STUDENTS)
def student(request):
    return request.param


@pytest.fixture(scope="module", params=[kind for kind in STUDENTS if not scenes.sees_canvas(kind)])
def masked_case(request):
    """A student whose nets see a picture and nothing of the canvas beyond it."""
    return scenes.case(request.param)


@pytest.fixture(scope="module")
def case(kind):
    return scenes.case(kind)


@pytest.fixture(scope="module")
def student_case(student):
    return scenes.case(student)


def test_the_scene_knows_every_detector(kind):
    assert kind in scenes.RECIPES
    assert isinstance(scenes.case(kind).detector, Teacher)


def test_it_gives_what_teaches_and_is_scored_and_a_student_what_is_trained(case):
    capabilities = case.detector.traits.capabilities
    assert capabilities <= set(get_args(Capability))
    assert {"features", "detections"} <= capabilities
    assert len(capabilities & PREDICTIONS) == isinstance(case.detector, Detector)
    assert ("anchor_predictions" in capabilities) == (case.detector.traits.anchors is not None)


def test_one_that_is_not_trained_is_refused_as_a_student(kind):
    recipe = scenes.RECIPES[kind]()
    if kind in STUDENTS:
        assert build.student(recipe, CLASSES) == scenes.case(kind).detector
        return
    with pytest.raises(ConfigError, match=rf"detectors\.{kind} cannot be trained: .* take another student"):
        build.student(recipe, CLASSES)


def test_detections_are_sorted_and_inside(case):
    found = case.seen["detections"]
    assert found.valid.any(1).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    settings = case.detector.config.postprocess
    # A threshold on class probabilities alone leaves products with centre-ness below it.
    by_class = getattr(settings, "score", "") == "product"
    assert (found.scores[found.valid] > (0 if by_class else settings.score_threshold)).all()
    assert not found.scores[~found.valid].any() and not found.boxes[~found.valid].any()
    assert (found.boxes[found.valid][:, 2:] > found.boxes[found.valid][:, :2]).all()
    assert (found.boxes >= 0).all() and (found.boxes[..., 2:] <= SIZES[:, None, ::-1]).all()
    assert set(np.unique(found.labels)) <= {0, 1, 2}


def test_what_lies_beyond_a_picture_changes_nothing(case):
    filled = jax.device_get(case.look(case.params, batch_in((64, 96), fill=77), KEYS))
    assert_equal(case.seen, filled, atol=0)


def test_the_bucket_changes_nothing(masked_case):
    case = masked_case
    seen = case.seen
    wide = jax.device_get(case.look(case.params, batch_in((96, 160), fill=77), KEYS))
    traits = case.detector.traits
    for part, strides in (("backbone", traits.backbone_strides), ("neck", traits.strides)):
        for level, other, stride in zip(
            getattr(seen["features"], part), getattr(wide["features"], part), strides, strict=True
        ):
            for row, (height, width) in enumerate(-(-SIZES // stride)):
                np.testing.assert_allclose(level[row, :height, :width], other[row, :height, :width], atol=1e-4)
                assert not other[row, height:].any() and not other[row, :, width:].any()
    assert seen["regions"].positive.any() and (~seen["regions"].positive & seen["regions"].valid).any()
    if "box_predictions" in case.detector.traits.capabilities:  # else there are more anchors in a larger bucket
        assert_equal(
            {part: seen[part] for part in ("regions", "best", "predictions")},
            {part: wide[part] for part in ("regions", "best", "predictions")},
        )
    for part in ("terms", "detections"):
        assert_equal(seen[part], wide[part])


def test_junk_in_truth_padding_changes_nothing(case):
    batch = batch_in((64, 96))
    draw = np.random.default_rng(5)
    junk = draw.uniform(-50, 150, batch.boxes.shape).astype(np.float32)
    other = batch.replace(
        boxes=np.where(batch.valid[..., None], batch.boxes, junk),
        labels=np.where(batch.valid, batch.labels, 999).astype(np.int32),
    )
    found = jax.device_get(case.look(case.params, other, KEYS))
    assert_equal(case.seen, found, atol=0)


def test_no_truth_gives_finite_gradients(student_case):
    case = student_case
    batch = batch_in((64, 96))
    empty = batch.replace(boxes=np.zeros_like(batch.boxes), valid=np.zeros_like(batch.valid))
    predictions = jax.device_get(case.look(case.params, empty, KEYS))
    assert not predictions["regions"].positive.any()
    assert all(term.total == 0 for name, term in predictions["terms"].items() if name.endswith("box"))

    def loss(answered, regions):
        return sum(term.mean() for term in case.detector.losses(answered, regions).values())

    grads = jax.jit(jax.grad(loss))(predictions["predictions"], predictions["regions"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert not np.asarray(grads.deltas).any()
    assert all(term.total == 0 for name, term in predictions["terms"].items() if name.startswith(("box", "giou")))


def test_bfloat16_inside_and_float32_outside(kind):
    detector = build.detector(scenes.RECIPES[kind](dtype="bfloat16"), CLASSES)
    found = jax.device_get(scenes.everything(detector)(scenes.case(kind).params, batch_in((64, 96)), KEYS))
    assert {level.dtype for level in jax.tree.leaves(found["features"])} == {jnp.dtype(jnp.bfloat16)}
    for part in found.keys() - {"features"}:
        kinds = {leaf.dtype for leaf in jax.tree.leaves(found[part])}
        assert kinds <= {jnp.dtype(name) for name in ("float32", "int32", "bool")}
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[part]))
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(detector.init, jax.random.key(0)))} == {
        jnp.dtype("float32")
    }


def test_frozen_stages(student):
    detector = build.detector(scenes.RECIPES[student](norm="frozen_batch", frozen_stages=1), CLASSES)
    leaves = flatten(jax.eval_shape(detector.init, jax.random.key(0)))
    frozen = {name for name in leaves if not detector.trainable(tuple(name.split("/")))}
    stored = {name for name in leaves if name.endswith(("/mean", "/var"))}
    constants = {name for name in leaves if name in ("decoder/up", "decoder/reg_scale")}  # of the bins of edges
    early = {name for name in leaves if name.startswith(tuple(f"backbone/{start}" for start in EARLY))}
    assert stored and early
    assert frozen == stored | early | constants


@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet"])  # whose anchors have sizes
def test_anchors_that_do_not_fit_the_pyramid_are_refused(kind):
    with pytest.raises(ConfigError, match=r"2 entries, the pyramid [34] levels"):
        build.detector(scenes.RECIPES[kind](anchors={"sizes": (8.0, 16.0)}), CLASSES)


def test_the_detector_is_a_value(kind):
    detector = scenes.case(kind).detector
    assert detector == build.detector(scenes.RECIPES[kind](), CLASSES)
    assert dataclasses.replace(detector, classes=("one",)) != detector

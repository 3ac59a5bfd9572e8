"""Detections as targets, checked by hand on one region."""

import distill_scene as scenes
import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.distill import detections as method
from jaxkd.ops import boxes as box_ops
from jaxkd.types import Detections, Predictions

TRUTH, REGION, DETECTION = [0.0, 0, 20, 10], [0.0, 0, 20, 8], [0.0, 0, 20, 9.5]


def one_region(*, detection=DETECTION, label=1, score=0.8, valid=True, logits=(0.0, 0.0, 0.0, 0.0), kind="two_stage"):
    """A scene whose first picture has one positive region, of class 1, and one detection."""
    scene = scenes.scene(kind=kind)
    first = (jnp.arange(2)[:, None] == 0) & (jnp.arange(scene.regions.valid.shape[1]) == 0)
    boxes = jnp.where(first[..., None], jnp.array(REGION), scene.regions.boxes)
    regions = scene.regions.replace(
        boxes=boxes, positive=first, labels=jnp.where(first, 1, 3), truth=jnp.zeros_like(scene.regions.truth)
    )
    batch = scene.batch.replace(
        boxes=scene.batch.boxes.at[0, 0].set(jnp.array(TRUTH)),
        labels=scene.batch.labels.at[0, 0].set(1),
    )
    predictions = scene.student.predictions
    logits = predictions.logits.at[0, 0].set(jnp.array(logits[: predictions.logits.shape[-1]]))
    student = scene.student.replace(predictions=Predictions(logits=logits, deltas=jnp.zeros_like(predictions.deltas)))
    found = Detections(
        boxes=jnp.array([[detection], [detection]]),
        scores=jnp.full((2, 1), score),
        labels=jnp.full((2, 1), label),
        valid=jnp.full((2, 1), valid),
    )
    return scene._replace(
        student=student, teacher=scene.teacher.replace(detections=found), regions=regions, batch=batch
    )


def terms(scene, **fields):
    config = scenes.changed(method.Config(), **fields)
    losses = scenes.ask(method, config, {}, scene)
    return {name: float(term.mean()) for name, term in (losses.terms | losses.metrics).items()}


def entropy(p):
    return -(p * np.log(p) + (1 - p) * np.log(1 - p))


def test_by_hand():
    found = terms(one_region())
    # Four equal logits: the class has a quarter. Target .8, above it.
    assert found["class"] == pytest.approx(-(0.8 * np.log(0.25) + 0.2 * np.log(0.75)) - entropy(0.8), abs=1e-5)
    target = np.array(box_ops.encode(jnp.array(DETECTION), jnp.array(REGION), weights=scenes.WEIGHTS))
    size = np.abs(target)
    assert found["box"] == pytest.approx(np.where(size < 1, size**2 / 2, size - 0.5).sum(), abs=1e-5)
    assert (found["detected"], found["class_gate"], found["box_gate"]) == (1.0, 1.0, 1.0)


def test_a_dense_student_has_a_probability_for_each_class():
    found = terms(one_region(kind="dense"))
    assert found["class"] == pytest.approx(-np.log(0.5) - entropy(0.8), abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"label": 0}, {"valid": False}, {"detection": [50.0, 0, 70, 10]}, {"detection": [0.0, 0, 9.9, 10]}],
)
def test_without_a_detection_of_its_object_a_region_learns_from_the_truth_alone(changes):
    assert set(terms(one_region(**changes)).values()) == {0.0}


def test_a_detection_that_is_no_better_than_the_region_does_not_pull_its_box():
    scene = one_region(detection=[0.0, 0, 20, 7.5])
    assert terms(scene)["box"] == 0 and terms(scene)["class"] > 0
    assert terms(scene, box={"gate": "none"})["box"] > 0


def test_a_probability_above_the_target_stays():
    logits = (0.0, 9.0, 0.0, 0.0)
    assert terms(one_region(logits=logits))["class"] == 0
    assert terms(one_region(logits=logits), classification={"gate": "none"})["class"] > 0
    even = float(np.log(0.8 / (0.2 / 3)))
    assert terms(one_region(logits=(0, even, 0, 0)), classification={"gate": "none"})["class"] == pytest.approx(
        0, abs=1e-6
    )


def test_a_low_score_counts_as_a_half():
    half = -(0.5 * np.log(0.25) + 0.5 * np.log(0.75)) - entropy(0.5)
    assert terms(one_region(score=0.2))["class"] == pytest.approx(half, abs=1e-5)


def test_the_best_by_score_times_overlap_is_taken():
    scene = one_region()
    boxes = jnp.array([[DETECTION, [0.0, 0, 20, 10], [0.0, 0, 20, 10]]] * 2)
    several = Detections(
        boxes=boxes,
        scores=jnp.array([[0.8, 0.75, 0.99]] * 2),
        labels=jnp.array([[1, 1, 0]] * 2),
        valid=jnp.ones((2, 3), bool),
    )
    scene = scene._replace(teacher=scene.teacher.replace(detections=several))
    target = np.array(box_ops.encode(jnp.array(DETECTION), jnp.array(REGION), weights=scenes.WEIGHTS))
    size = np.abs(target)  # .8 * .95 is more than .75 * 1
    assert terms(scene)["box"] == pytest.approx(np.where(size < 1, size**2 / 2, size - 0.5).sum(), abs=1e-5)


def test_the_gradient_raises_the_class_and_moves_the_box_towards_the_detection():
    scene = one_region()

    def total(predictions):
        changed = scene._replace(student=scene.student.replace(predictions=predictions))
        losses = scenes.ask(method, method.Config(), {}, changed)
        return sum(term.mean() for term in losses.terms.values())

    gradient = jax.grad(total)(scene.student.predictions)
    assert gradient.logits[0, 0, 1] < 0 < gradient.logits[0, 0, 0]
    assert gradient.deltas[0, 0, 1, 3] < 0  # the region is too low: its height has to grow
    assert not gradient.logits[1].any() and not gradient.logits[0, 1:].any()

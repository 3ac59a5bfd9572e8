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


def one_region(
    *,
    detection=DETECTION,
    label=1,
    score=0.8,
    valid=True,
    logits=(0.0, 0.0, 0.0, 0.0),
    kind="two_stage",
    class_scores=None,
):
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
        class_scores=None if class_scores is None else jnp.array([[class_scores]] * 2),
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


def divergence(p, target):
    """Binary cross-entropy less entropy."""
    return -(target * np.log(p) + (1 - target) * np.log(1 - p)) - entropy(target)


def test_scores_of_all_classes_by_hand():
    """The row's own score is only what detections are chosen by."""
    scores = (0.1, 0.6, 0.2)
    expected = sum(divergence(0.25, score) for score in scores)
    assert terms(one_region(class_scores=scores))["class"] == pytest.approx(expected, abs=1e-5)
    dense = sum(divergence(0.5, score) for score in scores)
    assert terms(one_region(class_scores=scores, kind="dense"))["class"] == pytest.approx(dense, abs=1e-5)


def test_scores_beyond_one_leave_the_truth_its_own():
    """Of classes that exclude each other; a dense student has a probability for each."""
    scores = (0.3, 0.8, 0.1)
    softmax = divergence(0.25, 0.8) + divergence(0.25, 0.15) + divergence(0.25, 0.05)
    assert terms(one_region(class_scores=scores))["class"] == pytest.approx(softmax, abs=1e-5)
    dense = sum(divergence(0.5, score) for score in scores)
    assert terms(one_region(class_scores=scores, kind="dense"))["class"] == pytest.approx(dense, abs=1e-5)
    certain = terms(one_region(class_scores=(1.0, 1.0, 1.0)))["class"]
    assert certain == pytest.approx(-np.log(0.25) - 2 * np.log(0.75), abs=1e-5)


def test_a_class_of_which_nothing_is_said_learns_nothing():
    assert terms(one_region(class_scores=(-1.0, -1.0, -1.0))) == terms(one_region())
    partly = divergence(0.25, 0.8) + divergence(0.25, 0.1)
    assert terms(one_region(class_scores=(-1.0, -1.0, 0.1)))["class"] == pytest.approx(partly, abs=1e-5)
    low = divergence(0.25, 0.5) + 2 * divergence(0.25, 0.1)  # the least target of the truth's class
    assert terms(one_region(class_scores=(0.1, 0.2, 0.1)))["class"] == pytest.approx(low, abs=1e-5)


def test_probabilities_that_are_the_scores_stay():
    scores, ungated = np.array([0.1, 0.6, 0.2]), {"classification": {"gate": "none"}}
    logits = tuple(np.log([*scores, 0.1]).tolist())
    assert terms(one_region(logits=logits, class_scores=tuple(scores)), **ungated)["class"] == pytest.approx(
        0, abs=1e-6
    )
    logits = tuple(np.log(scores / (1 - scores)).tolist())
    scene = one_region(logits=logits, class_scores=tuple(scores), kind="dense")
    assert terms(scene, **ungated)["class"] == pytest.approx(0, abs=1e-6)


def slow_class_term(scene, class_scores, *, dense, least=0.5, overlap=0.5):
    """The class term of all regions, one after the other, and their number."""
    found, batch, regions = scene.teacher.detections, scene.batch, scene.regions
    logits = np.array(scene.student.predictions.logits, np.float64)
    total = 0.0
    for image, region in np.argwhere(np.array(regions.positive)):
        truth, label = int(regions.truth[image, region]), int(regions.labels[image, region])
        best, quality = None, 0.0
        for place in np.flatnonzero(np.array(found.valid[image])):
            iou = float(box_ops.iou(batch.boxes[image, truth][None], found.boxes[image, place][None])[0, 0])
            fits = int(found.labels[image, place]) == label and iou >= overlap
            if fits and iou * float(found.scores[image, place]) > quality:
                best, quality = place, iou * float(found.scores[image, place])
        if best is None:
            continue
        row = logits[image, region]
        p = 1 / (1 + np.exp(-row)) if dense else np.exp(row) / np.exp(row).sum()
        targets = class_scores[image, best].astype(np.float64)
        first = targets[label] if targets[label] >= 0 else float(found.scores[image, best])
        first = max(first, least)
        others = {other: value for other, value in enumerate(targets) if other != label and value >= 0}
        if not dense and sum(others.values()) > 1 - first:
            others = {other: value * (1 - first) / sum(others.values()) for other, value in others.items()}
        if first > p[label]:
            total += divergence(p[label], first) + sum(divergence(p[other], value) for other, value in others.items())
    return total, np.array(regions.positive).sum()


@pytest.mark.parametrize("kind", ["two_stage", "dense"])
def test_the_class_term_is_the_slow_one(kind):
    scene = scenes.scene(3, kind=kind)
    rng = np.random.default_rng(4)
    shape = (*scene.teacher.detections.scores.shape, len(scenes.CLASSES))
    class_scores = rng.uniform(0.02, 0.7, shape).astype(np.float32)
    class_scores[:, 2] = -1.0  # a detection of a file without them
    class_scores[:, 1, 0] = -1.0
    found = scene.teacher.detections.replace(class_scores=jnp.array(class_scores))
    scene = scene._replace(teacher=scene.teacher.replace(detections=found))
    total, count = slow_class_term(scene, class_scores, dense=kind == "dense")
    assert total > 0
    assert terms(scene)["class"] == pytest.approx(total / count, rel=1e-4)


def test_a_class_that_the_detection_may_be_is_raised_too():
    scene = one_region(class_scores=(0.0, 0.5, 0.45))

    def total(logits):
        predictions = scene.student.predictions.replace(logits=logits)
        changed = scene._replace(student=scene.student.replace(predictions=predictions))
        return scenes.ask(method, method.Config(), {}, changed).terms["class"].mean()

    gradient = jax.grad(total)(scene.student.predictions.logits)[0, 0]
    assert gradient[2] < 0 < gradient[0] and gradient[3] > 0 and np.isfinite(gradient).all()


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

"""RetinaNet: sizes, assignment, the focal loss, and what its head is asked; the rest is in tests/contracts."""

import math

import detector_scene
import jax
import numpy as np
import pytest
import tiny
from detector_scene import CLASSES, KEYS, SIZES, batch_in
from jax import numpy as jnp

from jaxkd.config import component, nested
from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.types import Predictions, Regions
from jaxkd.weights.tree import flatten

ANCHORS = 2 * (8 * 12 + 4 * 6 + 2 * 3)  # two in every cell of the three levels


@pytest.fixture(scope="module")
def case():
    return detector_scene.case("retinanet")


def test_shapes(case):
    detector, seen = case.detector, case.seen
    assert [level.shape for level in seen["features"].neck] == [(4, 8, 12, 16), (4, 4, 6, 16), (4, 2, 3, 16)]
    assert seen["regions"].boxes.shape == (4, ANCHORS, 4)
    assert seen["predictions"].logits.shape == (4, ANCHORS, 3)
    assert seen["predictions"].deltas.shape == (4, ANCHORS, 1, 4)
    assert seen["detections"].boxes.shape == (4, 20, 4)
    assert set(seen["terms"]) == {"class", "box"}
    assert detector.traits.strides == (8, 16, 32)
    assert detector.traits.background is None


def test_anchors_answer_for_truth(case):
    regions, batch = case.seen["regions"], batch_in((64, 96))
    for row in range(4):
        taught = set(regions.truth[row][regions.positive[row]].tolist())
        assert taught <= set(np.flatnonzero(batch.valid[row]).tolist())
        assert bool(taught) == batch.valid[row].any()
    assert (regions.labels[~regions.positive] == 3).all()
    assert not (regions.positive & ~regions.valid).any()
    rows = np.arange(4)[:, None]
    np.testing.assert_array_equal(regions.labels[regions.positive], batch.labels[rows, regions.truth][regions.positive])


def test_anchors_beyond_the_picture_take_no_part(case):
    regions = case.seen["regions"]
    centres = (regions.boxes[..., :2] + regions.boxes[..., 2:]) / 2
    outside = (centres >= SIZES[:, None, ::-1]).any(-1)
    assert outside.any()
    assert not regions.valid[outside].any()


def test_focal_loss_by_hand(case):
    """Two anchors of three classes, one an object of class 1; a third takes no part."""
    logits = np.array([[[0.5, -1.0, 2.0], [-3.0, 0.0, 1.0], [9.0, 9.0, 9.0]]], np.float32)
    flags = np.array([[True, False, False]]), np.array([[True, True, False]])
    regions = Regions(
        boxes=np.zeros((1, 3, 4), np.float32),
        labels=np.array([[1, 3, 3]], np.int32),
        deltas=np.array([[[1.0, 2, 3, 4], [0] * 4, [0] * 4]], np.float32),
        truth=np.zeros((1, 3), np.int32),
        positive=flags[0],
        valid=flags[1],
    )
    predictions = Predictions(logits=logits, deltas=np.zeros((1, 3, 1, 4), np.float32))
    terms = case.detector.losses(*jax.tree.map(jnp.asarray, (predictions, regions)))
    wanted = 0.0
    for row in range(2):
        for column in range(3):
            p = 1 / (1 + math.exp(-float(logits[0, row, column])))
            if (row, column) == (0, 1):
                wanted += 0.25 * (1 - p) ** 2 * -math.log(p)
            else:
                wanted += 0.75 * p**2 * -math.log(1 - p)
    np.testing.assert_allclose(terms["class"].total, wanted, rtol=1e-5)
    assert terms["class"].count == terms["box"].count == 1
    assert terms["box"].total == 10


def test_generalized_iou_as_a_box_loss_by_hand():
    """An anchor that its object overlaps by a third, one that lies an anchor's width off, and one that is no object."""
    anchor = [0.0, 0, 10, 10]
    regions = Regions(
        boxes=np.array([[anchor] * 3], np.float32),
        labels=np.array([[1, 1, 3]], np.int32),
        deltas=np.array([[[0.5, 0, 0, 0], [2, 0, 0, 0], [0] * 4]], np.float32),
        truth=np.zeros((1, 3), np.int32),
        positive=np.array([[True, True, False]]),
        valid=np.ones((1, 3), bool),
    )
    detector = build.detector(tiny.retinanet(loss={"box_loss": "giou", "box_loss_weight": 2.0}), CLASSES)

    def box(deltas):
        predictions = Predictions(logits=jnp.zeros((1, 3, 3)), deltas=deltas)
        return detector.losses(predictions, jax.tree.map(jnp.asarray, regions))["box"]

    term = box(jnp.zeros((1, 3, 1, 4)))
    np.testing.assert_allclose(term.total, 2 * ((1 - 1 / 3) + (1 + 1 / 3)), rtol=1e-6)
    assert term.count == 2
    slope = jax.grad(lambda deltas: box(deltas).total)(jnp.zeros((1, 3, 1, 4)))
    assert (slope[0, :2, 0, 0] < 0).all()  # both boxes are drawn to the right, to their objects
    assert not slope[0, 2].any()


def test_every_class_begins_rare(case):
    params = case.detector.init(jax.random.key(0))
    np.testing.assert_allclose(jax.nn.sigmoid(params["head"]["logits"]["bias"]), 0.01, rtol=1e-4)


def test_parameter_counts_of_the_default_recipe():
    # torchvision's retinanet_resnet50_fpn has 34,014,999 parameters with 91 class columns, extra levels from P5 and
    # norms that are no parameters. Ours has 80 columns, and learns scale and bias.
    recipe = component("detectors.retinanet", neck=component("nets.fpn", first=1, extra="conv_p5"))
    detector = build.detector(recipe, [str(index) for index in range(80)])
    leaves = flatten(jax.eval_shape(detector.init, jax.random.key(0)))
    learned = sum(
        int(np.prod(leaf.shape)) for name, leaf in leaves.items() if detector.trainable(tuple(name.split("/")))
    )
    assert learned == 34_014_999 - 9 * (91 - 80) * (9 * 256 + 1) + 2 * 26_560
    assert build.detector(component("detectors.retinanet"), ["one"]).traits.strides == (8, 16, 32, 64, 128)


def test_only_its_own_anchors_are_answered(case):
    features, batch = jax.tree.map(jnp.asarray, (case.seen["features"], batch_in((64, 96))))
    regions = jax.tree.map(lambda leaf: jnp.asarray(leaf[:, :7]), case.seen["regions"])
    with pytest.raises(ValueError, match=f"its {ANCHORS} anchors, not for 7 boxes"):
        case.detector.predict(case.params, features, regions.boxes, batch)


def test_detections_are_the_best_answers(case):
    """The first detection of a picture is its surest answer."""
    seen, found = case.seen, case.seen["detections"]
    scores = jax.nn.sigmoid(seen["predictions"].logits)
    for row in range(4):
        centres = (seen["regions"].boxes[row, :, :2] + seen["regions"].boxes[row, :, 2:]) / 2
        inside = (np.floor(centres) < SIZES[row, ::-1]).all(-1)
        assert found.scores[row, 0] == pytest.approx(float(np.asarray(scores)[row][inside].max()), rel=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("anchors.octaves", 0), ("postprocess.max_detections", 0), ("head.prior", 0.0), ("head.prior", 1.0)],
)
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        build.detector(tiny.retinanet(**nested({field: value})), CLASSES)


def test_regions_do_not_depend_on_the_stage_or_the_key(case):
    features, batch = jax.tree.map(jnp.asarray, (case.seen["features"], batch_in((64, 96))))
    other, terms = case.detector.sample_regions(case.params, features, batch, KEYS, stage="proposals")
    assert terms == {}
    detector_scene.assert_equal(jax.device_get(other), case.seen["regions"])

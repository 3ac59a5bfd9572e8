"""FCOS: shapes, worked examples of targets and losses, scores, and what it refuses; the rest is in tests/contracts."""

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
from jaxkd.ops import box_codes
from jaxkd.types import Batch, BoxCode, Features, Predictions, Regions
from jaxkd.weights.tree import flatten

BATCH = jax.tree.map(jnp.asarray, batch_in((64, 96)))
POINTS = 8 * 12 + 4 * 6 + 2 * 3
A, B, C = [10.0, 20, 70, 60], [30.0, 30, 50, 54], [44.0, 44, 140, 130]
LOGITS = [[0.5, -1.0, 2.0], [-3.0, 0.0, 1.0], [0.0, 1.0, -2.0], [9.0, 9.0, 9.0]]


@pytest.fixture(scope="module")
def case():
    return detector_scene.case("fcos")


def test_shapes(case):
    traits, seen = case.detector.traits, case.seen
    assert seen["regions"].boxes.shape == (4, POINTS, 4)
    assert seen["predictions"].logits.shape == (4, POINTS, 3)
    assert seen["predictions"].deltas.shape == (4, POINTS, 1, 4)
    assert seen["predictions"].quality.shape == (4, POINTS)
    assert set(seen["terms"]) == {"class", "box", "centerness"}
    assert traits.box_code == BoxCode("sides", strides=1.0)
    assert traits.anchors == ("points", (8, 16, 32), 0.5, "stride")
    assert set(case.params["head"]) == {
        *("class_0", "class_0_norm", "box_0", "box_0_norm", "logits", "deltas", "quality"),
        *("scale_0", "scale_1", "scale_2"),
    }


def test_parameter_counts_of_the_default_recipe():
    # torchvision's fcos_resnet50_fpn has 32,269,600 parameters with 91 class columns, a bias in its towers, no factors
    # of levels, and norms of the backbone that are no parameters.
    recipe = component("detectors.fcos", like="torchvision")
    detector = build.detector(recipe, [str(index) for index in range(91)])
    leaves = flatten(jax.eval_shape(detector.init, jax.random.key(0)))
    sizes = {name: math.prod(leaf.shape) for name, leaf in leaves.items()}
    norms = sum(size for name, size in sizes.items() if name.startswith("backbone/") and not name.endswith("/kernel"))
    assert sum(sizes.values()) - norms == 32_269_600
    assert detector.traits.strides == (8, 16, 32, 64, 128)
    ours = flatten(jax.eval_shape(build.detector(component("detectors.fcos"), ["one"]).init, jax.random.key(0)))
    assert set(leaves) - set(ours) == {f"head/{name}_{index}/bias" for name in ("class", "box") for index in range(4)}
    assert set(ours) - set(leaves) == {f"head/scale_{level}" for level in range(5)}


def test_targets_are_the_boxes_of_the_truths(case):
    regions, batch = case.seen["regions"], batch_in((64, 96))
    sides, squares = jnp.asarray(regions.deltas), jnp.asarray(regions.boxes)
    boxes = box_codes.decode(case.detector.traits.box_code, sides, squares)
    for row in range(4):
        positive = regions.positive[row]
        truth = regions.truth[row][positive]
        assert set(truth.tolist()) <= set(np.flatnonzero(batch.valid[row]).tolist())
        np.testing.assert_allclose(boxes[row][positive], batch.boxes[row][truth], atol=1e-4)
        np.testing.assert_array_equal(regions.labels[row][positive], batch.labels[row][truth])
    assert regions.positive.any() and not (regions.positive & ~regions.valid).any()
    assert not regions.deltas[~regions.positive].any()


def targets_of(*truth, crowd=0, **assignment):
    """The targets of a picture of 144 x 144 by (x, y) of the finest level's points; the last truths are crowds."""
    detector = build.detector(tiny.fcos(assignment=assignment), CLASSES)
    levels = tuple(jnp.zeros((1, -(-144 // stride), -(-144 // stride), 1)) for stride in (8, 16, 32))
    real = jnp.arange(len(truth))[None] < len(truth) - crowd
    batch = Batch(
        images=jnp.zeros((1, 144, 144, 3), jnp.uint8),
        sizes=jnp.array([[144, 144]]),
        boxes=jnp.array([truth]),
        labels=jnp.arange(len(truth))[None] % 3,
        valid=real,
        crowd=~real,
        ids=jnp.zeros(1, jnp.int32),
        scales=jnp.ones((1, 2)),
        real=jnp.ones(1, bool),
    )
    regions, terms = detector.sample_regions({}, Features((), levels), batch, KEYS[:1])
    assert terms == {}
    return lambda x, y: jax.tree.map(lambda leaf: leaf[0, 18 * ((y - 4) // 8) + (x - 4) // 8], regions)


def test_targets_golden():
    at = targets_of(A, B, C)
    for x, y, deltas in ((44, 44, [1.75, 1.75, 0.75, 1.25]), (36, 36, [0.75, 0.75, 1.75, 2.25])):
        target = at(x, y)
        assert target.positive and (int(target.truth), int(target.labels)) == (1, 1)
        np.testing.assert_array_equal(target.boxes, [x - 4, y - 4, x + 4, y + 4])
        np.testing.assert_allclose(target.deltas, deltas)
    background = at(60, 52)
    assert not background.positive and background.valid and background.labels == 3


def test_all_points_inside_are_positive_without_a_radius():
    target = targets_of(A, B, C, radius=0.0)(60, 52)
    assert target.positive and target.truth == 0
    np.testing.assert_allclose(target.deltas, [6.25, 4, 1.25, 1])


def test_the_ends_of_a_range_belong_to_it_or_not():
    truth = [40.0, 40, 68, 108]  # 64 pixels below the point (44, 44)
    assert targets_of(truth, radius=0.0)(44, 44).positive
    assert not targets_of(truth, radius=0.0, closed=False)(44, 44).positive


def test_a_crowd_is_no_background():
    target = targets_of(A, C, crowd=1)(100, 100)
    assert not target.positive and not target.valid
    assert targets_of(A, C)(100, 100).valid


def scene():
    """Two positives of the worked example, one point of background, and one that takes no part."""
    regions = Regions(
        boxes=jnp.array([[[40.0, 40, 48, 48], [32, 32, 40, 40], [0, 0, 8, 8], [8, 8, 16, 16]]]),
        labels=jnp.array([[1, 0, 3, 3]]),
        deltas=jnp.array([[[1.75, 1.75, 0.75, 1.25], [0.75, 0.75, 1.75, 2.25], [0.0] * 4, [0.0] * 4]]),
        truth=jnp.zeros((1, 4), jnp.int32),
        positive=jnp.array([[True, True, False, False]]),
        valid=jnp.array([[True, True, True, False]]),
    )
    sides = jnp.array([[[1.75, 1.75, 0.75, 0.0], [1.5, 0.75, 1.75, 2.25], [1.0] * 4, [2.0] * 4]])[:, :, None]
    predictions = Predictions(logits=jnp.array([LOGITS]), deltas=sides, quality=jnp.array([[0.0, 1.0, 2.0, 3.0]]))
    return predictions, regions


CENTERNESS = (0.553283, 0.377964)
# The first box lacks the lowest 1.25 of its truth's 3 strides, the second has .75 beside the 2.5 of its truth.
IOU = (1.75 / 3, 2.5 / 3.25)


def terms_of(**loss):
    return build.detector(tiny.fcos(loss=loss), CLASSES).losses(*scene())


def test_focal_loss_and_centerness_by_hand():
    terms = terms_of(centerness_weight=2.0)
    wanted = 0.0
    for row, label in enumerate((1, 0, 3)):
        for column, logit in enumerate(LOGITS[row]):
            p = 1 / (1 + math.exp(-logit))
            positive = column == label
            wanted += 0.25 * (1 - p) ** 2 * -math.log(p) if positive else 0.75 * p**2 * -math.log(1 - p)
    np.testing.assert_allclose(terms["class"].mean(), wanted / 2, rtol=1e-5)
    chance = 1 / (1 + math.exp(-1))
    quality = math.log(2) - CENTERNESS[1] * math.log(chance) - (1 - CENTERNESS[1]) * math.log(1 - chance)
    np.testing.assert_allclose(terms["centerness"].mean(), 2 * quality / 2, rtol=1e-5)


@pytest.mark.parametrize("kind", ["giou", "iou"])
def test_box_losses_by_hand(kind):
    # Both boxes and their truths are nested, so that the generalized IoU is the IoU.
    losses = [1 - iou if kind == "giou" else -math.log(iou) for iou in IOU]
    weighted = sum(loss * weight for loss, weight in zip(losses, CENTERNESS, strict=True)) / sum(CENTERNESS)
    np.testing.assert_allclose(terms_of(box_loss=kind)["box"].mean(), weighted, rtol=1e-5)
    plain = terms_of(box_loss=kind, box_weighting=False, box_loss_weight=3.0)["box"]
    np.testing.assert_allclose(plain.mean(), 3 * sum(losses) / 2, rtol=1e-5)


def test_weights_of_truths_are_shares_of_an_object():
    predictions, regions = scene()
    halved = regions.replace(weights=jnp.array([[0.5, 1.0, 1.0, 1.0]]))
    detector = build.detector(tiny.fcos(), CLASSES)
    terms = detector.losses(predictions, halved)
    assert terms["class"].count == terms["centerness"].count == 1.5
    weight = (0.5 * CENTERNESS[0], CENTERNESS[1])
    wanted = sum(w * (1 - iou) for w, iou in zip(weight, IOU, strict=True)) / sum(weight)
    np.testing.assert_allclose(terms["box"].mean(), wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", ["giou", "iou"])
def test_boxes_grow_to_their_truth_and_no_box_at_all_has_a_finite_gradient(kind):
    predictions, regions = scene()
    detector = build.detector(tiny.fcos(loss={"box_loss": kind}), CLASSES)

    def slope(deltas):
        return jax.grad(lambda x: detector.losses(predictions.replace(deltas=x), regions)["box"].mean())(deltas)

    found = slope(predictions.deltas)[0, :, 0]
    assert found[0, 3] < 0 < found[1, 0]
    assert not found[2:].any()
    assert np.isfinite(slope(0 * predictions.deltas)).all()


def test_without_a_positive_the_losses_are_those_of_the_background():
    predictions, regions = scene()
    nothing = regions.replace(positive=regions.labels < 0, labels=0 * regions.labels + 3, deltas=0 * regions.deltas)
    terms = build.detector(tiny.fcos(), CLASSES).losses(predictions, nothing)
    assert terms["class"].mean() == terms["class"].total > 0
    assert terms["box"].mean() == terms["centerness"].mean() == 0


def test_distances_by_both_activations(case):
    features = jax.tree.map(jnp.asarray, case.seen["features"])
    params = case.params | {"head": case.params["head"] | {"scale_1": jnp.array(2.0)}}
    params["head"]["deltas"] = {"kernel": jnp.zeros((3, 3, 16, 4)), "bias": jnp.array([-1.0, 0.0, 0.5, 20.0])}
    boxes = jnp.asarray(case.seen["regions"].boxes)

    def deltas(activation):
        detector = build.detector(tiny.fcos(head={"box_activation": activation}), CLASSES)
        found = detector.predict(params, features, boxes, BATCH).deltas[0, :, 0]
        return found[0], found[8 * 12]  # of the first two levels, of strides 8 and 16

    np.testing.assert_allclose(deltas("relu"), [[0, 0, 0.5, 20], [0, 0, 1, 40]])
    one, two = ([min(math.exp(x), 1e5) for x in (-a, 0, a / 2, 20 * a)] for a in (1, 2))
    np.testing.assert_allclose(deltas("exp"), [np.array(one) / 8, np.array(two) / 16], rtol=1e-5)


@pytest.mark.parametrize("score", ["product", "root"])
def test_scores_are_probabilities_with_centerness(case, score):
    """Without suppression the scores are those of the best candidates, in order."""
    fields = {"score": score, "score_threshold": 0.05, "nms": 1.0, "candidates": 400, "max_detections": 400}
    detector = build.detector(tiny.fcos(postprocess=fields), CLASSES)
    found = jax.device_get(jax.jit(detector.detect)(case.params, BATCH))
    predictions, squares = jax.tree.map(jnp.asarray, (case.seen["predictions"], case.seen["regions"].boxes))
    classes, quality = jax.nn.sigmoid(predictions.logits), jax.nn.sigmoid(predictions.quality)[..., None]
    scores, chosen = {
        "product": (classes * quality, classes > 0.05),
        "root": (jnp.sqrt(classes * quality), jnp.sqrt(classes * quality) > 0.05),
    }[score]
    for row, size in enumerate(SIZES):
        within = (squares[row, :, :2] < size[::-1]).all(-1)[:, None]
        boxes = box_codes.decode(BoxCode("sides"), predictions.deltas[row, :, 0], squares[row])
        low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], size[::-1])
        some = (high > low).all(-1)[:, None]
        wanted = np.sort(np.asarray(scores[row])[np.asarray(chosen[row]) & within & some])[::-1]
        assert len(wanted) > 5
        np.testing.assert_allclose(found.scores[row][found.valid[row]], wanted[:400], rtol=1e-4)


def test_centerness_comes_from_either_tower(case):
    features = jax.tree.map(jnp.asarray, case.seen["features"])
    boxes = jnp.asarray(case.seen["regions"].boxes)
    for tower, changed in (("box", "box_0_norm"), ("class", "class_0_norm")):
        detector = build.detector(tiny.fcos(head={"centerness_tower": tower}), CLASSES)
        head = case.params["head"]
        flat = head | {changed: jax.tree.map(jnp.zeros_like, head[changed])}
        quality = detector.predict(case.params | {"head": flat}, features, boxes, BATCH).quality
        np.testing.assert_array_equal(quality, 0.0)


def test_the_step_of_the_canvas_is_no_stride_where_levels_have_odd_sides():
    detector = build.detector(component("detectors.fcos", like="torchvision"), CLASSES)
    shapes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    features = Features((), tuple(jnp.zeros((4, *shape, 1)) for shape in shapes))
    regions, _ = detector.sample_regions({}, features, BATCH, KEYS)
    assert detector.traits.anchors == ("points", (8, 16, 32, 64, 128), 0.0, "seen canvas")
    np.testing.assert_array_equal(regions.boxes[0, [1, 12]], [[4, -4, 12, 4], [-4, 4, 4, 12]])
    np.testing.assert_array_equal(regions.boxes[0, -2], [48 - 32, -32, 48 + 32, 32])


def test_a_light_head_has_the_leaves_of_its_parts():
    light = {"convs": 2, "kernel": 5, "separable": True, "shared_tower": True, "per_level": True, "last_kernel": 1}
    detector = build.detector(tiny.fcos(head=light), CLASSES)
    shapes = {name: leaf.shape for name, leaf in flatten(jax.eval_shape(detector.init, KEYS[0])).items()}
    assert shapes["head/level_0/tower_0/depthwise_conv/kernel"] == (5, 5, 1, 16)
    assert shapes["head/level_1/logits/kernel"] == (1, 1, 16, 3)
    assert shapes["head/level_2/quality/kernel"] == (1, 1, 16, 1)
    assert shapes["head/scale_2"] == ()


@pytest.mark.parametrize(
    ("field", "value"), [("assignment.radius", -1.0), ("points.offset", 1.5), ("loss.centerness_weight", -1.0)]
)
def test_numbers_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        build.detector(tiny.fcos(**nested({field: value})), CLASSES)


@pytest.mark.parametrize(
    ("head", "words"),
    [({"norm": "none"}, r"head\.separable wants a norm"), ({"bias": True}, r"head\.bias is for full")],
)
def test_a_separable_head_without_norms_or_with_biases_is_refused(head, words):
    with pytest.raises(ConfigError, match=words):
        build.detector(tiny.fcos(head={"separable": True} | head), CLASSES)


def test_other_regions_than_its_points_are_refused(case):
    with pytest.raises(ValueError, match=f"FCOS makes predictions for its {POINTS} anchors, not for 7 boxes"):
        jax.eval_shape(
            case.detector.predict,
            case.params,
            case.seen["features"],
            np.zeros((4, 7, 4), np.float32),
            batch_in((64, 96)),
        )

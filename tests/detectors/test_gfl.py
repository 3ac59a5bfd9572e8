"""GFL: shapes, one positive by hand, what it refuses, and what its head can be; the rest is in tests/contracts."""

import detector_scene
import jax
import numpy as np
import pytest
import tiny
from detector_scene import CLASSES, KEYS, batch_in
from jax import numpy as jnp

from jaxkd.errors import ConfigError
from jaxkd.loading import build
from jaxkd.ops import box_codes, distributions
from jaxkd.types import BoxCode, Predictions, Regions
from jaxkd.weights.tree import flatten

ANCHORS = 8 * 12 + 4 * 6 + 2 * 3


@pytest.fixture(scope="module")
def case():
    return detector_scene.case("gfl")


def test_shapes(case):
    traits, seen = case.detector.traits, case.seen
    assert seen["regions"].boxes.shape == (4, ANCHORS, 4)
    assert seen["predictions"].logits.shape == (4, ANCHORS, 3)
    assert seen["predictions"].deltas.shape == (4, ANCHORS, 1, 4)
    assert seen["predictions"].distributions.shape == (4, ANCHORS, 4, 7)
    assert set(seen["terms"]) == {"class", "box", "distribution"}
    assert traits.box_code == BoxCode("sides", strides=4.0)
    assert traits.anchors == ("square", (8, 16, 32), 4.0, 0.5)
    assert set(case.params["head"]) == {"class_0", "class_0_norm", "box_0", "box_0_norm", "logits", "bins"} | {
        f"scale_{level}" for level in range(3)
    }


def test_every_object_has_an_anchor_whose_target_is_its_box(case):
    regions, batch = case.seen["regions"], batch_in((64, 96))
    sides, anchors = jnp.asarray(regions.deltas), jnp.asarray(regions.boxes)
    boxes = box_codes.decode(case.detector.traits.box_code, sides, anchors)
    for row in range(4):
        positive = regions.positive[row]
        truth = regions.truth[row][positive]
        assert set(truth.tolist()) == set(np.flatnonzero(batch.valid[row]).tolist())
        np.testing.assert_allclose(boxes[row][positive], batch.boxes[row][truth], atol=1e-4)
        np.testing.assert_array_equal(regions.labels[row][positive], batch.labels[row][truth])
    assert not (regions.positive & ~regions.valid).any()


def test_a_positive_by_hand():
    """Two anchors of three classes around (20, 20) at stride 8, one of background; the score .62 counts as 1."""
    detector = build.detector(tiny.gfl(anchors={"scale": 8.0}, head={"reg_max": 4}), CLASSES)
    sides = jnp.array([[0.0, 1, 2, 0, 0], [0, 2, 1, 0, 0], [0, 0, 1, 2, 0], [1, 1, 1, 0, 0]])
    distances = distributions.expectation(sides)
    np.testing.assert_allclose(distances, [1.868907, 1.512559, 2.487441, 1.492376], atol=1e-6)
    predictions = Predictions(
        logits=jnp.array([[[0.5, -1, -2], [2, 0, -1]]]),
        deltas=jnp.stack([distances, distances])[None, :, None],
        distributions=jnp.stack([sides, sides])[None],
    )
    regions = Regions(
        boxes=jnp.tile(jnp.array([-12.0, -12, 52, 52]), (1, 2, 1)),
        labels=jnp.array([[1, 3]]),
        deltas=jnp.array([[[2.0, 1.75, 2.25, 1.25], [0, 0, 0, 0]]]),
        truth=jnp.zeros((1, 2), jnp.int32),
        positive=jnp.array([[True, False]]),
        valid=jnp.ones((1, 2), bool),
    )
    terms = detector.losses(predictions, regions)
    np.testing.assert_allclose(terms["class"].mean(), 0.674243 + 1.846023, rtol=1e-5)
    np.testing.assert_allclose(terms["box"].mean(), 0.622459 * 0.438494, rtol=1e-5)
    np.testing.assert_allclose(terms["distribution"].mean(), 0.622459 * 0.283592, rtol=1e-5)
    halved = detector.losses(predictions, regions.replace(weights=jnp.array([[0.5, 1.0]])))
    np.testing.assert_allclose(halved["class"].mean(), 0.5 * 0.674243 + 1.846023, rtol=1e-5)


def test_a_light_head_has_the_leaves_of_its_parts():
    light = {"convs": 2, "kernel": 5, "separable": True, "shared_tower": True, "per_level": True, "last_kernel": 1}
    detector = build.detector(tiny.gfl(head=light | {"level_scales": False}), CLASSES)
    leaves = flatten(jax.eval_shape(detector.init, KEYS[0]))
    shapes = {name: leaf.shape for name, leaf in leaves.items() if name.startswith("head/")}
    assert shapes["head/level_0/tower_0/depthwise_conv/kernel"] == (5, 5, 1, 16)
    assert shapes["head/level_2/tower_1/project_conv/kernel"] == (1, 1, 16, 16)
    assert shapes["head/level_1/logits/kernel"] == (1, 1, 16, 3)
    assert shapes["head/level_1/bins/kernel"] == (1, 1, 16, 28)
    assert {name.split("/")[1] for name in shapes} == {"level_0", "level_1", "level_2"}


def test_too_few_levels_are_refused():
    with pytest.raises(ConfigError, match="The neck has 2 levels, and ATSS wants 3 or more"):
        build.detector(tiny.gfl(first=2), CLASSES)


def test_other_regions_than_its_anchors_are_refused(case):
    with pytest.raises(ValueError, match=f"its {ANCHORS} anchors, not for 7 boxes"):
        jax.eval_shape(
            case.detector.predict,
            case.params,
            case.seen["features"],
            np.zeros((4, 7, 4), np.float32),
            batch_in((64, 96)),
        )

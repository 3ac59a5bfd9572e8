"""Faster R-CNN: sizes, sampling, crowds; what every detector promises is in tests/contracts."""

import detector_scene
import jax
import numpy as np
import pytest
import tiny
from detector_scene import CLASSES, KEYS, SIZES, assert_equal, batch_in
from jax import numpy as jnp

from jaxkd.config import component
from jaxkd.loading import build
from jaxkd.weights.tree import flatten


@pytest.fixture(scope="module")
def case():
    return detector_scene.case("faster_rcnn")


@pytest.fixture(scope="module")
def detector(case):
    return case.detector


@pytest.fixture(scope="module")
def params(case):
    return case.params


@pytest.fixture(scope="module")
def look(case):
    return case.look


@pytest.fixture(scope="module")
def seen(case):
    return case.seen


def test_shapes(detector, seen):
    assert [level.shape for level in seen["features"].backbone] == [
        (4, 16, 24, 8), (4, 8, 12, 16), (4, 4, 6, 32), (4, 2, 3, 64)
    ]  # fmt: skip
    assert [level.shape for level in seen["features"].neck] == [
        (4, 16, 24, 16), (4, 8, 12, 16), (4, 4, 6, 16), (4, 2, 3, 16)
    ]  # fmt: skip
    assert seen["regions"].boxes.shape == seen["best"].boxes.shape == (4, 32, 4)
    assert seen["predictions"].logits.shape == (4, 32, 4)
    assert seen["predictions"].deltas.shape == (4, 32, 3, 4)
    assert seen["detections"].boxes.shape == (4, 20, 4)
    assert set(seen["terms"]) == {"rpn_object", "rpn_box", "class", "box"}
    assert detector.traits.strides == (4, 8, 16, 32)
    assert detector.traits.channels == (16,) * 4
    assert detector.traits.backbone_channels == (8, 16, 32, 64)
    assert detector.traits.background == 3


def test_sampled_regions(seen):
    regions, batch = seen["regions"], batch_in((64, 96))
    assert (regions.positive.sum(1) <= 32 // 4).all()
    assert regions.positive.sum(1).tolist()[3] == 0
    assert (regions.positive.sum(1)[:3] >= batch.valid.sum(1)[:3]).all()  # every truth box is a candidate
    assert (regions.labels[~regions.positive] == 3).all()
    assert (regions.deltas[~regions.positive] == 0).all()
    assert not (regions.positive & ~regions.valid).any()
    rows = np.arange(4)[:, None]
    np.testing.assert_array_equal(regions.labels[regions.positive], batch.labels[rows, regions.truth][regions.positive])
    assert (regions.boxes[..., 2:] <= SIZES[:, None, ::-1]).all()


def test_crowd_regions_are_not_background(look, params, seen):
    batch = batch_in((64, 96))
    boxes, crowd = batch.boxes.copy(), batch.crowd.copy()
    boxes[0, 5], crowd[0, 5] = [-99, -99, 199, 199], True
    boxes[1, 5], crowd[1, 5] = [0, 0, 35, 50], True
    found = jax.device_get(look(params, batch.replace(boxes=boxes, crowd=crowd), KEYS))
    for stage in ("regions", "best"):
        regions, before = found[stage], seen[stage]
        background = regions.valid & ~regions.positive
        assert background[2:].any()
        assert not background[0].any()  # all of the picture is crowd
        inside = np.clip(np.minimum(regions.boxes[1, :, 2], 35) - regions.boxes[1, :, 0], 0, None)
        wide = regions.boxes[1, :, 2] - regions.boxes[1, :, 0]
        assert (inside <= 0.5 * wide + 1e-3)[background[1]].all()
        assert background[1].any()
        was = before.valid & ~before.positive
        covered = np.clip(np.minimum(before.boxes[1, :, 2], 35) - before.boxes[1, :, 0], 0, None)
        assert (covered > 0.5 * (before.boxes[1, :, 2] - before.boxes[1, :, 0]))[was[1]].any()
    np.testing.assert_array_equal(found["best"].positive, seen["best"].positive)
    assert found["terms"]["rpn_object"].count < seen["terms"]["rpn_object"].count


def test_sampling_follows_the_key(look, params, seen):
    again = jax.device_get(look(params, batch_in((64, 96)), jax.vmap(jax.random.key)(jnp.arange(4) + 9)))
    assert_equal(seen["best"], again["best"], atol=0)
    assert not np.array_equal(seen["regions"].boxes, again["regions"].boxes)


def test_parameter_counts_of_the_default_recipe():
    # torchvision's fasterrcnn_resnet50_fpn has 41,755,286 parameters with 91 class columns, background included, a box
    # for each of them, and norms that are no parameters. Ours has 81 columns, 80 boxes, and learns scale and bias.
    detector = build.detector(component("detectors.faster_rcnn"), [str(index) for index in range(80)])
    leaves = flatten(jax.eval_shape(detector.init, jax.random.key(0)))
    sizes = {name: int(np.prod(leaf.shape)) for name, leaf in leaves.items()}
    learned = sum(size for name, size in sizes.items() if detector.trainable(tuple(name.split("/"))))
    columns = (1024 + 1) * (91 - 81) + (1024 + 1) * 4 * (91 - 80)
    norms = 2 * 26_560
    assert learned == 41_755_286 - columns + norms == 41_753_056
    assert sum(sizes.values()) == learned + norms  # mean and var
    parts = {part: sum(size for name, size in sizes.items() if name.startswith(f"{part}/")) for part in ("neck", "rpn")}
    assert parts == {"neck": 3_344_384, "rpn": 593_935}


def test_agnostic_boxes():
    detector = build.detector(tiny.detector(head={"class_agnostic": True}), CLASSES)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    assert shapes["head"]["deltas"]["kernel"].shape == (32, 4)
    predictions = jax.eval_shape(
        lambda params, batch: detector.predict(
            params,
            features := detector.features(params, batch),
            _regions(detector, params, features, batch).boxes,
            batch,
        ),
        shapes,
        batch_in((64, 96)),
    )
    assert predictions.deltas.shape == (4, 32, 1, 4)


def _regions(detector, params, features, batch):
    return detector.sample_regions(params, features, batch, KEYS)[0]


def test_octaves_are_more_anchors_of_each_cell():
    sizes = (8.0, 16.0, 32.0, 64.0)
    detector = build.detector(tiny.detector(anchors={"sizes": sizes, "octaves": 2}), CLASSES)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    assert shapes["rpn"]["logits"]["kernel"].shape[-1] == 6
    assert shapes["rpn"]["deltas"]["kernel"].shape[-1] == 24
    batch = batch_in((64, 96))
    features = jax.eval_shape(detector.features, shapes, batch)
    anchors = detector.anchors(features, batch, sizes=detector.config.anchors.of_levels())
    assert anchors.boxes.shape == (6 * (16 * 24 + 8 * 12 + 4 * 6 + 2 * 3), 4)
    sides = np.sqrt((anchors.boxes[:, 2:] - anchors.boxes[:, :2]).prod(-1))
    np.testing.assert_allclose(sides[:6], [8.0, 8 * 2**0.5] * 3, rtol=1e-6)
    regions = jax.eval_shape(
        lambda params, batch: _regions(detector, params, detector.features(params, batch), batch), shapes, batch
    )
    assert regions.boxes.shape == (4, 32, 4)

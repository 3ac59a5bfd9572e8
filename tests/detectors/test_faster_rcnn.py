"""Faster R-CNN: sizes, refusals, and what must not change a result."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
from jax import numpy as jnp

from jaxkd.config import component
from jaxkd.errors import ConfigError
from jaxkd.train import build
from jaxkd.types import Batch
from jaxkd.weights.tree import flatten

CLASSES = ("circle", "square", "triangle")
SIZES = np.array([[64, 96], [50, 70], [33, 96], [61, 45]], np.int32)
KEYS = jax.vmap(jax.random.key)(jnp.arange(4))


def batch_in(bucket: tuple[int, int], *, fill: int = 0) -> Batch:
    """Four pictures of noise, the last one without an object; the same ones whatever the bucket."""
    draw = np.random.default_rng(0)
    images = np.full((4, *bucket, 3), fill, np.uint8)
    boxes, valid = np.zeros((4, 6, 4), np.float32), np.zeros((4, 6), bool)
    for row, (height, width) in enumerate(SIZES):
        images[row, :height, :width] = draw.integers(0, 256, (height, width, 3))
        for place in range(3 - row):
            side = draw.uniform(14, 30)
            corner = draw.uniform(0, [width - side, height - side])
            boxes[row, place] = [*corner, *(corner + side)]
            valid[row, place] = True
    return Batch(
        images=images,
        sizes=SIZES,
        boxes=boxes,
        labels=np.where(valid, draw.integers(0, 3, valid.shape), 0).astype(np.int32),
        valid=valid,
        crowd=np.zeros_like(valid),
        ids=np.arange(4, dtype=np.int32),
        scales=np.ones((4, 2), np.float32),
        real=np.ones(4, bool),
    )


def told_apart(params):
    """The parameters with heads strong enough that no two scores are nearly equal, as after training."""
    strong = {"rpn": {"conv": 10.0, "logits": 20.0, "deltas": 1.0}, "head": {"logits": 30.0, "deltas": 100.0}}
    out = dict(params)
    for part, factors in strong.items():
        out[part] = dict(params[part])
        for name, factor in factors.items():
            out[part][name] = params[part][name] | {"kernel": factor * params[part][name]["kernel"]}
    return out


@pytest.fixture(scope="module")
def detector():
    return build.detector(tiny.detector(), CLASSES)


@pytest.fixture(scope="module")
def params(detector):
    return told_apart(detector.init(jax.random.key(0)))


def everything(detector):
    """All that a detector says about a batch, as one compiled function."""

    def look(params, batch, keys):
        features = detector.features(params, batch)
        regions, terms = detector.regions(params, features, batch, keys)
        best, _ = detector.regions(params, features, batch, keys, stage="proposals")
        answers = detector.answer(params, features, regions, batch)
        return {
            "features": features,
            "regions": regions,
            "best": best,
            "answers": answers,
            "terms": terms | detector.losses(answers, regions),
            "detections": detector.detect(params, batch),
        }

    return jax.jit(look)


@pytest.fixture(scope="module")
def look(detector):
    return everything(detector)


@pytest.fixture(scope="module")
def seen(look, params):
    return jax.device_get(look(params, batch_in((64, 96)), KEYS))


def assert_equal(one, other, atol=1e-4):
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-4, err_msg=jax.tree_util.keystr(path))


def test_shapes(detector, seen):
    assert [level.shape for level in seen["features"].backbone] == [
        (4, 16, 24, 8), (4, 8, 12, 16), (4, 4, 6, 32), (4, 2, 3, 64)
    ]  # fmt: skip
    assert [level.shape for level in seen["features"].neck] == [
        (4, 16, 24, 16), (4, 8, 12, 16), (4, 4, 6, 16), (4, 2, 3, 16)
    ]  # fmt: skip
    assert seen["regions"].boxes.shape == seen["best"].boxes.shape == (4, 32, 4)
    assert seen["answers"].logits.shape == (4, 32, 4)
    assert seen["answers"].deltas.shape == (4, 32, 3, 4)
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


def test_detections_are_sorted_and_inside(seen):
    found = seen["detections"]
    assert found.valid.any(1).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert (found.scores[found.valid] > 0.05).all()
    assert (found.boxes[found.valid][:, 2:] > found.boxes[found.valid][:, :2]).all()
    assert (found.boxes >= 0).all() and (found.boxes[..., 2:] <= SIZES[:, None, ::-1]).all()
    assert set(np.unique(found.labels)) <= {0, 1, 2}


def test_the_bucket_changes_nothing(look, params, seen):
    wide = jax.device_get(look(params, batch_in((96, 160), fill=77), KEYS))
    for part in ("backbone", "neck"):
        for level, other, stride in zip(
            getattr(seen["features"], part), getattr(wide["features"], part), (4, 8, 16, 32), strict=True
        ):
            for row, (height, width) in enumerate(-(-SIZES // stride)):
                np.testing.assert_allclose(level[row, :height, :width], other[row, :height, :width], atol=1e-4)
                assert not other[row, height:].any() and not other[row, :, width:].any()
    assert seen["regions"].positive.any() and (~seen["regions"].positive & seen["regions"].valid).any()
    for part in ("regions", "best", "answers", "terms", "detections"):
        assert_equal(seen[part], wide[part])


def test_junk_in_truth_padding_changes_nothing(look, params, seen):
    batch = batch_in((64, 96))
    draw = np.random.default_rng(5)
    junk = draw.uniform(-50, 150, batch.boxes.shape).astype(np.float32)
    other = batch.replace(
        boxes=np.where(batch.valid[..., None], batch.boxes, junk),
        labels=np.where(batch.valid, batch.labels, 999).astype(np.int32),
    )
    found = jax.device_get(look(params, other, KEYS))
    assert_equal(seen, found, atol=0)


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


def test_no_truth_gives_finite_gradients(detector, params, look):
    batch = batch_in((64, 96))
    empty = batch.replace(boxes=np.zeros_like(batch.boxes), valid=np.zeros_like(batch.valid))
    answers = jax.device_get(look(params, empty, KEYS))
    assert not answers["regions"].positive.any()
    assert answers["terms"]["box"].total == 0 and answers["terms"]["rpn_box"].total == 0

    def loss(answered, regions):
        return sum(term.mean() for term in detector.losses(answered, regions).values())

    grads = jax.jit(jax.grad(loss))(answers["answers"], answers["regions"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert not np.asarray(grads.deltas).any()


def test_sampling_follows_the_key(look, params, seen):
    again = jax.device_get(look(params, batch_in((64, 96)), jax.vmap(jax.random.key)(jnp.arange(4) + 9)))
    assert_equal(seen["best"], again["best"], atol=0)
    assert not np.array_equal(seen["regions"].boxes, again["regions"].boxes)


def test_bfloat16_inside_and_float32_outside(params):
    detector = build.detector(tiny.detector(dtype="bfloat16"), CLASSES)
    found = jax.device_get(everything(detector)(params, batch_in((64, 96)), KEYS))
    assert {level.dtype for level in jax.tree.leaves(found["features"])} == {jnp.dtype(jnp.bfloat16)}
    for part in ("regions", "best", "answers", "terms", "detections"):
        kinds = {leaf.dtype for leaf in jax.tree.leaves(found[part])}
        assert kinds <= {jnp.dtype(name) for name in ("float32", "int32", "bool")}
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[part]))
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(detector.init, jax.random.key(0)))} == {
        jnp.dtype("float32")
    }


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


def test_frozen_stages():
    detector = build.detector(tiny.detector(norm="frozen_batch", frozen_stages=1), CLASSES)
    leaves = flatten(jax.eval_shape(detector.init, jax.random.key(0)))
    frozen = {name for name in leaves if not detector.trainable(tuple(name.split("/")))}
    stored = {name for name in leaves if name.endswith(("/mean", "/var"))}
    early = {name for name in leaves if name.startswith(("backbone/conv1", "backbone/bn1", "backbone/layer1_"))}
    assert stored and early
    assert frozen == stored | early


def test_agnostic_boxes():
    detector = build.detector(tiny.detector(agnostic=True), CLASSES)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    assert shapes["head"]["deltas"]["kernel"].shape == (32, 4)
    answers = jax.eval_shape(
        lambda params, batch: detector.answer(
            params, features := detector.features(params, batch), _regions(detector, params, features, batch), batch
        ),
        shapes,
        batch_in((64, 96)),
    )
    assert answers.deltas.shape == (4, 32, 1, 4)


def _regions(detector, params, features, batch):
    return detector.regions(params, features, batch, KEYS)[0]


def test_anchors_that_do_not_fit_the_pyramid_are_refused():
    with pytest.raises(ConfigError, match="3 entries, the pyramid 4 levels"):
        build.detector(tiny.detector(anchor_sizes=(8.0, 16.0, 32.0)), CLASSES)


def test_the_detector_is_a_value(detector):
    assert detector == build.detector(tiny.detector(), CLASSES)
    assert dataclasses.replace(detector, classes=("one",)) != detector

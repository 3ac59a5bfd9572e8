import importlib.util
from functools import partial

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from jaxkd.ops.nms import nms, nms_matrix

FORMS = pytest.mark.parametrize(
    "form", [nms, partial(nms, tile=16), nms_matrix], ids=["tiles", "small tiles", "matrix"]
)


def clustered(rng, count, objects=12):
    centre = rng.uniform(0, 200, (objects, 2))[rng.integers(0, objects, count)] + rng.normal(0, 6, (count, 2))
    size = np.exp(rng.normal(3.5, 0.3, (count, 2)))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], -1).astype(np.float32)
    return boxes, rng.uniform(size=count).round(2).astype(np.float32)  # rounded: with ties


def slow_nms(boxes, scores, *, valid, threshold, limit, classes=None):
    """The greedy loop."""
    boxes, kept = np.asarray(boxes, np.float64), []
    classes = np.zeros(len(boxes), int) if classes is None else classes
    for i in sorted(np.flatnonzero(valid), key=lambda i: (-scores[i], i)):
        x0, y0, x1, y1 = boxes[i]
        for j in kept:
            u0, v0, u1, v1 = boxes[j]
            shared = max(0, min(x1, u1) - max(x0, u0)) * max(0, min(y1, v1) - max(y0, v0))
            union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - shared
            if classes[i] == classes[j] and union > 0 and shared / union > threshold:
                break
        else:
            kept.append(i)
    return kept[:limit]


def check(kept, want, limit):
    assert kept.index.shape == kept.valid.shape == (limit,)
    assert kept.index.dtype == jnp.int32
    np.testing.assert_array_equal(kept.valid, np.arange(limit) < len(want))
    np.testing.assert_array_equal(kept.index, [*want, *[0] * (limit - len(want))])


@FORMS
def test_golden(form):
    boxes = jnp.array(
        [
            [0.0, 0.0, 4.0, 2.0],
            [0.0, 0.0, 2.0, 2.0],  # half of the first: IoU 0.5
            [0.0, 0.0, 4.0, 2.0],  # the first again, as good: the lower index wins
            [10.0, 0.0, 12.0, 2.0],  # alone, and the best
            [0.0, 0.0, 3.0, 2.0],  # IoU 0.75 with the first, 2/3 with the second
        ]
    )
    scores = jnp.array([0.8, 0.7, 0.8, 0.9, 0.1])
    given = {"valid": jnp.ones(5, bool), "limit": 4}
    check(form(boxes, scores, threshold=0.7, **given), [3, 0, 1], 4)
    check(form(boxes, scores, threshold=0.5, **given), [3, 0, 1], 4)  # an IoU of exactly 0.5 stays
    check(form(boxes, scores, threshold=0.49, **given), [3, 0], 4)
    check(form(boxes, scores, threshold=0.8, **given), [3, 0, 1, 4], 4)
    kinds = jnp.array([0, 1, 1, 0, 0])
    check(form(boxes, scores, threshold=0.49, classes=kinds, **given), [3, 0, 2], 4)


@FORMS
def test_a_suppressed_box_suppresses_nothing(form):
    boxes = jnp.array([[float(x), 0.0, float(x) + 10.0, 10.0] for x in (0, 3, 6, 9)])  # neighbours overlap by 7/13
    kept = form(boxes, jnp.array([0.9, 0.8, 0.7, 0.6]), valid=jnp.ones(4, bool), threshold=0.5, limit=4)
    check(kept, [0, 2], 4)


@FORMS
@pytest.mark.parametrize("count", [1, 16, 17, 300])
@pytest.mark.parametrize("limit", [20, 400])
@pytest.mark.parametrize("kinds", [None, 3])
def test_equals_the_greedy_loop(form, count, limit, kinds):
    rng = np.random.default_rng(count)
    boxes, scores = clustered(rng, count)
    valid = rng.uniform(size=count) > 0.1
    classes = None if kinds is None else rng.integers(0, kinds, count)
    want = slow_nms(boxes, scores, valid=valid, threshold=0.6, limit=limit, classes=classes)
    given = {"valid": jnp.asarray(valid), "threshold": 0.6, "limit": limit}
    given["classes"] = None if kinds is None else jnp.asarray(classes)
    check(form(jnp.asarray(boxes), jnp.asarray(scores), **given), want, limit)


@FORMS
def test_many_classes_far_from_the_origin(form):
    # Classes are compared, so their number costs the coordinates no digits.
    boxes = jnp.array([[-5000.0, -5000.0, -4999.5, -4999.5], [-5000.0, -5000.0, -4999.75, -4999.5]])
    boxes = jnp.concatenate([boxes, boxes])
    scores, classes = jnp.array([0.9, 0.8, 0.7, 0.6]), jnp.array([9000, 9000, 0, 0])
    given = {"valid": jnp.ones(4, bool), "limit": 4, "classes": classes}
    check(form(boxes, scores, threshold=0.49, **given), [0, 2], 4)
    check(form(boxes, scores, threshold=0.51, **given), [0, 1, 2, 3], 4)


@FORMS
def test_moving_and_scaling_changes_nothing(form):
    rng = np.random.default_rng(1)
    boxes, scores = clustered(rng, 200)
    boxes = jnp.asarray(boxes.round())
    given = {"valid": jnp.ones(200, bool), "threshold": 0.55, "limit": 100}
    want = form(boxes, jnp.asarray(scores), **given)
    got = form(4 * boxes - 64, jnp.asarray(scores), **given)
    np.testing.assert_array_equal(got.index, want.index)
    np.testing.assert_array_equal(got.valid, want.valid)


@FORMS
@pytest.mark.parametrize("with_classes", [False, True])
def test_padding_junk_never_matters(form, with_classes):
    rng = np.random.default_rng(2)
    boxes, scores = clustered(rng, 90)
    classes = rng.integers(0, 3, 90)
    junk = np.array([[np.nan] * 4, [np.inf] * 4, [-1e30, -1e30, 1e30, 1e30], [0, 0, 1e9, 1e9]], np.float32)
    padded = jnp.concatenate([junk, boxes])
    worth = jnp.concatenate([jnp.array([jnp.nan, jnp.inf, 9.0, 8.0]), jnp.asarray(scores)])
    valid = jnp.arange(94) >= 4
    given = {"threshold": 0.5, "limit": 60}
    kinds = jnp.concatenate([jnp.array([7, -(2**31), 2**31 - 1, 0]), jnp.asarray(classes)]) if with_classes else None
    want = slow_nms(boxes, scores, valid=np.ones(90, bool), classes=classes if with_classes else None, **given)
    check(form(padded, worth, valid=valid, classes=kinds, **given), [i + 4 for i in want], 60)


@FORMS
def test_nothing_valid_and_nothing_given(form):
    boxes, scores = clustered(np.random.default_rng(3), 20)
    given = {"threshold": 0.5, "limit": 5}
    check(form(jnp.asarray(boxes), jnp.asarray(scores), valid=jnp.zeros(20, bool), **given), [], 5)
    check(form(jnp.zeros((0, 4)), jnp.zeros(0), valid=jnp.zeros(0, bool), **given), [], 5)


@FORMS
def test_boxes_without_area_are_kept(form):
    boxes = jnp.array([[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 9.0, 9.0]])
    check(form(boxes, jnp.array([0.3, 0.2, 0.1]), valid=jnp.ones(3, bool), threshold=0.5, limit=3), [0, 1, 2], 3)


@FORMS
def test_vmap_equals_one_image_at_a_time(form):
    rng = np.random.default_rng(4)
    boxes, scores = zip(*(clustered(rng, 120, objects) for objects in (3, 12, 60)), strict=True)
    valid = rng.uniform(size=(3, 120)) > np.array([[0.0], [0.5], [1.1]])
    one = partial(form, threshold=0.5, limit=40)
    kept = jax.vmap(lambda b, s, v: one(b, s, valid=v))(jnp.stack(boxes), jnp.stack(scores), jnp.asarray(valid))
    for i in range(3):
        want = slow_nms(boxes[i], scores[i], valid=valid[i], threshold=0.5, limit=40)
        check(jax.tree.map(lambda x, i=i: x[i], kept), want, 40)


@FORMS
def test_refusal(form):
    with pytest.raises(ValueError, match="limit=0"):
        form(jnp.zeros((1, 4)), jnp.zeros(1), valid=jnp.ones(1, bool), threshold=0.5, limit=0)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@FORMS
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_equals_torchvision(form, threshold):
    torch, ops = pytest.importorskip("torch"), pytest.importorskip("torchvision").ops
    rng = np.random.default_rng(5)
    boxes, _ = clustered(rng, 700)
    scores, classes = rng.permutation(700).astype(np.float32), rng.integers(0, 3, 700)
    given = {"valid": jnp.ones(700, bool), "threshold": threshold, "limit": 700}
    want = ops.nms(torch.tensor(boxes), torch.tensor(scores), threshold).numpy()
    check(form(jnp.asarray(boxes), jnp.asarray(scores), **given), want, 700)
    want = ops.batched_nms(torch.tensor(boxes), torch.tensor(scores), torch.tensor(classes), threshold).numpy()
    check(form(jnp.asarray(boxes), jnp.asarray(scores), classes=jnp.asarray(classes), **given), want, 700)

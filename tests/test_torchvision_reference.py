"""The numpy reference against sums done by hand and, where torch and torchvision can be imported, against theirs."""

import numpy as np
import pytest
import torchvision_peer as peer
import torchvision_reference as reference

NARROW = {"width": 16, "channels": 32, "hidden": 64}


def picture(height, width):
    """Coarse coloured squares under noise."""
    rng = np.random.default_rng(3)
    squares = rng.integers(0, 256, (height // 16, width // 16, 3)).repeat(16, axis=0).repeat(16, axis=1)
    return np.clip(squares + rng.normal(0, 40, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("k", [1, 3])
def test_convolution_is_the_direct_sum(k, stride):
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(size=(2, 3, 5, 6)), rng.normal(size=(4, 3, k, k)), rng.normal(size=4)
    found = reference.conv(x, weight, bias, stride)
    pad = k // 2
    for n, o, i, j in np.ndindex(found.shape):
        total = bias[o]
        for c, dy, dx in np.ndindex(3, k, k):
            row, column = i * stride + dy - pad, j * stride + dx - pad
            if 0 <= row < 5 and 0 <= column < 6:
                total += weight[o, c, dy, dx] * x[n, c, row, column]
        assert found[n, o, i, j] == pytest.approx(total)
    assert found.shape == (2, 4, -(-5 // stride), -(-6 // stride))


def test_max_pool_takes_the_best_of_three_by_three():
    x = -np.arange(16.0).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(reference.max_pool(x)[0, 0], [[0, -1], [-4, -5]])


def test_nms_keeps_at_the_threshold_and_drops_above_it():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.1]])
    scores = np.array([0.7, 0.9, 0.8])
    assert reference.nms(boxes[:2], scores[:2], 0.5).tolist() == [1, 0]
    assert reference.nms(boxes, scores, 0.5).tolist() == [1, 0]
    assert reference.nms(boxes, scores, 0.4).tolist() == [1]
    assert reference.group_nms(boxes, scores, np.array([1, 1, 0]), 0.4).tolist() == [1, 2]


def test_roi_align_of_a_ramp_is_the_ramp_at_the_centres_of_bins():
    y, x = np.mgrid[:20, :30].astype(float)
    box, scale = np.array([8.0, 12.0, 64.0, 54.0]), 0.25
    found = reference.roi_align(np.stack([2 * y + 3 * x, x]), box, scale)
    rows, columns = 3 + (np.arange(7) + 0.5) * 10.5 / 7, 2 + (np.arange(7) + 0.5) * 14 / 7
    np.testing.assert_allclose(found[0], 2 * rows[:, None] + 3 * columns)
    np.testing.assert_allclose(found[1], np.broadcast_to(columns, (7, 7)))


def test_anchors_of_a_cell_and_decoding_by_hand():
    anchors = reference.anchor_boxes((64, 96), [np.zeros((1, 1, 2, 3))], ((32,),))[0]
    assert anchors[:3].tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert anchors[-2].tolist() == [64 - 16, 32 - 16, 64 + 16, 32 + 16]
    box = reference.decode(np.array([[0.0, 0, 10, 20]]), np.array([[1.0, -1, 5 * np.log(2), 1e3]]), (10, 10, 5, 5))
    np.testing.assert_allclose(box, [[6 - 10, 8 - 625, 6 + 10, 8 + 625]])


@pytest.mark.parametrize(
    ("kind", "version"), [("faster_rcnn", 1), ("faster_rcnn", 2), ("retinanet", 1), ("retinanet", 2), ("fcos", 1)]
)
@pytest.mark.parametrize("depth", [18, 50])
def test_narrow_networks_find_objects_of_several_classes(kind, depth, version):
    state = reference.random_state_dict(kind, depth, version, 5, 0, **NARROW)
    limit = {"post_nms_top_n": 100} if kind == "faster_rcnn" else {}
    record = getattr(reference, kind)(state, picture(96, 128), **limit)
    assert len(record.boxes) > 20
    assert len(set(record.labels)) > 1 and 0 not in record.labels
    assert np.ptp(record.scores) > 0.05
    assert np.all(np.diff(record.scores) <= 0)
    assert 0.1 < record.pyramid[0].std() < 10


@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet"])
def test_old_names_mean_the_same_network(kind):
    states = [reference.random_state_dict(kind, 18, 1, 3, 1, **NARROW, old_names=old) for old in (False, True)]
    new, old = (getattr(reference, kind)(state, picture(64, 96)) for state in states)
    assert states[0].keys() != states[1].keys()
    np.testing.assert_array_equal(new.boxes, old.boxes)
    np.testing.assert_array_equal(new.scores, old.scores)


def test_given_boxes_take_the_place_of_the_proposals():
    state = reference.random_state_dict("faster_rcnn", 18, 1, 3, 1, **NARROW)
    own = reference.faster_rcnn(state, picture(64, 96))
    some = reference.faster_rcnn(state, picture(64, 96), rois=own.proposals[5:9])
    np.testing.assert_array_equal(some.proposals, own.proposals)
    np.testing.assert_allclose(some.class_logits, own.class_logits[5:9])
    np.testing.assert_allclose(some.pooled, own.pooled[5:9])


CASES = [(kind, *rest) for kind in ("faster_rcnn", "retinanet") for rest in ((18, 1), (50, 1), (50, 2))]
CASES += [("fcos", 18, 1), ("fcos", 50, 1)]


@pytest.mark.parametrize("kind, depth, version", CASES)
@pytest.mark.parametrize("size", [(160, 224), (150, 201)])
def test_every_stage_agrees_with_torchvision(kind, depth, version, size):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    pytest.importorskip("torchvision", reason="torchvision is not installed: nothing to compare with")
    state = reference.random_state_dict(kind, depth, version, 5, 7)
    model, image = peer.model_of(kind, depth, version), picture(160, 224)[: size[0], : size[1]]
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()}, strict=True)
    wanted, detections = peer.stages_of(kind, model, image)
    record = getattr(reference, kind)(state, image)
    if kind == "faster_rcnn":
        own, rois = record, wanted.pop("rois")[0]
        everything = [(boxes, np.zeros(len(boxes)), np.zeros(len(boxes))) for boxes in (own.proposals, rois)]
        assert len(own.proposals) == len(rois) and reference.unmatched(*everything) == 0
        record = reference.faster_rcnn(state, image, rois=rois)
        assert reference.unmatched((own.boxes, own.scores, own.labels), detections) == 0
    for name, there in wanted.items():
        here = getattr(record, name)
        here = here if isinstance(here, list) else [here]
        here = here if len(here) == len(there) else [np.concatenate(here)]
        for mine, theirs in zip(here, there, strict=True):
            error = np.abs(mine - theirs).max() / np.abs(theirs).max()
            assert error < 1e-4, name
    assert len(record.boxes) == len(detections[0]) > 20
    assert reference.unmatched((record.boxes, record.scores, record.labels), detections) == 0

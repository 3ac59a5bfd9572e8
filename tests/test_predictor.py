"""From a folder of weights to boxes in three lines."""

from types import SimpleNamespace

import numpy as np
import pytest
from jax import numpy as jnp
from PIL import Image

import jaxkd
from jaxkd import predictor
from jaxkd.data import coco
from jaxkd.errors import DataError, WeightsError
from jaxkd.ops import boxes as box_ops
from jaxkd.paths import path_of


@pytest.fixture(scope="module")
def detector():
    return jaxkd.load("assets:bccd_teacher")


def test_the_shipped_teacher_finds_blood_cells_in_their_own_pixels(detector):
    source = coco.load(coco.Config(annotations="assets:bccd/val.json", limit=2))
    assert detector.classes == source.classes
    paths = [path_of("assets:bccd/images") / record.file for record in source.records]
    found = detector(paths)
    for record, boxes, labels, scores, valid in zip(
        source.records, found.boxes, found.labels, found.scores, found.valid, strict=True
    ):
        sure = valid & (scores > 0.8)
        overlaps = np.asarray(box_ops.iou(jnp.asarray(boxes[sure]), jnp.asarray(record.boxes)))
        overlaps = overlaps * (labels[sure][:, None] == record.labels)
        assert sure.sum() >= 3
        assert (overlaps.max(1) > 0.6).mean() > 0.7


def test_arrays_and_files_of_any_size_and_number(detector, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "one.png")
    one, file, both = detector(image), detector(tmp_path / "one.png"), detector([image[:40], image])
    np.testing.assert_array_equal(one.boxes, file.boxes)
    np.testing.assert_array_equal(both.boxes[1:], one.boxes)
    assert (one.boxes <= [90, 50, 90, 50]).all() and both.scores.shape[0] == 2
    assert detector([]).boxes.shape == (0, 0, 4)


@pytest.mark.parametrize("image", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)])
def test_what_is_no_picture_is_refused(detector, image):
    with pytest.raises(DataError, match="uint8 array"):
        detector(image)


def test_no_detector(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no detector\.json"):
        jaxkd.load(tmp_path)


def test_a_stream_gives_what_a_call_gives_in_the_order_of_its_pictures(detector):
    source = coco.load(coco.Config(annotations="assets:bccd/val.json", limit=5))
    images = [source.read(record.index)[: 200 + 20 * place] for place, record in enumerate(source.records)]
    images[2] = np.ascontiguousarray(images[2][:, :90])  # of another shape
    called = detector(images)
    for batch in (1, 2):
        streamed = list(detector.stream(iter(images), batch=batch))
        assert [found.frame.image.shape for found in streamed] == [image.shape for image in images]
        for row, found in enumerate(streamed):
            assert found.detections.valid.sum() > 0
            np.testing.assert_array_equal(found.detections.valid, called.valid[row])
            np.testing.assert_allclose(found.detections.boxes, called.boxes[row], atol=0.05)


def test_a_stream_reads_a_folder_and_leaves_out_what_it_cannot_read(detector, tmp_path):
    for name in ("b.png", "a.png"):
        Image.new("RGB", (60, 50)).save(tmp_path / name)
    (tmp_path / "aa.png").write_text("no picture")
    told = []
    found = list(detector.stream([tmp_path], on_error=told.append))
    assert [one.frame.file for one in found] == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert len(told) == 1 and "aa.png" in str(told[0])
    with pytest.raises(DataError, match=r"aa\.png"):
        list(detector.stream([tmp_path]))


def test_groups_wait_for_their_kind_but_not_for_ever():
    def numbers(kinds, batch):
        rows = (SimpleNamespace(bucket=kind) for kind in kinds)
        return [[number for number, _ in group] for group in predictor._by_bucket(rows, batch)]

    assert numbers([0, 1, 0, 1, 1], 2) == [[0, 2], [1, 3], [4]]
    assert numbers([0, 1, 0, 1, 1], 1) == [[0], [1], [2], [3], [4]]
    late = numbers([1] + [0] * 20, 2)
    assert 0 < late.index([0]) <= predictor.LATE  # a few batches passed by
    assert sorted(number for group in late for number in group) == list(range(21))
    assert list(predictor._in_order([(2, "c"), (0, "a"), (1, "b"), (3, "d")])) == ["a", "b", "c", "d"]

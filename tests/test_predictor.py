"""From a folder of weights to boxes in three lines."""

import numpy as np
import pytest
from jax import numpy as jnp
from PIL import Image

import jaxkd
from jaxkd.config import asset_path
from jaxkd.data import coco
from jaxkd.errors import DataError, WeightsError
from jaxkd.ops import boxes as box_ops


@pytest.fixture(scope="module")
def detector():
    return jaxkd.load("assets:bccd_teacher")


def test_the_shipped_teacher_finds_blood_cells_in_their_own_pixels(detector):
    source = coco.load(coco.Config(annotations="assets:bccd/val.json", limit=2))
    assert detector.classes == source.classes
    paths = [asset_path("assets:bccd/images") / record.file for record in source.records]
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

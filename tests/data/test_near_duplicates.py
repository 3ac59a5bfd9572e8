import json

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxkd.data import coco, near_duplicates, shapes
from jaxkd.data.base import PictureError

N = near_duplicates.SIDE**2


def unit(rows):
    rows = rows - rows.mean(-1, keepdims=True)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def thumbnails(count, seed=0):
    """Random thumbnails, smooth as pictures are."""
    blurred = [
        cv2.GaussianBlur(row.reshape(16, 16), (0, 0), 2).ravel()
        for row in np.random.default_rng(seed).normal(size=(count, N))
    ]
    return unit(np.array(blurred))


def test_a_thumbnail_has_mean_0_and_length_1_and_knows_a_brighter_smaller_copy():
    y, x = np.mgrid[:120, :160]
    image = np.stack([x, y, x + y], -1).astype(np.uint8) // 2
    row = near_duplicates.thumbnail(image)
    assert row.shape == (N,) and abs(row.mean()) < 1e-6 and abs(np.linalg.norm(row) - 1) < 1e-6
    copy = cv2.resize(image, (80, 60), interpolation=cv2.INTER_AREA) + np.uint8(30)
    assert row @ near_duplicates.thumbnail(copy) > 0.999
    assert row @ near_duplicates.thumbnail(image[:, ::-1].copy()) < 0.9


def test_a_flat_picture_is_like_nothing():
    flat = near_duplicates.thumbnail(np.full((40, 40, 3), 200, np.uint8))
    assert not flat.any()
    assert near_duplicates.groups(np.stack([flat, flat])).tolist() == [0, 1]


def test_groups_are_those_of_all_pairs(monkeypatch):
    """Also where they are compared in many small portions."""
    monkeypatch.setattr(near_duplicates, "ROWS", 7)
    monkeypatch.setattr(near_duplicates, "COLUMNS", 5)
    rows = thumbnails(60)
    noise = np.random.default_rng(1).normal(size=(40, N)) * np.geomspace(0.001, 0.03, 40)[:, None]
    rows = np.concatenate([rows, unit(rows[:40] + noise)])
    similar = rows @ rows.T > near_duplicates.THRESHOLD
    assert 40 < similar.sum() - len(rows) < 80  # some of the copies are near, some are not
    reached = np.linalg.matrix_power(similar.astype(int), 8) > 0
    assert near_duplicates.groups(rows).tolist() == reached.argmax(-1).tolist()
    assert near_duplicates.like_any(rows[60:], rows[:60]).tolist() == similar[60:, :60].any(-1).tolist()


def test_without_pictures():
    none = np.zeros((0, N), np.float32)
    assert near_duplicates.groups(none).shape == (0,)
    assert near_duplicates.like_any(thumbnails(2), none).tolist() == [False, False]


def test_a_chain_of_links_is_one_group():
    links = np.array([[5, 4], [4, 3], [1, 2], [3, 2]])
    assert near_duplicates.connected(np.arange(7), links).tolist() == [0, 1, 1, 1, 1, 1, 6]


@pytest.mark.parametrize(
    ("file", "original", "stem"),
    [
        ("train/a_12_jpg.rf.0f3c.jpg", "a_12_jpg", "train/a_12"),
        ("a.rf.0f3c.png", "a", "a"),
        ("b/a_jpg.jpg", "", "b/a_jpg"),
        ("noend", "", "noend"),
    ],
)
def test_names_of_augmented_copies(file, original, stem):
    assert near_duplicates.original_name(file) == original
    assert near_duplicates.plain_stem(file) == stem


def test_pictures_are_read_reduced_where_they_are_jpeg_files(tmp_path, monkeypatch):
    drawn = shapes.load(shapes.Config(count=3, size=(160, 200)))
    truth = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    for index, name in enumerate(("big.jpg", "plain.png", "small.jpg")):
        image = Image.fromarray(drawn.read(index))
        (image.resize((60, 40)) if index == 2 else image).save(tmp_path / name)
        truth["images"].append({"id": index, "file_name": name})
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    source = coco.load(coco.Config(images=str(tmp_path), annotations=str(tmp_path / "truth.json")))
    whole = np.array([near_duplicates.thumbnail(source.read(index)) for index in range(3)])
    read = []
    monkeypatch.setattr(source, "read", lambda index, full=source.read: read.append(index) or full(index))
    rows = near_duplicates.thumbnails(source)
    assert sorted(read) == [1, 2]
    assert (rows * whole).sum(-1).min() > 0.99


def test_a_picture_that_cannot_be_read_is_like_nothing(monkeypatch):
    drawn = shapes.load(shapes.Config(count=2))

    def read(index, full=drawn.read):
        if index == 0:
            raise PictureError("broken.")
        return full(index)

    monkeypatch.setattr(drawn, "read", read)
    rows = near_duplicates.thumbnails(drawn)
    assert not rows[0].any() and rows[1].any()


def test_near_copies_of_training_pictures(monkeypatch):
    train, val = shapes.load(shapes.Config(count=4, seed=1)), shapes.load(shapes.Config(count=3, seed=2))
    assert near_duplicates.near_copies(train, val) == []
    monkeypatch.setattr(val, "read", lambda index, own=val.read: train.read(3) if index == 1 else own(index))
    assert near_duplicates.near_copies(train, val) == [1]
    assert near_duplicates.remark([1]) == "1 of val is a near copy of pictures of train; its scores will be too good."
    assert near_duplicates.remark([1, 2], name="test").startswith("2 of test are near copies of ")
    assert near_duplicates.remark([]) == ""


@pytest.mark.parametrize(("folder", "split", "found"), [("aquarium", "train", 3), ("minicoco", "train2017", 0)])
def test_near_duplicates_in_real_sets(shared, folder, split, found):
    root = shared / "data" / folder
    source = coco.load(
        coco.Config(images=str(root / split), annotations=str(root / "annotations" / f"instances_{split}.json"))
    )
    groups = near_duplicates.groups(near_duplicates.thumbnails(source))
    assert len(groups) - len(set(groups.tolist())) == found

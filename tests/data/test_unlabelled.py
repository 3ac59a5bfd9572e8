"""Pictures without labels: which are found, what a teacher tells of them, and how batches have them."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from jaxkd.config import build, component
from jaxkd.data import loader, shapes, unlabelled
from jaxkd.data.canvas import buckets_of
from jaxkd.data.plan import mixed, plan
from jaxkd.data.unlabelled import PseudoLabels
from jaxkd.errors import ConfigError, DataError

LIKE = shapes.load(shapes.Config(count=6, size=(64, 96)))
SMALL = loader.Config(buckets=((64, 96), (96, 64)), short=(64,), long=96, max_objects=6)


@pytest.fixture
def folder(tmp_path):
    """Five pictures, one of them upright and in a folder below, and three files that are none."""
    (tmp_path / "more").mkdir()
    for name, size in (
        ("a.png", (96, 64)),
        ("b.jpg", (96, 64)),
        ("more/c.png", (64, 96)),
        ("d.png", (96, 64)),
        ("e.png", (48, 32)),
    ):
        Image.fromarray(np.full((*size[::-1], 3), 100, np.uint8)).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "notes.txt").write_text("nothing")
    return tmp_path


def opened(folder):
    return unlabelled.open_folder(build(component("data.unlabelled", images=str(folder))), like=LIKE)


TOLD = {
    "a.png": PseudoLabels([[1.0, 2.0, 30.0, 40.0], [50.0, 10.0, 90.0, 60.0]], [0, 2], [0.9, 0.0]),
    "b.jpg": PseudoLabels([], [], []),
    "more/c.png": PseudoLabels([[0.0, 0.0, 60.0, 90.0]], [1], [0.0]),
    "d.png": PseudoLabels([[5.0, 5.0, 20.0, 20.0]], [1], [0.5]),
}


def test_pictures_below_the_folder_are_found_and_the_others_counted(folder):
    source = opened(folder)
    assert [record.file for record in source.records] == ["a.png", "b.jpg", "d.png", "e.png", "more/c.png"]
    assert [(record.height, record.width) for record in source.records][-1] == (96, 64)
    assert source.classes == LIKE.classes and source.read(0).shape == (64, 96, 3)
    assert source.repairs == {"pictures_unreadable": 1, "pictures_unsupported": 1}
    assert not source.annotations()["annotations"] and len(source.annotations()["images"]) == 5


def test_what_there_is_none_of(tmp_path):
    with pytest.raises(DataError, match="There is no folder"):
        opened(tmp_path / "none")
    with pytest.raises(DataError, match="holds no picture that can be read"):
        opened(tmp_path)


def test_what_is_told_becomes_objects_and_regions_in_which_nothing_counts(folder):
    told = unlabelled.PseudoLabelled(opened(folder), TOLD)
    assert [record.file for record in told.records] == ["a.png", "b.jpg", "d.png", "more/c.png"]
    first, second, third, _ = told.records
    assert first.crowd.tolist() == [False, True] and first.weights.tolist() == pytest.approx([0.9, 1.0])
    assert first.labels.tolist() == [0, 2] and len(second.boxes) == 0
    assert third.weights.tolist() == [0.5] and third.index == 2
    np.testing.assert_array_equal(told.read(2), opened(folder).read(2))


def test_a_picture_of_doubts_alone_leaves_nothing(folder):
    by_file = {record.file: record for record in opened(folder).records}
    leaves = {file: unlabelled.leaves_something(by_file[file], found) for file, found in TOLD.items()}
    assert leaves == {"a.png": True, "b.jpg": True, "more/c.png": False, "d.png": True}
    whole = unlabelled.uncertain(by_file["a.png"])
    assert whole.boxes == [[0.0, 0.0, 96.0, 64.0]] and whole.weights == [0.0]


def test_what_is_told_is_kept_for_the_same_question(tmp_path):
    file = tmp_path / "unlabelled.json"
    assert unlabelled.load_labels(file, key="one") is None
    unlabelled.save(file, TOLD, key="one")
    assert unlabelled.load_labels(file, key="one") == TOLD
    assert unlabelled.load_labels(file, key="two") is None
    file.write_text("{")
    with pytest.raises(DataError, match="is broken"):
        unlabelled.load_labels(file, key="one")


def batches(folder, *, batch=4, steps=6, **fields):
    told = unlabelled.PseudoLabelled(opened(folder), TOLD)
    rows = loader.train_batches(LIKE, SMALL, seed=0, steps=steps, batch=batch, unlabelled=told, **fields)
    try:
        return list(rows)
    finally:
        rows.close()


def test_half_of_each_batch_has_no_labels_and_weights_are_there(folder):
    for batch in batches(folder):
        is_other = batch.ids >= len(LIKE.records)
        assert is_other.tolist() == [False, True, True, False]  # so that devices and micro-batches have some
        assert batch.weights.shape == batch.valid.shape
        assert np.all(batch.weights[batch.valid & ~is_other[:, None]] == 1)
    of_d = [batch.weights[row, 0] for batch in batches(folder) for row in range(4) if batch.ids[row] == 8]
    assert of_d and set(of_d) == {np.float32(0.5)}


def test_processes_share_the_batches_and_a_run_goes_on_in_the_middle(folder):
    whole = batches(folder)
    parts = [batches(folder, process=process, processes=2) for process in range(2)]
    for one, *two in zip(whole, *parts, strict=True):
        jax.tree.map(lambda a, *b: np.testing.assert_array_equal(a, np.concatenate(b)), one, *two)
    for one, other in zip(whole[2:], batches(folder, start=2), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize(("batch", "share", "others"), [(8, 0.25, 2), (8, 0.75, 6), (4, 0.01, 1), (4, 0.99, 3)])
def test_the_share_is_that_of_every_batch(folder, batch, share, others):
    for one in batches(folder, batch=batch, steps=3, share=share):
        assert np.sum(one.ids >= len(LIKE.records)) == others


def test_an_epoch_of_them_shows_each_once_and_a_longer_run_begins_alike(folder):
    told = unlabelled.PseudoLabelled(opened(folder), TOLD)
    labelled = plan(LIKE, SMALL, seed=0, steps=9, batch=2)
    kinds = buckets_of(told, SMALL, short=64)
    found = mixed(labelled, kinds, seed=0, batch=3, first=6)
    assert sorted(found.records[:3, 2].tolist()) == [6, 7, 8]  # the landscape ones, as the labelled ones are
    short = mixed(
        dataclasses.replace(labelled, records=labelled.records[:4], buckets=labelled.buckets[:4]),
        kinds,
        seed=0,
        batch=3,
        first=6,
    )
    np.testing.assert_array_equal(short.records, found.records[:4])
    none = mixed(labelled, np.ones_like(kinds), seed=0, batch=3, first=6)  # no such bucket: any picture will do
    assert set(none.records[:, 2].tolist()) == {6, 7, 8, 9}


def test_micro_batches_and_devices_have_as_many_of_either():
    labelled = plan(LIKE, SMALL, seed=0, steps=2, batch=4)
    records = mixed(labelled, np.zeros(4, np.int32), seed=0, batch=8, first=6).records
    for row in records >= 6:
        for parts in (2, 4):
            assert all(row[place::parts].sum() == 4 // parts for place in range(parts))  # micro-batches
            assert all(part.sum() == 4 // parts for part in np.split(row, parts))  # devices


def test_a_mosaic_joins_pictures_of_one_kind(folder):
    mosaics = dataclasses.replace(SMALL, augment=build(component("data.augment", mosaic=1.0)))
    told = unlabelled.PseudoLabelled(opened(folder), {"d.png": PseudoLabels([], [], [])})
    rows = list(loader.train_batches(LIKE, mosaics, seed=0, steps=8, batch=2, unlabelled=told))
    plain = [row for batch in rows for row, number in zip(batch.images, batch.ids, strict=True) if number >= 6]
    assert all(np.ptp(picture[:32, :32].astype(int)) < 30 for picture in plain)  # a grey picture four times


def test_a_batch_of_one_has_no_place_for_them(folder):
    with pytest.raises(ConfigError, match="A batch of 1 has no place for pictures without labels"):
        batches(folder, batch=1)
    with pytest.raises(DataError, match=r"data\.unlabelled\.images is empty"):
        unlabelled.open_folder(unlabelled.Config(), like=LIKE)

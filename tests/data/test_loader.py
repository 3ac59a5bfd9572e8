import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxkd.data import coco, shapes
from jaxkd.data.base import PictureError, Record, Subset
from jaxkd.data.loader import Config, eval_batches, plan, train_batches
from jaxkd.data.repairs import Repairs
from jaxkd.errors import ConfigError, DataError

SMALL = Config(buckets=((64, 96), (96, 64)), short=(64,), long=96, max_objects=6)


class MixedSource:
    """Landscape and portrait pictures, some of which cannot be read; a picture shows its index."""

    def __init__(self, count=20, *, broken=(), crowd=False):
        self.classes = ("thing",)
        self.category_ids = (1,)
        self.repairs = Repairs("drawn")
        self.broken = set(broken)
        self.reads = 0
        sizes = [(40, 60) if index % 3 else (60, 40) for index in range(count)]
        self.records = tuple(
            Record(
                index=index,
                image_id=100 + index,
                file=f"{index}.png",
                height=height,
                width=width,
                boxes=np.array([[4, 5, 24, 35], [10, 10, 10.5, 20]], np.float32),
                labels=np.zeros(2, np.int32),
                crowd=np.array([crowd, crowd]),
            )
            for index, (height, width) in enumerate(sizes)
        )

    def read(self, index):
        self.reads += 1
        record = self.records[index]
        if index in self.broken:
            raise PictureError(f"{record.file} does not decode; replace it.")
        return np.full((record.height, record.width, 3), index, np.uint8)

    def annotations(self):
        return {}


def same(first, second):
    return jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_a_batch_golden():
    source = MixedSource(1)
    config = Config(buckets=((100, 64),), short=(30,), long=48, flip=0.0, max_objects=3)
    batch = next(train_batches(source, config, seed=0, steps=1, batch=2))
    assert batch.images.shape == (2, 100, 64, 3)
    assert batch.images.dtype == np.uint8
    assert batch.sizes.tolist() == [[45, 30]] * 2
    np.testing.assert_allclose(batch.scales, [[0.75, 0.75]] * 2)
    np.testing.assert_allclose(batch.boxes[0], [[3, 3.75, 18, 26.25], [7.5, 7.5, 7.875, 15], [0, 0, 0, 0]])
    assert batch.valid[0].tolist() == [True, False, False]
    assert batch.crowd[0].tolist() == [False, True, False]
    assert batch.ids.tolist() == [0, 0]
    assert batch.real.tolist() == [True, True]


def test_always_and_never_flipped():
    source = MixedSource(1)
    plain, mirrored = (
        next(train_batches(source, dataclasses.replace(SMALL, flip=flip), seed=0, steps=1, batch=1))
        for flip in (0.0, 1.0)
    )
    assert plain.sizes.tolist() == [[96, 64]]
    np.testing.assert_allclose(mirrored.boxes[0, 0, [0, 2]], 64 - plain.boxes[0, 0, [2, 0]], atol=1e-4)


def test_every_picture_is_in_the_bucket_that_suits_it():
    for batch in train_batches(MixedSource(), SMALL, seed=0, steps=12, batch=3):
        portrait = batch.ids[0] % 3 == 0
        assert batch.images.shape == (3, 96, 64, 3) if portrait else (3, 64, 96, 3)
        assert ((batch.ids % 3 == 0) == portrait).all()
        assert batch.images[np.arange(3), 0, 0, 0].tolist() == batch.ids.tolist()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 9))
def test_a_plan_shows_every_picture_once_an_epoch(count, batch, seed):
    source = MixedSource(count)
    drawn = plan(source, SMALL, seed=seed, steps=40, batch=batch)
    assert drawn.records.shape == (40, batch)
    bucket_of = np.array([record.height > record.width for record in source.records])
    assert (bucket_of[drawn.records] == drawn.buckets[:, None]).all()
    for bucket in set(drawn.buckets.tolist()):
        shown = drawn.records[drawn.buckets == bucket].ravel()
        members = int((bucket_of == bucket).sum())
        for epoch in np.split(shown, range(members, len(shown), members)):
            assert len(set(epoch.tolist())) == len(epoch)


def test_a_longer_run_starts_with_the_shorter_one():
    short, long = (plan(MixedSource(), SMALL, seed=3, steps=steps, batch=4) for steps in (7, 50))
    np.testing.assert_array_equal(long.records[:7], short.records)
    np.testing.assert_array_equal(long.buckets[:7], short.buckets)
    other = plan(MixedSource(), SMALL, seed=4, steps=7, batch=4)
    assert not np.array_equal(other.records, short.records)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("short", [(64,), (64, 48, 32)])
def test_resuming_gives_the_same_bits(cache, short):
    source = shapes.load(shapes.Config(count=12, size=(64, 96)))
    config = dataclasses.replace(SMALL, cache=cache, short=short)
    options = {"seed": 5, "steps": 12, "batch": 4}
    whole = train_batches(source, config, **options)
    batches, state = [], None
    for step, batch in enumerate(whole):
        batches.append(batch)
        if step == 4:
            state = json.loads(json.dumps(whole.get_state()))

    by_start = train_batches(source, config, start=5, **options)
    by_state = train_batches(source, config, **options)
    assert by_start.get_state() == state
    by_state.set_state(state)
    for resumed in (by_start, by_state):
        later = list(resumed)
        assert len(later) == 7
        assert all(same(first, second) for first, second in zip(batches[5:], later, strict=True))


def test_resuming_in_place():
    batches = train_batches(MixedSource(), SMALL, seed=0, steps=8, batch=2)
    first = list(batches)
    batches.set_state({"next_index": 2})
    assert all(same(old, new) for old, new in zip(first[2:], batches, strict=True))


def test_threads_change_nothing():
    alone, many = (
        list(train_batches(MixedSource(), dataclasses.replace(SMALL, threads=threads), seed=1, steps=9, batch=4))
        for threads in (1, 4)
    )
    assert all(same(first, second) for first, second in zip(alone, many, strict=True))


def test_processes_share_the_batches_of_one():
    options = {"seed": 2, "steps": 6, "batch": 4}
    config = dataclasses.replace(SMALL, short=(64, 32))
    whole = list(train_batches(MixedSource(), config, **options))
    parts = [list(train_batches(MixedSource(), config, process=i, processes=2, **options)) for i in range(2)]
    for batch, *halves in zip(whole, *parts, strict=True):
        assert same(batch, jax.tree.map(lambda *rows: np.concatenate(rows), *halves))


def test_the_cache_reads_every_picture_once():
    source = MixedSource(6)
    list(train_batches(source, dataclasses.replace(SMALL, cache=True, threads=1), seed=0, steps=20, batch=2))
    assert source.reads == 6


def test_a_broken_picture_is_replaced_by_the_next_of_its_bucket():
    source = MixedSource(broken={4})
    batches = train_batches(source, SMALL, seed=0, steps=20, batch=4)
    order = plan(source, SMALL, seed=0, steps=20, batch=4)
    wanted = np.where(order.records == 4, 5, order.records)
    np.testing.assert_array_equal([batch.ids for batch in batches], wanted)
    assert batches.skipped == ("4.png",)


def test_too_many_broken_pictures_stop_with_a_name():
    batches = train_batches(MixedSource(broken=range(10)), SMALL, seed=0, steps=20, batch=4)
    with pytest.raises(DataError, match=r"\d\.png"):
        list(batches)


def test_f15_a_fault_of_a_reading_thread_ends_the_iteration(monkeypatch):
    source = MixedSource(8)
    monkeypatch.setattr(source, "read", lambda index: {}["a fault of the program"])
    batches = train_batches(source, SMALL, seed=0, steps=4, batch=2)
    with pytest.raises(KeyError, match="a fault of the program"):
        next(batches)
    batches.close()


def test_f16_pictures_that_disappear_are_replaced_up_to_the_limit(tmp_path, caplog):
    box = {"category_id": 1, "bbox": [10, 10, 20, 20]}
    source = truth_of(tmp_path, [box | {"id": number, "image_id": number} for number in (1, 2)])
    batches = train_batches(source, SMALL, seed=0, steps=40, batch=2)
    next(batches)
    (tmp_path / "1.png").unlink()
    seen = [batch.ids.tolist() for batch in batches]
    assert seen[-1] == [1, 1] and batches.skipped == ("1.png",)
    assert "There is no picture" in caplog.text
    (tmp_path / "2.png").unlink()
    either = r"2 pictures cannot be read, more than the 1 that skip_limit allows|none of the 2 pictures can be read"
    with pytest.raises(DataError, match=either):  # whichever of the threads that read is first
        list(train_batches(source, SMALL, seed=1, steps=4, batch=2))


def test_more_objects_than_places_keeps_the_largest(caplog):
    source = MixedSource(3)
    config = dataclasses.replace(SMALL, max_objects=1, flip=0.0)
    eval_batches(source, config, batch=1).close()  # which is scored by all objects
    assert (source.repairs, caplog.text) == ({}, "")
    batch = next(train_batches(source, config, seed=0, steps=1, batch=1))
    assert batch.boxes.shape == (1, 1, 4)
    assert batch.valid.all()
    assert source.repairs == {"boxes_beyond_max_objects": 3}
    assert "the largest kept: 3, the first 0.png has 2, which max_objects would have to be." in caplog.text
    train_batches(Subset(source, [0]), config, seed=0, steps=1, batch=1).close()
    assert source.repairs == {"boxes_beyond_max_objects": 3}


def truth_of(tmp_path, annotations):
    """A source of two pictures with these annotations, or without the list of them."""
    truth = {"images": [], "categories": [{"id": 1, "name": "thing"}], "annotations": annotations}
    for number in (1, 2):
        Image.new("RGB", (60, 40), "white").save(tmp_path / f"{number}.png")
        truth["images"].append({"id": number, "file_name": f"{number}.png", "height": 40, "width": 60})
    if annotations is None:
        del truth["annotations"]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return coco.load(coco.Config(images=str(tmp_path), annotations=str(tmp_path / "truth.json")))


@pytest.mark.parametrize("annotations", [None, []])
def test_a_source_without_objects_can_be_looked_at_and_not_learned_from(tmp_path, annotations):
    source = truth_of(tmp_path, annotations)
    (batch,) = eval_batches(source, SMALL, batch=2)
    assert batch.ids.tolist() == [0, 1] and batch.real.all()
    assert not batch.valid.any() and not batch.crowd.any()
    with pytest.raises(
        DataError, match=r"truth\.json: none of the 2 training pictures has an object; check the annotations"
    ):
        train_batches(source, SMALL, seed=0, steps=1, batch=2)


def test_a_picture_without_objects_is_drawn_and_a_crowd_is_no_object(tmp_path):
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20]}
    source = truth_of(tmp_path, [box | {"id": 1}, box | {"id": 2, "bbox": [5, 5, 40, 30], "iscrowd": 1}])
    batch = next(train_batches(source, SMALL, seed=0, steps=1, batch=2))
    order = batch.ids.argsort()
    assert batch.ids[order].tolist() == [0, 1]
    assert batch.valid[order, :2].tolist() == [[True, False], [False, False]]
    assert batch.crowd[order, :2].tolist() == [[False, True], [False, False]]


def test_a_picture_of_another_size_than_annotated_is_used_as_it_is(tmp_path):
    Image.new("RGB", (50, 40), "white").save(tmp_path / "a.png")
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 45, 20]},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [52, 10, 5, 20]},
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    source = coco.load(coco.Config(images=str(tmp_path), annotations=str(tmp_path / "truth.json")))
    config = Config(buckets=((40, 60),), short=(40,), long=60, flip=0.0, max_objects=3)
    batch = next(train_batches(source, config, seed=0, steps=1, batch=1))
    assert batch.sizes.tolist() == [[40, 50]]
    assert batch.valid.tolist() == [[True, False, False]]
    assert not batch.crowd.any()
    assert batch.boxes[0, 0].tolist() == [10, 10, 50, 30]


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_shows_every_picture_once(batch, processes):
    source = MixedSource(11)
    seen, steps = [], set()
    for process in range(processes):
        batches = eval_batches(source, SMALL, batch=batch * processes, process=process, processes=processes)
        steps.add(len(batches))
        for found in batches:
            assert len(found.images) == batch
            seen += found.ids[found.real].tolist()
    assert sorted(seen) == list(range(11))
    assert len(steps) == 1


def test_evaluation_is_in_order_and_unchanged():
    (first, *_) = batches = list(eval_batches(MixedSource(11), dataclasses.replace(SMALL, flip=1.0), batch=4, limit=5))
    assert [batch.ids[batch.real].tolist() for batch in batches] == [[1, 2, 4], [0, 3]]
    np.testing.assert_allclose(first.boxes[0, 0], np.array([4, 5, 24, 35]) * 1.6, rtol=1e-6)


@pytest.mark.parametrize("antialias", [False, True])
def test_a_stretched_picture_fills_its_bucket(antialias):
    source = shapes.load(shapes.Config(count=3, size=(60, 90), seed=5))
    config = Config(buckets=((64, 48),), short=(48,), long=64, fit="stretch", antialias=antialias, flip=0.0)
    for batch in (*eval_batches(source, config, batch=3), *train_batches(source, config, seed=0, steps=1, batch=3)):
        np.testing.assert_array_equal(batch.sizes, [[64, 48]] * 3)
        np.testing.assert_allclose(batch.scales, [[64 / 60, 48 / 90]] * 3, rtol=1e-6)
        for row, index in enumerate(batch.ids):
            record, (y, x) = source.records[index], batch.scales[row]
            objects = batch.boxes[row][batch.valid[row] | batch.crowd[row]]
            np.testing.assert_allclose(objects, record.boxes * [x, y, x, y], rtol=1e-5)


def test_a_broken_picture_is_not_counted_in_an_evaluation():
    batches = eval_batches(MixedSource(11, broken={4}), SMALL, batch=4)
    seen = [index for batch in batches for index in batch.ids[batch.real]]
    assert sorted(seen) == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert batches.skipped == ("4.png",)


def test_refuses():
    with pytest.raises(DataError, match="has an object"):
        train_batches(MixedSource(crowd=True), SMALL, seed=0, steps=1, batch=1)
    with pytest.raises(ConfigError, match="divide"):
        train_batches(MixedSource(), SMALL, seed=0, steps=1, batch=3, processes=2)
    with pytest.raises(ConfigError, match="buckets"):
        plan(MixedSource(), dataclasses.replace(SMALL, buckets=()), seed=0, steps=1, batch=1)

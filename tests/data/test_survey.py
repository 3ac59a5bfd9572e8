"""The numbers of a data set, on one small enough to count by hand."""

import dataclasses

import numpy as np
import pytest

from jaxkd.data import base, loader, shapes, survey
from jaxkd.data.base import PictureError, Record
from jaxkd.data.repairs import Repairs

FEEDING = loader.Config(buckets=((50, 100),), short=(50,), long=100, max_objects=3)  # halves pictures of 100x200


class Made:
    """A source of grey pictures with the boxes, labels and crowds that are given."""

    def __init__(self, rows, *, classes=("cat", "dog"), names=(), broken=(), size=(100, 200), value=90):
        self.classes = classes
        self.category_ids = tuple(range(5, 5 + len(classes)))
        self.repairs = Repairs("drawn")
        self.records = tuple(
            Record(
                index=index,
                image_id=index,
                file=names[index] if names else f"{index}.png",
                height=size[0],
                width=size[1],
                boxes=np.array([box for box, _, _ in row], np.float32).reshape(-1, 4),
                labels=np.array([label for _, label, _ in row], np.int32),
                crowd=np.array([crowd for _, _, crowd in row], bool),
            )
            for index, row in enumerate(rows)
        )
        self.broken, self.value = broken, value

    def read(self, index):
        record = self.records[index]
        if record.file in self.broken:
            raise PictureError(f"{record.file} is broken.")
        return np.full((record.height, record.width, 3), self.value + index, np.uint8)

    def annotations(self):
        items = [
            {
                "image_id": record.image_id,
                "category_id": self.category_ids[label],
                "area": float((box[2:] - box[:2]).prod()),
                "iscrowd": 0,
                "ignore": int(crowd),  # as VOC's difficult objects are told
            }
            for record in self.records
            for box, label, crowd in zip(record.boxes, record.labels, record.crowd, strict=True)
        ]
        return {"annotations": items}


def row(*sides, label=0, crowd=False):
    """Boxes of these widths and heights."""
    return [((0, 0, width, height), label, crowd) for width, height in sides]


@pytest.fixture
def source():
    first = [*row((31, 33), (32, 32), (96, 95)), *row((200, 96), label=1), *row((50, 50), crowd=True)]
    return Made([first, row((1.5, 40)), []])


def test_a_small_source_golden(source):
    found = survey.count(source, FEEDING, short=50)
    assert (found.pictures, found.without_objects, found.objects, found.crowds) == (3, 1, 5, 1)
    assert found.sizes == survey.Sizes(small=2, medium=2, large=1)  # 31x33 and 1.5x40; 32x32 and 96x95; 200x96
    cat, dog = found.classes["cat"], found.classes["dog"]
    assert cat == survey.ClassCounts(objects=4, crowds=1, pictures=2, sizes=survey.Sizes(2, 2, 0))
    assert dog == survey.ClassCounts(objects=1, crowds=0, pictures=1, sizes=survey.Sizes(0, 0, 1))
    assert found.heights == survey.Spread(100, 100.0, 100)
    assert found.widths == survey.Spread(200, 200.0, 200)
    assert (found.most_boxes, found.beyond_max_objects) == (5, 1)
    assert found.below_one_pixel == 1  # 1.5 pixels, halved
    assert found.hard_share == pytest.approx(2 / 5)  # 32x32 is 16x16 then, which is not below
    assert found.repairs == {}


def test_a_source_without_any_object():
    found = survey.count(Made([[], []]), FEEDING, short=50)
    assert (found.objects, found.hard_share, found.most_boxes, found.below_one_pixel) == (0, 0.0, 0, 0)
    assert found.classes["dog"] == survey.ClassCounts(0, 0, 0, survey.Sizes(0, 0, 0))


def test_the_resize_is_that_of_the_loader():
    source = shapes.load(shapes.Config(count=6, size=(90, 130)))
    for short in (40, 70):
        loader_config = loader.Config(buckets=((64, 96),), short=(short,), long=80)
        factors = survey.factors(source.records, loader_config, short=short)
        batches = loader.eval_batches(source, loader_config, batch=1)
        for batch in batches:
            record = source.records[int(batch.ids[0])]
            wanted = batch.boxes[0][: len(record.boxes)]
            np.testing.assert_allclose(record.boxes * factors[record.index], wanted, rtol=1e-6)
        batches.close()


def test_what_the_loader_left_out_is_no_repair(source):
    source.repairs.add("boxes_clipped", 2)
    loader.train_batches(source, FEEDING, seed=0, steps=1, batch=1).close()
    assert set(source.repairs) == {"boxes_clipped", loader.BEYOND_MAX_OBJECTS}
    assert survey.count(source, FEEDING, short=50).repairs == {"boxes_clipped": 2}


def test_places_are_spread_evenly():
    assert base.evenly_spaced(10, 4) == [0, 3, 6, 9]
    assert base.evenly_spaced(3, 12) == [0, 1, 2]
    assert base.evenly_spaced(5, 1) == [0]
    assert base.evenly_spaced(0, 4) == []


def test_pictures_that_cannot_be_read_are_named():
    source = Made([[]] * 10, broken=("0.png", "1.png", "9.png"))
    found = survey.sample(source, limit=4)
    assert found.readable == (3, 6)
    assert found.unreadable == {"0.png": "0.png is broken.", "9.png": "9.png is broken."}


def test_pictures_in_both():
    train = Made([[]] * 4, names=("a", "b", "c", "d"))
    val = Made([[]] * 3, names=("x", "b", "d"), value=90, broken=("d",))
    found = survey.overlap(train, val, limit=10)
    assert found == survey.Overlap(names=("b", "d"), looked_at=2, equal=("b",))
    assert survey.overlap(train, val, limit=1).looked_at == 1
    other = Made([[]] * 3, names=("x", "b", "d"), value=7)
    assert survey.overlap(train, other, limit=10).equal == ()  # equal names alone say nothing


def remarks(train, val, *, limit=12):
    splits = {"train": survey.count(train, FEEDING, short=50), "val": survey.count(val, FEEDING, short=50)}
    samples = {"train": survey.sample(train, limit=limit), "val": survey.sample(val, limit=limit)}
    return survey.remarks(splits, survey.overlap(train, val, limit=limit), samples, FEEDING)


def test_nothing_to_remark():
    rows = [row((40, 40)), row((40, 40), label=1)]
    assert remarks(Made(rows), Made(rows, names=("x", "y"))) == ()


def test_remarks(source):
    source.repairs.add("boxes_outside", 3, example="annotation 7")
    train = Made([row((40, 40))], classes=("cat", "dog", "cow"), broken=("0.png",))
    source.classes = train.classes
    source.category_ids = train.category_ids
    assert remarks(train, source) == (
        "Classes with objects, but none in train: dog.",
        "1 of 1 pictures of train that were opened cannot be read; the first: 0.png is broken.",
        "1 object of val narrower than one pixel after the resize, too small to be learned; larger pictures would "
        "help.",
        "val: boxes outside their picture, left out: 3, the first annotation 7.",
        "Classes with no object at all: cow.",
    )


def test_boxes_beyond_max_objects_matter_where_they_are_learned(source):
    said = "1 picture of train with more than max_objects=3 boxes; 5 would keep all of them."
    assert said in remarks(source, source)
    assert not [line for line in remarks(source, source) if "of val have more" in line]


def test_the_same_pictures_in_both_are_remarked():
    rows = [[*row((40, 40)), *row((40, 40), label=1)]] * 8
    assert remarks(Made(rows), Made(rows), limit=6) == (
        "train and val share 8 file names; of 6 that were compared 6 are the same picture: 0.png, 1.png, 3.png, 4.png, "
        "6.png and 1 more; scores would be too good.",
    )


def test_numbers_can_be_written_as_json(source):
    content = dataclasses.asdict(survey.count(source, FEEDING, short=50))
    assert content["classes"]["dog"]["sizes"] == {"small": 0, "medium": 0, "large": 1}
    assert all(type(value) in (int, float, dict, tuple) for value in content.values())

import numpy as np

from jaxkd.data import shapes
from jaxkd.data.base import Source


def test_equal_numbers_give_equal_pictures():
    first, second = shapes.load(shapes.Config(count=6)), shapes.load(shapes.Config(count=8))
    for index in range(6):
        np.testing.assert_array_equal(first.read(index), second.read(index))
        np.testing.assert_array_equal(first.records[index].boxes, second.records[index].boxes)
    other = shapes.load(shapes.Config(count=6, seed=1))
    assert not np.array_equal(first.read(0), other.read(0))


def test_boxes_enclose_what_is_drawn():
    source = shapes.load(shapes.Config(count=40, max_objects=1))
    assert isinstance(source, Source)
    for record in source.records:
        bright = source.read(record.index).min(-1) >= 128
        rows, columns = np.nonzero(bright.any(1))[0], np.nonzero(bright.any(0))[0]
        drawn = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(record.boxes, [drawn], atol=1)


def test_counts_and_classes():
    source = shapes.load(shapes.Config(count=60, max_objects=3))
    counts = [len(record.boxes) for record in source.records]
    assert set(counts) == {1, 2, 3}
    assert set(np.concatenate([record.labels for record in source.records])) == {0, 1, 2}
    assert len(source.annotations()["annotations"]) == sum(counts)

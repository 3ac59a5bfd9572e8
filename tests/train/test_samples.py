"""The pictures a run shows: the same few each time, with truth and with what was found."""

import numpy as np

from jaxkd.config import build, component
from jaxkd.data import shapes
from jaxkd.data.base import PictureError
from jaxkd.train.samples import SamplePictures


def split(**more):
    return shapes.load(build(component("data.shapes", count=9, size=(64, 96), **more)))


def test_a_few_pictures_side_by_side():
    source = split()
    samples = SamplePictures(source, count=3)
    blank = samples([])
    assert list(blank) == [f"pictures/{source.records[index].image_id}" for index in (0, 4, 8)]
    (record, page) = source.records[4], blank[f"pictures/{source.records[4].image_id}"]
    assert page.dtype == np.uint8 and page.shape[1] > 2 * 96
    result = {"image_id": record.image_id, "category_id": source.category_ids[0], "bbox": [5.0, 30.0, 20.0, 20.0]}
    sure, unsure = (samples([result | {"score": score}]) for score in (0.9, 0.1))
    for name, before in blank.items():
        changed = np.argwhere((sure[name] != before).any(-1))
        assert bool(len(changed)) == (name == f"pictures/{record.image_id}")
        if len(changed):
            assert changed[:, 1].min() > page.shape[1] // 2  # truth stands on the left
        np.testing.assert_array_equal(unsure[name], before)


def test_only_pictures_that_are_evaluated():
    assert [len(SamplePictures(split(), limit=limit, count=5)([])) for limit in (0, 2)] == [5, 2]


def test_a_picture_that_cannot_be_read_is_left_out(monkeypatch):
    source = split()
    samples, read = SamplePictures(source, count=3), source.read

    def broken(index):
        if index == 4:
            raise PictureError("It is gone.")
        return read(index)

    monkeypatch.setattr(source, "read", broken)
    assert len(samples([])) == 2

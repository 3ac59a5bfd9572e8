"""Truth and detections in one picture file."""

import dataclasses

import compared
from PIL import Image

from jaxkd.comparison import side_by_side


def test_only_pictures_that_were_compared_are_read(tmp_path, monkeypatch):
    source, comparison = compared.source(), compared.comparison()
    some = dataclasses.replace(comparison, images=comparison.images[3:])
    read = []
    monkeypatch.setattr(source, "read", lambda index, own=source.read: read.append(index) or own(index))
    side_by_side.write(tmp_path / "pictures.png", some, source)
    ids = [source.records[index].image_id for index in read]
    assert len(ids) == side_by_side.PICTURES and set(ids) <= set(some.images)
    with Image.open(tmp_path / "pictures.png") as picture:
        assert picture.width > (1 + len(comparison.detectors)) * 64

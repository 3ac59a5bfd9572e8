from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxkd.data.base import PictureError, Source
from jaxkd.data.files import FilesSource


def picture(file: Path, *, height: int = 20, width: int = 30, value: int = 90) -> Path:
    cv2.imwrite(str(file), np.full((height, width, 3), value, np.uint8))
    return file


def test_readable_pictures_in_the_order_of_their_names(tmp_path):
    paths = [picture(tmp_path / "b.png"), picture(tmp_path / "a ü.png", height=8, value=7)]
    source = FilesSource(paths, classes=("cat", "dog"))
    assert isinstance(source, Source)
    assert source.failed == {}
    assert [(r.index, r.image_id, r.file, r.height, r.width) for r in source.records] == [
        (0, 1, str(paths[0]), 20, 30),
        (1, 2, str(paths[1]), 8, 30),
    ]
    assert (source.read(0) == 90).all()
    assert (source.read(1) == 7).all()
    assert all(len(r.boxes) == len(r.labels) == len(r.crowd) == 0 for r in source.records)


def test_others_are_named_with_the_reason(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_text("no picture")
    paths = [broken, picture(tmp_path / "good.png"), tmp_path / "missing.png", tmp_path]
    source = FilesSource(paths, classes=("cat",))
    assert source.paths == [paths[1]]
    assert [(record.index, record.image_id) for record in source.records] == [(0, 1)]
    assert list(source.failed) == [broken, tmp_path / "missing.png", tmp_path]
    assert all(str(path) in reason and reason.endswith(".") for path, reason in source.failed.items())
    assert (source.read(0) == 90).all()


def test_no_readable_picture_leaves_no_records(tmp_path):
    source = FilesSource([tmp_path / "missing.png"], classes=("cat",))
    assert (len(source.records), len(source.failed)) == (0, 1)
    assert source.annotations()["images"] == []


def test_annotations_hold_pictures_and_categories_and_no_object(tmp_path):
    source = FilesSource([picture(tmp_path / "a.png")], classes=("cat", "dog"))
    assert source.category_ids == (1, 2)
    assert source.annotations() == {
        "images": [{"id": 1, "file_name": str(tmp_path / "a.png"), "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [],
    }


def test_a_picture_that_vanished_after_the_first_look(tmp_path):
    file = picture(tmp_path / "a.png")
    source = FilesSource([file], classes=("cat",))
    file.unlink()
    with pytest.raises(PictureError, match=r"no picture .*a\.png"):
        source.read(0)

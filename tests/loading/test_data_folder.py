"""The data of a folder: its splits, what was assumed, and what to consider before training."""

import shutil

import drawn_layouts

from jaxkd.config import build, component
from jaxkd.loading import folder

LOADER = build(component("data.loader", buckets=((64, 128),), short=(64,), long=128))


def load(path, **options):
    return folder.load(str(path), split_file=path.parent / "split.json", **options)


def test_splits_as_they_are(tmp_path):
    drawn_layouts.yolo_ultralytics(tmp_path / "pets")
    data = load(tmp_path / "pets")
    assert (data.format, list(data.sources), data.divided) == ("yolo", ["train", "val", "test"], False)
    assert not (tmp_path / "split.json").exists()


def test_validation_pictures_of_another_folder_with_what_was_assumed_of_it(tmp_path):
    drawn_layouts.yolo_ultralytics(tmp_path / "pets")
    drawn_layouts.yolo_ultralytics(tmp_path / "more")
    shutil.rmtree(tmp_path / "more/images/test")
    data = load(tmp_path / "pets", val=str(tmp_path / "more"))
    assert data.components["val"].data.startswith(str(tmp_path / "more"))
    assert any(sentence.startswith(f"{tmp_path / 'more'}: There is no ") for sentence in data.sentences)


def test_what_was_repaired_is_said_by_split(tmp_path):
    drawn_layouts.yolo_ultralytics(tmp_path / "pets")
    labels = tmp_path / "pets/labels/val/d.txt"
    labels.write_text(labels.read_text() * 2)
    (repaired,) = (sentence for sentence in load(tmp_path / "pets").sentences if "again" in sentence)
    assert repaired.startswith("val: ")


def test_remarks(tmp_path):
    drawn_layouts.yolo_ultralytics(tmp_path / "pets")
    (tmp_path / "pets/labels/train/b.txt").unlink()
    said = folder.remarks(load(tmp_path / "pets"), LOADER)
    assert "Classes with fewer than 10 objects to learn from: cat (1) and dog (1)." in said

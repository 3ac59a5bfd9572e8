"""The evidence of Hugging Face's layouts and of Open Images, and the sources that they lead to."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from hosted_scene import CAT, FIRST, HEADER, OWL, README, ROWS, SECOND, line, write_rows, write_shards
from PIL import Image

from jaxkd.config import component
from jaxkd.data.layouts import imagefolder, open_images
from jaxkd.data.layouts.base import walk
from jaxkd.errors import DataError
from jaxkd.loading import prepare

NAMED = [{"file_name": "d.png", "objects": {"bbox": [[1, 2, 3, 4]], "label": ["owl"]}}]


def test_an_imagefolder_with_names_in_its_readme(tmp_path):
    (tmp_path / "README.md").write_text(README)
    write_rows(tmp_path / "train", ROWS)
    write_rows(tmp_path / "data" / "validation", ROWS[:1], "csv")
    found = imagefolder.evidence(walk(tmp_path))
    assert found is not None and found.format == "imagefolder" and found.assumptions == ()
    assert found.splits == {
        "train": component("data.imagefolder", root=str(tmp_path), split="train"),
        "val": component("data.imagefolder", root=str(tmp_path), split="data/validation"),
    }
    assert found.classes == ("cat", "no") and found.count and found.count() == 5
    assert [len(source.records) for source in prepare.load_sources(found.splits).values()] == [3, 1]


def test_names_as_categories_are_those_of_all_splits(tmp_path):
    write_rows(tmp_path / "train", NAMED)
    other = [{"file_name": "e.png", "objects": {"bbox": [[1, 2, 3, 4]], "label": ["cat"]}}]
    write_rows(tmp_path / "valid", other)
    found = imagefolder.evidence(walk(tmp_path))
    assert found and found.classes == ("cat", "owl")
    assert [source.classes for source in prepare.load_sources(found.splits).values()] == [found.classes] * 2


def test_metadata_at_the_top_and_numbers_without_names(tmp_path):
    write_rows(tmp_path, ROWS, "parquet")
    found = imagefolder.evidence(walk(tmp_path))
    assert found and list(found.splits) == ["train"] and found.classes == ("0", "1")
    assert "Nothing names the classes" in found.assumptions[0]
    assert len(prepare.load_source(found.splits["train"]).records) == 3


def test_parquet_files(tmp_path):
    write_shards(tmp_path, ROWS)
    write_shards(tmp_path, ROWS, split="validation")
    found = imagefolder.evidence(walk(tmp_path))
    assert found and found.classes == ("cat", "no") and found.count and found.count() == 6
    assert found.splits["val"] == component("data.imagefolder", root=str(tmp_path), split="validation")
    assert [len(source.records) for source in prepare.load_sources(found.splits).values()] == [3, 3]
    (tmp_path / "data" / "train").mkdir()
    for file in (tmp_path / "data").glob("train-*"):
        file.rename(tmp_path / "data" / "train" / f"{file.name[6:11]}.parquet")
    found = imagefolder.evidence(walk(tmp_path))
    assert found and found.splits["train"] == component("data.imagefolder", root=str(tmp_path / "data"), split="train")
    assert len(prepare.load_source(found.splits["train"]).records) == 3


def test_a_given_file_is_taken_alone(tmp_path):
    write_rows(tmp_path / "train", ROWS)
    write_rows(tmp_path / "val", ROWS)
    found = imagefolder.evidence(walk(tmp_path / "val" / "metadata.jsonl"))
    assert found and list(found.splits) == ["train"] and found.splits["train"].root == str(tmp_path / "val")


def test_what_has_no_boxes_is_no_evidence(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.jpg", "text": "a cat"}))
    pyarrow.parquet.write_table(pyarrow.table({"image": ["a"], "label": [1]}), tmp_path / "train.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "boxes.csv").write_text("image,x,y\n")
    assert imagefolder.evidence(walk(tmp_path)) is None
    assert open_images.evidence(walk(tmp_path)) is None


def test_one_split_twice_and_one_that_no_word_names(tmp_path):
    write_rows(tmp_path / "train", NAMED)
    write_rows(tmp_path, NAMED)
    found = imagefolder.evidence(walk(tmp_path))
    assert found and found.assumptions == (
        "The metadata at the top belongs to no split by its name, so it is passed over.",
    )
    write_rows(tmp_path / "training", NAMED)
    with pytest.raises(DataError, match="has the split 'train' twice, as 'train' and 'training'; put train, val or"):
        imagefolder.evidence(walk(tmp_path))


@pytest.fixture
def hosted(tmp_path):
    """Open Images as it is downloaded, with one picture in train and in validation, and none in test."""
    for split, label, image in (("train", CAT, FIRST), ("validation", OWL, SECOND), ("test", OWL, "ff")):
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}-annotations-bbox.csv").write_text(HEADER + line(image, label) * 2 + line("gone", "/m/0"))
        if split != "test":
            Image.new("RGB", (80, 60)).save(tmp_path / split / f"{image}.jpg")
    (tmp_path / "class-descriptions-boxable.csv").write_text(f"{CAT},Cat\n{OWL},Owl\n/m/0,Other\n")
    return tmp_path


def test_open_images(hosted):
    found = open_images.evidence(walk(hosted))
    assert found and found.format == "open_images" and found.classes == ("Cat", "Owl")
    assert found.assumptions == ("test-annotations-bbox.csv has no folder of pictures, so it is passed over.",)
    assert list(found.splits) == ["train", "val"] and found.count and found.count() == 4
    assert found.splits["val"] == component(
        "data.open_images",
        annotations=str(hosted / "validation-annotations-bbox.csv"),
        images=str(hosted / "validation"),
        names=str(hosted / "class-descriptions-boxable.csv"),
        classes=("Cat", "Owl"),
    )
    sources = prepare.load_sources(found.splits)
    assert [record.labels.tolist() for source in sources.values() for record in source.records] == [[0, 0], [1, 1]]


def test_open_images_without_names_or_pictures(hosted):
    (hosted / "class-descriptions-boxable.csv").unlink()
    found = open_images.evidence(walk(hosted))
    assert found and found.classes == (CAT, OWL) and "so they are their own names." in found.assumptions[1]
    (hosted / "test-annotations-bbox.csv").rename(hosted / "more-train.csv")
    with pytest.raises(DataError, match="are both of the split 'train'; move one out"):
        open_images.evidence(walk(hosted))
    (hosted / "more-train.csv").unlink()
    for split, image in (("train", FIRST), ("validation", SECOND)):
        (hosted / split / f"{image}.jpg").unlink()
    with pytest.raises(DataError, match=r"has pictures of train-annotations-bbox\.csv, such as train/ID\.jpg"):
        open_images.evidence(walk(hosted))


def test_one_file_and_one_folder_of_open_images(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "pictures" / f"{FIRST}.jpg")
    (tmp_path / "boxes.csv").write_text(HEADER + line())
    found = open_images.evidence(walk(tmp_path))
    assert found and found.splits["train"].images == str(tmp_path / "pictures")

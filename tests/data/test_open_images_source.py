import numpy as np
import pytest
from hosted_scene import CAT, FIRST, HEADER, OWL, PAIR, SECOND, line
from PIL import Image

from jaxkd.data import open_images
from jaxkd.data.base import Source, Stored
from jaxkd.errors import ConfigError, DataError


@pytest.fixture
def load(tmp_path):
    """Loads rows with two pictures beside them."""
    (tmp_path / "train").mkdir()
    for shade, name in enumerate((FIRST, SECOND)):
        Image.new("RGB", (80, 60), (40 * shade,) * 3).save(tmp_path / "train" / f"{name}.jpg")
    (tmp_path / "names.csv").write_text(f'{CAT},Cat\n{OWL},"Owl, the"\n')

    def loaded(text=PAIR, head=HEADER, **fields):
        file = tmp_path / "boxes.csv"
        file.write_text(head + text)
        places = {"annotations": str(file), "images": str(tmp_path / "train"), "names": str(tmp_path / "names.csv")}
        return open_images.load(open_images.Config(**(places | fields)))

    return loaded


def test_a_small_file_golden(load):
    source = load()
    assert isinstance(source, Source) and isinstance(source, Stored)
    assert source.classes == ("Cat", "Owl, the") and source.category_ids == (1, 2)
    assert [(r.index, r.image_id, r.file, r.height, r.width) for r in source.records] == [
        (0, 1, f"{SECOND}.jpg", 60, 80),
        (1, 2, f"{FIRST}.jpg", 60, 80),
    ]
    assert source.records[0].boxes.tolist() == [[20, 30, 60, 60]]  # not by the order of the columns
    np.testing.assert_allclose(source.records[1].boxes, [[20, 30, 60, 60], [0, 0, 8, 12]])
    assert source.records[1].labels.tolist() == [0, 1] and source.records[1].crowd.tolist() == [True, False]
    assert source.annotations()["annotations"][0]["area"] == 1200
    assert int(source.read(0).mean().round()) == 40 and source.content(0)[:2] == b"\xff\xd8"
    assert source.repairs == {"annotations_of_absent_pictures": 1, "objects_denied": 1}
    assert source.repairs.examples["objects_denied"] == "line 5"


def test_pictures_without_a_row_are_left_out_and_those_with_denials_alone_are_background(load):
    source = load(line(FIRST, confidence=0), classes=("Cat",))
    assert [(record.file, len(record.boxes)) for record in source.records] == [(f"{FIRST}.jpg", 0)]
    assert source.repairs["pictures_without_rows"] == 1


def test_other_classes_are_left_out_and_counted(load):
    source = load(classes=("Owl, the",))
    assert [record.labels.tolist() for record in source.records] == [[0], [0]]
    assert source.repairs["labels_not_wanted"] == 1 and source.repairs.examples["labels_not_wanted"] == "line 4, Cat"


def test_without_names_the_labels_are_the_classes(load):
    assert load(names="").classes == (CAT, OWL)


def test_a_file_with_fewer_columns_in_another_order(load):
    source = load(f"{CAT},{FIRST},0,0,0.5,0.5\n\n", head="LabelName,ImageID,XMin,YMin,XMax,YMax\n", limit=1)
    assert source.records[0].boxes.tolist() == [[0, 0, 40, 30]]


def test_faulty_boxes_are_counted_and_pictures_that_cannot_be_read(load, tmp_path):
    source = load(line(box=(0.5, 0.5, 0, 1)) + line(box=(0.5, 1.25, 0, 1)) + line(SECOND, box=("nan", 1, 0, 1)))
    assert source.repairs == {"boxes_without_area": 1, "boxes_clipped": 1, "boxes_not_finite": 1}
    with pytest.raises(DataError, match=r"boxes without an area: 1, the first line 2; correct the file"):
        load(line(box=(0.5, 0.5, 0, 1)), strict=True)
    (tmp_path / "train" / f"{FIRST}.jpg").write_bytes(b"")
    assert load().repairs["pictures_unreadable"] == 1


@pytest.mark.parametrize(
    ("text", "fields", "words"),
    [
        (line("ff"), {}, r"None of the pictures that .*boxes\.csv describes is in .*train; correct the path"),
        (line(label="/m/0"), {}, r"line 2, has the label '/m/0', which .*names\.csv does not name; add it there"),
        (line(box=("a", 1, 0, 1)), {}, r"line 2, has a text where a number belongs \(.*'a'\); correct it"),
        (line(box=(20, 60, 30, 60)), {}, r"has the corners \[20\.0, 30\.0, 60\.0, 60\.0\]; wanted are shares"),
        (f"{FIRST},x\n", {}, "line 2, has 2 of 13 columns; complete it"),
        (line(confidence=0), {}, "has no object of a picture that exists to take a class from; set classes"),
        (line(), {"annotations": "gone.csv"}, r"There is no file gone\.csv"),
        (line(), {"images": "gone"}, "There is no picture folder gone"),
    ],
)
def test_messages(load, text, fields, words):
    with pytest.raises(DataError, match=words):
        load(text, **fields)


def test_messages_on_columns_and_names(load, tmp_path):
    with pytest.raises(DataError, match="has no column LabelName and no column YMax in its first line; give a file"):
        load("", head="ImageID,XMin,XMax,YMin\n")
    with pytest.raises(ConfigError, match="classes lists 'Cat' twice"):
        load(classes=("Cat", "Cat"))
    (tmp_path / "names.csv").write_text(f"LabelName,DisplayName\n{CAT},Cat\n{OWL},Cat\n")
    with pytest.raises(DataError, match=r"calls both .* 'Cat'; make the names different"):
        load()
    (tmp_path / "names.csv").write_text(f"{CAT}\n")
    with pytest.raises(DataError, match=r"names\.csv, line 1, holds '/m/01yrx'; wanted is `label,name`"):
        load()
    (tmp_path / "names.csv").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match=r"names\.csv is no CSV file in UTF-8"):
        load()

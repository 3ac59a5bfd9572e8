"""YOLO's layout: what names a set, where labels lie, and what every row means."""

import numpy as np
import pytest
from drawn_layouts import draw, write
from PIL import Image

from jaxkd.data import yolo
from jaxkd.data.base import PictureError, Source, Stored
from jaxkd.errors import DataError

HEIGHT, WIDTH = 64, 128
BOX = "0 0.5 0.5 0.25 0.5"  # the corners 48, 16, 80, 48
NAMES = "names: [cat, dog]\n"


@pytest.fixture
def load(tmp_path):
    """Loads one picture with these rows, or more of them, with any data.yaml."""

    def loaded(*rows, yaml=f"train: images\n{NAMES}", **fields):
        for number, text in enumerate(rows):
            draw(tmp_path / f"images/{number}.png")
            write(tmp_path / f"labels/{number}.txt", text)
        write(tmp_path / "data.yaml", yaml)
        return yolo.load(yolo.Config(**{"data": str(tmp_path / "data.yaml")} | fields))

    return loaded


def refused(call, *words):
    with pytest.raises(DataError) as info:
        call()
    text = str(info.value)
    assert text.endswith(".") and "\n" not in text
    for word in words:
        assert word in text, text


def test_a_small_set_golden(load):
    source = load(f"{BOX}\n1 0.25 0.25 0.5 0.5\n", "1 0.5 0.5 1 1\n")
    assert isinstance(source, Source) and isinstance(source, Stored)
    assert (source.classes, source.category_ids) == (("cat", "dog"), (0, 1))
    first, second = source.records
    assert (first.index, first.image_id, first.file, first.height, first.width) == (0, 1, "images/0.png", 64, 128)
    assert first.boxes.tolist() == [[48, 16, 80, 48], [0, 0, 64, 32]]
    assert first.labels.tolist() == [0, 1] and first.crowd.tolist() == [False, False]
    assert second.boxes.tolist() == [[0, 0, 128, 64]]
    assert source.read(0).shape == (64, 128, 3)
    assert source.repairs == {}
    assert source.annotations()["annotations"][1] == {
        "id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 64, 32], "area": 2048, "iscrowd": 0,
    }  # fmt: skip
    assert load(BOX, limit=1).records[0].file == "images/0.png"


# ---- Rows ----


@pytest.mark.parametrize(
    "text",
    ["0\t0.5\t0.5  0.25 5e-1\r\n\r\n", "\ufeff0.0 .5 0.5 0.25 0.5   \n   \n"],
)
def test_blanks_tabs_line_ends_and_a_byte_order_mark_pass(load, text):
    assert load(text).records[0].boxes.tolist() == [[48, 16, 80, 48]]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("0,0.5,0.5,0.25,0.5", "write blanks between the numbers"),
        ("0;0.5;0.5;0.25;0.5", "write blanks between the numbers"),
        ("0 0,5 0,5 0,25 0,5", "a point before decimals"),
        ("0 0.5 0.5 0.25 0.5 0.9", "look like predictions"),
        ("0 0.5 0.5 0.25", "4 numbers are no box"),
        ("0", "1 numbers are no box"),
        ("0 0.5 0.5 0.25 0.5 0.1 0.1 0.1", "8 numbers are no box"),
        ("cat 0.5 0.5 0.25 0.5", "write numbers alone"),
        ("0.5 0.5 0.5 0.25 0.5", "the class has to be a whole number"),
        ("-1 0.5 0.5 0.25 0.5", "the class has to be a whole number"),
        ("nan 0.5 0.5 0.25 0.5", "the class has to be a whole number"),
        ("1e30 0.5 0.5 0.25 0.5", "the class has to be a whole number"),
    ],
)
def test_other_rows_are_refused_with_file_and_line(load, row, words):
    refused(lambda: load(f"{BOX}\n{row}\n"), "labels/0.txt, line 2, is '", words)


def test_a_polygon_becomes_the_box_around_it(load):
    source = load("1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75\n0 0.5 0.5 0.75 0.5 0.75 1\n")
    assert source.records[0].boxes.tolist() == [[32, 16, 96, 48], [64, 32, 96, 64]]
    assert source.repairs == {"polygons_to_boxes": 2}


def test_keypoints_follow_the_box(load):
    refused(lambda: load(f"{BOX} 0.5 0.5 1"), "need kpt_shape in the data.yaml")
    source = load(f"{BOX} 0.5 0.5 0.6 1.7", yaml=f"train: images\nkpt_shape: [2, 2]\n{NAMES}")
    assert source.records[0].boxes.tolist() == [[48, 16, 80, 48]]
    assert source.repairs == {}


def test_boxes_without_area_or_with_nan_are_left_out_and_counted(load):
    source = load(f"{BOX}\n0 0.5 0.5 0 0.5\n0 0.5 0.5 0.1 -0.5\n0 nan 0.5 0.1 0.5\n0 0.5 0.5 inf 0.5\n")
    assert len(source.records[0].boxes) == 1
    assert source.repairs == {"boxes_without_area": 2, "boxes_not_finite": 2}
    assert source.repairs.examples["boxes_without_area"].endswith("labels/0.txt, line 2")
    refused(lambda: load(f"{BOX}\n0 0.5 0.5 0 0.5\n", strict=True), "boxes without an area: 1", "line 2")


def test_equal_rows_are_one(load):
    source = load(f"{BOX}\n{BOX}\n1{BOX[1:]}\n{BOX.replace('0.25', '0.250')}\n", BOX)
    assert [record.labels.tolist() for record in source.records] == [[0, 1], [0]]
    assert source.repairs == {"rows_repeated": 2}


def many(row, count=40):
    """Rows of which `row` is one, all different."""
    return "".join(f"0 0.5 0.5 {0.2 + index / 100} 0.5\n" for index in range(count)) + row


def test_a_little_beyond_is_clipped_and_more_is_left_out(load):
    source = load(many("0 1.005 0.5 0.5 0.5"))
    assert source.records[0].boxes[-1].tolist() == pytest.approx([96.64, 16, 128, 48])
    assert source.repairs == {"boxes_clipped": 1}
    source = load(many("0 1.02 0.5 0.5 0.5"))
    assert (len(source.records[0].boxes), source.repairs) == (40, {"boxes_beyond_shares": 1})


def test_pixels_in_place_of_shares_end_the_run(load):
    refused(lambda: load("0 60 30 20 10\n1 90 30 20 10\n"), "2 of 2 boxes", "line 1", "in pixels, not shares")
    with pytest.raises(DataError, match=r"1 of 3 boxes.*beyond 0 to 1; divide"):
        load(f"{BOX}\n0 0.5 0.5 1.2 1\n1 0.5 0.5 1 1\n")


def test_a_class_without_a_name_ends_the_run(load):
    refused(lambda: load(BOX, f"{BOX}\n7 0.5 0.5 0.25 0.5\n"), "labels/1.txt, line 2 has the class 7", "1 of 3 rows")
    refused(lambda: load(f"1{BOX[1:]}", f"2{BOX[1:]}"), "count from 1: subtract 1")


def test_the_shares_are_of_the_turned_picture(load, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(tmp_path / "images/turned.jpg", exif=exif)
    write(tmp_path / "labels/turned.txt", "0 0.5 0.25 1 0.5")
    source = load()
    assert (source.records[0].height, source.records[0].width) == (WIDTH, HEIGHT)
    assert source.records[0].boxes.tolist() == [[0, 0, HEIGHT, WIDTH / 2]]
    assert source.read(0).shape == (WIDTH, HEIGHT, 3)
    assert (source.records[0].height, source.reading.exif) == (WIDTH, "turn")
    stored = load(reading=yolo.pictures.Config(exif="ignore"))
    assert stored.read(0).shape == (stored.records[0].height, stored.records[0].width, 3) == (HEIGHT, WIDTH, 3)


# ---- Pictures and label files ----


def test_a_picture_without_rows_or_without_a_file_is_background(load, tmp_path):
    draw(tmp_path / "images/none.png")
    source = load(BOX, "", "\n")
    assert [len(record.boxes) for record in source.records] == [1, 0, 0, 0]
    assert source.repairs == {"labels_missing": 1}
    assert source.repairs.examples["labels_missing"].endswith("none.png")


def test_no_label_at_all(load, tmp_path):
    draw(tmp_path / "images/none.png")
    refused(load, "None of 1 pictures has a label file", f"{tmp_path}/labels/none.txt")


def test_labels_without_pictures_and_pictures_of_one_stem_are_counted(load, tmp_path):
    write(tmp_path / "labels/gone.txt", BOX)
    draw(tmp_path / "images/0.jpg")
    source = load(BOX)
    assert [record.boxes.tolist() for record in source.records] == [[[48, 16, 80, 48]]] * 2
    assert source.repairs == {"labels_without_pictures": 1, "labels_shared": 2}


def test_the_last_images_folder_is_the_one_and_labels_may_lie_beside(tmp_path, load):
    for folder, labels in (("images/train/images", "images/train/labels"), ("photos", "photos")):
        draw(tmp_path / folder / "a.png")
        write(tmp_path / labels / "a.txt", BOX)
        source = load(yaml=f"train: {folder}\n{NAMES}")
        assert [len(record.boxes) for record in source.records] == [1]


def test_an_unreadable_or_unsupported_picture_is_left_out(load, tmp_path):
    write(tmp_path / "images/broken.png", "no picture")
    write(tmp_path / "images/phone.heic", "")
    source = load(BOX, BOX)
    assert [record.file for record in source.records] == ["images/0.png", "images/1.png"]
    assert source.repairs == {"pictures_unsupported": 1, "labels_missing": 1, "pictures_unreadable": 1}
    (tmp_path / "images/0.png").unlink()
    with pytest.raises(PictureError, match="There is no picture"):
        source.read(0)


def test_lists_name_pictures_in_several_ways(load, tmp_path):
    for name in ("one.png", "two.png", "three.png"):
        draw(tmp_path / "images" / name)
        write(tmp_path / f"labels/{name[:-4]}.txt", BOX)
    write(tmp_path / "lists/train.txt", f'./../images/one.png\r\n"images\\two.png"\n\n{tmp_path}/images/three.png  \n')
    source = load(yaml=f"train: lists/train.txt\n{NAMES}")
    assert [record.file for record in source.records] == ["images/one.png", "images/two.png", "images/three.png"]
    assert source.repairs == {"names_with_backslashes": 1}


def test_a_listed_picture_that_is_missing_or_listed_again_is_counted(load, tmp_path):
    write(tmp_path / "train.txt", "images/0.png\nimages/1.png\nimages/0.png\nimages/gone.png\n")
    source = load(BOX, BOX, yaml=f"train: train.txt\n{NAMES}")
    assert len(source.records) == 2
    assert source.repairs == {"files_listed_again": 1, "labels_missing": 1, "pictures_unreadable": 1}
    write(tmp_path / "train.txt", "images/0.png\nimages/1.png\nimages/x.png\nimages/y.png\nimages/z.png\n")
    refused(lambda: load(yaml=f"train: train.txt\n{NAMES}"), "3 of 5 pictures", "images/x.png")
    write(tmp_path / "train.txt", "\n")
    refused(lambda: load(yaml=f"train: train.txt\n{NAMES}"), "holds no picture")


def test_links_out_of_the_set_are_refused(load, tmp_path):
    outside = tmp_path / "outside"
    draw(outside / "a.png")
    write(outside / "a.txt", BOX)
    (tmp_path / "set/images").mkdir(parents=True)
    draw(tmp_path / "set/images/a.png")
    (tmp_path / "set/labels").symlink_to(outside)
    write(tmp_path / "set/data.yaml", f"train: images\n{NAMES}")
    config = yolo.Config(data=str(tmp_path / "set/data.yaml"))
    refused(lambda: yolo.load(config), "is a link to")
    assert len(yolo.load(yolo.Config(data=config.data, allow_links=True)).records) == 1


# ---- data.yaml and its like ----


@pytest.mark.parametrize(
    "yaml",
    [
        "path: .\ntrain: images\nnames:\n  0: cat\n  1: dog\n",
        "path: {folder}\ntrain: images/\nval:\ntest: null\nnc: 2\nnames: ['cat', \"dog\"]  # two\n",
        "train: ../images\nnames: [cat, dog]\ndownload: |\n  import os\n  os.abort()\n",
        "train: [images]\nnames: {{1: dog, 0: cat}}\n",
        "path: /nowhere\ntrain: images\nnames: [cat, dog]\n",
        "names: [cat, dog]\n",
    ],
)
def test_forms_of_a_yaml(load, tmp_path, yaml):
    source = load(BOX, yaml=yaml.format(folder=tmp_path))
    assert source.classes == ("cat", "dog")
    assert source.records[0].boxes.tolist() == [[48, 16, 80, 48]]


def test_a_path_that_is_taken_from_elsewhere_is_counted(load):
    assert load(BOX, yaml=f"train: ../images\n{NAMES}").repairs == {"paths_elsewhere": 1}


def test_names_stay_as_they_are_written(load):
    source = load(f"2{BOX[1:]}", yaml="train: images\nnames: [no, 1, 2024-01-01, on]\n")
    assert source.classes == ("no", "1", "2024-01-01", "on")


def test_names_with_holes_keep_the_numbers(load):
    yaml = "train: images\nnc: 8\nnames:\n  7: dog\n  2: cat\n"
    source = load(f"7{BOX[1:]}\n2{BOX[1:]}\n", yaml=yaml)
    assert (source.classes, source.category_ids) == (("cat", "dog"), (2, 7))
    assert source.records[0].labels.tolist() == [1, 0]
    refused(lambda: load(f"3{BOX[1:]}", yaml=yaml), "has the class 3")


def test_without_names_classes_are_numbers(load):
    assert load(f"2{BOX[1:]}", yaml="train: images\nnc: 4\n").classes == ("0", "1", "2", "3")
    source = load(f"2{BOX[1:]}", yaml="train: images\n")
    assert (source.classes, source.repairs) == (("0", "1", "2"), {"classes_without_names": 3})
    assert load(classes=("a", "b", "c"), yaml="train: images\n").classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("train: images\nnc: 3\nnames: [cat, dog]\n", "nc is '3', and there are 2 names"),
        ("train: images\nnames: [cat, cat]\n", "'cat' twice"),
        ("train: images\nnames: [cat, '']\n", "the class 1 the name ''"),
        ("train: images\nnames: [cat, [dog]]\n", "the class 1 the name ['dog']"),
        ("train: images\nnc: 1\nnames: [[dog]]\n", "the class 0 the name ['dog']"),
        ("train: images\nnames: {a: cat}\n", "has the key 'a'"),
        ("train: images\nnames: {1: cat, 01: dog}\n", "two names"),
        ("train: images\nnames: cat\n", "names is 'cat'"),
        ("train: {a: b}\nnames: [cat]\n", "train is {'a': 'b'}"),
        ("path: [a]\ntrain: images\nnames: [cat]\n", "path is ['a']"),
        ("train: images\nnames: &a [cat]\nmore: *a\n", "alias"),
        ("train: images\n  names: [\n", "no YAML that is read here in line 2"),
        ("train: images\nnames: !!python/object/apply:os.abort []\n", ""),
        ("- train\n", "holds no keys"),
        ("train: nowhere\nnames: [cat]\n", "names 'nowhere' for the split 'train', which is not there"),
        ("val: images\nnames: [cat, dog]\n", "has no split 'train'; there are val"),
    ],
)
def test_yamls_that_are_refused(load, yaml, words):
    if not words:
        assert load(BOX, yaml=yaml + "nc: 1\n").classes == ("0",)  # a tag is nothing but a word
        return
    refused(lambda: load(BOX, yaml=yaml), words)


def test_files_that_are_no_text(tmp_path):
    draw(tmp_path / "images/a.png")
    refused(lambda: yolo.load(yolo.Config(data=str(tmp_path / "data.yaml"))), "There is no file")
    (tmp_path / "data.yaml").write_bytes(b"names: [\xff]")
    refused(lambda: yolo.load(yolo.Config(data=str(tmp_path / "data.yaml"))), "is not UTF-8 in line 1")
    (tmp_path / "data.yaml").write_bytes(b"a: b\n" * 2**18)
    refused(lambda: yolo.load(yolo.Config(data=str(tmp_path / "data.yaml"))), "is larger than 1 MiB")
    write(tmp_path / "obj.data", "nothing\n")
    refused(lambda: yolo.load(yolo.Config(data=str(tmp_path / "obj.data"))), "no list of 'key = value' lines")
    write(tmp_path / "obj.data", "train = gone.txt\n")
    refused(lambda: yolo.load(yolo.Config(data=str(tmp_path / "obj.data"))), "names no list of pictures that exists")
    refused(lambda: yolo.load(yolo.Config(data=str(tmp_path / "images"))), "has no picture with a labels/NAME.txt")


def test_a_folder_is_read_without_a_yaml(load, tmp_path):
    load(BOX)
    (tmp_path / "data.yaml").unlink()
    write(tmp_path / "classes.txt", "cat\ndog\n")
    source = yolo.load(yolo.Config(data=str(tmp_path)))
    assert source.classes == ("cat", "dog")
    np.testing.assert_array_equal(source.records[0].boxes, [[48, 16, 80, 48]])

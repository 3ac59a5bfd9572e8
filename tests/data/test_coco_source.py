import copy
import json
import os
import time

import numpy as np
import pytest
from PIL import Image

from jaxkd.data import coco, coco_file
from jaxkd.data.base import PictureError, Source
from jaxkd.data.repairs import MEANING
from jaxkd.errors import DataError


def content():
    return {
        "images": [
            {"id": 40, "file_name": "a.png", "height": 60, "width": 80},
            {"id": 10, "file_name": "b.png", "height": 60, "width": 80},
        ],
        "categories": [{"id": 90, "name": "dog"}, {"id": 0, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 90, "bbox": [50, 40, 20, 10], "area": 150.5, "iscrowd": 0},
            {"id": 2, "image_id": 40, "category_id": 0, "bbox": [1.5, 2, 30, 40]},
            {"id": 3, "image_id": 10, "category_id": 0, "bbox": [0, 0, 80, 60], "iscrowd": 1},
        ],
    }


@pytest.fixture
def load(tmp_path):
    """Loads a COCO dict, or the bytes of a file, with two pictures beside it."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (80, 60), "red").save(tmp_path / name)

    def loaded(truth, **fields):
        file = tmp_path / "truth.json"
        file.write_bytes(truth if isinstance(truth, bytes) else json.dumps(truth).encode())
        return coco.load(coco.Config(images=str(tmp_path), annotations=str(file), **fields))

    return loaded


def with_box(*boxes, **changes):
    truth = content()
    item = truth["annotations"][1] | changes
    truth["annotations"] = [item | {"id": place, "bbox": list(box)} for place, box in enumerate(boxes, start=1)]
    return truth


def test_a_small_file_golden(load):
    source = load(content())
    assert isinstance(source, Source)
    assert source.classes == ("cat", "dog")
    assert source.category_ids == (0, 90)
    assert [record.image_id for record in source.records] == [40, 10]
    first, second = source.records
    assert first.boxes.tolist() == [[1.5, 2, 31.5, 42]]
    assert second.boxes.tolist() == [[50, 40, 70, 50], [0, 0, 80, 60]]
    assert second.labels.tolist() == [1, 0]
    assert second.crowd.tolist() == [False, True]
    assert source.read(1).shape == (60, 80, 3)
    assert source.repairs == {}


def test_the_truth_keeps_the_ids_and_areas_of_the_file(load):
    truth = load(content()).annotations()
    by_id = {item["id"]: item for item in truth["annotations"]}
    for item in content()["annotations"]:
        assert by_id[item["id"]]["bbox"] == item["bbox"]
        assert by_id[item["id"]]["image_id"] == item["image_id"]
        assert by_id[item["id"]]["category_id"] == item["category_id"]
    assert by_id[1]["area"] == 150.5
    assert by_id[2]["area"] == 30 * 40
    assert by_id[3]["iscrowd"] == 1
    assert {item["name"]: item["id"] for item in truth["categories"]} == {"dog": 90, "cat": 0}


def test_classes_of_ones_own_are_matched_by_name(load):
    source = load(content(), classes=("dog", "cow", "cat"))
    assert (source.classes, source.category_ids) == (("dog", "cow", "cat"), (90, 91, 0))
    assert source.records[1].labels.tolist() == [0, 2]
    with pytest.raises(DataError, match=r"class 'dog', which is not among the classes; the closest is 'dogs'; add it"):
        load(content(), classes=("dogs", "cat"))


def test_limit_takes_the_first_pictures(load):
    source = load(content(), limit=1)
    assert [record.image_id for record in source.records] == [40]
    assert [item["id"] for item in source.annotations()["annotations"]] == [2]
    assert source.repairs == {}


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ([10, 10, 0, 5], "boxes_without_area"),
        ([10, 10, 5, -5], "boxes_without_area"),
        ([float("nan"), 10, 5, 5], "boxes_not_finite"),
        ([0, 0, float("inf"), 5], "boxes_not_finite"),
        ([100, 10, 5, 5], "boxes_outside"),
        ([-30, 10, 20, 5], "boxes_outside"),
    ],
)
def test_a_box_without_pixels_is_left_out_and_counted(load, box, fault):
    truth = with_box([10, 10, 20, 20], box)
    source = load(truth)
    assert source.records[0].boxes.tolist() == [[10, 10, 30, 30]]
    assert len(source.annotations()["annotations"]) == 1
    assert source.repairs == {fault: 1}
    assert source.repairs.examples[fault].startswith("annotation 2, [")
    with pytest.raises(DataError, match=f"{MEANING[fault].partition(',')[0]}: 1, the first annotation 2"):
        load(truth, strict=True)


def test_a_box_that_is_partly_outside_is_clipped_and_counted(load):
    source = load(with_box([70, 50, 20, 20], [-5, -5, 15, 10]))
    assert source.records[0].boxes.tolist() == [[70, 50, 80, 60], [0, 0, 10, 5]]
    assert source.annotations()["annotations"][0]["bbox"] == [70, 50, 10, 10]
    assert source.repairs == {"boxes_clipped": 2}


def test_rounding_past_the_edge_is_no_fault(load):
    source = load(with_box([70, 50, 10.2, 10.1]), strict=True)
    assert source.records[0].boxes.tolist() == [[70, 50, 80, 60]]


def test_oddities_are_kept_and_counted(load):
    truth = with_box([1, 1, 5, 5], [1, 1, 5, 5], [3, 3, 9, 9])
    truth["annotations"][0]["id"] = 0
    truth["annotations"][1]["id"] = 3
    truth["images"][1]["file_name"] = "a.png"
    source = load(truth)
    assert len(source.records[0].boxes) == 3
    assert source.repairs == {"boxes_repeated": 1, "annotation_ids_repeated_or_zero": 2, "files_listed_again": 1}


def test_annotations_of_unknown_pictures_are_counted(load):
    truth = content()
    truth["annotations"][0]["image_id"] = 11
    truth["annotations"][1]["image_id"] = None
    source = load(truth)
    assert source.repairs == {"annotations_of_unknown_pictures": 2}
    assert len(source.records[1].boxes) == 1


def test_a_file_without_annotations_can_be_read(load):
    truth = content()
    del truth["annotations"]
    source = load(truth)
    assert [len(record.boxes) for record in source.records] == [0, 0]
    assert source.annotations()["annotations"] == []


def test_ids_of_annotations_may_be_anything_and_areas_are_computed(load):
    truth = with_box([1, 1, 5, 5], [10, 1, 5, 5], [20, 1, 5, 5], [30, 1, 5, 5])
    odd = ({"id": [1], "area": float("nan")}, {"id": {}, "area": 10**400}, {"id": "x", "area": -1}, {"area": None})
    for item, changes in zip(truth["annotations"], odd, strict=True):
        item.update(changes)
    source = load(truth)
    assert [item["area"] for item in source.annotations()["annotations"]] == [25] * 4
    assert source.repairs == {"annotation_ids_repeated_or_zero": 2}


def test_crowds_are_what_the_file_says_and_no_word_is_none(load):
    truth = with_box(*[[5 * place, 1, 5, 5] for place in range(5)])
    for item, flag in zip(truth["annotations"], (0, 1, None, True, False), strict=True):
        item["iscrowd"] = flag
    del truth["annotations"][4]["iscrowd"]
    assert load(truth).records[0].crowd.tolist() == [False, True, False, True, False]


def test_a_picture_without_annotations_and_a_class_without_objects_stay(load):
    truth = with_box([1, 1, 5, 5])
    source = load(truth, strict=True)
    assert [len(record.boxes) for record in source.records] == [1, 0]
    assert source.classes == ("cat", "dog")
    assert [item["name"] for item in source.annotations()["categories"]] == ["cat", "dog"]


def grouped(name, objects=0):
    truth = with_box([1, 1, 5, 5], [20, 1, 5, 5], category_id=90)
    truth["categories"] = [
        {"id": 0, "name": name, "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": name},
        {"id": 90, "name": "dog", "supercategory": name},
    ]
    for item in truth["annotations"][:objects]:
        item["category_id"] = 0
    return truth


def test_a_category_that_only_groups_is_no_class(load):
    for name in ("pets", "cat"):
        source = load(grouped(name))
        assert (source.classes, source.category_ids) == (("cat", "dog"), (1, 90))
        assert source.repairs == {"categories_that_only_group": 1}
        assert source.repairs.examples["categories_that_only_group"] == f"'{name}' (id 0)"
    assert load(grouped("pets", objects=1)).classes == ("pets", "cat", "dog")
    assert load(grouped("pets"), groups="keep").classes == ("pets", "cat", "dog")
    with pytest.raises(DataError, match="2 categories with the name 'cat'"):
        load(grouped("cat", objects=1))


def test_a_category_that_is_its_own_supercategory_is_a_class(load):
    truth = content()
    for category in truth["categories"]:
        category["supercategory"] = category["name"]
    assert load(truth).classes == ("cat", "dog")


def test_ids_that_are_written_in_another_way(load):
    truth = content()
    for item in truth["annotations"]:
        item["image_id"], item["category_id"] = str(item["image_id"]), float(item["category_id"])
    source = load(truth)
    assert [len(record.boxes) for record in source.records] == [1, 2]
    assert source.repairs == {"ids_as_numbers": 3}
    for image in truth["images"]:
        image["id"] = str(image["id"])
    assert [record.image_id for record in load(truth).records] == [40, 10]
    assert load(truth).repairs == {}
    named = json.loads(
        json.dumps(content()).replace('"id": 40', '"id": "a"').replace('"image_id": 40', '"image_id": "a"')
    )
    source = load(named)
    assert [len(record.boxes) for record in source.records] == [1, 2]
    assert source.repairs == {"ids_numbered_anew": 1}


def test_a_few_boxes_past_the_edge_are_no_other_format(load):
    source = load(with_box(*[[40, 30, 20, 20]] * 19, [40, 40, 60, 50]))
    assert source.repairs["boxes_clipped"] == 1
    with pytest.raises(DataError, match="2 of 21 boxes leave their picture, and all of them fit as corners"):
        load(with_box(*[[10, 10, 30, 30]] * 19, *[[40, 40, 60, 50]] * 2))


def test_a_byte_order_mark_is_accepted(load):
    assert len(load(b"\xef\xbb\xbf" + json.dumps(content()).encode()).records) == 2


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"images": [\n  {,\n]}', "line 2"),
        (json.dumps(content()).encode("utf-16"), "UTF-8"),
        (b"[]", "list"),
        (b"", "line 1"),
    ],
)
def test_a_file_that_is_no_json_object_stops(load, raw, said):
    with pytest.raises(DataError, match=said):
        load(raw)


def changed(key, place, **fields):
    truth = content()
    truth[key][place] |= fields
    return truth


def without(key, place=None, field=None):
    truth = content()
    if place is None:
        del truth[key]
    else:
        del truth[key][place][field]
    return truth


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        (without("images"), "images"),
        (without("categories"), "categories"),
        (content() | {"images": []}, "images"),
        (content() | {"annotations": {}}, "annotations"),
        (without("images", 1, "width"), "image 10 has width = None and height = 60"),
        (without("annotations", 1, "bbox"), "annotation 2"),
        (changed("images", 0, id=[1]), "entry 0 of images has id = \\[1\\]"),
        (changed("images", 0, id=1.5), "entry 0 of images has id = 1.5"),
        (changed("categories", 0, id="x"), "entry 0 of categories has id = 'x'"),
        (changed("images", 0, height=0), "width = 80 and height = 0"),
        (changed("images", 0, id=10), "2 images with the id 10"),
        (changed("categories", 0, id=0), "2 categories with the id 0"),
        (changed("categories", 0, name="cat"), "2 categories with the name 'cat'"),
        (changed("annotations", 0, category_id=9), "annotation 1 has the category 9"),
        (changed("annotations", 0, category_id=[9]), "annotation 1 has the category"),
        (changed("annotations", 0, bbox=["1", "2", "3", "4"]), "annotation 1 has bbox"),
        (changed("annotations", 0, bbox=[1, 2, 3, 4, 0.5]), "rotated"),
        (with_box([0.1, 0.1, 0.5, 0.5], [0.2, 0.3, 0.8, 0.7]), "shares of the picture"),
        (with_box([40, 30, 79, 59], [10, 10, 30, 30], [50, 20, 60, 50]), "corners"),
    ],
)
def test_stops(load, truth, said):
    with pytest.raises(DataError, match=said):
        load(copy.deepcopy(truth))


BROKEN = {
    "lists in lists": (b'{"images": ' + b"[" * 100_000, "not JSON that can be read"),
    "a number of digits": (b'{"images": ' + b"9" * 5000 + b"}", "not JSON that can be read"),
    "cut off": (json.dumps(content()).encode()[:-20], "not valid JSON in line 1"),
    "two of them": (json.dumps(content()).encode() * 2, "Extra data"),
    "in another encoding": (json.dumps(content()).encode("utf-16"), "not UTF-8 in line 1"),
    "packed": (b"\x1f\x8b\x08\x00" * 9, "not UTF-8 in line 1"),
    "a word": (b'"images"', "holds a JSON str"),
    "pictures that are none": (content() | {"images": [None]}, "entry 0 of images has file_name = None"),
    "pictures by name": (content() | {"images": {"a.png": {}}}, "lists no images"),
    "categories that are none": (content() | {"categories": ["cat"]}, "entry 0 of categories has name = None"),
    "a novel for a width": (changed("images", 0, width="x" * 99_999), "has width = 'xxx"),
    "a picture without end": (changed("images", 0, width=10**400), "image 40 has width = 1000"),
    "half a character": (changed("images", 0, file_name="\ud800.png"), "image 40 names the file '.ud800.png'"),
    "a file of two lines": (changed("images", 0, file_name="a\nb.png"), r"image 40 names the file 'a.nb.png'"),
    "a class of two lines": (changed("categories", 0, name="a\nb"), r"category 90 has the name 'a.nb'"),
    "half a character of a class": (changed("categories", 0, name="\udfff"), "category 90 has the name '.udfff'"),
    "a huge box": (changed("annotations", 0, bbox=[10**400, 1, 2, 3]), "annotation 1 has bbox = .1000"),
    "a box of truths": (changed("annotations", 0, bbox=[True, 1, 2, 3]), "write plain numbers"),
    "a box of thousands": (changed("annotations", 0, bbox=[1.0] * 9999), "wanted are 4 numbers"),
    "a box by name": (changed("annotations", 0, bbox={"x": 1}), "wanted are 4 numbers"),
    "a box of nothing": (changed("annotations", 0, bbox=[None] * 4), "write plain numbers"),
    "a crowd in words": (changed("annotations", 0, iscrowd="0"), "iscrowd = '0'; write 0 or 1"),
    "many categories": (changed("annotations", 0, category_id=[1] * 9999), "annotation 1 has the category"),
    "a name of two lines": (
        changed("annotations", 0, id="1\n2", category_id="1\n2"),
        r"annotation '1.n2' has the category '1.n2'",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_stop_in_one_sentence(load, tmp_path, fault):
    raw, said = BROKEN[fault]
    file, began = tmp_path / "truth.json", time.process_time()
    with pytest.raises(DataError, match=said) as refusal:
        load(raw)
    assert time.process_time() - began < 5
    text = str(refusal.value)
    assert refusal.value.exit_code == 65
    assert text.startswith(str(file)) and text.endswith(".")
    assert text.isprintable() and len(text) < len(str(file)) + 300
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "truth.json"]


def test_what_is_too_large_or_no_file_is_never_read(tmp_path):
    endless, pipe = tmp_path / "endless.json", tmp_path / "pipe.json"
    endless.touch()
    os.truncate(endless, coco_file.MAX_FILE_BYTES + 1)
    with pytest.raises(DataError, match="larger than 2 GB"):
        coco.load(coco.Config(images=str(tmp_path), annotations=str(endless)))
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero", tmp_path):
        with pytest.raises(DataError, match="a directory or a device"):
            coco.load(coco.Config(images=str(tmp_path), annotations=str(path)))


@pytest.mark.parametrize(
    "name", ["../a.png", "x/../../a.png", "/a.png", "C:/a.png", "..\\a.png", "..\\..\\a.png", "a\0.png", ""]
)
def test_a_name_that_could_leave_the_folder_stops(load, name):
    with pytest.raises(DataError, match="image 40"):
        load(changed("images", 0, file_name=name))


def test_a_link_out_of_the_folder_stops_unless_allowed(load, tmp_path_factory, tmp_path):
    outside = tmp_path_factory.mktemp("outside") / "c.png"
    Image.new("RGB", (80, 60)).save(outside)
    (tmp_path / "c.png").symlink_to(outside)
    truth = changed("images", 0, file_name="c.png")
    with pytest.raises(DataError, match=r"c\.png is a link to .*/c\.png, out of"):
        load(truth).read(0)
    assert load(truth, allow_links=True).read(0).shape == (60, 80, 3)


def test_links_that_stay_inside_and_a_folder_that_is_a_link(load, tmp_path):
    (tmp_path / "c.png").symlink_to("b.png")
    (tmp_path / "here").symlink_to(tmp_path)
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert load(changed("images", 0, file_name="c.png")).read(0).shape == (60, 80, 3)
    assert load(changed("images", 0, file_name="here/c.png")).read(0).shape == (60, 80, 3)
    linked = coco.Config(images=str(tmp_path / "here"), annotations=str(tmp_path / "truth.json"))
    assert coco.load(linked).read(0).shape == (60, 80, 3)
    with pytest.raises(PictureError, match="cannot be read"):
        load(changed("images", 0, file_name="loop.png")).read(0)


def test_what_is_not_there(load, tmp_path):
    with pytest.raises(PictureError, match="no picture"):
        load(changed("images", 0, file_name="gone.png")).read(0)
    with pytest.raises(DataError, match="no annotation file"):
        coco.load(coco.Config(annotations=str(tmp_path / "none.json")))
    with pytest.raises(DataError, match="no picture folder"):
        coco.load(coco.Config(images=str(tmp_path / "none")))


@pytest.mark.parametrize(("split", "count"), [("train", 205), ("val", 87), ("test", 72)])
def test_the_shipped_blood_cells(split, count):
    source = coco.load(coco.Config(annotations=f"assets:bccd/{split}.json", strict=True))
    assert source.classes == ("RBC", "WBC", "Platelets")
    assert len(source.records) == count
    assert source.repairs == {}
    assert all(source.read(record.index).shape == (240, 320, 3) for record in source.records[:3])


def mode_of(file):
    with Image.open(file) as image:
        return image.mode


def test_real_coco(shared):
    folder = shared / "data" / "minicoco"
    annotations = folder / "annotations" / "instances_train2017.json"
    source = coco.load(coco.Config(images=str(folder / "train2017"), annotations=str(annotations), strict=True))
    assert len(source.records) == 288
    assert len(source.classes) == 80
    assert source.category_ids[-1] == 90
    assert sum(len(record.boxes) == 0 for record in source.records) == 2
    assert sum(int(record.crowd.sum()) for record in source.records) == 24
    grey = [record for record in source.records if mode_of(folder / "train2017" / record.file) == "L"]
    assert len(grey) == 1
    image = source.read(grey[0].index)
    assert image.shape == (grey[0].height, grey[0].width, 3)
    assert np.ptp(image.astype(int), axis=-1).max() == 0


def test_real_aquarium(shared):
    folder = shared / "data" / "aquarium"
    annotations = folder / "annotations" / "instances_val.json"
    source = coco.load(coco.Config(images=str(folder / "val"), annotations=str(annotations)))
    assert len(source.records) == 127
    assert source.classes[0] == "fish"
    assert sum(len(record.boxes) for record in source.records) == 909
    assert source.read(0).shape == (source.records[0].height, source.records[0].width, 3)

"""Folders of annotated pictures are recognised in every layout, with equal records, or refused with what to do."""

import json

import drawn_layouts
import numpy as np
import pytest
from drawn_layouts import ALL, CLASSES, DRAWN, draw, write

from jaxkd.data import recognise as recognise_module
from jaxkd.data.layouts import base
from jaxkd.data.recognise import recognise
from jaxkd.errors import ConfigError, DataError
from jaxkd.loading import prepare

CASES = [(name, layout) for name, layouts in drawn_layouts.WITH_SPLITS.items() for layout in layouts]
WHOLE = [(name, layout) for name, layouts in drawn_layouts.WITHOUT_SPLITS.items() for layout in layouts]


def objects(source):
    """Stem, size, boxes and class names of every record, sorted by stem."""
    return sorted(
        (
            record.file.replace("\\", "/").rpartition("/")[2].partition(".")[0],
            (record.height, record.width),
            record.boxes.tolist(),
            [source.classes[label] for label in record.labels],
        )
        for record in source.records
    )


def drawn(pictures):
    return [
        (
            picture.stem,
            (drawn_layouts.HEIGHT, drawn_layouts.WIDTH),
            [[float(value) for value in entry[1:]] for entry in picture.objects],
            [entry[0] for entry in picture.objects],
        )
        for picture in pictures
    ]


def refused(path, *words, error=DataError, **options):
    with pytest.raises(error) as info:
        recognise(path, **options)
    text = str(info.value)
    assert text.endswith(".")
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(("name", "layout"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_each_layout_gives_the_same_records(name, layout, tmp_path):
    layout(tmp_path)
    dataset = recognise(tmp_path)
    assert (dataset.format, dataset.classes, list(dataset.splits)) == (name, CLASSES, ["train", "val", "test"])
    for split, pictures in DRAWN.items():
        source = prepare.load_source(dataset.splits[split], classes=dataset.classes)
        assert objects(source) == drawn(pictures)
        assert all(source.read(record.index).shape == (64, 128, 3) for record in source.records)
    assert dataset.count() == sum(len(picture.objects) for picture in ALL)


@pytest.mark.parametrize(("name", "layout"), WHOLE, ids=lambda value: getattr(value, "__name__", ""))
def test_without_splits_all_is_for_training(name, layout, tmp_path):
    layout(tmp_path)
    dataset = recognise(tmp_path)
    assert (dataset.format, dataset.classes, list(dataset.splits)) == (name, CLASSES, ["train"])
    assert objects(prepare.load_source(dataset.splits["train"])) == drawn(ALL)


def test_boxes_are_equal_to_float32(tmp_path):
    boxes = {}
    for layout in (drawn_layouts.official_coco, drawn_layouts.yolo_ultralytics, drawn_layouts.voc_standard):
        layout(tmp_path / layout.__name__)
        source = prepare.load_source(recognise(tmp_path / layout.__name__).splits["train"])
        boxes[layout] = np.concatenate([record.boxes for record in source.records])
        assert boxes[layout].dtype == np.float32
    first, *others = boxes.values()
    assert all(np.array_equal(first, other) for other in others)


def test_one_level_further_down_is_the_same(tmp_path):
    for layout in (drawn_layouts.yolo_bare, drawn_layouts.official_coco, drawn_layouts.voc_flat):
        layout(tmp_path / layout.__name__ / "export")
        assert list(recognise(tmp_path / layout.__name__).splits) == ["train", "val", "test"]


# ---- What is assumed is said ----


def test_roboflows_category_of_the_project_is_no_class_and_said(tmp_path):
    drawn_layouts.roboflow_coco(tmp_path)
    (note,) = recognise(tmp_path).assumptions
    assert "'pets' (id 0)" in note


def test_paths_that_are_elsewhere_are_said(tmp_path):
    drawn_layouts.yolo_roboflow(tmp_path / "set")
    assert f"'../train/images' is not there as it is written; {tmp_path}/set/train/images is taken." in (
        recognise(tmp_path / "set").assumptions
    )


def test_splits_that_a_yaml_names_in_vain_are_said(tmp_path):
    drawn_layouts.yolo_ultralytics(tmp_path)
    (tmp_path / "images/test").rename(tmp_path / "images/other")
    dataset = recognise(tmp_path)
    assert list(dataset.splits) == ["train", "val"]
    assert "There is no 'images/test', so there is no test." in dataset.assumptions


def test_a_test_split_without_labels_is_left_out(tmp_path):
    drawn_layouts.yolo_ultralytics(tmp_path)
    (tmp_path / "labels/test/f.txt").unlink()
    dataset = recognise(tmp_path)
    assert list(dataset.splits) == ["train", "val"]
    assert "No picture of test has a label file, so there is no test." in dataset.assumptions


def test_train_and_val_that_are_one(tmp_path):
    drawn_layouts.yolo_ultralytics(tmp_path)
    write(tmp_path / "data.yaml", "train: images/train\nval: images/train\nnames: [cat, dog]\n")
    assert "train and val are the same pictures, so scores will be too good." in recognise(tmp_path).assumptions


def test_a_yaml_of_another_name(tmp_path):
    drawn_layouts.yolo_ultralytics(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "pets.yaml")
    assert recognise(tmp_path).splits["train"].data == str(tmp_path / "pets.yaml")
    write(tmp_path / "other.yaml", "train: images/train\nnames: [cat]\n")
    refused(tmp_path, "other.yaml", "pets.yaml both describe a YOLO data set")
    write(tmp_path / "dataset.yaml", "train: images/train\nnames: [cat, dog]\n")
    assert list(recognise(tmp_path).splits) == ["train"]


def test_a_bare_folder_without_names_has_numbers(tmp_path):
    drawn_layouts.yolo_bare(tmp_path)
    (tmp_path / "classes.txt").unlink()
    dataset = recognise(tmp_path)
    assert dataset.classes == ("0", "1")
    assert any("names no classes" in note for note in dataset.assumptions)
    assert prepare.load_source(dataset.splits["test"]).classes == ("0", "1")


def test_names_of_label_studio(tmp_path):
    drawn_layouts.yolo_pictures(tmp_path, "images", "labels")
    write(tmp_path / "notes.json", json.dumps({"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}))
    dataset = recognise(tmp_path)
    assert (dataset.classes, list(dataset.splits)) == (CLASSES, ["train"])


def test_other_tasks_of_coco_are_passed_over(tmp_path):
    drawn_layouts.official_coco(tmp_path)
    notes = recognise(tmp_path).assumptions
    assert "annotations/captions_train2017.json is passed over for instances_train2017.json." in notes


def test_class_lists_of_splits_that_differ_are_joined_by_name(tmp_path):
    categories = {
        "train": [{"id": 5, "name": "dog"}, {"id": 9, "name": "cat"}],
        "val": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cow"}],
    }
    pictures = {
        "train": DRAWN["train"],
        "val": (drawn_layouts.Picture("d", (("cow", 1, 2, 3, 4), ("cat", 5, 6, 9, 9))),),
    }
    for split in categories:
        write(tmp_path / f"{split}.json", drawn_layouts.coco_text(pictures[split], categories=categories[split]))
        for picture in pictures[split]:
            draw(tmp_path / "images" / split / f"{picture.stem}.png")
    dataset = recognise(tmp_path)
    assert dataset.classes == ("dog", "cat", "cow")
    assert any("different classes" in note for note in dataset.assumptions)
    sources = prepare.load_sources(dataset.splits)
    assert {name: source.classes for name, source in sources.items()} == dict.fromkeys(
        ("train", "val"), dataset.classes
    )
    assert {name: objects(source) for name, source in sources.items()} == {k: drawn(v) for k, v in pictures.items()}


def test_a_given_file_is_taken_alone(tmp_path):
    drawn_layouts.official_coco(tmp_path)
    dataset = recognise(tmp_path / "annotations/instances_val2017.json")
    assert list(dataset.splits) == ["train"]
    drawn_layouts.yolo_ultralytics(tmp_path / "yolo")
    (tmp_path / "yolo/data.yaml").rename(tmp_path / "yolo/mine.yaml")
    assert list(recognise(tmp_path / "yolo/mine.yaml").splits) == ["train", "val", "test"]


def test_an_only_split_is_for_training(tmp_path):
    drawn_layouts.voc_flat(tmp_path)
    for folder in ("train", "test"):
        for file in (tmp_path / folder).iterdir():
            file.unlink()
    dataset = recognise(tmp_path)
    assert list(dataset.splits) == ["train"]
    assert "There is only val, so it is taken for training." in dataset.assumptions
    drawn_layouts.voc_flat(tmp_path)
    for file in (tmp_path / "train").iterdir():
        file.unlink()
    refused(tmp_path, "has val and test and no train")


def test_voc_with_one_list_for_both_is_all_training(tmp_path):
    drawn_layouts.voc_standard(tmp_path)
    lists = tmp_path / "pets/ImageSets/Main"
    (lists / "val.txt").unlink()
    (lists / "train.txt").rename(lists / "trainval.txt")
    splits = recognise(tmp_path).splits
    assert {name: source.splits for name, source in splits.items()} == {
        "train": ("pets/trainval",),
        "test": ("pets/test",),
    }


def test_a_test_list_of_voc_without_annotations_is_left_out(tmp_path):
    drawn_layouts.voc_standard(tmp_path)
    (tmp_path / "pets/Annotations/f.xml").unlink()
    dataset = recognise(tmp_path)
    assert list(dataset.splits) == ["train", "val"]
    assert "No picture of pets/ImageSets/Main/test.txt has an annotation, so there is no test." in dataset.assumptions


# ---- Several formats ----


def test_two_formats_of_equal_numbers_are_the_first_with_a_notice(tmp_path):
    drawn_layouts.official_coco(tmp_path)
    for split in DRAWN:
        for picture in DRAWN[split]:
            write(tmp_path / f"{split}2017/{picture.stem}.txt", drawn_layouts.yolo_text(picture))
    dataset = recognise(tmp_path)
    assert dataset.format == "coco"
    assert "It is taken as COCO; annotations as YOLO with the same 6 objects are passed over." in dataset.assumptions


def test_two_formats_of_unequal_numbers_are_refused_unless_one_is_named(tmp_path):
    drawn_layouts.voc_flat(tmp_path)
    drawn_layouts.roboflow_coco(tmp_path)
    write(tmp_path / "train/c.xml", drawn_layouts.voc_text(DRAWN["train"][1]))
    refused(tmp_path, "6 objects as COCO and 7 as Pascal VOC", "--format=coco or --format=voc")
    assert recognise(tmp_path, format="voc").format == "voc"
    refused(tmp_path, "is not recognised as YOLO", format="yolo")
    refused(tmp_path, "no format 'coko'; the closest is 'coco'", error=ConfigError, format="coko")


def test_a_second_format_that_cannot_be_read_is_passed_over_and_a_first_one_is_not(tmp_path):
    drawn_layouts.yolo_ultralytics(tmp_path)
    write(tmp_path / "train.json", '{"images": [{"file_name": "x.png"}], "annotations": [{"bbox": []}]}')
    dataset = recognise(tmp_path)
    assert dataset.format == "yolo"
    assert any("another format cannot be read" in note for note in dataset.assumptions)
    write(tmp_path / "data.yaml", "train: images/train\nnc: 3\nnames: [cat, dog]\n")
    refused(tmp_path, "nc is '3', and there are 2 names")


# ---- What is refused ----


def test_no_such_folder(tmp_path):
    refused(tmp_path / "none", "There is no file or folder", "correct the path")


def test_nothing_found_says_what_is_there(tmp_path):
    draw(tmp_path / "a.png")
    write(tmp_path / "a.txt", "a cat on a mat")
    refused(tmp_path, "there are 1 picture and 1 .txt", "wanted is a data.yaml")
    write(tmp_path / "notes.json", "{}")
    refused(tmp_path / "notes.json", "describes no annotated pictures")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.json": '{"version": "5", "shapes": [], "imagePath": "a.png"}'}, "LabelMe"),
        ({"a.xml": "<?xml version='1.0'?>\n<annotations>\n  <version>1.1</version></annotations>"}, "CVAT"),
        ({"a.json": '[{"id": 1, "annotations": [{"result": []}], "data": {}}]'}, "Label Studio"),
        ({"SegmentationClass/a.txt": ""}, "masks"),
        ({"data.zip": ""}, "unpack it"),
        ({"cats/a.png": None, "dogs/b.png": None}, "a folder of pictures for each class"),
    ],
)
def test_layouts_that_are_known_and_not_read(files, words, tmp_path):
    for name, text in files.items():
        draw(tmp_path / name) if text is None else write(tmp_path / name, text)
    refused(tmp_path, words)


def test_a_given_archive(tmp_path):
    write(tmp_path / "data.zip", "")
    refused(tmp_path / "data.zip", "unpack it")


def test_two_coco_files_of_one_split(tmp_path):
    drawn_layouts.generic_coco(tmp_path)
    write(tmp_path / "train/more.json", drawn_layouts.coco_text(DRAWN["train"]))
    refused(tmp_path, "labels.json", "more.json", "both are COCO files of one split")


def test_coco_files_of_no_split_beside_others_are_passed_over(tmp_path):
    drawn_layouts.generic_coco(tmp_path)
    for name in ("old/a.json", "old/b.json"):
        write(tmp_path / name, drawn_layouts.coco_text(DRAWN["train"]))
    dataset = recognise(tmp_path)
    assert list(dataset.splits) == ["train", "val", "test"]
    for name in ("old/a.json", "old/b.json"):
        assert f"{name} belongs to no split by its name, so it is passed over." in dataset.assumptions


def test_coco_whose_pictures_are_elsewhere(tmp_path):
    drawn_layouts.generic_coco(tmp_path)
    (tmp_path / "val/data/e.png").unlink()
    with pytest.raises(
        DataError, match=r"are not found: of its first 2 file names, such as 'd.png', .*val/data has 50%"
    ):
        recognise(tmp_path)
    (tmp_path / "val/data/d.png").unlink()
    refused(tmp_path, f"none is below {tmp_path}")


def test_voc_folders_in_two_places(tmp_path):
    drawn_layouts.voc_standard(tmp_path / "one")
    drawn_layouts.voc_standard(tmp_path / "two")
    refused(tmp_path, "both hold folders of VOC annotations")


# ---- The tree ----


def test_the_tree_leaves_out_what_is_hidden_or_deep(tmp_path):
    for name in (".hidden/a.png", "__MACOSX/a.png", ".a.png", "1/2/3/4/a.png", "1/2/3/4/5/a.png", "B.PNG"):
        write(tmp_path / name, "")
    tree = base.walk(tmp_path)
    assert tree.files == ("1/2/3/4/a.png", "B.PNG")
    assert tree.folders == ("", "1", "1/2", "1/2/3", "1/2/3/4")
    assert tree.find("b.png") == "B.PNG"
    assert tree.pictures_in("") == ["B.PNG"]


def test_a_limit_of_entries_is_said(tmp_path, monkeypatch):
    drawn_layouts.label_studio_coco(tmp_path)
    for number in range(20):
        write(tmp_path / f"images/more/deeper/{number}.txt", "")
    for module in (base, recognise_module):
        monkeypatch.setattr(module, "MAX_ENTRIES", 12)
    assert base.walk(tmp_path).complete is False
    assert f"{tmp_path} has more than 12 files and folders; the others were not looked at." in (
        recognise(tmp_path).assumptions
    )


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("annotations/instances_train2017.json", "train"),
        ("valid/_annotations.coco.json", "val"),
        ("test/train.json", "train"),
        ("dev/images", "val"),
        ("training/x.json", "train"),
        ("trainval.json", ""),
        ("train_val.json", ""),
        ("constraints/latest.json", ""),
    ],
)
def test_the_split_by_words(name, split):
    assert base.split_of(name) == split

from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxkd.class_lists import VOC
from jaxkd.data import plain_xml, voc
from jaxkd.data.base import PictureError, Source
from jaxkd.data.repairs import MEANING
from jaxkd.errors import ConfigError, DataError

HEIGHT, WIDTH = 60, 80


def item(name="dog", box=(11, 6, 30, 25), difficult="<difficult>0</difficult>"):
    sides = "".join(f"<{side}>{value}</{side}>" for side, value in zip(voc.SIDES, box, strict=True))
    return f"<object><name>{name}</name>{difficult}<bndbox>{sides}</bndbox></object>"


def annotation(*items, size=(HEIGHT, WIDTH), head=""):
    height, width = size
    return (
        f"{head}<annotation><folder>../../etc</folder><filename>/etc/passwd</filename>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{''.join(items)}</annotation>"
    )


class Devkit:
    """A VOCdevkit folder with real JPEGs, two years of it with one split each."""

    def __init__(self, root: Path):
        self.root = root
        self.add("2007", "000005", annotation(item()))
        self.add("2007", "000007", annotation(item("cat"), item("dog", (1, 1, 80, 60), "<difficult>1</difficult>")))
        self.add("2012", "2008_000008", annotation())
        self.list("2007", "trainval", "000005\n000007\n")
        self.list("2012", "trainval", "2008_000008\n")

    def file(self, year="2007", stem="000005") -> Path:
        return self.root / f"VOC{year}" / "Annotations" / f"{stem}.xml"

    def picture(self, year="2007", stem="000005") -> Path:
        return self.root / f"VOC{year}" / "JPEGImages" / f"{stem}.jpg"

    def add(self, year, stem, text) -> None:
        for file in (self.file(year, stem), self.picture(year, stem)):
            file.parent.mkdir(parents=True, exist_ok=True)
        self.file(year, stem).write_text(text)
        shade = np.full((HEIGHT, WIDTH, 3), len(list(self.root.rglob("*.jpg"))) * 20, np.uint8)
        cv2.imwrite(str(self.picture(year, stem)), shade)

    def list(self, year, name, text) -> None:
        file = self.root / f"VOC{year}" / "ImageSets" / "Main" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def load(self, *splits, **fields):
        return voc.load(voc.Config(root=str(self.root), splits=splits or ("2007_trainval",), **fields))


@pytest.fixture
def devkit(tmp_path):
    return Devkit(tmp_path / "VOCdevkit")


def test_a_union_of_years_golden(devkit):
    source = devkit.load("2007_trainval", "2012_trainval", strict=True)
    assert isinstance(source, Source)
    assert len(source.classes) == 20
    assert source.classes == tuple(sorted(source.classes))
    assert source.category_ids == tuple(range(1, 21))
    assert [(r.index, r.image_id, r.file, r.height, r.width) for r in source.records] == [
        (0, 1, "VOC2007/JPEGImages/000005.jpg", 60, 80),
        (1, 2, "VOC2007/JPEGImages/000007.jpg", 60, 80),
        (2, 3, "VOC2012/JPEGImages/2008_000008.jpg", 60, 80),
    ]
    assert source.records[0].boxes.tolist() == [[10, 5, 30, 25]]
    assert source.records[1].boxes.tolist() == [[10, 5, 30, 25], [0, 0, 80, 60]]
    assert [source.classes[label] for label in source.records[1].labels] == ["cat", "dog"]
    assert len(source.records[2].boxes) == 0
    assert [int(source.read(index).mean().round()) for index in range(3)] == [0, 20, 40]
    assert source.repairs == {}


def test_the_truth_says_what_is_difficult(devkit):
    truth = devkit.load().annotations()
    assert truth["annotations"][1:] == [
        {"id": 2, "image_id": 2, "category_id": 8, "bbox": [10, 5, 20, 20], "area": 400}
        | {"iscrowd": 0, "difficult": 0, "ignore": 0},
        {"id": 3, "image_id": 2, "category_id": 12, "bbox": [0, 0, 80, 60], "area": 4800}
        | {"iscrowd": 0, "difficult": 1, "ignore": 1},
    ]
    assert truth["categories"][7] == {"id": 8, "name": "cat"}
    assert truth["images"][0] == {"id": 1, "file_name": "VOC2007/JPEGImages/000005.jpg", "height": 60, "width": 80}


def test_difficult_objects_are_regions_to_ignore_or_kept(devkit):
    assert devkit.load().records[1].crowd.tolist() == [False, True]
    kept = devkit.load(difficult="keep")
    assert kept.records[1].crowd.tolist() == [False, False]
    assert kept.annotations() == devkit.load().annotations()


def test_the_rule_follows_the_years(devkit):
    assert devkit.load().voc_rule == "11point"
    assert devkit.load("2007_trainval", "2012_trainval").voc_rule == "area"
    assert devkit.load(rule="area").voc_rule == "area"
    assert devkit.load("2012_trainval", rule="11point").voc_rule == "11point"


def test_classes_of_ones_own(devkit):
    source = devkit.load(classes=("dog", "cat"))
    assert source.records[1].labels.tolist() == [1, 0]
    assert devkit.load(classes=()).classes == ("cat", "dog")
    assert devkit.load(classes=(), limit=1).classes == ("cat", "dog")
    with pytest.raises(DataError, match="has an object to take a class from"):
        devkit.load("2012_trainval", classes=())
    with pytest.raises(ConfigError, match="'cat' twice"):
        devkit.load(classes=("cat", "cat"))


def test_limit_takes_the_first_pictures_and_reads_no_more(devkit):
    devkit.file(stem="000007").unlink()
    source = devkit.load(limit=1)
    assert [record.file for record in source.records] == ["VOC2007/JPEGImages/000005.jpg"]


def test_a_picture_listed_again_is_taken_once_and_counted(devkit):
    devkit.list("2007", "val", "000007\n000005\n")
    source = devkit.load("2007_trainval", "2007_val")
    assert len(source.records) == 2
    assert source.repairs == {"files_listed_again": 2}
    with pytest.raises(DataError, match="pictures listed again: 2, the first VOC2007/000005"):
        devkit.load("2007_trainval", "2007_val", strict=True)


def test_lists_with_a_second_column_blank_lines_and_a_byte_order_mark(devkit):
    devkit.list("2007", "dog_val", b"\xef\xbb\xbf000007 -1\r\n\r\n000005  1\r\n")
    assert [record.file[-10:-4] for record in devkit.load("2007_dog_val").records] == ["000007", "000005"]


def test_a_split_is_all_of_a_folder(devkit):
    assert [record.file[-10:] for record in devkit.load("VOC2007/").records] == ["000005.jpg", "000007.jpg"]
    assert devkit.load("VOC2007/").voc_rule == "area"
    flat = devkit.root / "flat"
    flat.mkdir()
    for stem in ("one", "two"):
        (flat / f"{stem}.xml").write_text(annotation(item(), head="<?xml version='1.0'?>\n"))
        cv2.imwrite(str(flat / f"{stem}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    cv2.imwrite(str(flat / "three.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    source = devkit.load("flat/")
    assert [record.file for record in source.records] == ["flat/one.png", "flat/two.png"]
    assert source.repairs == {"pictures_without_annotations": 1}
    at_root = voc.load(voc.Config(root=str(flat), splits=("./",)))
    assert [record.file for record in at_root.records] == ["one.png", "two.png"]


def test_a_picture_of_another_name_is_found_by_its_filename(devkit):
    flat = devkit.root / "flat"
    flat.mkdir()
    (flat / "1.xml").write_text(annotation(item()).replace("/etc/passwd", "C:\\photos\\shot.jpg"))
    cv2.imwrite(str(flat / "shot.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    source = devkit.load("flat/")
    assert [record.file for record in source.records] == ["flat/shot.jpg"]
    assert source.repairs == {"pictures_named_inside": 1}


def test_folders_that_are_no_split(devkit):
    with pytest.raises(DataError, match=r"There is no folder .*none of the split 'none/'"):
        devkit.load("none/")
    with pytest.raises(DataError, match=r"JPEGImages holds no .xml annotation"):
        voc.load(voc.Config(root=str(devkit.root / "VOC2007"), splits=("JPEGImages/",)))
    with pytest.raises(ConfigError, match="no folder such as"):
        devkit.load("../flat/")


def test_parts_of_objects_and_corners_with_fractions(devkit):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    text = annotation(item("person", (" 11.5", 6, "30.25\n", 25), part), item("cow", (40, 40, 40, 40), ""))
    devkit.file().write_text(text)
    (record, _) = devkit.load(strict=True).records
    assert record.boxes.tolist() == [[10.5, 5, 30.25, 25], [39, 39, 40, 40]]
    assert record.crowd.tolist() == [False, False]


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((30, 6, 11, 25), "boxes_without_area"),
        ((11, 25, 30, 6), "boxes_without_area"),
        (("nan", 6, 30, 25), "boxes_not_finite"),
        ((11, 6, "1e999", 25), "boxes_not_finite"),
        ((100, 6, 120, 25), "boxes_outside"),
    ],
)
def test_a_box_without_pixels_is_left_out_and_counted(devkit, box, fault):
    devkit.file().write_text(annotation(item("cat", box), item()))
    source = devkit.load()
    assert source.records[0].boxes.tolist() == [[10, 5, 30, 25]]
    assert source.records[0].labels.tolist() == [source.classes.index("dog")]
    assert source.repairs == {fault: 1}
    assert len(source.annotations()["annotations"]) == 3
    said = rf"000005\.xml: {MEANING[fault].partition(',')[0]}: 1, the first object 1 \(cat\) of 000005\.xml"
    with pytest.raises(DataError, match=said):
        devkit.load(strict=True)


def test_clipped_and_repeated_boxes_are_counted(devkit):
    devkit.file().write_text(annotation(item("cat", (0, 0, 90, 10)), item(), item()))
    source = devkit.load()
    assert source.records[0].boxes.tolist() == [[0, 0, 80, 10], [10, 5, 30, 25], [10, 5, 30, 25]]
    assert source.repairs == {"boxes_clipped": 1, "boxes_repeated": 1}


BOMB = "<!DOCTYPE a [" + '<!ENTITY e0 "ha">' + "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
BROKEN = {
    "empty": ("", "not valid XML in line 1"),
    "cut off": (annotation(item())[:-30], "not valid XML in line 1"),
    "two roots": (annotation() + annotation(), "not valid XML"),
    "an undefined entity": (annotation(item("&dog;")), "undefined entity"),
    "entities that grow": (annotation(item("&e9;"), head=BOMB + "]>"), "<!DOCTYPE> declaration"),
    "an external entity": (
        annotation(item("&e;"), head='<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>'),
        "<!DOCTYPE> declaration",
    ),
    "an external type": (annotation(head='<!DOCTYPE a SYSTEM "http://localhost/a.dtd">'), "<!DOCTYPE> declaration"),
    "of an unknown encoding": (annotation(head='<?xml version="1.0" encoding="klingon"?>'), "encoding"),
    "of a multi-byte encoding": (annotation(head='<?xml version="1.0" encoding="utf-7"?>'), "encoding"),
    "a page": ("<html><body/></html>", "holds <html>"),
    "no size": ("<annotation/>", "has no <size><height>"),
    "no width": ("<annotation><size><height>5</height></size></annotation>", "has no <size><width>"),
    "no pixels": (annotation(size=(0, 80)), "a height of 0"),
    "half pixels": (annotation(size=(60, 80.5)), "a width of 80.5"),
    "endless": (annotation(size=("inf", 80)), "a height of inf"),
    "nearly endless": (annotation(size=("1e300", 80)), "a height of 1e.300"),
    "a size in words": (annotation(size=("sixty", 80)), "size/height = 'sixty'"),
    "another class": (annotation(item(), item("doog")), "object 2 is of the class 'doog'.*closest is 'dog'"),
    "a class of lines": (annotation(item("do\ng")), r"of the class 'do\\ng'"),
    "no class": (annotation(item(" ")), "object 1 has no <name>"),
    "no box": (annotation("<object><name>dog</name></object>"), "object 1 has no <bndbox><xmin>"),
    "three corners": (annotation(item().replace("<ymax>25</ymax>", "")), "object 1 has no <bndbox><ymax>"),
    "a corner in words": (annotation(item(), item(box=(1, 2, "three", 4))), "object 2 has bndbox/xmax = 'three'"),
    "an empty corner": (annotation(item(box=("", 2, 3, 4))), "object 1 has bndbox/xmin = ''"),
    "a novel for a corner": (annotation(item(box=("x" * 9999, 2, 3, 4))), "bndbox/xmin = 'x{40}...';"),
    "rather difficult": (annotation(item(difficult="<difficult>yes</difficult>")), "difficult = 'yes'"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_annotations_stop_in_one_sentence(devkit, fault):
    text, said = BROKEN[fault]
    devkit.file().write_text(text)
    with pytest.raises(DataError, match=said) as refusal:
        devkit.load()
    assert refusal.value.exit_code == 65
    assert str(refusal.value).startswith(str(devkit.file()))
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_document_type_is_seen_in_any_encoding(devkit, encoding):
    devkit.file().write_bytes(annotation(item()).encode(encoding))
    assert len(devkit.load().records[0].boxes) == 1
    devkit.file().write_bytes(annotation(item("&e9;"), head=BOMB + "]>").encode(encoding))
    with pytest.raises(DataError, match="DOCTYPE"):
        devkit.load()


def test_nothing_outside_is_read(devkit, tmp_path):
    (tmp_path / "secret").write_text("dog")
    head = f'<!DOCTYPE a [<!ENTITY e SYSTEM "{(tmp_path / "secret").as_uri()}">]>'
    devkit.file().write_text(annotation(item("&e;"), head=head))
    with pytest.raises(DataError, match="DOCTYPE") as refusal:
        devkit.load()
    assert "secret" not in str(refusal.value)


def test_an_annotation_that_is_too_large_or_deep(devkit):
    devkit.file().write_text(annotation(item(), " " * plain_xml.MAX_FILE_BYTES))
    with pytest.raises(DataError, match="larger than 4 MB"):
        devkit.load()
    depth = plain_xml.MAX_FILE_BYTES // 7 - 100
    devkit.file().write_text(annotation(item(), "<a>" * depth + "</a>" * depth))
    assert len(devkit.load().records[0].boxes) == 1


def test_what_is_not_there(devkit, tmp_path):
    devkit.picture().unlink()
    with pytest.raises(PictureError, match=r"no picture .*000005\.jpg"):
        devkit.load().read(0)
    devkit.file().unlink()
    with pytest.raises(DataError, match=r"no annotation file .*000005\.xml"):
        devkit.load()
    devkit.file().mkdir()
    with pytest.raises(DataError, match="not a plain file"):
        devkit.load()
    with pytest.raises(DataError, match=r"no folder .*none"):
        voc.load(voc.Config(root=str(tmp_path / "none")))


def test_lists_that_cannot_be_used(devkit):
    devkit.list("2007", "dog_trainval", "000005 1\n")
    with pytest.raises(DataError, match=r"no list .*trian\.txt of the split '2007_trian'; the closest is '2007_train"):
        devkit.load("2007_trian")
    devkit.list("2007", "val", " \n\n")
    with pytest.raises(DataError, match=r"val\.txt lists no picture"):
        devkit.load("2007_val")
    devkit.list("2007", "val", b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"val\.txt cannot be read"):
        devkit.load("2007_val")
    devkit.list("2007", "val", "x" * 5000)
    with pytest.raises(DataError, match="cannot be read"):
        devkit.load("2007_val")


@pytest.mark.parametrize("split", ["", "07_../../etc", "2007_..", "../VOC2007/trainval", "/etc/passwd", "a/b/c"])
def test_splits_that_are_none(devkit, split):
    with pytest.raises(ConfigError, match="is no year and list such as '2007_trainval', no folder and list"):
        devkit.load(split)
    with pytest.raises(ConfigError, match="splits is empty"):
        voc.load(voc.Config(root=str(devkit.root), splits=()))


@pytest.mark.parametrize(
    ("split", "list_", "near"),
    [
        ("trainval", "VOCdevkit/ImageSets/Main/trainval.txt", "'2012_trainval'"),
        ("2007", "VOCdevkit/ImageSets/Main/2007.txt", "2007_trainval, 2012_trainval"),
        ("2007_trian", "VOCdevkit/VOC2007/ImageSets/Main/trian.txt", "'2007_trainval'"),
        ("cards/trainval", "VOCdevkit/cards/ImageSets/Main/trainval.txt", "2007_trainval, 2012_trainval"),
    ],
)
def test_splits_that_are_not_there(devkit, split, list_, near):
    with pytest.raises(DataError, match=rf"There is no list .*{list_} of the split '{split}'; .*{near}\."):
        devkit.load(split)


def test_a_folder_of_any_name(devkit):
    (devkit.root / "VOC2007").rename(devkit.root / "playing cards")
    source = devkit.load("playing cards/trainval")
    assert [record.file for record in source.records] == [
        f"playing cards/JPEGImages/{stem}.jpg" for stem in ("000005", "000007")
    ]
    assert source.read(1).shape == (HEIGHT, WIDTH, 3)
    assert source.voc_rule == "area"
    itself = voc.load(voc.Config(root=str(devkit.root / "playing cards"), splits=("trainval",)))
    assert [record.file for record in itself.records] == ["JPEGImages/000005.jpg", "JPEGImages/000007.jpg"]
    assert [record.labels.tolist() for record in itself.records] == [
        record.labels.tolist() for record in source.records
    ]
    with pytest.raises(DataError, match="the closest is 'playing cards/trainval'"):
        devkit.load("playing crads/trainval")


def test_a_root_without_any_list(devkit, tmp_path):
    with pytest.raises(DataError, match=r"neither .* nor a folder in it holds ImageSets/Main, so give the folder"):
        voc.load(voc.Config(root=str(tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages"), splits=("2007_trainval",)))


def test_names_that_end_in_a_number_after_a_space(devkit):
    for stem in ("frame", "frame 0", "frame 1", "frame 2"):
        devkit.add("2007", stem, annotation(item()))
    devkit.list("2007", "film", "frame 0\nframe 1\n")
    assert [record.file[-11:] for record in devkit.load("2007_film").records] == ["frame 0.jpg", "frame 1.jpg"]
    devkit.list("2007", "film", "frame 0\nframe 1\nframe 2\n")
    assert len(devkit.load("2007_film").records) == 3
    devkit.list("2007", "dog_film", "frame 0  1\nframe 1 -1\nframe  0\n")
    assert [record.file[19:] for record in devkit.load("2007_dog_film").records] == [
        "frame 0.jpg",
        "frame 1.jpg",
        "frame.jpg",
    ]


def test_pictures_of_another_suffix_are_taken_and_counted(devkit):
    devkit.picture().rename(devkit.picture().with_suffix(".JPEG"))
    source = devkit.load()
    assert source.records[0].file == "VOC2007/JPEGImages/000005.JPEG"
    assert source.read(0).shape == (HEIGHT, WIDTH, 3)
    assert source.repairs == {"names_with_another_suffix": 1}


def test_pictures_that_were_scaled_take_their_boxes_along(devkit):
    devkit.file().write_text(annotation(item(box=(21, 11, 60, 50)), size=(2 * HEIGHT, 2 * WIDTH)))
    source = devkit.load()
    assert (source.records[0].height, source.records[0].width) == (HEIGHT, WIDTH)
    assert source.records[0].boxes.tolist() == [[10, 5, 30, 25]]
    assert source.repairs == {"sizes_scaled": 1}
    with pytest.raises(
        DataError, match=r"pictures scaled since they were annotated: 1, the first .*80x60 in place of 160"
    ):
        devkit.load(strict=True)


@pytest.mark.parametrize("name", ["../000005", "x/../../000005", "/etc/passwd", "C:000005", "..\\000005", "0\0"])
def test_a_name_that_could_leave_the_folder_stops(devkit, name):
    devkit.list("2007", "trainval", name + "\n")
    with pytest.raises(DataError, match=r"trainval\.txt names the file"):
        devkit.load()


@pytest.mark.parametrize("part", ["picture", "annotation", "list", "year"])
def test_a_link_out_of_the_root_stops_unless_allowed(devkit, tmp_path, part):
    linked = {
        "picture": devkit.picture(),
        "annotation": devkit.file(),
        "list": devkit.root / "VOC2007" / "ImageSets" / "Main" / "trainval.txt",
        "year": devkit.root / "VOC2007",
    }[part]
    linked.rename(tmp_path / "outside")
    linked.symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match=rf"{linked.name} is a link to .*outside, out of"):
        devkit.load().read(0)
    assert devkit.load(allow_links=True).read(0).shape == (HEIGHT, WIDTH, 3)


def test_a_link_within_the_root_and_a_loop(devkit):
    devkit.picture().unlink()
    devkit.picture().symlink_to(devkit.picture("2012", "2008_000008"))
    assert int(devkit.load().read(0).mean().round()) == 40
    devkit.file().unlink()
    devkit.file().symlink_to(devkit.file())
    with pytest.raises(DataError, match="cannot be read"):
        devkit.load()


def test_real_voc(shared):
    root = str(shared / "data" / "minivoc" / "VOCdevkit")
    source = voc.load(voc.Config(root=root, splits=("2012_trainval",), strict=True))
    assert len(source.records) == 108
    assert source.repairs == {}
    assert sum(len(record.boxes) for record in source.records) == 284
    assert sum(int(record.crowd.sum()) for record in source.records) == 38
    counts = np.bincount(np.concatenate([record.labels for record in source.records]), minlength=20)
    assert counts.tolist() == [15, 14, 6, 11, 13, 6, 14, 16, 15, 14, 7, 8, 7, 5, 91, 7, 10, 10, 6, 9]
    halves = voc.load(voc.Config(root=root, splits=("2012_train", "2012_val"), classes=(), strict=True))
    assert halves.classes == VOC
    assert sorted(record.file for record in halves.records) == sorted(record.file for record in source.records)
    for record in source.records:
        assert source.read(record.index).shape == (record.height, record.width, 3)

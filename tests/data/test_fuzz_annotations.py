"""Fuzzed annotation files: each loads with as many objects as it has, counts what is left out, or ends in one sentence.

`pytest --hypothesis-profile=fuzz tests/data/test_fuzz_annotations.py` tries 500 of each format.
"""

import copy
import json

import pytest
from fuzzing import bounded, quick
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from jaxkd.data import coco, voc, yolo
from jaxkd.data.repairs import MEANING
from jaxkd.errors import JaxkdError

FILES = ("a.png", "b.png", "c/d.png")
LEFT_OUT = [name for name, words in MEANING.items() if "left out" in words]
SIDES = ("xmin", "ymin", "xmax", "ymax")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures, below a folder that a VOC layout has too."""
    place = tmp_path_factory.mktemp("fuzz")
    for base in (place / "images", place / "devkit" / "VOC2024" / "JPEGImages"):
        (base / "c").mkdir(parents=True)
        for file in FILES:
            Image.new("RGB", (80, 60), "red").save(base / file)
    for inner in ("Annotations/c", "ImageSets/Main"):
        (place / "devkit" / "VOC2024" / inner).mkdir(parents=True)
    return place


def judged(load, objects):
    """Loads, and holds the number of objects against those that the input has."""
    with bounded():
        try:
            source = load()
        except JaxkdError as error:
            text = str(error)
            assert text.endswith((".", ")", "?")) and "\n" not in text and text.isprintable(), text
            return
    found = sum(len(record.boxes) for record in source.records)
    left_out = sum(source.repairs.get(name, 0) for name in LEFT_OUT)
    assert found + left_out == objects, (found, left_out, objects, source.repairs)
    assert all(sentence.endswith(".") for sentence in source.repairs.sentences())
    for record in source.records:
        assert ((record.boxes[:, 2:] > record.boxes[:, :2]).all()) and (record.boxes >= 0).all()
        assert (record.boxes[:, 2] <= record.width).all() and (record.boxes[:, 3] <= record.height).all()
        assert ((record.labels >= 0) & (record.labels < len(source.classes))).all()
    source.annotations()


# ---- COCO ----

NUMBERS = st.one_of(
    st.integers(-5, 100), st.floats(-10, 200), st.sampled_from([float("nan"), float("inf"), 1e300, 10**30, -0.0, 1e-9])
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.text(max_size=6),
    st.lists(NUMBERS, max_size=5),
    st.just({}),
    st.just({"a": 1}),
)
IDS = st.one_of(st.integers(-2, 6), st.sampled_from(["1", "2", "x", "", 1.0, 2.0, 1.5, None, True, [1]]))
NAMES = st.one_of(
    st.sampled_from(
        [*FILES, "images/a.png", "x\\a.png", "../a.png", "/a.png", "C:/a.png", "A.PNG", "", "http://x/a.png"]
    ),
    st.text(max_size=8),
)
EDITS = st.one_of(
    st.tuples(
        st.just("images"), st.sampled_from(["id", "file_name", "height", "width", "more"]), st.integers(0, 9), ODD
    ),
    st.tuples(st.just("images"), st.just("file_name"), st.integers(0, 9), NAMES),
    st.tuples(st.just("images"), st.just("id"), st.integers(0, 9), IDS),
    st.tuples(st.just("categories"), st.sampled_from(["id", "name", "supercategory"]), st.integers(0, 9), ODD | IDS),
    st.tuples(
        st.just("annotations"),
        st.sampled_from(["id", "image_id", "category_id", "bbox", "area", "iscrowd"]),
        st.integers(0, 9),
        ODD | IDS,
    ),
    st.tuples(st.just("annotations"), st.just("bbox"), st.integers(0, 9), st.lists(NUMBERS, min_size=4, max_size=4)),
    st.tuples(st.sampled_from(["images", "categories", "annotations"]), st.just(""), st.integers(0, 9), ODD),
    st.tuples(st.just("copy"), st.sampled_from(["images", "categories", "annotations"]), st.integers(0, 9), st.none()),
)


def plain():
    return {
        "images": [
            {"id": number, "file_name": file, "height": 60, "width": 80} for number, file in enumerate(FILES, start=1)
        ],
        "categories": [
            {"id": 1, "name": "cat", "supercategory": "pet"},
            {"id": 2, "name": "dog", "supercategory": "pet"},
            {"id": 7, "name": "owl", "supercategory": "bird"},
        ],
        "annotations": [
            {
                "id": 10 + place,
                "image_id": 1 + place % 3,
                "category_id": (1, 2, 7)[place % 3],
                "bbox": box,
                "iscrowd": 0,
            }
            for place, box in enumerate([[1, 2, 30, 20], [5, 5, 10, 10], [40.5, 10, 20, 30.25], [0, 0, 80, 60]])
        ],
    }


def edited(edits):
    content = plain()
    for key, field, place, value in edits:
        if key == "copy":
            items = content[field]
            if isinstance(items, list) and items:
                items.append(copy.deepcopy(items[place % len(items)]))
            continue
        items = content.get(key)
        if not isinstance(items, list) or not items:
            continue
        place %= len(items)
        if field and isinstance(items[place], dict):
            items[place][field] = value
        else:
            items[place] = value
    return content


@quick(150)
@given(edits=st.lists(EDITS, min_size=1, max_size=3), strict=st.booleans())
def test_coco_files_that_nobody_meant(folder, edits, strict):
    content = edited(edits)
    file = folder / "truth.json"
    file.write_text(json.dumps(content))
    items = content["annotations"]
    config = coco.Config(images=str(folder / "images"), annotations=str(file), strict=strict)
    judged(lambda: coco.load(config), len(items) if isinstance(items, list) else 0)


@quick(60)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 30), st.binary(max_size=8)), min_size=1, max_size=4)
)
def test_coco_files_with_changed_bytes(folder, cuts):
    raw = bytearray(json.dumps(plain(), indent=1).encode())
    for place, length, new in cuts:
        place %= len(raw) + 1
        raw[place : place + length] = new
    file = folder / "bytes.json"
    file.write_bytes(raw)
    try:
        items = json.loads(raw.decode("utf-8-sig")).get("annotations", [])
    except (ValueError, AttributeError):
        items = []
    config = coco.Config(images=str(folder / "images"), annotations=str(file))
    judged(lambda: coco.load(config), len(items) if isinstance(items, list) else 0)


# ---- VOC ----

TEXTS = st.one_of(
    st.sampled_from(
        ["", "1", "0", "-1", "80", "60.5", "nan", "inf", "1e999", " 7 ", "dog", "catt", "<b/>", "&amp;", "&x;"]
    ),
    st.text("0123456789.-e", max_size=5),
)


def annotation(objects, size):
    parts = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(SIDES, box, strict=True))
        + "</bndbox></object>"
        for name, difficult, box in objects
    )
    width, height = size
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{parts}</annotation>"


OBJECTS = st.tuples(
    st.sampled_from(["cat", "dog"]) | TEXTS,
    st.sampled_from(["0", "1"]) | TEXTS,
    st.tuples(*[st.integers(-5, 90).map(str) | TEXTS] * 4),
)
LINES = st.one_of(
    st.sampled_from(["a", "b", "c/d", "a 1", "b -1", "b 0", "a ", "../a", "/a", "gone", "", "a\tb"]),
    st.text(max_size=6),
)


@quick(120)
@given(
    objects=st.lists(OBJECTS, max_size=3),
    size=st.tuples(st.just("80") | TEXTS, st.just("60") | TEXTS),
    lines=st.lists(LINES, max_size=3),
    cut=st.none() | st.integers(0, 400),
)
@example(objects=[("cat", "0", ("1", "1", "9", "9"))], size=("80", "60"), lines=["a", "a 1"], cut=None)
def test_voc_folders_that_nobody_meant(folder, objects, size, lines, cut):
    root = folder / "devkit"
    for stem in ("a", "b", "c/d"):
        text = annotation(
            objects if stem == "a" else [("dog", "0", ("2", "2", "20", "20"))], size if stem == "a" else (80, 60)
        )
        file = root / "VOC2024" / "Annotations" / f"{stem}.xml"
        file.write_text(text[:cut] if stem == "a" else text, errors="surrogatepass")
    wanted = ["b", *lines]
    (root / "VOC2024" / "ImageSets" / "Main" / "fuzz.txt").write_text("\n".join(wanted), errors="surrogatepass")
    config = voc.Config(root=str(root), splits=("2024_fuzz",), classes=("cat", "dog"))

    def load():
        source = voc.load(config)
        kept = {record.file for record in source.records}
        counts["objects"] = sum(len(objects) if "JPEGImages/a." in file else 1 for file in kept)
        return source

    counts = {}
    with bounded():
        try:
            source = load()
        except JaxkdError as error:
            assert str(error).endswith((".", ")")) and "\n" not in str(error), str(error)
            return
    found = sum(len(record.boxes) for record in source.records)
    assert found + sum(source.repairs.get(name, 0) for name in LEFT_OUT) == counts["objects"]


# ---- YOLO ----

FIELDS = st.one_of(
    st.floats(-0.5, 1.5).map(str),
    st.sampled_from(["0", "1", "2", "0.5", "0.25", "-0.005", "1.005", "nan", "inf", "1e999", "60", "x", "0,5", ""]),
)
ROWS = st.one_of(
    st.tuples(st.sampled_from(["0", "1", "1.0", "3", "-1"]), *[st.floats(0.2, 0.4).map(str)] * 4).map(" ".join),
    st.lists(FIELDS, max_size=10).map(" ".join),
    st.text(max_size=8),
)
YAMLS = st.recursive(
    st.sampled_from(["images", "../images", "labels", "gone", "", "null", "cat", "2", ".", "&a b", "*a", "!!x y"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def yolo_folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("yolo")
    (place / "images").mkdir()
    (place / "labels").mkdir()
    for stem in "ab":
        Image.new("RGB", (80, 60), "red").save(place / "images" / f"{stem}.png")
    return place


@quick(150)
@given(rows=st.lists(ROWS, max_size=4), again=st.integers(1, 12), strict=st.booleans())
def test_yolo_rows_that_nobody_meant(yolo_folder, rows, again, strict):
    plain_rows = [f"{number % 2} 0.5 0.5 0.{number + 10} 0.5" for number in range(again)]
    text = "\n".join([*rows, *plain_rows])
    (yolo_folder / "labels/a.txt").write_text(text, encoding="utf-8", newline="")
    (yolo_folder / "labels/b.txt").write_text("0 0.5 0.5 0.5 0.5")
    (yolo_folder / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    config = yolo.Config(data=str(yolo_folder / "data.yaml"), strict=strict)
    objects = sum(bool(line.split()) for line in text.removeprefix("\ufeff").splitlines()) + 1
    judged(lambda: yolo.load(config), objects)


@quick(100)
@given(keys=st.dictionaries(st.sampled_from(["path", "train", "val", "names", "nc", "kpt_shape", "x"]), YAMLS))
def test_yamls_that_nobody_meant(yolo_folder, keys):
    for stem in "ab":
        (yolo_folder / f"labels/{stem}.txt").write_text("0 0.5 0.5 0.5 0.5")
    (yolo_folder / "data.yaml").write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
    config = yolo.Config(data=str(yolo_folder / "data.yaml"))
    with bounded():
        try:
            source = yolo.load(config)
        except JaxkdError as error:
            assert str(error).endswith((".", ")", "?")) and str(error).isprintable()
            return
    assert sum(len(record.boxes) for record in source.records) in (1, 2)

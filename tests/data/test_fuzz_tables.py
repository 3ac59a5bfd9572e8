"""Fuzzed metadata.jsonl and Open Images files, held to what `test_fuzz_annotations` holds COCO and VOC to."""

import json

import pytest
from fuzzing import quick
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_fuzz_annotations import FILES, NAMES, NUMBERS, ODD, judged

from jaxkd.data import imagefolder, open_images

BOXES = st.lists(NUMBERS, min_size=4, max_size=4) | ODD
CATEGORIES = st.integers(-1, 3) | st.sampled_from(["cat", "dog", "", "\x00"]) | ODD
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "bbox": st.lists(BOXES, max_size=3) | ODD,
        "category": st.lists(CATEGORIES, max_size=3) | ODD,
        "iscrowd": st.lists(st.integers(0, 1) | ODD, max_size=3) | ODD,
        "area": st.lists(NUMBERS | ODD, max_size=3) | ODD,
    },
)
EDITS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["file_name", "objects", "height", "image_id"]), OBJECTS | NAMES | ODD
    ),
    max_size=3,
)
CELLS = st.sampled_from(["", "0", "1", "0.5", "-1", "nan", "inf", "1e999", "a", "b", '"', "x,y", "\x00"]) | st.text(
    max_size=4
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("fuzz")
    for file in FILES:
        (place / file).parent.mkdir(exist_ok=True)
        Image.new("RGB", (80, 60), "red").save(place / file)
    return place


@quick(120)
@given(edits=EDITS, strict=st.booleans())
def test_metadata_that_nobody_meant(folder, edits, strict):
    rows = [{"file_name": file, "objects": {"bbox": [[1, 2, 30, 40]], "category": [1]}} for file in FILES]
    for place, key, value in edits:
        rows[place][key] = value
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    counts = {}

    def load():
        source = imagefolder.load(imagefolder.Config(root=str(folder), split="", strict=strict))
        kept = {id(row) for row in (source._stored.rows[index] for index in source._indices)}
        counts["objects"] = sum(len(row.boxes) for row in source._stored.rows if id(row) in kept)
        source.repairs.pop("pictures_unreadable", None)  # with their objects
        return source

    judged(load, Later(counts))


@quick(120)
@given(cells=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), CELLS), min_size=1, max_size=3))
def test_open_images_files_that_nobody_meant(folder, cells):
    header = ["ImageID", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"]
    rows = [header, *(["a", "/m/1", "1", "0.1", "0.5", "0.2", "0.6"] for _ in range(3))]
    for row, column, cell in cells:
        rows[row] = [*rows[row][:column], cell, *rows[row][column + 1 :]]
    text = "\n".join(",".join(row) for row in rows)
    (folder / "boxes.csv").write_text(text, errors="surrogatepass")
    config = open_images.Config(annotations=str(folder / "boxes.csv"), images=str(folder), names="")
    counts = {}

    def load():
        source = open_images.load(config)
        listed = list(open_images.read_rows(folder / "boxes.csv"))
        counts["objects"] = len(listed)
        source.repairs.pop("pictures_without_rows", None)  # which are no objects
        return source

    judged(load, Later(counts))


class Later:
    """A number that is known once the data is loaded."""

    def __init__(self, counts):
        self._counts = counts

    def __eq__(self, other):
        return self._counts["objects"] == other

    __hash__ = None

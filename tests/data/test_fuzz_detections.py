"""Fuzzed files of detections: one sentence, or every row is kept or counted."""

import json
import re

import pytest
from fuzzing import quick
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_annotations import NUMBERS, ODD

from jaxkd.data import detections_file, shapes, teacher_boxes
from jaxkd.errors import WeightsError

SOURCE = shapes.load(shapes.Config(count=2, size=(48, 64)))
ROWS = st.fixed_dictionaries(
    {
        "image_id": st.integers(0, 3) | ODD,
        "category_id": st.integers(0, 4) | ODD,
        "bbox": st.lists(NUMBERS | ODD, min_size=3, max_size=5) | ODD,
        "score": st.floats(0, 1) | NUMBERS | ODD,
    },
    optional={"scores": st.lists(st.floats(0, 1) | NUMBERS, min_size=2, max_size=3) | ODD},
)
SOUND = {"image_id": SOURCE.records[0].image_id, "category_id": 1, "bbox": [1, 2, 10, 10], "score": 0.5}
PARTS = st.sampled_from(["images", "categories", "info"])


@quick(200)
@given(rows=st.lists(ROWS, max_size=3), parts=st.dictionaries(PARTS, st.lists(ROWS | ODD, max_size=2) | ODD))
def test_detections_that_nobody_meant(tmp_path_factory, rows, parts):
    file = tmp_path_factory.mktemp("fuzz") / "found.json"
    file.write_text(json.dumps(parts | {"annotations": [SOUND, *rows]} if parts else [SOUND, *rows]))
    try:
        detections = detections_file.read(file)
        classes = tuple(teacher_boxes.classes_of(detections, SOURCE).values())
        matched = teacher_boxes.match(detections, SOURCE, classes=classes, limit=10, whole=False)
    except WeightsError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
        return
    counted = [
        int(re.search(r"left out: (\d+)", sentence)[1])
        for sentence in (*detections.sentences, *matched.sentences)
        if "left out" in sentence
    ]
    known = {record.image_id for record in SOURCE.records}
    elsewhere = sum(
        number not in known and category in teacher_boxes.classes_of(detections, SOURCE)
        for number, category in zip(detections.image_ids.tolist(), detections.category_ids.tolist(), strict=True)
    )
    kept = sum(len(record.teacher_boxes.boxes) for record in matched.source.records)
    assert kept + sum(counted) + elsewhere == 1 + len(rows)


@pytest.mark.parametrize("text", ["[[]]", "[null]", '{"annotations": {}}', '{"annotations": [[1]]}', "[" * 5000])
def test_other_json(tmp_path, text):
    (tmp_path / "found.json").write_text(text)
    with pytest.raises(WeightsError):
        detections_file.read(tmp_path / "found.json")

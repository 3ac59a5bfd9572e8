"""Detections of any program: read, matched to pictures and classes, and carried along with the pictures."""

import dataclasses
import json

import numpy as np
import pytest

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import detections_file, loader, shapes, teacher_boxes
from jaxkd.data.base import Subset, TeacherBoxes
from jaxkd.errors import WeightsError

SIZE = (48, 64)
ROW = {"image_id": 1, "category_id": 1, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.9}


@pytest.fixture
def source():
    return shapes.load(shapes.Config(count=4, size=SIZE))


def write(file, content):
    file.write_text(json.dumps(content))
    return file


def rows_of(source, *, classes=True):
    """The truth as a program would find it, with lower scores one after the other."""
    ids = source.category_ids if classes else {label: label + 11 for label in range(len(source.classes))}
    return [
        {
            "image_id": record.image_id,
            "category_id": ids[label],
            "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
            "score": round(0.9 - 0.1 * place, 2),
        }
        for record in source.records
        for place, (box, label) in enumerate(zip(record.boxes, record.labels.tolist(), strict=True))
    ]


def match(file, source, **options):
    detections = detections_file.read(file)
    classes = tuple(teacher_boxes.classes_of(detections, source).values())
    return teacher_boxes.match(detections, source, **({"limit": 100, "classes": classes} | options))


def test_results_are_matched_by_id(tmp_path, source):
    matched = match(write(tmp_path / "found.json", rows_of(source)), source)
    assert matched.sentences == () and len(matched.images) == 4
    for record, original in zip(matched.source.records, source.records, strict=True):
        found = record.teacher_boxes
        np.testing.assert_allclose(found.boxes, original.boxes, atol=1e-4)
        present = sorted({label for one in source.records for label in one.labels.tolist()})
        assert [present[label] for label in found.labels] == original.labels.tolist()
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_a_file_with_names_is_matched_by_these(tmp_path, source):
    images = [{"id": 50 - record.index, "file_name": f"elsewhere\\{record.file}"} for record in source.records]
    of = {record.image_id: 50 - record.index for record in source.records}
    rows = [row | {"image_id": of[row["image_id"]]} for row in rows_of(source, classes=False)]
    categories = [{"id": 11 + label, "name": f"a {name}"} for label, name in enumerate(source.classes)]
    content = {"categories": categories, "annotations": rows, "images": images}
    file = write(tmp_path / "predictions.json", content)
    matched = match(file, source)
    assert len(matched.images) == 4
    detected = teacher_boxes.classes_of(detections_file.read(file), source)
    assert all(name.startswith("a ") for name in detected.values())
    for record, original in zip(matched.source.records, source.records, strict=True):
        np.testing.assert_allclose(record.teacher_boxes.boxes, original.boxes, atol=1e-4)


def scored_rows(source):
    """The truth as a program would find it, each object with scores of three classes that it alone has."""
    rows = rows_of(source)
    return [row | {"scores": [0.5, round(number / len(rows), 3), 0.25]} for number, row in enumerate(rows)]


def test_scores_of_classes_are_matched_by_name(tmp_path, source):
    rows = scored_rows(source)
    names = [source.classes[1], "another", source.classes[0]]
    categories = [{"id": 7 - place, "name": name} for place, name in enumerate(names)]
    first = 7 - 2
    content = {"categories": categories, "annotations": [row | {"category_id": first} for row in rows]}
    file = write(tmp_path / "found.json", content)
    detections = detections_file.read(file)
    assert detections.class_scores.shape == (len(rows), 3)
    # The file scores classes that it never detects: it knows them all.
    assert set(teacher_boxes.classes_of(detections, source).values()) == set(names)
    matched = match(file, source).source
    number = 0
    for record in matched.records:
        rows_of_record = rows[number : number + len(record.teacher_boxes.boxes)]  # best first, as they were written
        for row, class_scores in zip(rows_of_record, record.teacher_boxes.class_scores, strict=True):
            expected = [row["scores"][2], row["scores"][0], *[-1.0] * (len(source.classes) - 2)]
            np.testing.assert_allclose(class_scores, expected, atol=1e-6)
        number += len(rows_of_record)
    assert number == len(rows)


def test_rows_without_scores_of_classes_say_nothing_of_them(tmp_path, source):
    rows = scored_rows(source)
    del rows[1]["scores"]
    rows[2] |= {"scores": None}
    low = rows[0] | {"score": 0.01}  # left out, with its scores
    found = match(write(tmp_path / "found.json", [low, *rows]), source).source.records[0].teacher_boxes
    assert len(found.scores) >= 3
    expected = [row.get("scores") or [-1.0] * 3 for row in rows[: len(found.scores)]]
    np.testing.assert_allclose(found.class_scores, expected, atol=1e-6)
    plain = match(write(tmp_path / "plain.json", rows_of(source)), source).source.records[0].teacher_boxes
    assert plain.class_scores is None
    both = teacher_boxes._joined(plain, found)
    assert both.class_scores.shape == (2 * len(found.scores), 3)
    # Equal scores, so that those of the two files take turns.
    np.testing.assert_array_equal(both.class_scores[::2], np.full_like(found.class_scores, -1.0))
    np.testing.assert_array_equal(both.class_scores[1::2], found.class_scores)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([0.5, 1.5, 0.0], r"detection 2, .*, has 1.5 among its scores of classes; wanted are numbers from 0 to 1\.$"),
        ([0.5, -0.1, 0.0], "detection 2, .* has -0.1 among"),
        ([0.5, float("nan"), 0.0], "detection 2, .* has nan among"),
        ([0.5, 0.1], "detection 2, .* scores of 2 classes, and detection 1 of 3; wanted is one number for each class"),
        ([0.5, "much", 0.1], "detection 2, .* has scores that are no list of numbers"),
        ([], "detection 2, .* has scores that are no list"),
        ("0.5", "detection 2, .* has scores that are no list"),
        ({"car": 0.5}, "detection 2, .* has scores that are no list"),
    ],
)
def test_scores_of_classes_that_are_refused(tmp_path, scores, words):
    rows = [ROW | {"scores": [0.1, 0.2, 0.3]}, ROW | {"scores": scores}]
    with pytest.raises(WeightsError, match=words):
        detections_file.read(write(tmp_path / "found.json", rows))


def test_scores_of_another_number_of_classes_are_refused(tmp_path, source):
    rows, categories = [ROW, ROW | {"scores": [0.1, 0.2]}], [{"id": 1, "name": source.classes[0]}]
    file = write(tmp_path / "found.json", {"annotations": rows, "categories": categories})
    with pytest.raises(WeightsError, match="detection 2 has scores of 2 classes, and its categories are 1"):
        detections_file.read(file)
    with pytest.raises(
        WeightsError, match=r"scores of 2 classes for a detection, and the data has 3; give a file with"
    ):
        match(write(tmp_path / "found.json", rows), source)


def test_boxes_of_pictures_of_another_size_are_scaled(tmp_path, source):
    rows = [row | {"bbox": (2 * np.array(row["bbox"])).tolist()} for row in rows_of(source)]
    images = [
        {"id": record.image_id, "file_name": record.file, "width": 128, "height": 96} for record in source.records
    ]
    categories = [
        {"id": number, "name": name} for number, name in zip(source.category_ids, source.classes, strict=True)
    ]
    content = {"images": images, "annotations": rows, "categories": categories}
    matched = match(write(tmp_path / "found.json", content), source)
    assert matched.sentences == ("found.json: 4 pictures of another size than the data's, whose boxes were scaled.",)
    for record, original in zip(matched.source.records, source.records, strict=True):
        np.testing.assert_allclose(record.teacher_boxes.boxes, original.boxes, atol=1e-4)


def test_what_is_left_out_is_counted(tmp_path, source):
    rows = [
        ROW | {"image_id": source.records[0].image_id, "bbox": [60.0, 40.0, 10.0, 20.0]},
        ROW | {"image_id": source.records[0].image_id, "bbox": [70.0, 50.0, 10.0, 20.0]},
        ROW | {"image_id": source.records[0].image_id, "score": 0.8},
        ROW | {"bbox": [1.0, 2.0, 0.0, 20.0]},
        ROW | {"bbox": [1.0, 2.0, float("nan"), 20.0]},
        ROW | {"score": 0.01},
        ROW | {"category_id": 99},
    ]
    file = write(tmp_path / "found.json", rows)
    detections = detections_file.read(file)
    assert detections.sentences == (
        "found.json: boxes without an area or with a number that is not finite, left out: 2.",
        "found.json: scores below 0.05, left out: 1.",
    )
    matched = teacher_boxes.match(detections, source, classes=source.classes, limit=1)
    assert matched.sentences == (
        "found.json: detections of unknown categories, left out: 1.",
        "found.json: detections outside of their picture, left out: 1.",
        "found.json: detections beyond the 1 best of a picture, left out: 1.",
    )
    assert matched.source.records[0].teacher_boxes.boxes.tolist() == [[60.0, 40.0, 64.0, 48.0]]
    assert len(matched.source.records[1].teacher_boxes.boxes) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "has no detection"),
        ({"images": []}, "has no detection"),
        ([{"image_id": 1}], "detection 1, .*it lacks 'category_id'"),
        ([ROW, 3], "detection 2, 3, is no detection"),
        ([ROW | {"bbox": [1, 2]}], "is no detection"),
        ([ROW | {"score": 87.3}], "has the score 87.3; wanted are scores from 0 to 1"),
        ([ROW | {"image_id": "one"}], "no whole number"),
        ("text", "neither a list nor an object"),
    ],
)
def test_files_that_are_refused(tmp_path, content, words):
    with pytest.raises(WeightsError, match=words):
        detections_file.read(write(tmp_path / "found.json", content))


def test_files_that_do_not_fit_the_data(tmp_path, source):
    with pytest.raises(WeightsError, match="cannot be read"):
        detections_file.read(tmp_path / "none.json")
    with pytest.raises(WeightsError, match="detects categories 77"):
        match(write(tmp_path / "found.json", [ROW | {"category_id": 77}]), source)
    file = write(tmp_path / "found.json", [ROW | {"image_id": 999}])
    with pytest.raises(
        WeightsError, match=f"no picture of the data: it has 999, and the data {source.records[0].file}"
    ):
        match(file, source)
    assert match(file, source, whole=False).images == frozenset()


def with_truth(source):
    """The source with its truth as the teacher's detections."""
    out = Subset(source, range(len(source.records)))
    out.records = tuple(
        dataclasses.replace(
            record, teacher_boxes=TeacherBoxes(record.boxes, record.labels, np.ones(len(record.labels), np.float32))
        )
        for record in out.records
    )
    return out


def batches(source, **fields):
    settings = {"buckets": (SIZE,), "short": (48,), "long": 64, "max_objects": 60, "threads": 0} | fields
    config = configs.build(component("data.loader", **settings))
    return list(loader.train_batches(source, config, seed=1, steps=6, batch=2))


@pytest.mark.parametrize(
    "augment",
    [{}, {"scale": (0.5, 1.5)}, {"crop": 1.0}, {"mosaic": 1.0}, {"paste": 1.0}, {"cutout": 1.0, "colour": 1.0}],
)
def test_the_boxes_go_where_the_picture_goes(source, augment):
    config = component("data.augment", close_share=0.0, **augment)
    plain, taught = batches(source, augment=config), batches(with_truth(source), augment=config)
    for without, batch in zip(plain, taught, strict=True):
        np.testing.assert_array_equal(batch.images, without.images)
        np.testing.assert_array_equal(batch.boxes, without.boxes)
        assert without.detections is None
        for row in range(2):
            boxes = batch.detections.boxes[row][batch.detections.valid[row]]
            truth = batch.boxes[row][batch.valid[row]]
            assert len(boxes) and all(np.abs(boxes - box).max(-1).min() < 1e-3 for box in truth)


def with_class_scores(source):
    """The truth as the teacher's detections in any order, of all pictures but the first with scores of classes."""
    out = with_truth(source)
    rng = np.random.default_rng(0)
    for record in out.records:
        boxes, count = record.teacher_boxes, len(record.labels)
        class_scores = 0.1 + 0.7 * np.eye(len(source.classes), dtype=np.float32)[boxes.labels]
        scores = rng.permutation(count).astype(np.float32) / count
        changed = dataclasses.replace(boxes, scores=scores, class_scores=class_scores if record.index else None)
        object.__setattr__(record, "teacher_boxes", changed)
    return out


@pytest.mark.parametrize(
    "augment", [{}, {"scale": (0.5, 1.5)}, {"crop": 1.0}, {"mosaic": 1.0}, {"paste": 1.0}, {"cutout": 1.0}]
)
def test_scores_of_classes_stay_with_their_boxes(source, augment):
    config = component("data.augment", close_share=0.0, **augment)
    whole, alone = batches(with_class_scores(source), augment=config), batches(with_truth(source), augment=config)
    kinds = set()
    for batch, without in zip(whole, alone, strict=True):
        found = batch.detections
        assert without.detections.class_scores is None
        assert found.class_scores.shape == (2, 60, len(source.classes))
        for label, class_scores in zip(found.labels[found.valid], found.class_scores[found.valid], strict=True):
            said = bool(class_scores.min() >= 0)
            kinds.add(said)
            expected = 0.1 + 0.7 * (np.arange(len(source.classes)) == label) if said else -np.ones(len(source.classes))
            np.testing.assert_allclose(class_scores, expected, atol=1e-6)
    assert kinds == {True, False}


def test_a_students_evaluation_does_not_see_them(source):
    config = configs.build(component("data.loader", buckets=(SIZE,), short=(48,), long=64, max_objects=12))
    for teacher in (False, True):
        batch = next(loader.eval_batches(with_truth(source), config, batch=2, teacher=teacher))
        assert (batch.detections is not None) == teacher

"""The objects of some classes: what stays, what is counted, and classes that the data does not have."""

import json

import numpy as np
import pytest
from PIL import Image

from jaxkd.config import component
from jaxkd.data import pictures
from jaxkd.data.base import Source, Stored
from jaxkd.errors import ConfigError
from jaxkd.loading import prepare


@pytest.fixture
def inner(tmp_path):
    """Two pictures: a cat, a dog and a crowd of dogs on the first, a dog on the second."""
    rows = [(1, 1, 4, 0), (2, 1, 8, 0), (3, 1, 8, 1), (4, 2, 8, 0)]
    truth = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 40, "width": 60} for n in (1, 2)],
        "categories": [{"id": 4, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 9, "name": "bird"}],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, "bbox": [n, n, 9, 9], "area": 81, "iscrowd": crowd}
            for n, image, category, crowd in rows
        ],
    }
    for number in (1, 2):
        Image.new("RGB", (60, 40)).save(tmp_path / f"{number}.png")
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return component("data.coco", images=str(tmp_path), annotations=str(tmp_path / "truth.json"))


def load(inner, *classes, **fields):
    return prepare.load_source(component("data.only", source=inner, classes=classes, **fields), warn=False)


def test_objects_of_other_classes_vanish_crowds_too_and_are_counted(inner):
    source = load(inner, "bird", "cat")
    assert isinstance(source, Source) and isinstance(source, Stored)
    assert (source.classes, source.category_ids) == (("bird", "cat"), (9, 4))
    first, second = source.records
    assert (first.labels.tolist(), first.crowd.tolist(), first.boxes.tolist()) == ([1], [False], [[1, 1, 10, 10]])
    assert not len(second.boxes) and source.read(1).shape == (40, 60, 3)
    truth = source.annotations()
    assert [item["id"] for item in truth["annotations"]] == [1] and len(truth["images"]) == 2
    assert truth["categories"] == [{"id": 9, "name": "bird"}, {"id": 4, "name": "cat"}]
    assert source.repairs.sentences() == [
        "classes that are not listed in classes, left out: 1, the first dog.",
        "objects of classes that are not listed in classes, left out: 3, the first dog on 1.png.",
    ]


def test_all_classes_in_another_order_leave_out_nothing(inner):
    whole, other, same = prepare.load_source(inner), load(inner, "dog", "bird", "cat"), load(inner)
    assert same.classes == whole.classes and not same.repairs and not other.repairs
    for one, again in zip(whole.records, other.records, strict=True):
        np.testing.assert_array_equal(one.boxes, again.boxes)
        assert [whole.classes[label] for label in one.labels] == [other.classes[label] for label in again.labels]
    assert pictures.reading_of(other) == pictures.reading_of(whole)


@pytest.mark.parametrize(
    ("classes", "fields", "words"),
    [
        (("cat", "dgo"), {}, r"truth\.json has no class 'dgo'; the closest is 'dog'\."),
        (("horse",), {"absent": "leave_out"}, "has no class 'horse'; there are bird, cat, dog"),
        (("cat", "cat"), {}, "lists 'cat' twice"),
    ],
)
def test_classes_that_there_are_not_are_refused(inner, classes, fields, words):
    with pytest.raises(ConfigError, match=words):
        load(inner, *classes, **fields)


def test_a_class_that_validation_lacks_may_be_left_out_and_is_matched_to_training(inner):
    fields = {"source": component("data.shapes", count=3), "classes": ("circle", "cat")}
    with pytest.raises(ConfigError, match="no class 'cat'"):
        prepare.load_source(component("data.only", **fields))
    val = prepare.load_source(component("data.only", **fields, absent="leave_out"), classes=("circle", "cat"))
    assert val.classes == ("circle", "cat") and {label for one in val.records for label in one.labels} == {0}


def test_the_source_inside_has_to_be_one():
    with pytest.raises(ConfigError, match=r"The source of data\.only is"):
        prepare.load_source(component("data.only", source=component("nets.resnet")))

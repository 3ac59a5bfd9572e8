import numpy as np

from jaxkd.config import build, component, module_of
from jaxkd.data.base import Source
from jaxkd.data.relabelled import Relabelled


def test_classes_are_brought_to_another_list_by_name():
    config = build(component("data.shapes", count=6))
    plain = module_of(config).load(config)
    other = Relabelled(plain, ("square", "hexagon", "triangle", "circle"))
    assert isinstance(other, Source)
    assert other.category_ids == (2, 4, 3, 1)
    for one, same in zip(plain.records, other.records, strict=True):
        assert [plain.classes[label] for label in one.labels] == [other.classes[label] for label in same.labels]
        np.testing.assert_array_equal(one.boxes, same.boxes)
    truth = other.annotations()
    assert truth["annotations"] == plain.annotations()["annotations"]
    names = {item["id"]: item["name"] for item in truth["categories"]}
    assert names == {1: "circle", 2: "square", 3: "triangle", 4: "hexagon"}
    np.testing.assert_array_equal(other.read(3), plain.read(3))

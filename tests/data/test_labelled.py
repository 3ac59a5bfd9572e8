import numpy as np
import pytest

from jaxkd.data.labelled import Labelled, areas, cut, largest
from jaxkd.data.transforms import Sample


def picture(boxes, *, crowd=False, size=(100, 100)):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    image = np.zeros((*size, 3), np.uint8)
    columns = np.arange(len(boxes), dtype=np.int32), np.full(len(boxes), crowd), np.ones(len(boxes), np.float32)
    return Labelled(Sample(image, boxes), *columns)


@pytest.mark.parametrize(
    ("box", "kind", "left"),
    [
        ([10, 10, 20, 20], "object", [10, 10, 20, 20]),  # not cut
        ([10, 10, 10.5, 20], "object", [10, 10, 10.5, 20]),  # nor this, however small
        ([-6, 10, 4, 20], "object", [0, 10, 4, 20]),  # .4 is left
        ([-7, 10, 3, 20], "crowd", [0, 10, 3, 20]),  # .3
        ([-70, 10, 30, 34], "object", [0, 10, 30, 34]),  # .3 with sides of 30 and 24
        ([-70, 10, 30, 33], "crowd", [0, 10, 30, 33]),  # .3 with sides of 30 and 23
        ([-80, 10, 20, 60], "crowd", [0, 10, 20, 60]),  # .2
        ([-9, 10, 1, 20], "crowd", [0, 10, 1, 20]),  # .1
        ([-91, 0, 9, 50], None, None),  # .09
        ([-0.5, 10, 0.9, 20], None, None),  # .64, but narrower than a pixel
        ([120, 10, 130, 20], None, None),  # outside
        ([60, 70, 130, 140], "crowd", [60, 70, 100, 100]),  # 4/7 by 3/7
    ],
)
def test_what_is_left_of_a_cut_object(box, kind, left):
    found = cut(picture([box]))
    assert found.sample.boxes.tolist() == ([] if left is None else [np.array(left, np.float32).tolist()])
    assert found.crowd.tolist() == ([] if kind is None else [kind == "crowd"])
    assert len(found.labels) == len(found.crowd)


def test_a_crowd_stays_one_however_little_is_left():
    found = cut(picture([[-99, 0, 1, 50], [-99, 0, 0.5, 50], [10, 10, 20, 20]], crowd=True))
    assert found.crowd.tolist() == [True, True]
    assert found.labels.tolist() == [0, 2]


def test_sides_are_measured_on_the_students_canvas():
    boxes = [[-70, 10, 30, 34], [-1, 10, 1.5, 20]]
    assert cut(picture(boxes)).crowd.tolist() == [False, False]
    assert cut(picture(boxes), detail=2.0).crowd.tolist() == [True]


def test_largest_keeps_the_order():
    boxes = picture([[0, 0, 5, 5], [0, 0, 9, 9], [0, 0, 1, 1], [0, 0, 7, 7]]).sample.boxes
    assert areas(boxes).tolist() == [25, 81, 1, 49]
    assert largest(boxes, 2).tolist() == [1, 3]
    assert largest(boxes, 9).tolist() == [0, 1, 2, 3]

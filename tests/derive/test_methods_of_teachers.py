"""Which methods a teacher teaches by, where nobody says it."""

import pytest

from jaxkd.derive import methods


@pytest.mark.parametrize(
    ("capabilities", "names"),
    [
        (("features", "box_predictions", "detections"), ("tar", "gkd")),
        (("features", "anchor_predictions", "detections"), ("tar",)),
        (("detections",), ("detections",)),
        (("features",), ("align",)),
    ],
)
def test_methods_follow_of_what_the_teacher_gives(capabilities, names):
    assert methods.chosen("auto", pictures=500, capabilities=capabilities).value == names

"""Which methods a teacher teaches by, where nobody says it."""

import pytest

from jaxkd.derive import methods

TWO_STAGE = ("features", "box_predictions", "detections")
ONE_STAGE = ("features", "anchor_predictions", "detections")


@pytest.mark.parametrize(
    ("capabilities", "names"),
    [
        (TWO_STAGE, ("tar", "gkd")),
        (ONE_STAGE, ("tar",)),
        (("detections",), ("detections",)),
        (("features",), ("align",)),
    ],
)
def test_methods_follow_of_what_the_teacher_gives(capabilities, names):
    assert methods.chosen("auto", pictures=500, student=TWO_STAGE, teacher=capabilities).value == names


def test_a_student_of_one_stage_has_no_prototypes():
    chosen = methods.chosen("auto", pictures=500, student=ONE_STAGE, teacher=TWO_STAGE)
    assert chosen == (("tar",), "the student is no detector of two stages")

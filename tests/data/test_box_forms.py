import numpy as np
import pytest

from jaxkd.data import box_forms

CORNERS = np.array([[10, 20, 60, 50], [5, 5, 95, 75], [50, 10, 90, 40]], float)
SIZES = {"heights": np.full(3, 80), "widths": np.full(3, 100)}
XYWH = np.concatenate([CORNERS[:, :2], CORNERS[:, 2:] - CORNERS[:, :2]], -1)
SCALE = np.array([100, 80, 100, 80])
NUMBERS = {"xywh": XYWH, "corners": CORNERS, "xywh_shares": XYWH / SCALE, "corners_shares": CORNERS / SCALE}


@pytest.mark.parametrize("form", box_forms.FORMS)
def test_each_form_is_known_by_its_pictures_and_gives_the_corners(form):
    counts = box_forms.misfits(NUMBERS[form], **SIZES)
    assert counts[form] == 0 and box_forms.fitting(counts) == form
    np.testing.assert_allclose(box_forms.corners(NUMBERS[form], form, **SIZES), CORNERS)


def test_where_both_fit_it_is_cocos():
    both = np.array([[10, 10, 40, 40], [20, 20, 30, 30], [np.nan, 0, 0, 0]], float)
    assert box_forms.fitting(box_forms.misfits(both, **SIZES)) == "xywh"
    assert box_forms.fitting(box_forms.misfits(both[:0], heights=np.zeros(0), widths=np.zeros(0))) == "xywh"


def test_a_box_may_leave_its_picture_by_a_pixel():
    counts = box_forms.misfits(np.array([[0, 0, 101, 81], [-1, 0, 50, 50], [0, 0, 103, 10]], float), **SIZES)
    assert counts == {"xywh": 1, "corners": 1}

import numpy as np
import pytest
from PIL import Image, ImageColor

from jaxkd import draw

GREY = np.full((60, 80, 3), 128, np.uint8)
CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]


def colour(label):
    return ImageColor.getrgb(draw.COLOURS[label % len(draw.COLOURS)])


def test_a_frame_in_the_colour_of_its_class():
    box = draw.Box((20.0, 10.0, 50.0, 40.0), 1, "dog")
    pixels = np.asarray(draw.boxes_on(GREY, [box], names=False))
    for y, x in ((10, 35), (40, 35), (25, 20), (25, 50)):
        assert tuple(pixels[y, x]) == colour(1)
    assert (pixels[14:36, 24:46] == 128).all()  # inside the frame
    assert (pixels[:9] == 128).all()  # above it
    assert (GREY == 128).all()


def test_the_surer_box_lies_on_top():
    box = (10.0, 10.0, 40.0, 40.0)
    unsure, sure = draw.Box(box, 0, "cat", 0.4), draw.Box(box, 1, "dog", 0.9)
    for boxes in ([unsure, sure], [sure, unsure]):
        assert tuple(np.asarray(draw.boxes_on(GREY, boxes, names=False))[10, 30]) == colour(1)


def test_pictures_and_boxes_grow_together():
    picture = draw.boxes_on(GREY, [draw.Box((10.0, 10.0, 30.0, 30.0), 0, "cat")], scale=2.0, names=False)
    assert picture.size == (160, 120)
    pixels = np.asarray(picture)
    assert tuple(pixels[20, 40]) == colour(0)
    assert tuple(pixels[10, 20]) == (128, 128, 128)
    assert draw.boxes_on(np.zeros((1, 900, 3), np.uint8), [], scale=0.4).size == (360, 1)


@pytest.mark.parametrize("score", [None, 0.25])
def test_names_stay_in_the_picture_where_the_box_touches_its_top(score):
    pixels = np.asarray(draw.boxes_on(GREY, [draw.Box((0.0, 0.0, 79.0, 59.0), 2, "bird", score)]))
    assert tuple(pixels[0, 40]) == colour(2)
    assert (pixels > 230).all(-1).any()  # white letters
    assert pixels.shape == GREY.shape


def test_names_stay_in_the_picture_at_its_right_side():
    far = draw.Box((70.0, 30.0, 79.0, 59.0), 2, "bird")
    pixels = np.asarray(draw.boxes_on(GREY, [far]))
    assert (pixels[19:29, 50:70] == colour(2)).all(-1).any()  # begins left of its box
    long = np.asarray(draw.boxes_on(GREY, [draw.Box((0.0, 30.0, 79.0, 59.0), 2, 40 * "bird", 0.5)]))
    assert (long[19:29, 40:77] > 230).all(-1).any()


def test_more_classes_than_colours():
    label = len(draw.COLOURS) + 1
    pixels = np.asarray(draw.boxes_on(GREY, [draw.Box((5.0, 5.0, 30.0, 30.0), label, "x")], names=False))
    assert tuple(pixels[5, 15]) == colour(1)


def test_results_and_annotations_become_boxes_by_picture():
    results = [
        {"image_id": 4, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.6},
        {"image_id": 4, "category_id": 7, "bbox": [0, 0, 5, 5], "score": 0.4},
        {"image_id": 9, "category_id": 7, "bbox": [2, 2, 2, 2]},
    ]
    assert draw.from_results(results, CATEGORIES) == {
        4: [draw.Box((1.0, 2.0, 4.0, 6.0), 1, "dog", 0.6)],
        9: [draw.Box((2.0, 2.0, 4.0, 4.0), 0, "cat", None)],
    }
    assert len(draw.from_results(results, CATEGORIES, least=0.4)[4]) == 2
    marks = [{"iscrowd": 1}, {"iscrowd": 0, "ignore": 1}, {"iscrowd": 0, "ignore": 0}]
    boxes = draw.from_results([results[2] | mark for mark in marks], CATEGORIES)[9]
    assert [box.dashed for box in boxes] == [True, True, False]
    assert draw.from_results([], CATEGORIES) == {}


def test_a_table_of_pictures():
    red, blue = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (50, 20), "blue")
    table = draw.table([[red, blue], [red, blue]], ["one", "two"], gap=4)
    assert table.size == (30 + 50 + 3 * 4, 26 + 2 * 20 + 2 * 4)
    assert table.getpixel((4, 26)) == table.getpixel((4, 26 + 24)) == (255, 0, 0)
    assert table.getpixel((38, 26)) == (0, 0, 255)
    assert table.getpixel((36, 30)) == (255, 255, 255)
    assert (np.asarray(table)[:26] < 128).any()  # the titles


def test_crowds_have_dashed_frames():
    box = draw.Box((10.0, 10.0, 70.0, 50.0), 0, "cat", dashed=True)
    pixels = np.asarray(draw.boxes_on(GREY, [box], names=False))
    for side in (pixels[10, 10:70], pixels[50, 10:70], pixels[10:50, 10], pixels[10:50, 70]):
        frame = (side == colour(0)).all(-1)
        assert 0.3 < frame.mean() < 0.7
        assert ((side == 128).all(-1) | frame).all()

"""Working size, buckets and max_objects: golden numbers, the search against all sets of canvases, and edges."""

import itertools

import drawn
import numpy as np
import pytest

from jaxkd.data import transforms
from jaxkd.derive import sizes
from jaxkd.errors import DataError

CPU = 320**2


def of_side(side, *, size=(480, 640), count=4):
    return [drawn.record([(0, 0, side, side)], size=size, index=index) for index in range(count)]


@pytest.mark.parametrize(
    ("side", "size", "wanted", "pixels", "value", "words"),
    [
        (100, (480, 640), 16, CPU, (160, 224), "narrower than 100 px, 33 px after the resize; 16 wanted, on a short"),
        (40, (480, 640), 16, CPU, (192, 256), "narrower than 40 px, 16 px after the resize; 16 wanted"),
        (40, (480, 640), 24, CPU, (288, 384), "24 wanted"),
        (40, (480, 640), 24, CPU // 2, (192, 256), "which would be more than 226x226 pixels"),
        (10, (480, 640), 16, 640**2, (480, 640), "16 wanted, but pictures of 480x640 are not enlarged"),
        (10, (480, 640), 16, CPU, (288, 384), "which would be more than 320x320 pixels"),
        (10, (640, 480), 16, CPU, (288, 384), "which would be more than"),  # sides, not height and width
        (10, (50, 60), 16, CPU, (96, 128), "not enlarged"),  # never below 96
    ],
)
def test_the_working_size(side, size, wanted, pixels, value, words):
    choice = sizes.working_size(of_side(side, size=size), wanted=wanted, pixels=pixels)
    assert choice.value == value
    assert words in choice.words


def test_crowds_say_nothing_about_the_size():
    small = drawn.record([(0, 0, 4, 4), (0, 0, 40, 40)], crowd=[True, False])
    assert sizes.working_size([small], wanted=16, pixels=CPU).value == (192, 256)


def test_nothing_follows_of_no_object():
    with pytest.raises(DataError, match=r"None of the 2 training pictures has an object, so no setting follows"):
        sizes.working_size([drawn.record([]), drawn.record([(0, 0, 9, 9)], crowd=[True])], wanted=16, pixels=CPU)


def slow(sizes_of_pictures, count):
    """The least pixels of `count` canvases, by trying all."""
    sides = [sorted({size[axis] for size in sizes_of_pictures}) for axis in (0, 1)]
    best = np.inf
    for canvases in itertools.combinations(itertools.product(*sides), count):
        areas = [
            min((h * w for h, w in canvases if h >= height and w >= width), default=np.inf)
            for height, width in sizes_of_pictures
        ]
        best = min(best, sum(areas))
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_what_trying_all_finds(seed):
    draw = np.random.default_rng(seed)
    records = [drawn.record([], size=tuple(draw.integers(200, 700, 2).tolist()), index=index) for index in range(12)]
    resized = [transforms.target_size(record.height, record.width, short=160, long=256) for record in records]
    rounded = [tuple(32 * -(-side // 32) for side in size) for size in resized]
    packings = sizes.best_packings(records, short=160, long=256)
    pictures = sum(height * width for height, width in resized)
    assert [len(packing.buckets) for packing in packings] == [1, 2, 3]
    for count, packing in enumerate(packings, 1):
        assert pictures / (1 - packing.padding) == pytest.approx(slow(rounded, count))
        assert all(any(h >= size[0] and w >= size[1] for h, w in packing.buckets) for size in rounded)


def test_pictures_of_one_size_have_one_canvas():
    (packing,) = sizes.best_packings(of_side(9), short=160, long=224)
    assert packing.buckets == ((160, 224),)
    assert packing.padding == pytest.approx(1 - 213 / 224)
    choice = sizes.buckets(of_side(9), short=160, long=224)
    assert choice == (((160, 224),), "5 % of the canvas is padding")


def test_a_canvas_more_has_to_save_six_points():
    wide, high = of_side(9, count=9), of_side(9, size=(640, 480), count=1)
    assert sizes.buckets([*wide, *high], short=160, long=224).value == ((160, 224), (224, 160))
    almost = of_side(9, size=(480, 560), count=1)  # a canvas of its own would save a point
    choice = sizes.buckets([*wide, *almost], short=160, long=224)
    assert choice.value == ((160, 224),)
    assert choice.words == "6 % of the canvas is padding, with two canvases 5 %"


@pytest.mark.parametrize(("boxes", "value"), [(0, 20), (25, 30), (26, 40), (250, 300), (900, 300)])
def test_max_objects(boxes, value):
    records = [drawn.record([(0, 0, 9, 9)] * boxes) for _ in range(4)]
    assert sizes.max_objects(records).value == value

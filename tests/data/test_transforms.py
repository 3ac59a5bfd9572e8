import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxkd.data import transforms
from jaxkd.data.transforms import Sample

COCO_BUCKETS = ((800, 1344), (1344, 800))
sides = st.integers(1, 2000)


def sample(height, width, *, seed=0):
    draw = np.random.default_rng(seed)
    corners = np.sort(draw.uniform(0, 1, (3, 2, 2)), axis=1) * [width, height]
    image = draw.integers(0, 256, (height, width, 3), np.uint8)
    return Sample(image=image, boxes=corners.reshape(3, 4).astype(np.float32))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((400, 1000), (533, 1333)), ((1600, 1600), (800, 800))],
)
def test_target_size_golden(size, wanted):
    assert transforms.target_size(*size, short=800, long=1333) == wanted


@pytest.mark.parametrize(
    ("size", "wanted"), [((800, 1067), 0), ((1067, 800), 1), ((800, 800), 0), ((1333, 1333), 0), ((2000, 900), 1)]
)
def test_choose_bucket_golden(size, wanted):
    assert transforms.choose_bucket(*size, COCO_BUCKETS) == wanted


def test_the_smallest_bucket_that_holds_the_picture_is_taken():
    assert transforms.choose_bucket(50, 50, ((100, 100), (64, 64), (40, 80))) == 1


@given(sides, sides)
def test_a_fitted_size_fits_and_is_never_enlarged(height, width):
    for bucket in COCO_BUCKETS:
        fitted = transforms.fit_size(height, width, bucket=bucket)
        assert 1 <= fitted[0] <= min(height, bucket[0])
        assert 1 <= fitted[1] <= min(width, bucket[1])
        if height <= bucket[0] and width <= bucket[1]:
            assert fitted == (height, width)


@given(sides, sides, st.integers(32, 1000), st.integers(1000, 1500))
def test_a_target_size_keeps_the_ratio(height, width, short, long):
    new_height, new_width = transforms.target_size(height, width, short=short, long=long)
    assert max(new_height, new_width) <= long
    assert min(new_height, new_width) <= short
    scale = min(short / min(height, width), long / max(height, width))
    assert abs(new_height - height * scale) <= 1
    assert abs(new_width - width * scale) <= 1


@settings(max_examples=15)
@given(st.integers(2, 60), st.integers(2, 60), st.integers(2, 60), st.integers(2, 60))
def test_resize_scales_boxes_by_the_true_factors_and_comes_back(height, width, new_height, new_width):
    before = sample(height, width)
    after = transforms.resize(before, height=new_height, width=new_width)
    assert after.image.shape == (new_height, new_width, 3)
    np.testing.assert_allclose(after.boxes[:, 0::2] / new_width, before.boxes[:, 0::2] / width, atol=1e-5)
    np.testing.assert_allclose(after.boxes[:, 1::2] / new_height, before.boxes[:, 1::2] / height, atol=1e-5)
    back = transforms.resize(after, height=height, width=width)
    np.testing.assert_allclose(back.boxes, before.boxes, rtol=1e-5, atol=1e-4)


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 40))
def test_two_flips_change_nothing(height, width):
    before = sample(height, width)
    once = transforms.flip(before)
    twice = transforms.flip(once)
    np.testing.assert_array_equal(twice.image, before.image)
    np.testing.assert_allclose(twice.boxes, before.boxes, atol=1e-4)
    assert (once.boxes[:, 2] >= once.boxes[:, 0]).all()


def test_flip_takes_the_object_along():
    image = np.zeros((10, 20, 3), np.uint8)
    image[2:5, 3:7] = 255
    after = transforms.flip(Sample(image=image, boxes=np.array([[3, 2, 7, 5]], np.float32)))
    x0, y0, x1, y1 = after.boxes[0].astype(int)
    assert (x0, y0, x1, y1) == (13, 2, 17, 5)
    assert (after.image[y0:y1, x0:x1] == 255).all()
    assert after.image.sum() == image.sum()


def test_resize_takes_the_object_along():
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:50] = 255
    after = transforms.resize(Sample(image=image, boxes=np.array([[30, 10, 50, 20]], np.float32)), height=80, width=90)
    x0, y0, x1, y1 = after.boxes[0].astype(int)
    inside = after.image[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1]
    assert (inside == 255).all()
    assert inside.sum() > 0.75 * after.image.sum()


def test_antialiasing_takes_the_mean_of_what_a_pixel_covers():
    """Of columns that are white and black by turns, of which a picture of half the width has two in each pixel."""
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, ::2] = 255
    smooth = transforms.resize_image(image, height=8, width=4, antialias=True)
    assert smooth.flags.writeable and np.abs(smooth[:, 1:-1].astype(int) - 127).max() <= 1
    assert np.abs(transforms.resize_image(image, height=8, width=5)[0].astype(int) - 127).max() > 50
    np.testing.assert_array_equal(transforms.resize_image(image, height=8, width=16, antialias=True), image)


def test_pad_keeps_the_picture_and_is_black_elsewhere():
    image = sample(5, 7).image
    padded = transforms.pad(image, bucket=(8, 10))
    np.testing.assert_array_equal(padded[:5, :7], image)
    assert padded[5:].sum() == padded[:, 7:].sum() == 0


def test_tiny():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 0.9, 9], [5, 5, 9, 5.5]], np.float32)
    assert transforms.tiny(boxes).tolist() == [False, True, True]

"""Transforms of pictures: their boxes lie where the pixels are; a run is a function of its seed."""

import dataclasses
from itertools import pairwise

import jax
import numpy as np
import painted
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painted import BLUE, COLOURS, GREEN, RED, YELLOW, Painted, find
from test_loader import MixedSource

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import augment, colour, crops, cutout, mosaic, paste, zoom
from jaxkd.data.augment import Config as Augmentation
from jaxkd.data.canvas import View
from jaxkd.data.crops import Window
from jaxkd.data.labelled import Labelled
from jaxkd.data.loader import Config, first_unlike, train_batches
from jaxkd.data.transforms import Sample
from jaxkd.errors import ConfigError
from jaxkd.train import unused

SMALL = Config(buckets=((64, 96), (96, 64)), short=(64,), long=96, max_objects=12)
SHARES = {"mosaic": 0.4, "zoom_out": 0.3, "crop": 0.5, "paste": 0.5, "colour": 0.5, "cutout": 0.5}
ALL = Augmentation(scale=(0.5, 2.0), log_scale=True, hue=6.0, **SHARES)
seeds = st.integers(0, 2**32 - 1)


def same(first, second):
    return jax.tree.map(lambda one, other: bool(np.array_equal(one, other)), first, second)


def equal(first, second):
    return all(jax.tree.leaves(same(first, second)))


def check_boxes(picture, colours, *, atol=1.0):
    """That every object of a label lies where the pixels of its colour are."""
    for box, label in zip(picture.sample.boxes, picture.labels, strict=True):
        np.testing.assert_allclose(box, find(picture.sample.image, colours[label]), atol=atol)


def numbers(seed, count):
    return np.random.default_rng(seed).random(count)


def test_a_crop_golden():
    boxes = [[10, 20, 30, 40], [50, 10, 70, 30]]
    found = crops.crop(painted.picture(boxes, (RED, GREEN)), Window(10, 20, 40, 40), size=(80, 120))
    assert found.sample.boxes.tolist() == [[0, 20, 30, 60], [90, 0, 120, 40]]  # of both, a half is left
    assert found.size == (80, 120)
    check_boxes(found, (RED, GREEN))


def test_a_crop_of_everything_copies_nothing():
    picture = painted.picture([[10, 20, 30, 40]], (RED,))
    found = crops.crop(picture, Window(0, 0, 60, 90), size=(60, 90))
    assert np.shares_memory(found.sample.image, picture.sample.image)
    np.testing.assert_array_equal(found.sample.boxes, picture.sample.boxes)


@pytest.mark.parametrize(
    ("scale", "corner", "window", "size"),
    [
        (1.0, (0.9, 0.9), Window(0, 0, 60, 90), (60, 90)),
        (0.5, (0.9, 0.9), Window(0, 0, 60, 90), (30, 45)),
        (2.0, (0.0, 0.0), Window(0, 0, 32, 48), (64, 96)),
        (2.0, (0.99, 0.5), Window(28, 21, 32, 48), (64, 96)),
    ],
)
def test_a_frame_golden(scale, corner, window, size):
    scaled = (60 * scale, 90 * scale)
    found = crops.framed(Window(0, 0, 60, 90), scaled=scaled, frame=(64, 96), corner=corner)
    assert found == (window, size)


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(5, 60), st.integers(5, 60))
def test_boxes_of_a_window_lie_where_the_pixels_are(seed, height, width):
    tall, wide, down, right = numbers(seed, 4)
    box = [20, 15, 60, 45]
    window = Window(int(down * 15), int(right * 20), 45 + int(tall), 70 + int(wide))  # holds at least half of the box
    picture = painted.picture([box], (RED,))
    found = crops.crop(picture, window, size=(height, width))
    assert len(found.labels) == 1
    check_boxes(found, (RED,))


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_a_window_holds_the_centre_of_an_object(seed):
    objects = np.array([[20, 15, 60, 45], [0, 0, 8, 8]], np.float32)
    draws = numbers(seed, crops.NUMBERS)
    top, left, height, width = crops.overlapping((60, 90), objects, draws)
    assert top >= 0 and left >= 0 and top + height <= 60 and left + width <= 90
    assert height >= 18 and width >= 27
    whole = (top, left, height, width) == (0, 0, 60, 90)
    centres = (objects[:, :2] + objects[:, 2:]) / 2
    assert whole or ((centres > (left, top)) & (centres < (left + width, top + height))).all(-1).any()
    assert whole or 0.5 <= height / width <= 2
    nothing = np.zeros((0, 4), np.float32)
    assert crops.overlapping((60, 90), nothing, draws) == Window(0, 0, 60, 90)


def test_windows_have_the_overlap_that_was_drawn():
    objects = np.array([[20, 15, 60, 45]], np.float32)
    for place, overlap in enumerate(crops.OVERLAPS):
        found = []
        for seed in range(40):
            draws = numbers(seed, crops.NUMBERS)
            draws[0] = (place + 0.5) / len(crops.OVERLAPS)
            top, left, height, width = crops.overlapping((60, 90), objects, draws)
            box = np.array([left, top, left + width, top + height], np.float32)
            if (height, width) != (60, 90):
                common = crops.intersections(box, objects)[0]
                found.append(common / (height * width + 1200 - common))
        assert min(found, default=1.0) >= overlap
    assert crops.intersections(objects[0], objects).tolist() == [1200]


def test_colours_golden():
    image = np.array([[[255, 0, 0], [100, 100, 100], [200, 220, 250]]], np.uint8)
    assert colour.adjust(image) is image
    assert colour.adjust(image, brightness=32.0).tolist() == [[[255, 32, 32], [132] * 3, [232, 252, 255]]]
    assert colour.adjust(image, contrast=0.5).tolist() == [[[192, 64, 64], [114] * 3, [164, 174, 189]]]
    assert colour.adjust(image, saturation=0.0)[0, 0].tolist() == [76, 76, 76]
    assert colour.adjust(image, hue=120.0)[0, :2].tolist() == [[0, 255, 0], [100] * 3]
    assert colour.adjust(image, hue=-120.0)[0, 0].tolist() == [0, 0, 255]


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_a_mosaic_fills_its_canvas_and_boxes_lie_where_the_pixels_are(seed):
    sizes = [(60, 90), (90, 60), (40, 40), (100, 150)]
    colours = (RED, GREEN, BLUE, YELLOW)
    pictures = []
    for size, colour_of in zip(sizes, colours, strict=True):
        height, width = size
        one = painted.picture([[width // 4, height // 4, width * 3 // 4, height * 3 // 4]], (colour_of,), size=size)
        pictures.append(dataclasses.replace(one, labels=np.array([colours.index(colour_of)], np.int32)))
    working = [(64.0, 96.0), (64.0, 43.0), (64.0, 64.0), (64.0, 96.0)]
    found, factors = mosaic.mosaic(pictures, numbers(seed, mosaic.NUMBERS), working=working, canvas=(64, 96))
    assert found.size == (64, 96)
    assert found.sample.image.max(-1).min() >= painted.GROUND - 1  # no black
    for box, label in zip(found.sample.boxes, found.labels, strict=True):
        seen = find(found.sample.image, colours[label])
        np.testing.assert_allclose(box, seen, atol=1.5 if label else 1.0)
    assert min(factors) >= 0.4 * 64 / 60 - 0.05


def test_a_class_is_drawn_the_more_often_the_rarer_it_is():
    source = Painted(8)
    often = [dataclasses.replace(record, labels=np.zeros(3, np.int32)) for record in source.records[:7]]
    donors = paste.Donors([*often, source.records[7]])
    draws = np.random.default_rng(0).random((4000, 2))
    labels, pictures = np.array([donors.choose(*pair) for pair in draws.tolist()]).T
    shares = np.bincount(labels) / len(labels)
    np.testing.assert_allclose(shares, np.array([1 / 8, 1, 1]) / (2 + 1 / 8), atol=0.03)
    assert set(pictures[labels > 0]) == {7} and set(pictures[labels == 0]) == set(range(8))


def test_an_object_is_cut_out_with_what_lies_in_its_box():
    donor = painted.picture([[10, 10, 50, 50], [20, 20, 30, 30], [45, 20, 65, 30]], (RED, GREEN, BLUE))
    patch = paste.cut_out(donor, 0, 0.5, scale=(0.5, 0.5))
    assert patch is not None and patch.size == (20, 20)
    assert patch.sample.boxes.tolist() == [[0, 0, 20, 20], [5, 5, 10, 10], [17.5, 5, 20, 10]]
    assert patch.crowd.tolist() == [False, False, True]  # of the last, a quarter is left
    assert paste.cut_out(donor, 7, 0.5, scale=(1.0, 1.0)) is None  # no such object
    assert paste.cut_out(donor, 1, 0.5, scale=(0.4, 0.4)) is None  # 4 pixels


def test_pasting_hides_nothing():
    picture = painted.picture([[0, 0, 45, 60], [80, 50, 90, 60]], (RED, GREEN))
    donor = painted.picture([[10, 10, 40, 40]], (BLUE,))
    patch = paste.cut_out(donor, 0, 0.0, scale=(1.0, 1.0))
    assert patch is not None
    before = picture.sample.image.copy()
    pasted = 0
    for seed in range(30):
        found = paste.paste(picture, patch, numbers(seed, 20).reshape(10, 2))
        if len(found.labels) == 3:
            pasted += 1
            np.testing.assert_array_equal(found.sample.boxes[:2], picture.sample.boxes)
            hidden = crops.intersections(found.sample.boxes[2], picture.sample.boxes)
            seen = find(found.sample.image, BLUE)  # less of it on red, which is further from blue than the ground is
            np.testing.assert_allclose(found.sample.boxes[2], seen, atol=2 if hidden.any() else 1)
            assert (hidden < 0.1 * np.array([45 * 60, 100])).all()
    assert pasted > 10
    np.testing.assert_array_equal(picture.sample.image, before)  # the cache may hold it
    full = painted.picture([[0, 0, 180, 120]], (RED,), size=(120, 180))
    assert paste.paste(full, patch, numbers(0, 20).reshape(10, 2)).labels.tolist() == [0, 0]  # on top of a large one
    many = painted.picture([[x, y, x + 10, y + 10] for x in range(0, 90, 10) for y in range(0, 60, 10)], [RED] * 54)
    assert paste.paste(many, patch, numbers(0, 20).reshape(10, 2)) is many
    assert paste.paste(painted.picture([], (), size=(20, 90)), patch, numbers(0, 2).reshape(1, 2)).size == (20, 90)


def test_cutout_leaves_most_of_every_object():
    picture = painted.picture([[0, 0, 45, 60], [60, 10, 80, 30], [20, 20, 70, 50]], (RED, GREEN, BLUE), crowd=(2,))
    before, changed = picture.sample.image.copy(), []
    for seed in range(40):
        found = cutout.cutout(picture, numbers(seed, cutout.NUMBERS))
        filled = (found.sample.image != before).any(-1)
        changed.append(filled.mean())
        for x0, y0, x1, y1 in picture.sample.boxes[:2].astype(int):
            assert filled[y0:y1, x0:x1].mean() <= 0.4
        np.testing.assert_array_equal(found.sample.boxes, picture.sample.boxes)
    assert max(changed) > 0.1 and max(changed) <= 0.45
    np.testing.assert_array_equal(picture.sample.image, before)


def test_what_is_off_changes_no_bit():
    """Numbers of a release in which a picture was only resized and mirrored."""
    config = Config(buckets=((64, 96), (96, 64)), short=(64, 48), long=96, max_objects=6)
    batches = list(train_batches(MixedSource(9), config, seed=7, steps=3, batch=3))
    assert [batch.ids.tolist() for batch in batches] == [[8, 7, 1], [0, 3, 6], [2, 4, 5]]
    heights = [[48, 64, 48], [72, 72, 96], [64, 64, 48]]
    assert [batch.sizes[:, 0].tolist() for batch in batches] == heights
    left = [[43.2, 6.4, 4.8], [19.2, 4.8, 25.6], [57.6, 6.4, 43.2]]
    np.testing.assert_allclose([batch.boxes[:, 0, 0] for batch in batches], left, rtol=1e-6)


def run(source=None, config=ALL, *, seed=3, steps=10, **more):
    """The batches of a run of four pictures a step."""
    options = {name: more.pop(name) for name in ("start", "process", "processes") if name in more}
    loader_config = dataclasses.replace(SMALL, augment=config, **more)
    return list(train_batches(source or Painted(), loader_config, seed=seed, steps=steps, batch=4, **options))


@pytest.fixture(scope="module")
def whole():
    """A run with everything on."""
    return run()


@pytest.mark.parametrize(("start", "cache"), [(4, False), (9, True)])
def test_a_run_that_goes_on_sees_the_same_in_two_processes(whole, start, cache):
    parts = [run(start=start, process=process, processes=2, cache=cache) for process in range(2)]
    for batch, *halves in zip(whole[start:], *parts, strict=True):
        assert equal(batch, jax.tree.map(lambda *rows: np.concatenate(rows), *halves))


def test_the_cache_is_never_written_to(whole):
    source = Painted()
    assert all(equal(*pair) for pair in zip(run(source, cache=True, threads=3), whole, strict=True))
    assert source.reads < 40


def test_boxes_of_a_run_lie_where_the_pixels_are():
    config = dataclasses.replace(ALL, colour=0.0, cutout=0.0, mosaic=0.0, paste=0.0)
    seen = 0
    for batch in run(config=config, steps=20, flip=0.5, short=(64, 48)):
        for row in range(4):
            height, width = batch.sizes[row]
            image = batch.images[row, :height, :width]
            assert not batch.images[row, height:].any() and not batch.images[row, :, width:].any()
            for box, label in zip(batch.boxes[row][batch.valid[row]], batch.labels[row][batch.valid[row]], strict=True):
                np.testing.assert_allclose(box, find(image, COLOURS[label]), atol=1.01)
                seen += 1
    assert seen > 80


@pytest.mark.parametrize("name", sorted(SHARES))
def test_one_that_is_off_leaves_the_numbers_of_the_others(whole, name):
    """So that pictures on which it had done nothing are the same."""
    off = dataclasses.replace(ALL, **{name: 0.0})
    alike = [
        all(np.array_equal(leaf[row], other[row]) for leaf, other in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in zip(whole, run(config=off), strict=True)
        for row in range(4)
    ]
    whether = {"colour": lambda draws: (draws["colour"][::2] < ALL.colour).any()}
    draws = [augmentation_numbers(seed=3, slot=slot) for slot in range(40)]
    used = [whether.get(name, lambda one: one[name][0] < getattr(ALL, name))(one) for one in draws]
    assert 5 < sum(used) < 40
    assert all(alike[slot] for slot in range(40) if not used[slot])
    assert not all(alike)


@pytest.mark.parametrize(
    ("draws", "box"),
    [
        ((0.0, 0.9, 0.9), (8, 16, 40, 48)),
        ((0.99999, 0.0, 0.0), (2, 4, 10, 12)),
        ((1 / 3, 0.5, 0.99999), (52, 24, 68, 40)),
    ],
)
def test_zoomed_out_golden(draws, box):
    picture = painted.picture([[8, 16, 40, 48]], (RED,), size=(64, 96))
    found, factors = zoom.zoomed_out(picture, np.array(draws))
    scale = 1 / (1 + 3 * draws[0])
    np.testing.assert_allclose(found.sample.boxes, [box], atol=0.01)
    np.testing.assert_allclose(factors, (scale, scale), atol=1e-4)
    assert found.size == (64, 96) and list(found.labels) == [0]
    check_boxes(found, (RED,), atol=1.01)


def test_pictures_zoom_out_in_place_of_scale_and_crop():
    config = Augmentation(zoom_out=1.0, scale=(0.5, 2.0), crop=1.0, close_share=0.0)
    view = View((128, 192))
    for batch, plain in zip(run(config=config, teacher_view=view), run(config=Augmentation()), strict=True):
        np.testing.assert_array_equal(batch.sizes, plain.sizes)
        np.testing.assert_array_equal(batch.valid, plain.valid)
        np.testing.assert_array_equal(batch.labels, plain.labels)
        shares = (batch.boxes - np.tile(batch.boxes[:, :1, :2], 2))[batch.valid]
        wanted = (plain.boxes - np.tile(plain.boxes[:, :1, :2], 2))[plain.valid]
        assert (np.abs(shares) <= np.abs(wanted) + 0.5).all() and np.abs(shares).sum() < 0.8 * np.abs(wanted).sum()
        assert (batch.scales < plain.scales).any() and batch.teacher.images.shape[1:3] == view.size
    assert Augmentation(zoom_out=1.0).at(99, steps=100) == Augmentation()


def augmentation_numbers(*, seed, slot):
    rng = np.random.default_rng((seed, 1, slot))
    rng.choice((64,)), rng.random()
    return augment.draw(rng)


def test_the_end_of_a_run():
    config = dataclasses.replace(ALL, close_share=0.2)
    assert config.at(7, steps=10) is config
    end = config.at(8, steps=10)
    assert (end.mosaic, end.zoom_out, end.paste, end.cutout, end.scale) == (0, 0, 0, 0, (0.8, 1.2))
    assert (end.colour, end.crop) == (config.colour, config.crop)
    assert Augmentation(mosaic=1.0).at(99, steps=100) == Augmentation()
    assert dataclasses.replace(ALL, close_share=0.0).at(99, steps=100).mosaic == ALL.mosaic
    mosaics, plain = run(config=Augmentation(mosaic=1.0)), run(config=Augmentation())
    assert [equal(*pair) for pair in zip(mosaics, plain, strict=True)] == [False] * 9 + [True]


@pytest.mark.parametrize("view", [View((128, 192)), View((96, 96), fit="stretch"), View((48, 72))])
def test_the_teacher_sees_the_same_picture(whole, view):
    for alone, batch in zip(whole, run(teacher_view=view), strict=True):
        assert batch.teacher.images.shape == (4, *view.size, 3)
        np.testing.assert_array_equal(batch.sizes, alone.sizes)
        np.testing.assert_allclose(batch.teacher.scales, batch.teacher.sizes / batch.sizes, rtol=1e-6)
        for row in range(4):
            (height, width), (rows, columns) = batch.sizes[row], batch.teacher.sizes[row]
            y = ((np.arange(height) + 0.5) * rows / height).astype(int)
            x = ((np.arange(width) + 0.5) * columns / width).astype(int)
            seen = batch.teacher.images[row][y[:, None], x].astype(int)
            apart = np.abs(seen - batch.images[row, :height, :width]).max(-1) > 60  # at edges alone
            assert apart.mean() < 0.12


def test_a_teacher_of_the_same_canvas_sees_the_same_bits():
    config = dataclasses.replace(ALL, scale=(1.0, 1.0), crop=0.0)
    for batch in run(config=config, buckets=SMALL.buckets[:1], teacher_view=View(SMALL.buckets[0])):
        np.testing.assert_array_equal(batch.teacher.sizes, batch.sizes)
        np.testing.assert_array_equal(batch.teacher.images, batch.images)


def test_moved_pictures_are_not_compared_cell_by_cell():
    config = dataclasses.replace(SMALL, teacher_view=View(SMALL.buckets[0]), buckets=SMALL.buckets[:1])
    source = MixedSource(2)
    source.records = source.records[1:]
    assert first_unlike(source, config) == ""
    assert first_unlike(source, dataclasses.replace(config, augment=Augmentation(colour=1.0))) == ""
    moved = dataclasses.replace(config, augment=Augmentation(scale=(0.5, 1.0)))
    assert "augment scales, crops or joins pictures" in first_unlike(source, moved)
    assert first_unlike(source, moved.alone()) == ""


def test_a_broken_picture_is_replaced_in_a_mosaic_too():
    source = Painted(broken={4})
    whole = run(source, dataclasses.replace(ALL, mosaic=1.0), skip_limit=0.0)
    assert not any((batch.ids == 4).any() for batch in whole)
    assert all((batch.images.max(-1) > 0).all() for batch in whole[:-1])


def test_of_a_full_mosaic_the_largest_boxes_are_kept():
    config = Augmentation(mosaic=1.0, close_share=0.0)
    many, few = run(config=config), run(config=config, max_objects=2)
    for whole, batch in zip(many, few, strict=True):
        for row in range(4):
            sides = whole.boxes[row, :, 2:] - whole.boxes[row, :, :2]
            wanted = np.sort(sides.prod(-1))[::-1][:2]
            found = np.sort((batch.boxes[row, :, 2:] - batch.boxes[row, :, :2]).prod(-1))[::-1]
            np.testing.assert_allclose(found, wanted)


def test_scales_are_drawn_evenly_or_evenly_in_the_logarithm():
    sides = []
    for log_scale in (False, True):
        config = Augmentation(scale=(0.25, 1.0), log_scale=log_scale, close_share=0.0)
        batches = run(config=config, steps=25, buckets=((96, 96),))
        sides.append(np.concatenate([batch.sizes.min(-1) for batch in batches]) / 64)
        assert sides[-1].min() >= 0.25 - 0.01 and sides[-1].max() <= 1.01
    assert 0.55 < np.median(sides[0]) < 0.7 and 0.42 < np.median(sides[1]) < 0.58


def test_refuses():
    with pytest.raises(ConfigError, match=r"augment\.scale is \(2\.0, 1\.0\); give the least and then the greatest"):
        run(config=Augmentation(scale=(2.0, 1.0)))
    with pytest.raises(ConfigError, match=r"data\.augment\.mosaic must be at least 0 and at most 1, not 2\.0"):
        configs.build(component("data.loader", augment=component("data.augment", mosaic=2.0)))


def test_a_recipe_holds_the_settings():
    built = configs.build(component("data.loader", augment=Augmentation(mosaic=0.5)))
    assert built.augment == Augmentation(mosaic=0.5)
    (said,) = unused.sentences({"augment": configs.describe(Augmentation(hue=6.0))})
    assert said == "config.augment.hue=6.0 has no effect while colour is 0.0."


def test_new_numbers_go_to_the_end():
    """For they are part of what a seed means."""
    counts = {"mosaic": 18, "crop": 82, "scale": 3, "paste": 74, "colour": 8, "cutout": 14, "zoom_out": 4}
    assert list(augment.NUMBERS.items())[: len(counts)] == list(counts.items())
    drawn = augment.draw(np.random.default_rng(0))
    stream = np.random.default_rng(0).random(sum(counts.values()))
    ends = np.cumsum([0, *counts.values()])
    for name, (start, end) in zip(counts, pairwise(ends), strict=True):
        np.testing.assert_array_equal(drawn[name], stream[start:end])


def test_flips_of_a_labelled_picture():
    picture = painted.picture([[10, 20, 30, 40]], (RED,))
    assert isinstance(picture, Labelled) and isinstance(picture.sample, Sample)
    check_boxes(picture.flipped(), (RED,))
    check_boxes(picture.resized(120, 45), (RED,))

"""AP over resampled pictures: equal to pycocotools' on the pictures as they are, and on those that a draw repeats."""

import json

import numpy as np
import pytest

from jaxkd.evaluation import bootstrap, coco, matches
from jaxkd.evaluation.bootstrap import Interval, draws, interval, intervals, resampled
from jaxkd.evaluation.coco import score

AP = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def scene(seed: int, *, pictures: int = 30, miss: float = 0.2):
    """Objects of three classes and sizes on numbered pictures, and detections that are sometimes right."""
    draw = np.random.default_rng(seed)
    truth = {
        "images": [{"id": 10 + n, "height": 300, "width": 300} for n in range(pictures)],
        "categories": [{"id": number, "name": name} for number, name in ((2, "cat"), (5, "dog"), (9, "owl"))],
        "annotations": [],
    }
    found = []
    for image in truth["images"]:
        for _ in range(draw.integers(0, 6)):
            side = float(draw.choice([20, 60, 120]))
            x, y = draw.uniform(0, 300 - side, 2).round(1).tolist()
            category = int(draw.choice([2, 5, 9], p=[0.6, 0.3, 0.1]))
            about = {"image_id": image["id"], "category_id": category}
            crowd = int(draw.random() < 0.1)
            truth["annotations"].append(
                about | {"id": len(truth["annotations"]), "bbox": [x, y, side, side], "area": side**2, "iscrowd": crowd}
            )
            for _ in range(draw.integers(0, 3) if draw.random() > miss else 0):
                box = [x + draw.normal(0, 0.05 * side), y + draw.normal(0, 0.05 * side), side, side]
                found.append(about | {"bbox": box, "score": round(draw.random(), 2)})  # often equal
        for _ in range(2):
            box = [*draw.uniform(0, 250, 2).tolist(), 40.0, 40.0]
            category = int(draw.choice([2, 5, 9]))
            found.append({"image_id": image["id"], "category_id": category, "bbox": box, "score": draw.random() / 2})
    return truth, found


def repeated(truth, found, images, counts):
    """The scene with each picture as often as a draw has it, under ids of their own."""
    out, more, number = {"images": [], "categories": truth["categories"], "annotations": []}, [], 0
    for image, count in zip(images, counts, strict=True):
        for _ in range(count):
            number += 1
            out["images"].append({"id": number, "height": 300, "width": 300})
            mine = [item | {"image_id": number} for item in truth["annotations"] if item["image_id"] == image]
            out["annotations"] += [item | {"id": 10_000 * number + item["id"]} for item in mine]
            more += [item | {"image_id": number} for item in found if item["image_id"] == image]
    return out, more


@pytest.mark.parametrize("seed", range(3))
def test_the_first_row_is_what_pycocotools_says(seed):
    truth, found = scene(seed)
    only = {image["id"] for image in truth["images"][3:]}
    found = [item for item in found if item["image_id"] in only]
    expected = score(truth, found, only=only)
    values = resampled(matches.match(truth, found, only=only), draws(27, resamples=0, seed=0))
    for name in AP:
        assert values.summary[name][0] == pytest.approx(expected.summary[name], abs=1e-9, nan_ok=True)
    for name, numbers in expected.per_class.items():
        assert values.per_class[name][0] == pytest.approx(numbers["AP"], abs=1e-9, nan_ok=True)


def test_a_resample_is_what_pycocotools_says_of_pictures_that_are_there_several_times():
    truth, found = scene(7, pictures=12)
    for number, item in enumerate(found):
        item["score"] += 1e-6 * number  # of equal scores, copies of a picture would change the order
    them = matches.match(truth, found)
    counts = draws(12, resamples=4, seed=1)
    values = resampled(them, counts)
    for row, count in enumerate(counts):
        expected = score(*repeated(truth, found, them.images, count)).summary
        for name in AP:
            assert values.summary[name][row] == pytest.approx(expected[name], abs=1e-9, nan_ok=True), (name, row)


def test_real_detectors(shared):
    folder = shared / "data" / "minicoco"
    truth = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    found = json.loads((folder / "detector_results" / "nanodet_results.json").read_text())
    expected = score(truth, found)
    values = resampled(matches.match(truth, found), draws(len(truth["images"]), resamples=0, seed=0))
    for name in AP:
        assert values.summary[name][0] == pytest.approx(expected.summary[name], abs=1e-9)


def test_draws_keep_the_number_of_pictures_and_follow_the_seed():
    counts = draws(50, resamples=20, seed=3)
    assert counts.shape == (21, 50)
    assert (counts[0] == 1).all()
    assert (counts.sum(1) == 50).all()
    np.testing.assert_array_equal(counts, draws(50, resamples=20, seed=3))
    assert (counts[1:] != draws(50, resamples=20, seed=4)[1:]).any()


def test_a_detector_beside_itself_gains_nothing_whatever_is_drawn():
    truth, found = scene(1)
    counts = draws(30, resamples=100, seed=0)
    one, copy = (resampled(matches.match(truth, found), counts) for _ in range(2))
    overall, per_class = intervals(copy, one)
    assert overall["AP"] == Interval(0.0, 0.0, 0.0)
    for gain in (*overall.values(), *per_class.values()):
        assert gain.low == gain.difference == gain.high == 0 or np.isnan(gain.low)
        assert not gain.clear


def test_a_better_detector_is_told_from_a_worse_one():
    truth, good = scene(2, pictures=60, miss=0.0)
    worse = [item for number, item in enumerate(good) if number % 3]
    counts = draws(60, resamples=200, seed=0)
    them, others = (resampled(matches.match(truth, found), counts) for found in (good, worse))
    gain = intervals(them, others)[0]["AP"]
    assert gain.clear
    assert 0 < gain.low < gain.difference < gain.high
    loss = intervals(others, them)[0]["AP"]
    assert (loss.low, loss.difference, loss.high) == pytest.approx((-gain.high, -gain.difference, -gain.low))


def test_an_interval_by_hand():
    gaps = np.arange(-10.0, 91.0)
    assert interval(np.concatenate([[3.0], gaps]), np.zeros(102)) == Interval(3.0, -7.5, 87.5)
    gaps[:20] = np.nan  # resamples without an object say nothing
    assert interval(np.concatenate([[3.0], gaps]), np.zeros(102)) == Interval(3.0, 12.0, 88.0)
    unknown = interval(np.array([np.nan, 1.0]), np.zeros(2))
    assert np.isnan([unknown.difference, unknown.low, unknown.high]).all()
    assert not unknown.clear


def test_what_few_pictures_have_gets_no_interval():
    truth, found = scene(0)
    owls = [item for item in truth["annotations"] if item["category_id"] == 9]
    kept = [item for item in truth["annotations"] if item["category_id"] != 9]
    several = {item["image_id"] for item in owls[:3]}
    truth["annotations"] = kept + [item | {"iscrowd": 0} for item in owls if item["image_id"] in several]
    values = resampled(matches.match(truth, found), draws(30, resamples=20, seed=0))
    assert "owl" in values.few
    assert not {"cat", "AP", "AP50"} & values.few
    gain = intervals(values, values)[1]["owl"]
    assert gain.difference == 0
    assert np.isnan([gain.low, gain.high]).all() and not gain.known
    only = set(sorted({item["image_id"] for item in kept})[:4])
    four = matches.match(truth, [item for item in found if item["image_id"] in only], only=only)
    values = resampled(four, draws(4, resamples=20, seed=0))
    for gain in intervals(values, values)[0].values():
        assert not gain.known and not gain.clear


def test_no_detections_and_no_objects():
    truth, _ = scene(0)
    truth["annotations"] = [item for item in truth["annotations"] if item["category_id"] == 2]
    values = resampled(matches.match(truth, []), draws(30, resamples=5, seed=0))
    assert (values.per_class["cat"] == 0).all()
    assert np.isnan(values.per_class["dog"]).all()
    assert (values.summary["AP"] == 0).all()
    assert coco.score(truth, []).summary["AP"] == 0


def test_quality_of_a_picture_by_hand():
    truth = {
        "images": [{"id": n, "height": 100, "width": 100} for n in (1, 2, 3, 4)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [50, 50, 40, 40]},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [0, 0, 40, 40]},
        ],
    }

    def found(image, category, box, score=0.9):
        return {"image_id": image, "category_id": category, "bbox": box, "score": score}

    detections = [
        found(1, 1, [0, 0, 40, 40]),  # right at all ten overlaps
        found(1, 1, [60, 0, 20, 20]),  # wrong
        found(1, 2, [50, 50, 40, 40], 0.4),  # right, but not sure enough: not found
        found(2, 1, [0, 0, 40, 30]),  # overlap 0.75: right at six of ten
        found(4, 2, [0, 0, 9, 9]),  # where nothing is
    ]
    # Picture 1: 2 * 1 / (2 * 1 + 1 wrong + 1 not found). Picture 3 is empty, and nothing was found there.
    assert matches.quality(matches.match(truth, detections)) == pytest.approx([0.5, 0.6, 1.0, 0.0])


def test_equal_whatever_is_taken_at_once(monkeypatch):
    truth, found = scene(4)
    them, counts = matches.match(truth, found), draws(30, resamples=30, seed=0)
    whole = resampled(them, counts).summary["AP"]
    monkeypatch.setattr(bootstrap, "CHUNK", 7)
    np.testing.assert_array_equal(resampled(them, counts).summary["AP"], whole)

import math

import numpy as np
import pytest

from jaxkd.data import voc as folders
from jaxkd.errors import ConfigError, DataError
from jaxkd.evaluation import coco
from jaxkd.evaluation.voc import average_precision, score

RULES = ("11point", "area")


def make_truth(*objects):
    """Objects (image, category, box as corners, difficult) on the images 1 and 2, of the categories 3, 5 and 9."""
    return {
        "images": [{"id": 1, "height": 100, "width": 100}, {"id": 2, "height": 100, "width": 100}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 9, "name": "emu"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": as_bbox(corners), "iscrowd": 0}
            | {"area": 1, "difficult": difficult, "ignore": difficult}
            for number, (image, category, corners, difficult) in enumerate(objects, start=1)
        ],
    }


def as_bbox(corners):
    x0, y0, x1, y1 = corners
    return [x0, y0, x1 - x0, y1 - y0]


def found(value, corners, *, image=1, category=3):
    return {"image_id": image, "category_id": category, "bbox": as_bbox(corners), "score": value}


LEFT, RIGHT, LOW, FAR = (0, 0, 20, 20), (40, 0, 60, 20), (0, 40, 20, 60), (80, 80, 99, 99)


@pytest.mark.parametrize(
    ("right", "objects", "eleven", "area"),
    [
        ([1], 1, 1, 1),
        ([0], 1, 0, 0),
        ([], 1, 0, 0),
        ([0, 1], 1, 1 / 2, 1 / 2),
        ([1, 0], 1, 1, 1),
        # Recall 1/2 with precision 1, recall 1 with 2/3: the recalls 0 to 0.5 read 1, the others 2/3.
        ([1, 0, 1], 2, (6 + 5 * 2 / 3) / 11, (1 + 2 / 3) / 2),
        # Precision 1/2 at recall 1/4 is raised to the 3/5 that recall 3/4 still has; nothing beyond that.
        ([0, 1, 1, 0, 1], 4, (3 * 2 / 3 + 3 * 2 / 3 + 2 * 3 / 5) / 11, (2 / 3 + 2 / 3 + 3 / 5) / 4),
        # Steps 3, 6 and 7 of the kit's loop lie a rounding above 0.3, 0.6 and 0.7; the others are reached.
        ([1, 1, 1], 10, 3 / 11, 3 / 10),
        ([1] * 6, 20, 3 / 11, 6 / 20),
        ([1] * 6, 10, 6 / 11, 6 / 10),
        ([1] * 7, 10, 7 / 11, 7 / 10),
        *(([1] * right, 10, (right + 1) / 11, right / 10) for right in (1, 2, 4, 5, 8, 9, 10)),
    ],
)
def test_average_precision_by_hand(right, objects, eleven, area):
    right = np.array(right, bool)
    assert average_precision(right, objects=objects, rule="11point") == pytest.approx(eleven, abs=1e-12)
    assert average_precision(right, objects=objects, rule="area") == pytest.approx(area, abs=1e-12)


def test_a_small_split_by_hand():
    truth = make_truth((1, 3, LEFT, 0), (1, 3, RIGHT, 0), (2, 3, LEFT, 1), (2, 5, LOW, 0), (1, 5, FAR, 1))
    results = [
        found(0.5, RIGHT),  # right, as the third that counts
        found(0.9, LEFT),  # right, as the first
        found(0.8, (0, 0, 20, 19)),  # wrong: the object is found already
        found(0.7, LEFT, image=2),  # the difficult one counts for nothing,
        found(0.6, LEFT, image=2),  # how often it may be found
        found(0.4, LOW, image=1, category=5),  # wrong: of another image
        found(0.3, LOW, image=2, category=5),  # right, as the second
    ]
    scores = score(truth, results, rule="area")
    assert scores.per_class == {
        "cat": pytest.approx((1 + 2 / 3) / 2),
        "dog": pytest.approx(1 / 2),
        "emu": pytest.approx(math.nan, nan_ok=True),
    }
    assert scores.mean == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert (scores.rule, scores.iou) == ("area", 0.5)
    eleven = score(truth, results, rule="11point")
    assert eleven.per_class["cat"] == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert eleven.mean == pytest.approx(((6 + 5 * 2 / 3) / 11 + 1 / 2) / 2)


@pytest.mark.parametrize("rule", RULES)
def test_nothing_found_and_nothing_to_find(rule):
    truth = make_truth((1, 3, LEFT, 0), (1, 5, LEFT, 1))
    scores = score(truth, [], rule=rule)
    assert (scores.mean, scores.per_class["cat"]) == (0.0, 0.0)
    assert math.isnan(scores.per_class["dog"])
    nothing = score(make_truth((1, 5, LEFT, 1)), [found(0.5, RIGHT, category=5)], rule=rule)
    assert math.isnan(nothing.mean)
    assert all(math.isnan(value) for value in nothing.per_class.values())


@pytest.mark.parametrize(("x1", "ap"), [(40, 1.0), (40.01, 0.0), (10, 1.0), (9.99, 0.0)])
def test_half_an_overlap_is_enough(x1, ap):
    assert score(make_truth((1, 3, LEFT, 0)), [found(1.0, (0, 0, x1, 20))], rule="area").mean == ap


def test_a_detection_claims_only_what_it_overlaps_most():
    """The second detection overlaps the free object by 0.6, but the claimed one by more."""
    truth = make_truth((1, 3, (0, 0, 20, 20), 0), (1, 3, (6, 0, 26, 20), 0))
    results = [found(0.9, (0, 0, 20, 20)), found(0.8, (2, 0, 22, 20))]
    assert score(truth, results, rule="area").mean == 1 / 2
    as_difficult = make_truth((1, 3, (0, 0, 20, 20), 1), (1, 3, (6, 0, 26, 20), 0))
    assert score(as_difficult, results, rule="area").mean == 0.0


def test_equal_scores_keep_their_order():
    truth = make_truth((1, 3, LEFT, 0))
    right, wrong = found(0.5, LEFT), found(0.5, RIGHT)
    assert score(truth, [right, wrong], rule="area").mean == 1.0
    assert score(truth, [wrong, right], rule="area").mean == 0.5


def test_only_some_images_and_another_overlap():
    truth = make_truth((1, 3, LEFT, 0), (2, 3, LEFT, 0))
    results = [found(0.5, (0, 0, 20, 15))]
    assert score(truth, results, rule="area").mean == 0.5
    assert score(truth, results, rule="area", only={1}).mean == 1.0
    assert score(truth, results, rule="area", only={1}, iou=0.75).mean == 1.0
    assert score(truth, results, rule="area", only={1}, iou=0.76).mean == 0.0
    with pytest.raises(DataError, match="image 1"):
        score(truth, results, rule="area", only={2})


def test_a_box_without_area_finds_nothing():
    results = [found(0.5, (5, 5, 5, 5)), found(0.4, LEFT)]
    assert score(make_truth((1, 3, LEFT, 0)), results, rule="area").mean == 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_id": 8}, "image 8"),
        ({"category_id": 4}, "category 4"),
        ({"score": float("nan")}, "image 1"),
        ({"bbox": [0, 0, 1]}, "finite"),
    ],
)
def test_refuses_detections(changes, said):
    with pytest.raises(DataError, match=said):
        score(make_truth((1, 3, LEFT, 0)), [found(0.5, LEFT) | changes], rule="area")


@pytest.mark.parametrize("iou", [0.0, -1.0, 1.1, math.nan])
def test_refuses_overlaps(iou):
    with pytest.raises(ConfigError, match="not defined"):
        score(make_truth((1, 3, LEFT, 0)), [], rule="area", iou=iou)


def test_coco_ignores_what_is_difficult_at_its_plain_overlap():
    truth = make_truth((1, 3, LEFT, 0), (1, 3, RIGHT, 1))
    results = [found(0.9, RIGHT), found(0.8, LEFT)]
    assert coco.score(truth, results).summary["AP"] == pytest.approx(1.0)
    # A small box inside the difficult object is wrong, as it would not be inside a crowd.
    inside = [found(0.9, (45, 5, 50, 10)), found(0.8, LEFT)]
    assert coco.score(truth, inside).summary["AP"] == pytest.approx(0.5)
    assert coco.score(truth, []).summary["AR100"] == 0.0
    assert math.isnan(coco.score(make_truth((1, 3, RIGHT, 1)), results).summary["AP"])


def noisy_detections(truth, seed):
    """Objects moved, lost, doubled and called by other names, and boxes out of nowhere, all with random scores."""
    draw = np.random.default_rng(seed)
    categories = [category["id"] for category in truth["categories"]]
    results = []

    def add(bbox, image, category):
        value = float(np.round(draw.random(), 2))  # rounded, so that some are equal
        results.append({"image_id": image, "category_id": int(category), "bbox": list(bbox), "score": value})

    for item in truth["annotations"]:
        size = np.array(item["bbox"][2:] * 2)
        for _ in range(draw.integers(0, 4)):
            moved = np.abs(item["bbox"] + size * draw.normal(0, 0.12, 4)) + 1
            category = item["category_id"] if draw.random() < 0.85 else draw.choice(categories)
            add(moved.tolist(), item["image_id"], category)
    for image in draw.choice([image["id"] for image in truth["images"]], 60).tolist():
        add(draw.uniform(1, 200, 4).tolist(), image, draw.choice(categories))
    return results


def slow_scores(truth, results, rule):
    """The development kit's own arithmetic: pixels counted from 1 with their ends, one detection after the other."""

    def inclusive(bbox):
        return bbox[0] + 1, bbox[1] + 1, bbox[0] + bbox[2], bbox[1] + bbox[3]

    out = {}
    for category in truth["categories"]:
        objects = [item for item in truth["annotations"] if item["category_id"] == category["id"]]
        taken, wanted = set(), sum(1 for item in objects if not item["difficult"])
        points, right, wrong = [], 0, 0
        for result in sorted((r for r in results if r["category_id"] == category["id"]), key=lambda r: -r["score"]):
            best, most = None, -math.inf
            ax, ay, bx, by = inclusive(result["bbox"])
            for item in objects:
                if item["image_id"] != result["image_id"]:
                    continue
                cx, cy, dx, dy = inclusive(item["bbox"])
                width, height = min(bx, dx) - max(ax, cx) + 1, min(by, dy) - max(ay, cy) + 1
                if width > 0 and height > 0:
                    union = (bx - ax + 1) * (by - ay + 1) + (dx - cx + 1) * (dy - cy + 1) - width * height
                    if width * height / union > most:
                        best, most = item, width * height / union
            if most >= 0.5 and best["difficult"]:
                continue
            if most >= 0.5 and best["id"] not in taken:
                taken.add(best["id"])
                right += 1
            else:
                wrong += 1
            points.append((right, right / (right + wrong)))
        if not wanted:
            continue
        if rule == "11point":
            steps = np.arange(0.0, 1.1, 0.1)
            ap = sum(max((p for hits, p in points if hits / wanted >= step), default=0) for step in steps) / 11
        else:
            ap = sum(max((p for hits, p in points if hits >= n), default=0) for n in range(1, wanted + 1)) / wanted
        out[category["name"]] = ap
    return out


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_real_objects_score_as_by_a_slow_count(shared, rule, seed):
    root = str(shared / "data" / "minivoc" / "VOCdevkit")
    truth = folders.load(folders.Config(root=root, splits=("2012_trainval",))).annotations()
    results = noisy_detections(truth, seed)

    scores = score(truth, results, rule=rule)

    expected = slow_scores(truth, results, rule)
    assert len(expected) == 20
    assert scores.per_class == pytest.approx(expected, abs=1e-9)
    assert scores.mean == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
    assert 0.2 < scores.mean < 0.9

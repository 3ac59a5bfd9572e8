import json
import math

import numpy as np
import pytest

from jaxkd.data import shapes
from jaxkd.data.loader import Config as LoaderConfig
from jaxkd.data.loader import eval_batches
from jaxkd.errors import DataError
from jaxkd.evaluation.coco import SUMMARY, score, to_results
from jaxkd.types import Detections

DETECTORS = ("centernet", "fastestdet", "nanodet")


def tiny_truth():
    return {
        "images": [{"id": 7, "height": 50, "width": 60}, {"id": 9, "height": 50, "width": 60}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [
            {"id": 0, "image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 1, "image_id": 9, "category_id": 3, "bbox": [5, 5, 30, 10]},
        ],
    }


def found(**changes):
    return {"image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "score": 0.9} | changes


@pytest.mark.parametrize("detector", DETECTORS)
def test_real_detectors_score_as_published(shared, detector):
    folder = shared / "data" / "minicoco"
    truth = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    results = json.loads((folder / "detector_results" / f"{detector}_results.json").read_text())
    expected = json.loads((folder / "detector_results" / "expected.json").read_text())[detector]

    scores = score(truth, results)

    assert scores.summary == pytest.approx(expected["stats"], abs=1e-6)
    names = {str(category["id"]): category["name"] for category in truth["categories"]}
    assert len(scores.per_class) == len(expected["per_category"]) == 80
    for number, values in expected["per_category"].items():
        assert scores.per_class[names[number]] == pytest.approx(values, abs=1e-6)


def test_truth_as_detections_scores_one_and_an_unused_class_has_no_score():
    truth = tiny_truth()
    scores = score(truth, [found(), found(image_id=9, bbox=[5, 5, 30, 10])])
    assert scores.summary["AP"] == pytest.approx(1.0)
    assert scores.per_class["cat"] == {"AP": pytest.approx(1.0), "AP50": pytest.approx(1.0)}
    assert math.isnan(scores.per_class["dog"]["AP"])
    assert math.isnan(scores.summary["APl"])


def test_no_detections_score_zero_and_nothing_is_printed(capsys):
    scores = score(tiny_truth(), [])
    assert tuple(scores.summary) == SUMMARY
    assert scores.summary["AP"] == scores.summary["AR100"] == 0.0
    assert capsys.readouterr().out == ""


def test_only_some_images():
    assert score(tiny_truth(), [found()]).summary["AR100"] == pytest.approx(0.5)
    assert score(tiny_truth(), [found()], only={7}).summary["AR100"] == pytest.approx(1.0)


def test_inputs_stay_as_they_were():
    truth, results = tiny_truth(), [found()]
    score(truth, results)
    assert truth == tiny_truth()
    assert results == [found()]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_id": 8}, "image 8"),
        ({"category_id": 4}, "category 4"),
        ({"score": float("nan")}, "image 7"),
        ({"bbox": [0, 0, float("inf"), 1]}, "finite"),
        ({"bbox": [0, 0, 1]}, "finite"),
        ({"bbox": "0011"}, "finite"),
        ({"bbox": [0, 0, 10**400, 1]}, "finite"),
        ({"score": None}, "finite"),
        ({"image_id": [7]}, "image .7., which is not in the truth"),
        ({"category_id": {}}, "category {}, which is not in the truth"),
    ],
)
def test_refuses(changes, said):
    with pytest.raises(DataError, match=said):
        score(tiny_truth(), [found(**changes)])


def test_refuses_what_is_no_result():
    for odd, said in (({}, "image_id"), ({"image_id": 7}, "category_id"), (found(), None)):
        odd.pop("score", None)
        with pytest.raises(DataError, match=f"Detection 1 has no {said or 'score'}"):
            score(tiny_truth(), [found(), odd])


def test_ids_of_the_truth_may_repeat_or_be_missing():
    right = score(tiny_truth(), [found(), found(image_id=9, bbox=[5, 5, 30, 10])])
    for ids in ((1, 1), (0, 0), (None, None)):
        truth = tiny_truth()
        for item, number in zip(truth["annotations"], ids, strict=True):
            item["id"] = number
        scores = score(truth, [found(), found(image_id=9, bbox=[5, 5, 30, 10])])
        assert scores.summary == pytest.approx(right.summary, nan_ok=True)


def test_a_truth_without_objects_has_no_score():
    truth = tiny_truth() | {"annotations": []}
    for results in ([], [found()]):
        assert math.isnan(score(truth, results).summary["AP"])


def test_the_truth_goes_through_a_batch_and_back():
    source = shapes.load(shapes.Config(count=5, size=(60, 90)))
    config = LoaderConfig(buckets=((64, 100),), short=(64,), long=100, max_objects=8)
    results = []
    for batch in eval_batches(source, config, batch=4):
        scores = np.ones(batch.labels.shape, np.float32)
        everything = Detections(boxes=batch.boxes, scores=scores, labels=batch.labels, valid=batch.valid)
        results += to_results(everything, batch, source)

    truth = source.annotations()
    assert len(results) == len(truth["annotations"])
    by_place = {(item["image_id"], *np.round(item["bbox"])) for item in results}
    assert by_place == {(item["image_id"], *item["bbox"]) for item in truth["annotations"]}
    assert score(truth, results).summary["AP"] == pytest.approx(1.0)


def test_results_end_at_the_edge_of_the_original_picture():
    source = shapes.load(shapes.Config(count=1, size=(60, 90)))
    config = LoaderConfig(buckets=((120, 180),), short=(120,), long=180, max_objects=4)
    batch = next(eval_batches(source, config, batch=1))
    boxes = np.array([[[-10, 20, 500, 60]]], np.float32)
    ones = np.ones((1, 1))
    whole = Detections(
        boxes=boxes, scores=ones.astype(np.float32), labels=2 * ones.astype(np.int32), valid=ones.astype(bool)
    )
    (result,) = to_results(whole, batch, source)
    assert result == {"image_id": 1, "category_id": 3, "bbox": [0, 10, 90, 20], "score": 1.0}

import numpy as np
import pytest

from jaxkd.data import shapes
from jaxkd.data.loader import Config as LoaderConfig
from jaxkd.data.loader import eval_batches
from jaxkd.evaluation.run import detect_all, evaluate
from jaxkd.types import Batch, Detections

FEEDING = LoaderConfig(buckets=((48, 64),), short=(48,), long=64, max_objects=4)


@pytest.fixture(scope="module")
def source():
    return shapes.load(shapes.Config(count=5, size=(96, 128)))


@pytest.fixture
def batches(source):
    loaders = []

    def make(**more):
        loaders.append(eval_batches(source, FEEDING, **({"batch": 2} | more)))
        return loaders[-1]

    yield make
    for loader in loaders:
        loader.close()


def truth_of(batch: Batch) -> Detections:
    """A detector that knows the truth, in the pixels of the batch."""
    return Detections(
        boxes=batch.boxes, scores=np.ones(batch.valid.shape, np.float32), labels=batch.labels, valid=batch.valid
    )


def blind(batch: Batch) -> Detections:
    found = truth_of(batch)
    return found.replace(valid=np.zeros_like(found.valid))


def test_the_truth_scores_one_in_original_pixels(source, batches):
    evaluation = evaluate(truth_of, batches(), source)
    assert evaluation.pictures == 5
    assert evaluation.scores.summary["AP"] == pytest.approx(1.0)
    wanted = {(a["image_id"], a["category_id"], *a["bbox"]) for a in source.annotations()["annotations"]}
    got = {(r["image_id"], r["category_id"], *r["bbox"]) for r in evaluation.results}
    assert len(evaluation.results) == len(got) == len(wanted)
    assert np.array(sorted(got)) == pytest.approx(np.array(sorted(wanted)), abs=1e-3)


@pytest.mark.parametrize("batch", [1, 3, 5, 8])
def test_every_picture_counts_once_whatever_the_batch(source, batches, batch):
    calls = []

    def detect(one: Batch) -> Detections:
        calls.append(one.images.shape[0])
        return truth_of(one)

    evaluation = evaluate(detect, batches(batch=batch), source)
    assert calls == [batch] * -(-5 // batch)
    assert evaluation.pictures == 5
    assert evaluation.scores.summary == pytest.approx(evaluate(truth_of, batches(), source).scores.summary, nan_ok=True)


def test_only_the_pictures_of_the_batches_are_scored(source, batches):
    evaluation = evaluate(truth_of, batches(limit=3), source)
    assert evaluation.pictures == 3
    assert evaluation.scores.summary["AR100"] == pytest.approx(1.0)
    assert {result["image_id"] for result in evaluation.results} == {1, 2, 3}


def test_nothing_found_scores_zero(source, batches):
    evaluation = evaluate(blind, batches(), source)
    assert evaluation.results == []
    assert evaluation.scores.summary["AP"] == 0.0
    assert evaluation.pictures == 5


def test_detect_all_returns_the_pictures_of_the_batches(source, batches):
    results, image_ids = detect_all(blind, batches(limit=4), source)
    assert (results, image_ids) == ([], {1, 2, 3, 4})


class Rated:
    """A source that is scored by a rule of VOC's too."""

    voc_rule = "11point"

    def __init__(self, source):
        self.records, self.classes, self.category_ids = source.records, source.classes, source.category_ids
        self.annotations = source.annotations


def test_a_source_with_a_rule_of_voc_is_scored_by_it_too(source, batches):
    assert evaluate(truth_of, batches(), source).voc is None
    found = evaluate(truth_of, batches(limit=3), Rated(source))
    assert found.voc is not None
    assert (found.voc.rule, found.voc.mean) == ("11point", pytest.approx(1.0))
    assert found.summary == found.scores.summary | {"VOC AP": found.voc.mean}
    assert evaluate(blind, batches(), Rated(source)).voc.mean == 0.0

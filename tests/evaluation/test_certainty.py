"""What scores are worth: worked examples by hand, rare classes together, and what no score reaches."""

import numpy as np
import pytest

from jaxkd.evaluation import certainty
from jaxkd.evaluation.matches import Matches, Ranked

RIGHT = [1, 1, 1, 0, 1, 0, 0, 1, 0, 0]  # of ten detections, best first
SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1]


def ranked(right, scores, *, objects=25):
    true = np.broadcast_to(np.array(right, bool), (10, len(right)))
    return Ranked(np.zeros(len(right), int), np.array(scores, float), true, ~true, np.array([objects]))


def of(*classes):
    matches = Matches((1,), tuple("abc"[: len(classes)]), {"all": list(classes)})
    return certainty.of_classes(matches, precision=0.8, possible=0.5)


def test_thresholds_are_the_least_scores_of_their_precision():
    (known,) = of(ranked(RIGHT, SCORES))
    assert known.sure == 0.5  # 4 of 5 from there on; 4 of 6 from 0.4 on
    assert known.possible == 0.1  # 5 of 10


def test_the_weight_is_the_precision_of_similar_scores_and_never_falls():
    (known,) = of(ranked(RIGHT, SCORES))
    # Each score is its own neighbourhood but 0.2, 0.15 and 0.1, with 1/2, 1/3 and 0; then neighbours get their mean.
    raised = [0, 1 / 3, 0.375, 0.375, 0.375, 0.375 + 0, 0.5, 1, 1, 1]
    weights = known.weight(np.array(SCORES[::-1]))
    assert np.all(np.diff(weights) >= 0)
    np.testing.assert_allclose(weights[[0, 1, 7, 8, 9]], np.array(raised)[[0, 1, 7, 8, 9]])
    np.testing.assert_allclose(known.weight(np.array([0.95, 0.05])), [1, 0])


def test_values_that_fall_get_their_mean():
    np.testing.assert_allclose(certainty.never_falling(np.array([0.1, 0.5, 0.3, 0.4, 0.9])), [0.1, 0.4, 0.4, 0.4, 0.9])
    np.testing.assert_allclose(certainty.never_falling(np.array([3.0, 2, 1])), [2, 2, 2])
    assert len(certainty.never_falling(np.zeros(0))) == 0


def test_classes_with_few_objects_are_measured_together():
    one, two, three = of(
        ranked([1, 1], [0.9, 0.3], objects=5), ranked(RIGHT, SCORES), ranked([0, 0], [0.8, 0.2], objects=19)
    )
    assert one is three and one is not two
    assert one.sure == 0.9  # right at 0.9, wrong at 0.8


def test_what_never_is_right_has_no_threshold():
    (known,) = of(ranked([0, 0], [0.9, 0.8]))
    assert known.sure == known.possible == np.inf
    (known,) = of(ranked([], []))
    assert known.sure == np.inf and known.weight(np.array([0.5])) == pytest.approx(0)

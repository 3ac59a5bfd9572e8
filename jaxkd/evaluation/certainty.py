"""What the scores of a detector are worth, class by class: measured on annotated pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from jaxkd.evaluation.matches import Matches, Ranked

ENOUGH = 20  # objects of a class, from which on it is measured on its own
NEIGHBOURHOOD = 0.05  # scores at most so far away tell the precision at a score
NEVER = np.inf  # a threshold that no score reaches


@dataclass(frozen=True)
class Certainty:
    """What is known of the detections of one class."""

    sure: float  # score from which on detections together have the wanted precision
    possible: float  # the same for the lower precision, below which a detection tells nothing
    scores: Float64[np.ndarray, "n"]  # ascending
    precision: Float64[np.ndarray, "n"]  # at each of them; it never falls

    def weight(self, scores: Float[np.ndarray, "m"]) -> Float64[np.ndarray, "m"]:
        """The share of right detections among those with about these scores."""
        return np.interp(scores, self.scores, self.precision) if len(self.scores) else np.zeros(len(scores))


def of_classes(matches: Matches, *, precision: float, possible: float) -> tuple[Certainty, ...]:
    """The certainty of each class, at IoU 0.5; classes with few objects are measured together.

    Args:
      matches: the detector's detections on annotated pictures.
      precision: share of right detections from the score `sure` on.
      possible: the same for the score `possible`.
    """
    ranked = matches.ranked["all"]
    rare = [one for one in ranked if one.objects.sum() < ENOUGH]
    together = _certainty(rare, precision, possible)
    return tuple(together if one.objects.sum() < ENOUGH else _certainty([one], precision, possible) for one in ranked)


def _certainty(classes: Sequence[Ranked], precision: float, possible: float) -> Certainty:
    counted = [one.true_positive[0] | one.false_positive[0] for one in classes]
    scores = np.concatenate([np.zeros(0), *(one.scores[keep] for one, keep in zip(classes, counted, strict=True))])
    right = np.concatenate(
        [np.zeros(0, bool), *(one.true_positive[0][keep] for one, keep in zip(classes, counted, strict=True))]
    )
    order = np.argsort(scores, kind="stable")
    scores, right = scores[order], right[order]
    return Certainty(
        sure=_threshold(scores, right, precision),
        possible=_threshold(scores, right, possible),
        scores=scores,
        precision=never_falling(_local_precision(scores, right)),
    )


def _threshold(scores: Float64[np.ndarray, "n"], right: Bool[np.ndarray, "n"], wanted: float) -> float:
    """The least score from which on the share of right detections is at least `wanted`; scores ascend."""
    share = np.cumsum(right[::-1])[::-1] / np.arange(len(right), 0, -1)
    reached = np.flatnonzero(share >= wanted)
    return float(scores[reached[0]]) if len(reached) else NEVER


def _local_precision(scores: Float64[np.ndarray, "n"], right: Bool[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """The share of right detections among those of similar scores."""
    low = np.searchsorted(scores, scores - NEIGHBOURHOOD, side="left")
    high = np.searchsorted(scores, scores + NEIGHBOURHOOD, side="right")
    sums = np.concatenate([[0.0], np.cumsum(right)])
    return (sums[high] - sums[low]) / np.maximum(high - low, 1)


def never_falling(values: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """The nearest values, in squares, that never fall: neighbours out of order get their mean, until none are."""
    blocks: list[tuple[float, int]] = []  # mean and number
    for value in values.tolist():
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean, count), (other, number) = blocks.pop(), blocks.pop()
            blocks.append(((mean * count + other * number) / (count + number), count + number))
    return np.repeat([mean for mean, _ in blocks], [count for _, count in blocks]).astype(np.float64)

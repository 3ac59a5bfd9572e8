"""Bootstrap of COCO's AP over pictures: the interval of the difference between two detectors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from jaxkd.evaluation.matches import SIZES, Matches, Ranked

RECALLS = np.linspace(0.0, 1.0, 101)  # the recall thresholds of pycocotools
CHUNK = 200  # resamples at a time; their counts fit into the cache of a core
FEW = 5  # pictures with objects (of a class or size) that an interval needs
SHARE = 95.0  # per cent of the resamples that an interval contains


@dataclass(frozen=True)
class Interval:
    """The difference of two AP on the original pictures, and the interval of `SHARE` per cent of the resamples.

    All are nan where AP is undefined; low and high alone where too few pictures have objects.
    """

    difference: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return self.low <= self.high

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Resampled:
    """AP of each resample, nan where it has no objects."""

    summary: dict[str, Float64[np.ndarray, "r"]]  # COCO's six AP, named as in `coco.SUMMARY`
    per_class: dict[str, Float64[np.ndarray, "r"]]
    few: frozenset[str]  # numbers and classes on fewer than FEW pictures, which get no interval


def draws(pictures: int, *, resamples: int, seed: int) -> Int64[np.ndarray, "r n"]:
    """How often each picture is in each resample: as many draws with replacement as there are pictures.

    The first row has every picture once: the original data.
    """
    uniform = np.full(pictures, 1.0 / pictures)
    counts = np.random.default_rng(seed).multinomial(pictures, uniform, size=resamples)
    return np.concatenate([np.ones((1, pictures), np.int64), counts])


def resampled(matches: Matches, counts: Int64[np.ndarray, "r n"]) -> Resampled:
    """AP of a detector where the pictures of `matches` are repeated `counts` times.

    Two detectors are resampled jointly by the same counts.
    """
    ap = {
        size: np.stack([averages(class_ranked, counts) for class_ranked in ranked])
        for size, ranked in matches.ranked.items()
    }
    ap_all_sizes = ap["all"]  # class, threshold, resample
    summary = {"AP": ap_all_sizes.mean(1), "AP50": ap_all_sizes[:, 0], "AP75": ap_all_sizes[:, 5]}
    ranked_of = dict.fromkeys(summary, matches.ranked["all"])
    ranked_of |= {name: matches.ranked[size] for name, size in SIZES.items()}
    ranked_of |= {
        name: [class_ranked] for name, class_ranked in zip(matches.classes, matches.ranked["all"], strict=True)
    }
    return Resampled(
        summary={name: _known_mean(values) for name, values in summary.items()}
        | {name: _known_mean(ap[size].mean(1)) for name, size in SIZES.items()},
        per_class=dict(zip(matches.classes, ap_all_sizes.mean(1), strict=True)),
        few=frozenset(name for name, ranked in ranked_of.items() if _pictures(ranked) < FEW),
    )


def intervals(detector: Resampled, reference: Resampled) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Intervals of `detector` minus `reference`, for each of COCO's AP and for each class.

    Both must come from the same counts of `draws`. Numbers with too few pictures get no interval.
    """

    def differences(values: dict[str, np.ndarray], reference_values: dict[str, np.ndarray]) -> dict[str, Interval]:
        out = {name: interval(one, reference_values[name]) for name, one in values.items()}
        no_interval = {"low": float("nan"), "high": float("nan")}
        return {name: replace(one, **no_interval) if name in detector.few else one for name, one in out.items()}

    return differences(detector.summary, reference.summary), differences(detector.per_class, reference.per_class)


def interval(values: Float[np.ndarray, "r"], reference: Float[np.ndarray, "r"]) -> Interval:
    """The difference in the first row, and percentiles of those in the others; nan where undefined."""
    differences = values - reference
    known = differences[1:][~np.isnan(differences[1:])]
    if not known.size or np.isnan(differences[0]):
        return Interval(float(differences[0]), float("nan"), float("nan"))
    low, high = np.percentile(known, [50 - SHARE / 2, 50 + SHARE / 2])
    return Interval(float(differences[0]), float(low), float(high))


def averages(ranked: Ranked, counts: Int[np.ndarray, "r n"]) -> Float64[np.ndarray, "t r"]:
    """AP of one class at each IoU threshold in each resample, as pycocotools computes it; nan without objects.

    Detections are sorted once. A picture that is repeated n times has each of its detections n times in a row, of which
    precision and recall need only the sums.
    """
    chunks = [
        _averages(ranked, np.ascontiguousarray(counts[start : start + CHUNK].T, np.int32))
        for start in range(0, len(counts), CHUNK)
    ]
    return np.concatenate([np.zeros((len(ranked.true_positive), 0)), *chunks], axis=1)


def _averages(ranked: Ranked, weights: np.ndarray) -> np.ndarray:
    """`averages` of a chunk of resamples; weights are [n r]."""
    objects = ranked.objects @ weights
    # The number of RECALLS that are reached by 0, 1, ... true positives [m r].
    reached = np.searchsorted(RECALLS, np.arange(objects.max() + 1)[:, None] / np.maximum(objects, 1), side="right")
    ap = np.zeros((len(ranked.true_positive), weights.shape[1]))
    columns, previous, detections = np.arange(weights.shape[1]), None, np.zeros(0)
    for threshold, true_positive in enumerate(ranked.true_positive):
        counted = true_positive | ranked.false_positive[threshold]
        if previous is None or not np.array_equal(counted, previous):
            previous, detections = counted, np.cumsum(weights[ranked.pictures[counted]], axis=0)
        true_positives = np.cumsum(weights[ranked.pictures[true_positive]], axis=0)  # at each true positive
        precision = true_positives / np.maximum(detections[true_positive[previous]], 1)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        steps = np.diff(reached[true_positives, columns], axis=0, prepend=0)
        ap[threshold] = np.einsum("mr,mr->r", envelope, steps) / len(RECALLS)
    return np.where(objects > 0, ap, np.nan)


def _pictures(ranked: Sequence[Ranked]) -> int:
    """The number of pictures with an object."""
    return int(np.any([class_ranked.objects > 0 for class_ranked in ranked], axis=0).sum())


def _known_mean(values: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """The mean over classes [k r] without nan; nan where all are."""
    values = np.asarray(values)
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(total.shape, np.nan), where=known.any(0))

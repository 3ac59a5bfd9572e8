"""COCO's AP over many resamples of the pictures: how far a difference goes as these are drawn again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from jaxkd.evaluation.matches import SIZES, Matches, Ranked

RECALLS = np.linspace(0.0, 1.0, 101)  # where COCO reads precision, as pycocotools writes them down
TOGETHER = 200  # resamples at once; their counts stay in a core's cache
FEW = 5  # pictures with an object, or with one of a class or size, below which their choice cannot be judged
SHARE = 95.0  # per cent of the resamples that an interval holds


@dataclass(frozen=True)
class Interval:
    """A difference of two shares, on the pictures as they are, and what holds `SHARE` per cent of the resamples.

    All are nan where nothing is known; low and high alone where too few pictures tell of it.
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
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Resampled:
    """AP of each resample, nan where it has no object to find."""

    summary: dict[str, Float64[np.ndarray, "r"]]  # the six of COCO's numbers that are AP, named as in `coco.SUMMARY`
    per_class: dict[str, Float64[np.ndarray, "r"]]
    few: frozenset[str]  # numbers and classes on fewer than FEW pictures, whose resamples say nothing


def draws(pictures: int, *, resamples: int, seed: int) -> Int64[np.ndarray, "r n"]:
    """How often each picture is in each resample: as many draws as there are pictures, each put back.

    The first row holds every picture once: the data as they are.
    """
    even = np.full(pictures, 1.0 / pictures)
    drawn = np.random.default_rng(seed).multinomial(pictures, even, size=resamples)
    return np.concatenate([np.ones((1, pictures), np.int64), drawn])


def resampled(matches: Matches, counts: Int64[np.ndarray, "r n"]) -> Resampled:
    """AP of a detector where the pictures of `matches` are taken `counts` times.

    Two detectors are resampled jointly by the same counts.
    """
    found = {size: np.stack([averages(one, counts) for one in ranked]) for size, ranked in matches.ranked.items()}
    every = found["all"]  # class, overlap, resample
    whole = {"AP": every.mean(1), "AP50": every[:, 0], "AP75": every[:, 5]}
    parts = dict.fromkeys(whole, matches.ranked["all"])
    parts |= {name: matches.ranked[size] for name, size in SIZES.items()}
    parts |= {name: [one] for name, one in zip(matches.classes, matches.ranked["all"], strict=True)}
    return Resampled(
        summary={name: _known_mean(values) for name, values in whole.items()}
        | {name: _known_mean(found[size].mean(1)) for name, size in SIZES.items()},
        per_class=dict(zip(matches.classes, every.mean(1), strict=True)),
        few=frozenset(name for name, ranked in parts.items() if _pictures(ranked) < FEW),
    )


def intervals(found: Resampled, reference: Resampled) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """By how much `found` is above `reference`: for each of COCO's numbers, and for each class.

    Both are of the same counts, those of `draws`. What too few pictures tell of gets no interval.
    """

    def of(values: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> dict[str, Interval]:
        out = {name: interval(one, others[name]) for name, one in values.items()}
        unknown = {"low": float("nan"), "high": float("nan")}
        return {name: replace(one, **unknown) if name in found.few else one for name, one in out.items()}

    return of(found.summary, reference.summary), of(found.per_class, reference.per_class)


def interval(found: Float[np.ndarray, "r"], reference: Float[np.ndarray, "r"]) -> Interval:
    """The difference in the first row, and percentiles of those in the others; nan where nothing is known."""
    gaps = found - reference
    known = gaps[1:][~np.isnan(gaps[1:])]
    if not known.size or np.isnan(gaps[0]):
        return Interval(float(gaps[0]), float("nan"), float("nan"))
    low, high = np.percentile(known, [50 - SHARE / 2, 50 + SHARE / 2])
    return Interval(float(gaps[0]), float(low), float(high))


def averages(ranked: Ranked, counts: Int[np.ndarray, "r n"]) -> Float64[np.ndarray, "t r"]:
    """AP of one class at each overlap in each resample, as pycocotools gives it; nan where there are no objects.

    Detections are sorted once. A picture that is taken n times has each of its detections n times in a row, of which
    precision and recall need no more than the sums.
    """
    parts = [
        _averages(ranked, np.ascontiguousarray(counts[start : start + TOGETHER].T, np.int32))
        for start in range(0, len(counts), TOGETHER)
    ]
    return np.concatenate([np.zeros((len(ranked.right), 0)), *parts], axis=1)


def _averages(ranked: Ranked, weights: np.ndarray) -> np.ndarray:
    """`averages` of some resamples; weights are [n r]."""
    objects = ranked.objects @ weights
    # How many of RECALLS are reached by so many right detections [m r].
    reached = np.searchsorted(RECALLS, np.arange(objects.max() + 1)[:, None] / np.maximum(objects, 1), side="right")
    out = np.zeros((len(ranked.right), weights.shape[1]))
    columns, counted, seen = np.arange(weights.shape[1]), None, np.zeros(0)
    for overlap, right in enumerate(ranked.right):
        counts = right | ranked.wrong[overlap]
        if counted is None or not np.array_equal(counts, counted):
            counted, seen = counts, np.cumsum(weights[ranked.pictures[counts]], axis=0)
        hits = np.cumsum(weights[ranked.pictures[right]], axis=0)  # at each right detection
        precision = hits / np.maximum(seen[right[counted]], 1)
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        steps = np.diff(reached[hits, columns], axis=0, prepend=0)
        out[overlap] = np.einsum("mr,mr->r", best, steps) / len(RECALLS)
    return np.where(objects > 0, out, np.nan)


def _pictures(ranked: Sequence[Ranked]) -> int:
    """On how many pictures there is an object to find."""
    return int(np.any([one.objects > 0 for one in ranked], axis=0).sum())


def _known_mean(values: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """The mean over classes [k r] of what is known; nan where nothing is."""
    values = np.asarray(values)
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(total.shape, np.nan), where=known.any(0))

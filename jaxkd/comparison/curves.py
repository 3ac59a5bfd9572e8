"""The curves of a run, read from its log."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxkd.comparison.records import Curves, Series
from jaxkd.train import log

POINTS = 200  # most points of a curve; more are averaged
OTHER = (
    "step_seconds",
    "data_wait_share",
    "gradient_norm",
    "positives",
    "skipped_steps",
    "skipped_in_a_row",
)
RATIO = "gradient_ratio"  # prefix of the keys of a probe
BALANCE = "balance"  # prefix of the keys of factors on kinds of terms
Kind = Literal["loss", "term", "decay", "gate", "method", "ratio", "other"]


def read(workdir: Path, *, steps: int) -> Curves:
    """The curves in the log of the run in a folder; `steps` is the planned number of steps."""
    reported, scores = defaultdict(list), defaultdict(list)
    for line in log.read(workdir):
        if "scores" in line:
            _add(scores, line["step"], line["scores"])
        elif "loss" in line:
            _add(reported, line["step"], {key: value for key, value in line.items() if key != "step"})
    return Curves(steps=steps, reported=_series(reported), scores=_series(scores))


def kind(key: str) -> Kind:
    """The kind of number under a key of the log; "other" for what is neither a loss nor a method's."""
    if key == "loss":
        return "loss"
    first, *rest = key.split("/")
    if first in OTHER:
        return "other"
    if not rest:
        return "term"
    if first == RATIO:
        return "ratio"
    if rest[-1] == "decay" or first == BALANCE:
        return "decay"
    return "gate" if rest[-1].endswith("_gate") else "method"


def last_step(curves: Curves) -> int:
    """The last step that was reported or scored; 0 for none."""
    all_series = [*curves.reported.values(), *curves.scores.values()]
    return max((series.steps[-1] for series in all_series), default=0)


def step_seconds(curves: Curves | None) -> float:
    """The median seconds of a step; nan where none was reported."""
    series = curves.reported.get("step_seconds") if curves else None
    return float(np.median(series.values)) if series else math.nan


def thinned(series: Series) -> Series:
    """The series with at most POINTS points, each the mean of equally many; the last step stays last."""
    size = -(-len(series.steps) // POINTS) or 1
    starts = range(0, len(series.steps), size)
    return Series(
        tuple(series.steps[start : start + size][-1] for start in starts),
        tuple(float(np.mean(series.values[start : start + size])) for start in starts),
    )


def _add(points: dict[str, list], step: int, values: dict[str, float | None]) -> None:
    for key, value in values.items():
        if isinstance(value, (int, float)) and math.isfinite(value):
            points[key].append((step, float(value)))


def _series(by_key: dict[str, list[tuple[int, float]]]) -> dict[str, Series]:
    out = {}
    for key, points in by_key.items():
        ordered: Sequence[tuple[int, float]] = sorted(points)
        out[key] = Series(tuple(step for step, _ in ordered), tuple(value for _, value in ordered))
    return out

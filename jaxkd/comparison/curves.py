"""The curves of a run, from its log."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxkd.comparison.records import Curves, Series
from jaxkd.train import log

POINTS = 200  # of a curve at most; more are taken together
BESIDE = (
    "step_seconds",
    "data_wait_share",
    "gradient_norm",
    "positives",
    "skipped_steps",
    "skipped_in_a_row",
)
RATIO = "gradient_ratio"  # what the keys of a probe begin with
Kind = Literal["loss", "term", "decay", "gate", "method", "ratio", "beside"]


def read(workdir: Path, *, steps: int) -> Curves:
    """What the run in a folder, which is to have so many steps, has written down."""
    reported, scores = defaultdict(list), defaultdict(list)
    for line in log.read(workdir):
        if "scores" in line:
            _add(scores, line["step"], line["scores"])
        elif "loss" in line:
            _add(reported, line["step"], {key: value for key, value in line.items() if key != "step"})
    return Curves(steps=steps, reported=_series(reported), scores=_series(scores))


def kind(key: str) -> Kind:
    """What a key of the log stands for; "beside" for what is neither minimised nor a method's."""
    if key == "loss":
        return "loss"
    first, *rest = key.split("/")
    if first in BESIDE:
        return "beside"
    if not rest:
        return "term"
    if first == RATIO:
        return "ratio"
    if rest[-1] == "decay":
        return "decay"
    return "gate" if rest[-1].endswith("_gate") else "method"


def last_step(curves: Curves) -> int:
    """The last step that was reported or scored; 0 for none."""
    every = [*curves.reported.values(), *curves.scores.values()]
    return max((series.steps[-1] for series in every), default=0)


def step_seconds(curves: Curves | None) -> float:
    """The median time of a step; nan where nothing was reported."""
    found = curves.reported.get("step_seconds") if curves else None
    return float(np.median(found.values)) if found else math.nan


def thinned(series: Series) -> Series:
    """The same with no more than POINTS points, each the mean of equally many; the last stays last."""
    size = -(-len(series.steps) // POINTS) or 1
    starts = range(0, len(series.steps), size)
    return Series(
        tuple(series.steps[start : start + size][-1] for start in starts),
        tuple(float(np.mean(series.values[start : start + size])) for start in starts),
    )


def _add(found: dict[str, list], step: int, values: dict[str, float | None]) -> None:
    for key, value in values.items():
        if isinstance(value, (int, float)) and math.isfinite(value):
            found[key].append((step, float(value)))


def _series(found: dict[str, list[tuple[int, float]]]) -> dict[str, Series]:
    out = {}
    for key, points in found.items():
        ordered: Sequence[tuple[int, float]] = sorted(points)
        out[key] = Series(tuple(step for step, _ in ordered), tuple(value for _, value in ordered))
    return out

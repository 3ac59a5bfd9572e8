"""The section of the page with the training curves."""

import re
from collections.abc import Sequence
from html import escape

from jaxkd.comparison import charts, curves
from jaxkd.comparison.layout import colours_of, figure, keys, section
from jaxkd.comparison.records import ComparedDetector, Comparison, Series

SPREAD = 8  # ratio of the largest to the smallest value from which an axis is logarithmic
DOTS = 40  # most points of a curve whose points have dots
DIGITS = re.compile(r"(\d+)")
SHARES = ("decay", "gate")  # kinds of numbers from 0 to 1
GROUPS = {
    "The detector's own terms": (
        ("term",),
        "What a run minimises to find objects: lower is better. Runs may be compared.",
    ),
    "How much the teacher may teach": (
        SHARES,
        "Decay and balance multiply the teacher's terms; a gate is the share of regions in which the teacher is "
        "followed.",
    ),
    "What the methods report": (
        ("method",),
        "The teacher's terms, already decayed, and other numbers of the methods. A term that falls faster than the "
        "decay means that the student comes closer to its teacher.",
    ),
    "How hard the teacher pulls": (
        ("ratio",),
        "The gradient of each of the teacher's terms at the feature pyramid, weighted and decayed, over that of all of "
        "the detector's own terms together: at 1 both pull equally hard, and far above 1 the detector's own terms are "
        "drowned.",
    ),
}


def training(comparison: Comparison) -> str:
    """The section: curves of loss, AP, terms, decay and gates; empty where nothing was reported."""
    runs = [detector for detector in comparison.detectors if detector.curves and detector.curves.reported]
    if not runs:
        return ""
    parts = [_loss(comparison, runs), _ap(comparison, runs)]
    for title, (kinds, how) in GROUPS.items():
        keys_in_group = [key for kind in kinds for key in _reported(runs) if curves.kind(key) == kind]
        small = "".join(_small(comparison, runs, key) for key in keys_in_group)
        if small:
            parts.append(f'<div><h3>{title}</h3><p class="how">{how}</p><div class="small">\n{small}</div></div>\n')
    how = "Each point is the mean since the one before it, as the run reported it."
    if not parts[1]:
        how += " AP was taken once, after the last step; train.evaluate_every in a recipe adds its curve."
    if any(detector.methods for detector in runs) and not any(curves.kind(key) == "ratio" for key in _reported(runs)):
        how += " How hard the teacher pulls was not measured; train.probe_every in a recipe adds that."
    content = f'{keys(comparison, runs)}<div class="charts">\n{"".join(parts)}</div>'
    return section("How the training went", how, content, name="training")


def _loss(comparison: Comparison, runs: Sequence[ComparedDetector]) -> str:
    losses = _series_of(runs, "loss")
    values = [value for _, series in losses for value in series.values]
    if not values:
        return figure("Loss", "No loss that was reported is finite.", "")
    log = min(values) > 0 and max(values) > SPREAD * min(values)
    how = (
        "The sum of all terms that a run minimises. A taught run adds its teacher's, so look at how a curve falls, not "
        f"at which is lower{'; equal factors are equally far apart' if log else ''}."
    )
    return figure("Loss", how, charts.lines("Loss over the steps", _lines(comparison, losses), log=log))


def _ap(comparison: Comparison, runs: Sequence[ComparedDetector]) -> str:
    """AP over the steps; empty where no run was scored more than once."""
    ap_series = []
    for detector in runs:
        if detector.curves and (series := detector.curves.scores.get("AP")):
            ap_series.append((detector, Series(series.steps, tuple(100 * value for value in series.values))))
    longest = max((len(series.steps) for _, series in ap_series), default=0)
    if longest < 2:
        return ""
    lines = _lines(comparison, ap_series)
    how = "On validation pictures, at each evaluation: higher is better."
    return figure("AP", how, charts.lines("AP over the steps", lines, marked=longest <= DOTS))


def _small(comparison: Comparison, runs: Sequence[ComparedDetector], key: str) -> str:
    """A small chart of one number, with its last values."""
    reported, colours = _series_of(runs, key), colours_of(comparison)
    title = key.removeprefix(f"{curves.RATIO}/").replace("/", ": ").replace("_", " ")
    last = "".join(
        f'<span style="color:{colours[detector.name]}">{series.values[-1]:.3g}</span>' for detector, series in reported
    )
    is_share = all(0 <= value <= 1 for _, series in reported for value in series.values)
    limits = (0.0, 1.02) if is_share and curves.kind(key) in SHARES else None
    chart = charts.lines(f"{title} over the steps", _lines(comparison, reported), small=True, limits=limits)
    return f'<figure><h4>{escape(title)}</h4><p title="at the end">{last}</p>{chart}</figure>\n'


def _lines(comparison: Comparison, reported: Sequence[tuple[ComparedDetector, Series]]) -> list[charts.Line]:
    colours, lines = colours_of(comparison), []
    for detector, series in reported:
        thin = curves.thinned(series)
        lines.append(charts.Line(detector.name, thin.steps, thin.values, colours[detector.name]))
    return lines


def _series_of(runs: Sequence[ComparedDetector], key: str) -> list[tuple[ComparedDetector, Series]]:
    """The series of each run that reported a key."""
    return [
        (detector, detector.curves.reported[key])
        for detector in runs
        if detector.curves and key in detector.curves.reported
    ]


def _reported(runs: Sequence[ComparedDetector]) -> list[str]:
    """All keys of the runs, each once, in natural order of their numbers."""
    all_keys = {key for detector in runs if detector.curves for key in detector.curves.reported}
    return sorted(all_keys, key=lambda key: [int(part) if part.isdigit() else part for part in DIGITS.split(key)])

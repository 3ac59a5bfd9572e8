"""The part of the page that shows how the runs went."""

import re
from collections.abc import Sequence
from html import escape

from jaxkd.comparison import charts, curves
from jaxkd.comparison.layout import colours_of, figure, keys, section
from jaxkd.comparison.records import Compared, Comparison, Series

SPREAD = 8  # from which factor between the ends on an axis counts factors
DOTS = 40  # points of a curve up to which each has a dot
DIGITS = re.compile(r"(\d+)")
SHARES = ("decay", "gate")  # kinds of numbers that lie between 0 and 1
GROUPS = {
    "The detector's own terms": (
        ("term",),
        "What a run minimises to find objects: lower is better. Runs may be compared.",
    ),
    "How much the teacher may teach": (
        SHARES,
        "Decay multiplies the teacher's terms; a gate is the share of regions in which the teacher is followed.",
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
    """Curves of loss, AP, terms, decay and gates; empty where nothing was reported."""
    runs = [one for one in comparison.detectors if one.curves and one.curves.reported]
    if not runs:
        return ""
    parts = [_loss(comparison, runs), _ap(comparison, runs)]
    for title, (kinds, how) in GROUPS.items():
        keys_of = [key for kind in kinds for key in _reported(runs) if curves.kind(key) == kind]
        small = "".join(_small(comparison, runs, key) for key in keys_of)
        if small:
            parts.append(f'<div><h3>{title}</h3><p class="how">{how}</p><div class="small">\n{small}</div></div>\n')
    how = "Each point is the mean since the one before it, as the run reported it."
    if not parts[1]:
        how += " AP was taken once, after the last step; train.evaluate_every in a recipe adds its curve."
    if any(one.methods for one in runs) and not any(curves.kind(key) == "ratio" for key in _reported(runs)):
        how += " How hard the teacher pulls was not measured; train.probe_every in a recipe adds that."
    content = f'{keys(comparison, runs)}<div class="charts">\n{"".join(parts)}</div>'
    return section("How the training went", how, content, name="training")


def _loss(comparison: Comparison, runs: Sequence[Compared]) -> str:
    found = _found(runs, "loss")
    values = [value for _, series in found for value in series.values]
    if not values:
        return figure("Loss", "No loss that was reported is finite.", "")
    log = min(values) > 0 and max(values) > SPREAD * min(values)
    how = (
        "The sum of all terms that a run minimises. A taught run adds its teacher's, so look at how a curve falls, not "
        f"at which is lower{'; equal factors are equally far apart' if log else ''}."
    )
    return figure("Loss", how, charts.lines("Loss over the steps", _lines(comparison, found), log=log))


def _ap(comparison: Comparison, runs: Sequence[Compared]) -> str:
    """AP over the steps; empty where no run was scored more than once."""
    found = []
    for one in runs:
        if one.curves and (series := one.curves.scores.get("AP")):
            found.append((one, Series(series.steps, tuple(100 * value for value in series.values))))
    longest = max((len(series.steps) for _, series in found), default=0)
    if longest < 2:
        return ""
    drawn = _lines(comparison, found)
    how = "On validation pictures, at each evaluation: higher is better."
    return figure("AP", how, charts.lines("AP over the steps", drawn, marked=longest <= DOTS))


def _small(comparison: Comparison, runs: Sequence[Compared], key: str) -> str:
    """A chart of one number, with where it ended."""
    found, colours = _found(runs, key), colours_of(comparison)
    title = key.removeprefix(f"{curves.RATIO}/").replace("/", ": ").replace("_", " ")
    last = "".join(f'<span style="color:{colours[one.name]}">{series.values[-1]:.3g}</span>' for one, series in found)
    inside = all(0 <= value <= 1 for _, series in found for value in series.values)
    limits = (0.0, 1.02) if inside and curves.kind(key) in SHARES else None
    chart = charts.lines(f"{title} over the steps", _lines(comparison, found), small=True, limits=limits)
    return f'<figure><h4>{escape(title)}</h4><p title="at the end">{last}</p>{chart}</figure>\n'


def _lines(comparison: Comparison, found: Sequence[tuple[Compared, Series]]) -> list[charts.Line]:
    colours, drawn = colours_of(comparison), []
    for one, series in found:
        thin = curves.thinned(series)
        drawn.append(charts.Line(one.name, thin.steps, thin.values, colours[one.name]))
    return drawn


def _found(runs: Sequence[Compared], key: str) -> list[tuple[Compared, Series]]:
    """What each run reported under a key."""
    return [(one, one.curves.reported[key]) for one in runs if one.curves and key in one.curves.reported]


def _reported(runs: Sequence[Compared]) -> list[str]:
    """All keys of the runs, each once, those that end in numbers in their order."""
    every = {key for one in runs if one.curves for key in one.curves.reported}
    return sorted(every, key=lambda key: [int(part) if part.isdigit() else part for part in DIGITS.split(key)])

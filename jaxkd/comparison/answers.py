"""The parts of the page that answer what was gained, whether that is more than chance, and what it costs."""

import math

from jaxkd import words
from jaxkd.comparison import charts, curves, layout, tables
from jaxkd.comparison.layout import colours_of, figure, keys, section, signed
from jaxkd.comparison.records import BATCHES, Comparison
from jaxkd.evaluation.bootstrap import FEW, SHARE, Interval

ALIKE = 0.05  # shares of time that differ by less are not told apart
MOST = 14  # classes in a chart; of more, those with the largest differences


def cards(comparison: Comparison) -> str:
    """The three answers of the first screen."""
    answers = {
        "What was gained": _gained(comparison),
        "Is it more than chance?": _chance(comparison),
        "What it costs": _cost(comparison),
    }
    shown = (
        f'<div class="card"><h2>{title}</h2><strong>{signed(answer)}</strong><p>{signed(more)}</p></div>\n'
        for title, (answer, more) in answers.items()
    )
    return f'<div class="cards">\n{"".join(shown)}</div>\n'


def parts(comparison: Comparison) -> str:
    """Where the differences are, as a chart and as a table."""
    others = [one for one in comparison.detectors if one.gains]
    colours, first = colours_of(comparison), comparison.first.name
    rows = []
    for key, label in (tables.PARTS | {name: name for name in _classes(comparison)}).items():
        marks = []
        for one in others:
            gain = _gain(comparison, one.name, key)
            value, low, high = (100 * number for number in (gain.difference, gain.low, gain.high))
            marks.append(charts.Mark(one.name, value, low, high, colours[one.name]))
        if not all(math.isnan(mark.value) for mark in marks):
            rows.append((label, marks))
    axis = f"points of AP above {charts.shortened(first)}"
    chart = figure(
        f"Differences to {first}",
        f"Right of the line is better than {first}. A bar holds {SHARE:g} % of the resamples; its dot is filled where "
        "the bar does not reach the line.",
        keys(comparison, others) + charts.whiskers(f"Differences to {first}", rows, x=axis),
    )
    how = (
        "AP by how exact boxes have to be, by the size of objects (COCO's: below 32x32 pixels, below 96x96, and from "
        f"there on) and by class. In brackets what holds {SHARE:g} % of the resamples, grey where that holds 0, or too "
        f"few where fewer than {FEW} pictures show it."
    )
    if 0 in (*comparison.sizes.values(), *comparison.objects.values()):
        how += " A dash stands where the pictures have no object of a size or class."
    table = tables.parts(comparison)
    shown = [row for row in table if row[""] not in comparison.objects or row[""] in _classes(comparison)]
    content = f'<div class="pair">\n{chart}<div>{layout.table(shown)}</div></div>'
    if len(shown) < len(table):
        every = layout.table(table)
        content += f"<details><summary>All {words.counted(len(comparison.objects), 'class')}</summary>{every}</details>"
    return section("Where it gains", how, content, name="parts")


def costs(comparison: Comparison) -> str:
    """Size, operations and time, as a table and as a chart."""
    colours, rows = colours_of(comparison), []
    for one in comparison.detectors:
        bars = []
        for batch, cost in one.costs.items():
            named = "one by one" if batch == 1 else f"{batch} at once"
            time, p90 = cost.milliseconds / batch, cost.p90 / batch
            bars.append(charts.Bar(named, time, f"{time:.1f} ms, {named}", colours[one.name], p90, pale=batch > 1))
        rows.append((one.name, bars))
    chart = figure(
        "Time for a picture",
        "Shorter is faster: the median, and a thin line to what nine of ten calls stay below.",
        charts.bars("Milliseconds for a picture", rows),
    )
    how = (
        f"Taken on {comparison.machine}, from prepared pictures to boxes. GFLOPs are the operations for one picture as "
        "the compiler counts them; nine of ten calls stay below p90. Equal detectors are measured once."
    )
    table = layout.table(tables.costs(comparison), colours=colours)
    return section("What it costs", how, f'{table}\n<div class="charts">\n{chart}</div>', name="costs")


def _gain(comparison: Comparison, name: str, key: str) -> Interval:
    """A difference to the first detector: by one of COCO's numbers, or by a class."""
    gains = next(one.gains for one in comparison.detectors if one.name == name)
    assert gains is not None
    return gains.summary[key] if key in tables.PARTS else gains.per_class[key]


def _gained(comparison: Comparison) -> tuple[str, str]:
    gain = _gain(comparison, comparison.focus, "AP").difference
    names = {one.name: tables.points(one.scores.summary["AP"]) for one in (comparison.other, comparison.first)}
    if comparison.teacher:
        names[comparison.teacher.name] = tables.points(comparison.teacher.scores.summary["AP"])
    reached = words.listed([f"{value} for {name}" for name, value in names.items()])
    return f"{100 * gain:+.1f} AP", f"{reached}, on a scale to 100."


def _chance(comparison: Comparison) -> tuple[str, str]:
    gain = _gain(comparison, comparison.focus, "AP")
    if not gain.known:
        return "Too few pictures to say", f"Fewer than {FEW} pictures have an object."
    answer = "Not certain" if not gain.clear else "Yes" if gain.low > 0 else "Yes, a loss"
    return answer, (
        f"In {SHARE:g} of 100 resamples of these pictures it is between {100 * gain.low:+.1f} and "
        f"{100 * gain.high:+.1f}. That says nothing of other seeds of training."
    )


def _cost(comparison: Comparison) -> tuple[str, str]:
    name = comparison.first.name
    first, other = (one.costs[BATCHES[0]] for one in (comparison.first, comparison.other))
    sizes = [tables.million(cost.parameters) for cost in (other, first)]
    if first == other:
        answer = "Nothing in use"
        said = f"Both have {sizes[0]} parameters and take {other.milliseconds:.1f} ms for a picture."
    else:
        answer = f"{other.milliseconds / first.milliseconds:.2g} x the time"
        said = (
            f"{other.milliseconds:.1f} ms for a picture, where {name} takes {first.milliseconds:.1f}; {sizes[0]} "
            f"parameters, where it has {sizes[1]}."
        )
    ratio = curves.step_seconds(comparison.other.curves) / curves.step_seconds(comparison.first.curves)
    return answer, said + (f" A step of training took {ratio:.1f} x as long." if abs(ratio - 1) > ALIKE else "")


def _classes(comparison: Comparison) -> list[str]:
    """The classes, or those on which the detector in focus differs most; such with an interval first."""
    if len(comparison.objects) <= MOST:
        return list(comparison.objects)
    gains = {name: _gain(comparison, comparison.focus, name) for name in comparison.objects}
    known = [name for name, gain in gains.items() if not math.isnan(gain.difference)]
    known.sort(key=lambda name: (math.isnan(gains[name].low), -abs(gains[name].difference)))
    return sorted(known[:MOST], key=lambda name: -gains[name].difference)

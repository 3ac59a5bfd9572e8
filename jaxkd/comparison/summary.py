"""The sections of the page on what was gained, whether that is more than chance, and what it costs."""

import math

from jaxkd import phrases
from jaxkd.comparison import charts, curves, layout, tables
from jaxkd.comparison.layout import colours_of, figure, keys, section, signed
from jaxkd.comparison.records import BATCHES, Comparison
from jaxkd.evaluation.bootstrap import FEW, SHARE, Interval

SAME_TIME = 0.05  # step times whose ratio differs from 1 by less count as equal
MOST_CLASSES = 14  # in a chart; of more, those with the largest differences


def cards(comparison: Comparison) -> str:
    """The three cards at the top of the page."""
    contents = {
        "What was gained": _gained(comparison),
        "Is it more than chance?": _chance(comparison),
        "What it costs": _cost(comparison),
    }
    cards = (
        f'<div class="card"><h2>{title}</h2><strong>{signed(headline)}</strong><p>{signed(detail)}</p></div>\n'
        for title, (headline, detail) in contents.items()
    )
    return f'<div class="cards">\n{"".join(cards)}</div>\n'


def parts(comparison: Comparison) -> str:
    """The section of differences by part of AP, as a chart and as a table."""
    others = [detector for detector in comparison.detectors if detector.gains]
    colours, reference = colours_of(comparison), comparison.reference.name
    rows = []
    for key, label in (tables.PARTS | {name: name for name in _classes(comparison)}).items():
        marks = []
        for detector in others:
            gain = _gain(comparison, detector.name, key)
            value, low, high = (100 * number for number in (gain.difference, gain.low, gain.high))
            marks.append(charts.Mark(detector.name, value, low, high, colours[detector.name]))
        if not all(math.isnan(mark.value) for mark in marks):
            rows.append((label, marks))
    axis = f"points of AP above {charts.shortened(reference)}"
    chart = others and figure(
        f"Differences to {reference}",
        f"Right of the line is better than {reference}. A bar holds {SHARE:g} % of the resamples; its dot is filled "
        "where the bar does not reach the line.",
        keys(comparison, others) + charts.whiskers(f"Differences to {reference}", rows, x=axis),
    )
    explanation = (
        "AP by how exact boxes have to be, by the size of objects (COCO's: below 32x32 pixels, below 96x96, and from "
        f"there on) and by class. In brackets what holds {SHARE:g} % of the resamples, grey where that holds 0, or too "
        f"few where fewer than {FEW} pictures show it."
    )
    if 0 in (*comparison.sizes.values(), *comparison.objects.values()):
        explanation += " A dash stands where the pictures have no object of a size or class."
    table = tables.parts(comparison)
    rows_shown = [row for row in table if row[""] not in comparison.objects or row[""] in _classes(comparison)]
    content = f'<div class="pair">\n{chart or ""}<div>{layout.table(rows_shown)}</div></div>'
    if len(rows_shown) < len(table):
        all_rows = layout.table(table)
        content += (
            f"<details><summary>All {phrases.counted(len(comparison.objects), 'class')}</summary>{all_rows}</details>"
        )
    return section("Where it gains" if others else "Where it is right", explanation, content, name="parts")


def costs(comparison: Comparison) -> str:
    """The section of parameters, operations and time, as a table and a chart."""
    colours, rows = colours_of(comparison), []
    for detector in comparison.detectors:
        bars = []
        for batch, cost in detector.costs.items():
            label = "one by one" if batch == 1 else f"{batch} at once"
            time, p90 = cost.milliseconds / batch, cost.p90 / batch
            bars.append(charts.Bar(label, time, f"{time:.1f} ms, {label}", colours[detector.name], p90, pale=batch > 1))
        rows.append((detector.name, bars))
    chart = figure(
        "Time for a picture",
        "Shorter is faster: the median, and a thin line to what nine of ten calls stay below.",
        charts.bars("Milliseconds for a picture", rows),
    )
    explanation = (
        f"Taken on {comparison.machine}, from prepared pictures to boxes. GFLOPs are the operations for one picture as "
        "the compiler counts them; nine of ten calls stay below p90. Equal detectors are measured once."
    )
    table = layout.table(tables.costs(comparison), colours=colours)
    return section("What it costs", explanation, f'{table}\n<div class="charts">\n{chart}</div>', name="costs")


def _gain(comparison: Comparison, name: str, key: str) -> Interval:
    """A detector's difference to the reference: of one of COCO's numbers, or of a class."""
    gains = next(detector.gains for detector in comparison.detectors if detector.name == name)
    assert gains is not None
    return gains.summary[key] if key in tables.PARTS else gains.per_class[key]


def _gained(comparison: Comparison) -> tuple[str, str]:
    names = {
        detector.name: tables.points(detector.scores.summary["AP"])
        for detector in (comparison.focused, comparison.reference)
    }
    if comparison.teacher:
        names[comparison.teacher.name] = tables.points(comparison.teacher.scores.summary["AP"])
    aps = phrases.listed([f"{value} for {name}" for name, value in names.items()])
    if comparison.gain is None:
        return "Not known", f"AP is {aps}, on a scale to 100; there is no other student to gain over."
    of_seed = " with the first seed" if comparison.over_seeds else ""
    return f"{100 * comparison.gain.difference:+.1f} AP", f"{aps}{of_seed}, on a scale to 100."


def _chance(comparison: Comparison) -> tuple[str, str]:
    gain, over = comparison.gain, comparison.over_seeds
    if gain is None:
        return "No gain measured", "That needs another student of the same recipe, such as one that learns alone."
    if not gain.known:
        return "Too few pictures to say", f"Fewer than {FEW} pictures have an object."
    answer = "Not certain" if not gain.clear else "Yes" if gain.low > 0 else "Yes, a loss"
    if over:
        return answer, (
            f"The gain is {tables.seeds(over)}. With other seeds and other pictures it lies, with {SHARE:g} %, between "
            f"{100 * gain.low:+.1f} and {100 * gain.high:+.1f}."
        )
    return answer, (
        f"In {SHARE:g} of 100 resamples of these pictures it is between {100 * gain.low:+.1f} and "
        f"{100 * gain.high:+.1f}. That says nothing of other seeds of training."
    )


def _cost(comparison: Comparison) -> tuple[str, str]:
    reference_name = comparison.reference.name
    reference, focused = (detector.costs[BATCHES[0]] for detector in (comparison.reference, comparison.focused))
    sizes = [tables.million(cost.parameters) for cost in (focused, reference)]
    if comparison.gain is None:
        return f"{focused.milliseconds:.1f} ms", f"That is the time for a picture, with {sizes[0]} parameters."
    if reference == focused:
        headline = "Nothing in use"
        detail = f"Both have {sizes[0]} parameters and take {focused.milliseconds:.1f} ms for a picture."
    else:
        headline = f"{focused.milliseconds / reference.milliseconds:.2g} x the time"
        detail = (
            f"{focused.milliseconds:.1f} ms for a picture, where {reference_name} takes {reference.milliseconds:.1f}; "
            f"{sizes[0]} parameters, where it has {sizes[1]}."
        )
    ratio = curves.step_seconds(comparison.focused.curves) / curves.step_seconds(comparison.reference.curves)
    return headline, detail + (f" A step of training took {ratio:.1f} x as long." if abs(ratio - 1) > SAME_TIME else "")


def _classes(comparison: Comparison) -> list[str]:
    """All classes, or those on which the detector in focus differs most, first those with an interval.

    Where there is nothing that it differs from, those with the most objects.
    """
    if len(comparison.objects) <= MOST_CLASSES:
        return list(comparison.objects)
    if comparison.gain is None:
        return sorted(comparison.objects, key=lambda name: -comparison.objects[name])[:MOST_CLASSES]
    gains = {name: _gain(comparison, comparison.focus, name) for name in comparison.objects}
    known = [name for name, gain in gains.items() if not math.isnan(gain.difference)]
    known.sort(key=lambda name: (math.isnan(gains[name].low), -abs(gains[name].difference)))
    return sorted(known[:MOST_CLASSES], key=lambda name: -gains[name].difference)

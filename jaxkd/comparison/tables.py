"""The tables of a comparison as rows of text, for the terminal, for Markdown and for the page; and the Markdown."""

import math
from collections.abc import Mapping, Sequence

from jaxkd import words
from jaxkd.comparison.records import BATCHES, SCORE, Compared, Comparison
from jaxkd.evaluation.bootstrap import FEW, SHARE, Interval
from jaxkd.evaluation.cost import Cost
from jaxkd.evaluation.errors import KINDS
from jaxkd.evaluation.matches import SIZES
from jaxkd.version import VERSION

Row = Mapping[str, str]
TITLE = "detector"  # of the first column, where a row is a detector
PART, OBJECTS = "", "objects"  # titles of the columns of `parts` beside those of detectors
MOST = 12  # classes up to which all pairs are shown
PAIRS = 15  # of mixed-up classes otherwise
PARTS = {"AP": "AP", "AP50": "AP50", "AP75": "AP75"} | {key: f"{size} objects" for key, size in SIZES.items()}


class Unclear(str):
    """A difference whose interval holds 0, or that has none."""


def points(value: float) -> str:
    """A share in points, to one place; a dash where it is not known."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def gap(interval: Interval) -> str:
    """A difference in points and its interval, or that too few pictures tell of it."""
    if math.isnan(interval.difference):
        return Unclear("-")
    value, low, high = (f"{100 * number:+.1f}" for number in (interval.difference, interval.low, interval.high))
    if not interval.known:
        return Unclear(f"{value} [too few]")
    said = f"{value} [{low}, {high}]"
    return said if interval.clear else Unclear(said)


def million(parameters: int) -> str:
    """A number of parameters."""
    return f"{parameters / 1e6:.2f} M"


def verdict(comparison: Comparison) -> str:
    """The one sentence that says what was gained."""
    first, other = comparison.first, comparison.other
    assert other.gains is not None
    gain, pictures = other.gains.summary["AP"], words.counted(len(comparison.images), "picture")
    gained = f"{other.name} has {100 * gain.difference:+.1f} AP against {first.name} on {pictures}"
    if not gain.known:
        return f"{gained}; fewer than {FEW} pictures have an object, too few to say how much of it may be chance."
    meaning = "which does not hold 0" if gain.clear else "which holds 0, so there may be no difference"
    return (
        f"{gained}; {SHARE:g} % of {comparison.resamples} resamples of them lie in "
        f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}], {meaning}."
    )


def headline(comparison: Comparison) -> list[Row]:
    """A row for each detector: what it finds, and what it costs."""
    rows = []
    for one in comparison.detectors:
        cost, scores = one.costs[BATCHES[0]], one.scores.summary
        rows.append(
            {
                TITLE: one.name,
                "AP": points(scores["AP"]),
                _above("AP", comparison.first.name): gap(one.gains.summary["AP"]) if one.gains else "",
                "AP50": points(scores["AP50"]),
                "AP75": points(scores["AP75"]),
                "parameters": million(cost.parameters),
                "GFLOPs": f"{cost.gflops:.2f}",
                "ms/picture": f"{cost.milliseconds:.1f}",
                "pictures/s": f"{cost.per_second:.0f}",
            }
        )
    return rows


def parts(comparison: Comparison) -> list[Row]:
    """A row for each part of AP: what each detector reaches, the differences, and how many objects it is about."""
    every, total = comparison.detectors, sum(comparison.objects.values())
    sizes = {key: comparison.sizes[size] for key, size in SIZES.items()}
    rows = []
    for key, label in PARTS.items():
        cells = [
            _cells(comparison, one, one.scores.summary[key], one.gains and one.gains.summary[key]) for one in every
        ]
        rows.append(_part(label, cells, sizes.get(key, total)))
    if all(one.voc for one in every):
        cells = [_cells(comparison, one, one.voc.mean if one.voc else math.nan, None) for one in every]
        rows.append(_part("VOC AP", cells, total))
    for name, objects in comparison.objects.items():
        gains = [one.gains and one.gains.per_class[name] for one in every]
        values = [one.scores.per_class[name]["AP"] for one in every]
        cells = [_cells(comparison, *three) for three in zip(every, values, gains, strict=True)]
        rows.append(_part(name, cells, objects))
    return rows


def costs(comparison: Comparison) -> list[Row]:
    """A row for each detector: size, operations, and time by pictures at once."""
    rows = []
    for one in comparison.detectors:
        cost = one.costs[BATCHES[0]]
        row = {
            TITLE: one.name,
            "picture sides": one.sizes,
            "parameters": million(cost.parameters),
            "GFLOPs": f"{cost.gflops:.2f}",
        }
        for batch, cost in one.costs.items():
            row |= _times(batch, cost)
        rows.append(row)
    return rows


def errors(comparison: Comparison) -> list[Row]:
    """A row for each kind of error: what it costs each detector, and how often it is made."""
    rows = []
    for kind in KINDS:
        row = {"kind of error": kind}
        row |= {f"{one.name}, AP50 lost": points(one.errors.costs[kind]) for one in comparison.detectors}
        row |= {f"{one.name}, number": f"{one.sure.counts[kind]}" for one in comparison.detectors}
        rows.append(row)
    return rows


def confusion(one: Compared) -> list[Row]:
    """A row for each class that is there, and one for nothing: how often it is taken for what."""
    counts, names = one.confusion.counts.tolist(), one.confusion.classes
    titles = ["", *(f"as {name}" for name in names), "not found"]
    rows = zip([*names, "nothing"], counts, strict=True)
    shown = [dict(zip(titles, [name, *map(str, found)], strict=True)) for name, found in rows]
    return [*shown[:-1], shown[-1] | {"not found": ""}]


def mixed_up(one: Compared) -> list[tuple[str, str, int]]:
    """Pairs of classes, truth and found, and how often one is taken for the other; the most frequent first."""
    classes, counts = one.confusion.classes, one.confusion.counts
    pairs = [
        (classes[row], classes[column], int(counts[row, column]))
        for row in range(len(classes))
        for column in range(len(classes))
        if row != column and counts[row, column]
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def markdown(comparison: Comparison) -> str:
    """All tables, as comparison.md has them."""
    few = len(comparison.objects) <= MOST
    pairs = "Rows are what is there, columns what is found" if few else "The classes mixed up most often"
    lines = [
        f"# {_plain(comparison.other.name)} compared with {_plain(comparison.first.name)}",
        "",
        _plain(verdict(comparison)),
        "",
        *lines_of(headline(comparison)),
        "",
        *(f"- {_plain(remark)}\n" for remark in comparison.remarks),
        "## AP and its parts",
        "",
        *lines_of(parts(comparison)),
        "",
        f"In brackets what holds {SHARE:g} % of the resamples, or too few where fewer than {FEW} pictures show it.",
        "",
        "## Cost",
        "",
        *lines_of(costs(comparison)),
        "",
        "## Errors",
        "",
        f"Lost is what AP50 would gain if all errors of a kind were mended; numbers count scores from {SCORE:g} on.",
        "",
        *lines_of(errors(comparison)),
        "",
        "## What is taken for what",
        "",
        f"{pairs}, by boxes with a score of {SCORE:g} or more.",
        "",
        *(line for one in comparison.detectors for line in _confusion(one, few=few)),
        "## How this was made",
        "",
        f"{words.counted(len(comparison.images), 'picture')}; intervals of {SHARE:g} % over {comparison.resamples} "
        f"resamples of them, "
        f"seed {comparison.seed}; times on {comparison.machine}; jaxkd {VERSION}.",
        "",
    ]
    return "\n".join(lines)


def lines_of(rows: Sequence[Row]) -> list[str]:
    """Rows as a table of Markdown."""
    titles = list(rows[0])
    sides = ["---", *["---:"] * (len(titles) - 1)]
    shown = [[_plain(cell) for cell in cells] for cells in (titles, *(row.values() for row in rows))]
    return [f"| {' | '.join(cells)} |" for cells in (shown[0], sides, *shown[1:])]


def told_apart(names: Sequence[str]) -> bool:
    """Whether detectors of these names have columns of their own, in whatever table."""
    titles = [PART, OBJECTS, *names, *(_above(name, names[0]) for name in names[1:])]
    return len(set(titles)) == len(titles)


def _confusion(one: Compared, *, few: bool) -> list[str]:
    """All pairs of few classes, or those that are mixed up most, under the name of the detector."""
    if few:
        shown = lines_of(confusion(one))
    else:
        pairs = [{"there": row, "found": column, "times": f"{n}"} for row, column, n in mixed_up(one)[:PAIRS]]
        shown = lines_of(pairs) if pairs else []
    return [f"### {_plain(one.name)}", "", *(shown or ["No class is taken for another."]), ""]


def _part(label: str, cells: Sequence[Row], objects: int) -> Row:
    row = {PART: label}
    for more in cells:
        row |= more
    return row | {OBJECTS: f"{objects}"}


def _above(name: str, first: str) -> str:
    """The title of the column for differences to the first detector."""
    return f"{name} - {first}"


def _cells(comparison: Comparison, one: Compared, value: float, interval: Interval | None) -> dict[str, str]:
    """A detector's value, and, but for the first, by how much it is above the first's."""
    cells = {one.name: points(value)}
    if one.gains:
        cells[_above(one.name, comparison.first.name)] = gap(interval) if interval else ""
    return cells


def _times(batch: int, cost: Cost) -> dict[str, str]:
    at_once = "" if batch == 1 else f", {batch} at once"
    return {
        f"ms{at_once}": f"{cost.milliseconds:.1f}",
        f"p90{at_once}": f"{cost.p90:.1f}",
        f"pictures/s{at_once}": f"{cost.per_second:.0f}",
    }


def _plain(text: str) -> str:
    """The text in one line of Markdown, or a cell of it."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

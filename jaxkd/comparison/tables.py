"""The tables of a comparison as rows of text, for the terminal, for Markdown and for the page; and the Markdown."""

import math
from collections.abc import Mapping, Sequence

from jaxkd.comparison.records import BATCHES, SCORE, Compared, Comparison
from jaxkd.evaluation.bootstrap import SHARE, Interval
from jaxkd.evaluation.cost import Cost
from jaxkd.evaluation.errors import KINDS
from jaxkd.evaluation.matches import SIZES
from jaxkd.version import VERSION

Row = Mapping[str, str]
TITLE = "detector"  # of the first column, where a row is a detector
PARTS = {"AP": "AP", "AP50": "AP50", "AP75": "AP75"} | {key: f"{size} objects" for key, size in SIZES.items()}


class Unclear(str):
    """A difference whose interval holds 0."""


def points(value: float) -> str:
    """A share in points, to one place; a dash where it is not known."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def gap(interval: Interval) -> str:
    """A difference in points and its interval."""
    if math.isnan(interval.difference):
        return Unclear("-")
    value, low, high = (f"{100 * number:+.1f}" for number in (interval.difference, interval.low, interval.high))
    if math.isnan(interval.low):
        return Unclear(value)
    said = f"{value} [{low}, {high}]"
    return said if interval.clear else Unclear(said)


def listed(names: Sequence[str]) -> str:
    """Names in a row of words."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def million(parameters: int) -> str:
    """A number of parameters."""
    return f"{parameters / 1e6:.2f} M"


def verdict(comparison: Comparison) -> str:
    """The one sentence that says what was gained."""
    first, other = comparison.first, comparison.other
    assert other.gains is not None
    gain = other.gains.summary["AP"]
    meaning = "which does not hold 0" if gain.clear else "which holds 0, so there may be no difference"
    return (
        f"{other.name} has {gap(gain).partition(' ')[0]} AP beside {first.name}; {SHARE:g} % of {comparison.resamples} "
        f"resamples of the {len(comparison.images)} pictures lie in [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}], "
        f"{meaning}."
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
                f"AP - {comparison.first.name}": gap(one.gains.summary["AP"]) if one.gains else "",
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


def markdown(comparison: Comparison) -> str:
    """All tables, as comparison.md has them."""
    lines = [
        f"# {comparison.other.name} compared with {comparison.first.name}",
        "",
        verdict(comparison),
        "",
        *_table(headline(comparison)),
        "",
        "## AP and its parts",
        "",
        *_table(parts(comparison)),
        "",
        "## Cost",
        "",
        *_table(costs(comparison)),
        "",
        "## Errors",
        "",
        f"Lost is what AP50 would gain if all errors of a kind were mended; numbers count scores from {SCORE:g} on.",
        "",
        *_table(errors(comparison)),
        "",
        *(f"- {remark}\n" for remark in comparison.remarks),
        f"{len(comparison.images)} pictures; intervals of {SHARE:g} % over {comparison.resamples} resamples of them, "
        f"seed {comparison.seed}; times on {comparison.machine}; jaxkd {VERSION}.",
        "",
    ]
    return "\n".join(lines)


def _part(label: str, cells: Sequence[Row], objects: int) -> Row:
    row = {"": label}
    for more in cells:
        row |= more
    return row | {"objects": f"{objects}"}


def _cells(comparison: Comparison, one: Compared, value: float, interval: Interval | None) -> dict[str, str]:
    """A detector's value, and, but for the first, by how much it is above the first's."""
    cells = {one.name: points(value)}
    if one.gains:
        cells[f"{one.name} - {comparison.first.name}"] = gap(interval) if interval else ""
    return cells


def _times(batch: int, cost: Cost) -> dict[str, str]:
    at_once = "" if batch == 1 else f", {batch} at once"
    return {
        f"ms{at_once}": f"{cost.milliseconds:.1f}",
        f"p90{at_once}": f"{cost.p90:.1f}",
        f"pictures/s{at_once}": f"{cost.per_second:.0f}",
    }


def _table(rows: Sequence[Row]) -> list[str]:
    titles = list(rows[0])
    sides = ["---", *["---:"] * (len(titles) - 1)]
    return [
        f"| {' | '.join(_plain(cell) for cell in cells)} |" for cells in (titles, sides, *(r.values() for r in rows))
    ]


def _plain(cell: str) -> str:
    """The text as a cell of Markdown."""
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

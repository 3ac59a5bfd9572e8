"""The tables of a comparison as rows of text, for the terminal, Markdown and the page; and the Markdown."""

import math
from collections.abc import Mapping, Sequence

from jaxkd import phrases
from jaxkd.comparison.records import BATCHES, SCORE, ComparedDetector, Comparison
from jaxkd.evaluation.bootstrap import FEW, SHARE, Interval
from jaxkd.evaluation.cost import Cost
from jaxkd.evaluation.errors import KINDS
from jaxkd.evaluation.matches import SIZES
from jaxkd.evaluation.seeds import OverSeeds
from jaxkd.version import VERSION

Row = Mapping[str, str]
TITLE = "detector"  # of the first column where each row is a detector
PART, OBJECTS = "", "objects"  # the columns of `parts` that are not detectors'
MOST_CLASSES = 12  # up to which the whole confusion matrix is shown
PAIRS = 15  # most confused pairs that are shown otherwise
PARTS = {"AP": "AP", "AP50": "AP50", "AP75": "AP75"} | {key: f"{size} objects" for key, size in SIZES.items()}


class Unclear(str):
    """A difference whose interval holds 0, or that has no interval."""


def points(value: float) -> str:
    """A number from 0 to 1 in points, with one decimal; a dash where it is not known."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def difference(interval: Interval) -> str:
    """A difference in points with its interval, or with "too few" where too few pictures have objects."""
    if math.isnan(interval.difference):
        return Unclear("-")
    value, low, high = (f"{100 * number:+.1f}" for number in (interval.difference, interval.low, interval.high))
    if not interval.known:
        return Unclear(f"{value} [too few]")
    text = f"{value} [{low}, {high}]"
    return text if interval.clear else Unclear(text)


def million(parameters: int) -> str:
    """A number of parameters in millions."""
    return f"{parameters / 1e6:.2f} M"


def verdict(comparison: Comparison) -> str:
    """A sentence on the gain in AP, or on AP where there is nothing to gain over."""
    reference, focused = comparison.reference, comparison.focused
    gain, pictures = comparison.gain, phrases.counted(len(comparison.images), f"{comparison.split} picture")
    if gain is None:
        ap = points(focused.scores.summary["AP"])
        return f"{focused.name} has AP {ap} on {pictures}; no gain is measured without another student beside it."
    sentence = f"{focused.name} has {100 * gain.difference:+.1f} AP against {reference.name} on {pictures}"
    if not gain.known:
        return f"{sentence}; fewer than {FEW} pictures have an object, too few to say how much of it may be chance."
    meaning = "which does not hold 0" if gain.clear else "which holds 0, so there may be no difference"
    if comparison.over_seeds:
        return (
            f"{sentence}, the mean of {seeds(comparison.over_seeds)}; the interval of {SHARE:g} % for other seeds and "
            f"pictures is [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}], {meaning}."
        )
    return (
        f"{sentence}; {SHARE:g} % of {comparison.resamples} resamples of them lie in "
        f"[{100 * gain.low:+.1f}, {100 * gain.high:+.1f}], {meaning}."
    )


def seeds(over: OverSeeds) -> str:
    """The gains of the seeds, as a part of a sentence."""
    gains = phrases.listed([f"{100 * gain:+.1f}" for gain in over.gains])
    return f"{gains} over {phrases.counted(len(over.gains), 'seed')}"


def headline(comparison: Comparison) -> list[Row]:
    """A row for each detector: AP and cost."""
    rows = []
    for detector in comparison.detectors:
        cost, scores = detector.costs[BATCHES[0]], detector.scores.summary
        rows.append(
            {
                TITLE: detector.name,
                "AP": points(scores["AP"]),
                _difference_title("AP", comparison.reference.name): difference(detector.gains.summary["AP"])
                if detector.gains
                else "",
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
    """A row for each part of AP: the value of each detector, the differences, and the number of objects."""
    detectors, total = comparison.detectors, sum(comparison.objects.values())
    sizes = {key: comparison.sizes[size] for key, size in SIZES.items()}
    rows = []
    for key, label in PARTS.items():
        cells = [
            _cells(comparison, detector, detector.scores.summary[key], detector.gains and detector.gains.summary[key])
            for detector in detectors
        ]
        rows.append(_part(label, cells, sizes.get(key, total)))
    if all(detector.voc for detector in detectors):
        cells = [
            _cells(comparison, detector, detector.voc.mean if detector.voc else math.nan, None)
            for detector in detectors
        ]
        rows.append(_part("VOC AP", cells, total))
    for name, objects in comparison.objects.items():
        gains = [detector.gains and detector.gains.per_class[name] for detector in detectors]
        values = [detector.scores.per_class[name]["AP"] for detector in detectors]
        cells = [_cells(comparison, *arguments) for arguments in zip(detectors, values, gains, strict=True)]
        rows.append(_part(name, cells, objects))
    return rows


def costs(comparison: Comparison) -> list[Row]:
    """A row for each detector: parameters, operations, and time by batch size."""
    rows = []
    for detector in comparison.detectors:
        cost = detector.costs[BATCHES[0]]
        row = {
            TITLE: detector.name,
            "picture sides": detector.sizes,
            "parameters": million(cost.parameters),
            "GFLOPs": f"{cost.gflops:.2f}",
        }
        for batch, cost in detector.costs.items():
            row |= _times(batch, cost)
        rows.append(row)
    return rows


def errors(comparison: Comparison) -> list[Row]:
    """A row for each kind of error: the AP50 that it costs each detector, and its count."""
    rows = []
    for kind in KINDS:
        row = {"kind of error": kind}
        row |= {f"{detector.name}, AP50 lost": points(detector.errors.costs[kind]) for detector in comparison.detectors}
        row |= {
            f"{detector.name}, number": f"{detector.confident_errors.counts[kind]}" for detector in comparison.detectors
        }
        rows.append(row)
    return rows


def confusion(detector: ComparedDetector) -> list[Row]:
    """The confusion matrix: a row for each true class and one for background, a column for each predicted class."""
    counts, names = detector.confusion.counts.tolist(), detector.confusion.classes
    titles = ["", *(f"as {name}" for name in names), "not found"]
    rows = zip([*names, "nothing"], counts, strict=True)
    table = [dict(zip(titles, [name, *map(str, counts_of_row)], strict=True)) for name, counts_of_row in rows]
    return [*table[:-1], table[-1] | {"not found": ""}]


def confused_pairs(detector: ComparedDetector) -> list[tuple[str, str, int]]:
    """Pairs of a true and a predicted class with their counts, the most frequent first."""
    classes, counts = detector.confusion.classes, detector.confusion.counts
    pairs = [
        (classes[row], classes[column], int(counts[row, column]))
        for row in range(len(classes))
        for column in range(len(classes))
        if row != column and counts[row, column]
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def markdown(comparison: Comparison) -> str:
    """All tables as Markdown, the content of comparison.md."""
    few = len(comparison.objects) <= MOST_CLASSES
    pairs = "Rows are what is there, columns what is found" if few else "The classes mixed up most often"
    lines = [
        f"# {_plain(comparison.title)}",
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
        *(line for detector in comparison.detectors for line in _confusion(detector, few=few)),
        "## How this was made",
        "",
        f"{phrases.counted(len(comparison.images), 'picture')}; intervals of {SHARE:g} % over {comparison.resamples} "
        f"resamples of them, "
        f"seed {comparison.seed}; times on {comparison.machine}; jaxkd {VERSION}.",
        "",
    ]
    return "\n".join(lines)


def lines_of(rows: Sequence[Row]) -> list[str]:
    """Rows as the lines of a Markdown table."""
    titles = list(rows[0])
    sides = ["---", *["---:"] * (len(titles) - 1)]
    escaped = [[_plain(cell) for cell in cells] for cells in (titles, *(row.values() for row in rows))]
    return [f"| {' | '.join(cells)} |" for cells in (escaped[0], sides, *escaped[1:])]


def are_distinct(names: Sequence[str]) -> bool:
    """Whether detectors of these names have distinct column titles in every table."""
    titles = [PART, OBJECTS, *names, *(_difference_title(name, names[0]) for name in names[1:])]
    return len(set(titles)) == len(titles)


def _confusion(detector: ComparedDetector, *, few: bool) -> list[str]:
    """The confusion matrix of few classes, or the most confused pairs, under the name of the detector."""
    if few:
        lines = lines_of(confusion(detector))
    else:
        pairs = [
            {"there": row, "found": column, "times": f"{n}"} for row, column, n in confused_pairs(detector)[:PAIRS]
        ]
        lines = lines_of(pairs) if pairs else []
    return [f"### {_plain(detector.name)}", "", *(lines or ["No class is taken for another."]), ""]


def _part(label: str, cells: Sequence[Row], objects: int) -> Row:
    row = {PART: label}
    for cell in cells:
        row |= cell
    return row | {OBJECTS: f"{objects}"}


def _difference_title(name: str, reference: str) -> str:
    """The title of the column of differences to the reference."""
    return f"{name} - {reference}"


def _cells(
    comparison: Comparison, detector: ComparedDetector, value: float, interval: Interval | None
) -> dict[str, str]:
    """A detector's value and, except for the reference, its difference to the reference."""
    cells = {detector.name: points(value)}
    if detector.gains:
        cells[_difference_title(detector.name, comparison.reference.name)] = difference(interval) if interval else ""
    return cells


def _times(batch: int, cost: Cost) -> dict[str, str]:
    at_once = "" if batch == 1 else f", {batch} at once"
    return {
        f"ms{at_once}": f"{cost.milliseconds:.1f}",
        f"p90{at_once}": f"{cost.p90:.1f}",
        f"pictures/s{at_once}": f"{cost.per_second:.0f}",
    }


def _plain(text: str) -> str:
    """The text escaped for one line, or one cell, of Markdown."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

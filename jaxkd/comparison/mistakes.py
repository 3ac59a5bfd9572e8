"""The sections of the page on errors: kinds of error, and classes that are confused."""

from html import escape

from jaxkd.comparison import charts, tables
from jaxkd.comparison.layout import colours_of, figure, keys, section
from jaxkd.comparison.records import SCORE, ComparedDetector, Comparison
from jaxkd.evaluation.errors import KINDS
from jaxkd.html import Safe

MEANINGS = {
    "classification": "in the place of an object of another class",
    "localisation": "near an object of its class, but not well enough placed",
    "both": "near an object of another class",
    "duplicate": "in the place of an object that a surer box has found",
    "background": "near no object",
    "missed": "an object that no box has found, nor would have found with its class or its place mended",
}
STYLE = """
.matrices { display: flex; flex-wrap: wrap; gap: 1.5rem 2.5rem; }
.matrices figure { max-width: 100%; } .matrices ol { max-width: 30rem; overflow-wrap: anywhere; }
.matrix td, .matrix th { padding: .35rem .55rem; text-align: center; font-size: .85rem; }
.matrix td { --tint: var(--mark); background: color-mix(in srgb, var(--tint) calc(var(--share) * 55%), transparent); }
.matrix th { max-width: 8rem; color: var(--soft); font-weight: 500; }
.matrix tbody th { text-align: left; }
"""


def mistakes(comparison: Comparison) -> str:
    """The section of kinds of error, as bars and numbers."""
    colours = colours_of(comparison)
    cost_rows, count_rows = [], []
    for kind in KINDS:
        costs = [(detector, detector.errors.costs[kind]) for detector in comparison.detectors]
        bars = [
            charts.Bar(detector.name, 100 * cost, tables.points(cost), colours[detector.name])
            for detector, cost in costs
        ]
        cost_rows.append((kind, bars))
        counts = [(detector, detector.confident_errors.counts[kind]) for detector in comparison.detectors]
        count_rows.append(
            (kind, [charts.Bar(detector.name, count, f"{count}", colours[detector.name]) for detector, count in counts])
        )
    meanings = "; ".join(f"<b>{kind}</b>, {meaning}" for kind, meaning in MEANINGS.items())
    content = [
        keys(comparison, comparison.detectors),
        '<div class="charts">\n',
        figure(
            "What each kind of error costs",
            "Points of AP50 that would be won if all errors of a kind were mended, and nothing else: long bars are "
            "worth working on.",
            charts.bars("Points of AP50 that each kind of error costs", cost_rows),
        ),
        figure(
            "How often it happens",
            f"Errors among the boxes with a score of {SCORE:g} or more, as they would be drawn; missed counts objects, "
            "by these boxes alone.",
            charts.bars("Number of errors of each kind", count_rows),
        ),
        "</div>\n",
    ]
    explanation = Safe(f"Every wrong box is of one kind; what is missed is no box but an object: {meanings}.")
    return section("What goes wrong", explanation, "".join(content), name="errors")


def confusions(comparison: Comparison) -> str:
    """The section of confused classes: the whole matrix, or the most frequent pairs."""
    few = len(comparison.objects) <= tables.MOST_CLASSES
    content = "".join(_matrix(comparison, detector) if few else _pairs(detector) for detector in comparison.detectors)
    all_pairs = (
        f"Rows are what is there, columns what is found with a score of {SCORE:g} or more; the darker, the larger its "
        "share of the row. The diagonal is right; the last column was not found, and in the last row nothing is there."
    )
    explanation = all_pairs if few else f"The classes mixed up most often, by boxes with a score of {SCORE:g} or more."
    return section("What is taken for what", explanation, f'<div class="matrices">\n{content}</div>', name="confusion")


def _matrix(comparison: Comparison, detector: ComparedDetector) -> str:
    colour, counts = colours_of(comparison)[detector.name], detector.confusion.counts
    class_names = [escape(name) for name in detector.confusion.classes]
    head = "".join(f'<th scope="col">{name}</th>' for name in [*class_names, "not found"])
    rows = []
    for row, name in enumerate([*class_names, "nothing"]):
        total = max(int(counts[row].sum()), 1)
        cells = []
        for column, count in enumerate(counts[row].tolist()):
            is_corner = row == column == len(class_names)
            tint = f";--tint:{colour}" if row == column else ""
            cells.append(f'<td style="--share:{count / total:.2f}{tint}">{"" if is_corner else count}</td>')
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>\n')
    return (
        f'<figure><h3>{escape(detector.name)}</h3><div class="wide"><table class="matrix"><thead><tr><th></th>{head}'
        f"</tr></thead><tbody>\n{''.join(rows)}</tbody></table></div></figure>\n"
    )


def _pairs(detector: ComparedDetector) -> str:
    items = "".join(
        f"<li>{escape(truth)} taken for {escape(predicted)}: {count}</li>"
        for truth, predicted, count in tables.confused_pairs(detector)[: tables.PAIRS]
    )
    return f"<figure><h3>{escape(detector.name)}</h3><ol>{items or '<li>none</li>'}</ol></figure>\n"

"""The page of a comparison, and the files beside it."""

from html import escape
from pathlib import Path
from typing import Any

from jaxkd import html, json_values, phrases, storage
from jaxkd.comparison import charts, layout, mistakes, pictures, summary, tables, training
from jaxkd.comparison.layout import colours_of, section
from jaxkd.comparison.records import SCORE, ComparedDetector, Comparison
from jaxkd.data.base import Source
from jaxkd.evaluation.bootstrap import SHARE
from jaxkd.version import VERSION

FILES = ("index.html", "comparison.md", "comparison.json")
STYLE = charts.STYLE + layout.STYLE + mistakes.STYLE + pictures.STYLE
AP = (
    "AP is COCO's average precision, from 0 to 100: whether objects are found, how well their boxes fit (overlaps from "
    "0.5 to 0.95), and how few boxes are wrong. AP50 and AP75 ask for overlaps of 0.5 and 0.75 alone."
)

_SEEDS = (
    "The interval of the gain over all seeds adds the variance of their mean to that of resampling, with Student's t "
    "by Welch and Satterthwaite. "
)


def write(folder: Path, comparison: Comparison, source: Source, *, most: int) -> None:
    """Writes FILES, with at most `most` pictures of the largest gains and as many of the largest losses."""
    texts = (
        page(comparison, source, most=most),
        tables.markdown(comparison),
        f"{json_values.dumps(as_json(comparison), indent=1)}\n",
    )
    for name, text in zip(FILES, texts, strict=True):
        storage.write(folder / name, text)


def page(comparison: Comparison, source: Source, *, most: int) -> str:
    """The page as HTML; `most` is as in `write`."""
    reference, focused = comparison.reference, comparison.focused
    others = [detector.name for detector in comparison.detectors if detector not in (reference, focused)]
    lead = (
        f"On {phrases.counted(len(comparison.images), f'{comparison.split} picture')} with "
        f"{phrases.counted(sum(comparison.objects.values()), 'object')} of "
        f"{phrases.counted(len(comparison.objects), 'class')}"
        f"{f', with {phrases.listed(others)} beside them' if others else ''}."
    )
    remarks, number = [*comparison.remarks], len(comparison.detectors)
    if number > html.COLOURS:
        remarks.append(f"There are {html.COLOURS} colours for {number} detectors, so some have the same one.")
    content = [
        f'<p class="lead">{escape(lead)}</p>\n{html.remarks(remarks)}',
        summary.cards(comparison),
        layout.table(tables.headline(comparison), colours=colours_of(comparison)),
        f'<p class="soft">{AP}</p>\n',
        summary.parts(comparison),
        summary.costs(comparison),
        training.training(comparison),
        mistakes.mistakes(comparison),
        mistakes.confusions(comparison),
        pictures.pictures(comparison, source, most=most),
        _provenance(comparison),
    ]
    return html.page(comparison.title, "".join(content), style=STYLE)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All numbers of a comparison as JSON values, None for those that are not known."""
    return {
        "jaxkd": VERSION,
        "machine": comparison.machine,
        "split": comparison.split,
        "pictures": list(comparison.images),
        "objects": dict(comparison.objects),
        "objects_by_size": dict(comparison.sizes),
        "reference": comparison.reference.name,
        "focus": comparison.focus,
        "bootstrap": {"resamples": comparison.resamples, "seed": comparison.seed, "interval": SHARE / 100},
        "over_seeds": json_values.plain(comparison.over_seeds),
        "score": SCORE,
        "remarks": list(comparison.remarks),
        "detectors": {detector.name: json_values.plain(_record(detector)) for detector in comparison.detectors},
    }


def _record(detector: ComparedDetector) -> dict[str, Any]:
    costs = {batch: json_values.plain(cost) | {"per_second": cost.per_second} for batch, cost in detector.costs.items()}
    return {
        "folder": detector.folder,
        "role": detector.role,
        "methods": detector.methods,
        "scores": detector.scores.summary,
        "per_class": detector.scores.per_class,
        "voc": detector.voc,
        "difference": detector.gains,
        "cost": {f"batch_{batch}": cost for batch, cost in costs.items()},
        "errors": detector.errors,
        "errors_of_sure": detector.confident_errors,
        "confusion": {"classes": [*detector.confusion.classes, None], "truth_by_found": detector.confusion.counts},
        "quality": detector.quality,
        "curves": detector.curves,
    }


def _provenance(comparison: Comparison) -> str:
    """The section on folders, methods and the bootstrap."""
    colours, items = colours_of(comparison), []
    for detector in comparison.detectors:
        facts = [detector.folder]
        if detector.curves:
            taught = f"taught by {phrases.listed(detector.methods)}" if detector.methods else "not taught"
            facts += [phrases.counted(detector.curves.steps, "step"), taught]
        items.append(f"<li>{html.legend({detector.name: colours[detector.name]})}: {escape(', '.join(facts))}</li>\n")
    explanation = (
        f"Differences are those to {comparison.reference.name}. For their intervals as many pictures as there are "
        f"({len(comparison.images)}) are drawn {comparison.resamples} times with replacement (seed {comparison.seed}), "
        f"the same ones for all detectors, and AP is taken anew; {SHARE:g} % of the differences lie in the interval. "
        f"{_SEEDS if comparison.over_seeds else ''}All numbers are in comparison.json, the tables in comparison.md."
    )
    return section("How this was made", explanation, f'<ul class="made">\n{"".join(items)}</ul>', name="making")

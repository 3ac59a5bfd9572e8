"""The page of a comparison, and the files beside it."""

from html import escape
from pathlib import Path
from typing import Any

from jaxkd import html, json_values, storage, words
from jaxkd.comparison import answers, charts, layout, mistakes, pictures, tables, training
from jaxkd.comparison.layout import colours_of, section
from jaxkd.comparison.records import SCORE, Compared, Comparison
from jaxkd.data.base import Source
from jaxkd.evaluation.bootstrap import SHARE
from jaxkd.version import VERSION

FILES = ("index.html", "comparison.md", "comparison.json")
STYLE = charts.STYLE + layout.STYLE + mistakes.STYLE + pictures.STYLE
AP = (
    "AP is COCO's average precision, from 0 to 100: whether objects are found, how well their boxes fit (overlaps from "
    "0.5 to 0.95), and how few boxes are wrong. AP50 and AP75 ask for overlaps of 0.5 and 0.75 alone."
)


def write(folder: Path, comparison: Comparison, source: Source, *, most: int) -> None:
    """Writes FILES, with at most so many pictures that gained, and that lost."""
    texts = (
        page(comparison, source, most=most),
        tables.markdown(comparison),
        f"{json_values.dumps(as_json(comparison), indent=1)}\n",
    )
    for name, text in zip(FILES, texts, strict=True):
        storage.write(folder / name, text)


def page(comparison: Comparison, source: Source, *, most: int) -> str:
    """The whole page; `most` is as in `write`."""
    first, other = comparison.first, comparison.other
    beside = [one.name for one in comparison.detectors if one not in (first, other)]
    lead = (
        f"On {words.counted(len(comparison.images), 'validation picture')} with "
        f"{words.counted(sum(comparison.objects.values()), 'object')} of "
        f"{words.counted(len(comparison.objects), 'class')}"
        f"{f', with {words.listed(beside)} beside them' if beside else ''}."
    )
    remarks, number = [*comparison.remarks], len(comparison.detectors)
    if number > html.COLOURS:
        remarks.append(f"There are {html.COLOURS} colours for {number} detectors, so some have the same one.")
    content = [
        f'<p class="lead">{escape(lead)}</p>\n{html.remarks(remarks)}',
        answers.cards(comparison),
        layout.table(tables.headline(comparison), colours=colours_of(comparison)),
        f'<p class="soft">{AP}</p>\n',
        answers.parts(comparison),
        answers.costs(comparison),
        training.training(comparison),
        mistakes.mistakes(comparison),
        mistakes.confusions(comparison),
        pictures.pictures(comparison, source, most=most),
        _making(comparison),
    ]
    return html.page(f"{other.name} compared with {first.name}", "".join(content), style=STYLE)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """All numbers of a comparison, with None for those that are not known."""
    return {
        "jaxkd": VERSION,
        "machine": comparison.machine,
        "pictures": list(comparison.images),
        "objects": dict(comparison.objects),
        "objects_by_size": dict(comparison.sizes),
        "reference": comparison.first.name,
        "focus": comparison.focus,
        "bootstrap": {"resamples": comparison.resamples, "seed": comparison.seed, "interval": SHARE / 100},
        "score": SCORE,
        "remarks": list(comparison.remarks),
        "detectors": {one.name: json_values.plain(_about(one)) for one in comparison.detectors},
    }


def _about(one: Compared) -> dict[str, Any]:
    costs = {batch: json_values.plain(cost) | {"per_second": cost.per_second} for batch, cost in one.costs.items()}
    return {
        "folder": one.place,
        "role": one.role,
        "methods": one.methods,
        "scores": one.scores.summary,
        "per_class": one.scores.per_class,
        "voc": one.voc,
        "difference": one.gains,
        "cost": {f"batch_{batch}": cost for batch, cost in costs.items()},
        "errors": one.errors,
        "errors_of_sure": one.sure,
        "confusion": {"classes": [*one.confusion.classes, None], "truth_by_found": one.confusion.counts},
        "quality": one.quality,
        "curves": one.curves,
    }


def _making(comparison: Comparison) -> str:
    """Where everything came from."""
    colours, items = colours_of(comparison), []
    for one in comparison.detectors:
        said = [one.place]
        if one.curves:
            taught = f"taught by {words.listed(one.methods)}" if one.methods else "not taught"
            said += [words.counted(one.curves.steps, "step"), taught]
        items.append(f"<li>{html.legend({one.name: colours[one.name]})}: {escape(', '.join(said))}</li>\n")
    how = (
        f"Differences are those to {comparison.first.name}. For their intervals as many pictures as there are "
        f"({len(comparison.images)}) are drawn {comparison.resamples} times with replacement (seed {comparison.seed}), "
        f"the same ones for all detectors, and AP is taken anew; {SHARE:g} % of the differences lie in the interval. "
        "All numbers are in comparison.json, the tables in comparison.md."
    )
    return section("How this was made", how, f'<ul class="made">\n{"".join(items)}</ul>', name="making")

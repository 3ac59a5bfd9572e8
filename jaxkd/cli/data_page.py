"""The report of `jaxkd inspect data`: tables in the terminal, the same as JSON, and one page with pictures."""

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from jaxkd import __version__, draw, fonts, html, phrases, storage
from jaxkd.cli import terminal
from jaxkd.data.base import Source
from jaxkd.data.survey import Overlap, Sample, Split

ROWS = 40  # most classes in the terminal; the page has all
DETAILS = ("pictures", "crowds")  # columns of classes that only the page has
SIDE = 480  # pixels of the long side of a picture on the page
NAMED = 12  # most boxes of a picture with names on them; with more classes than colours all have names


@dataclass(frozen=True)
class Report:
    """The content of the report; `splits` and `samples` have the keys "train" and, with validation data, "val"."""

    splits: Mapping[str, Split]
    shared: Overlap
    samples: Mapping[str, Sample]
    remarks: Sequence[str]


def numbers(split: Split) -> dict[str, str]:
    """The numbers of a source as text, by their titles."""
    heights, widths, sizes = split.heights, split.widths, split.sizes
    return {
        "pictures": f"{split.pictures}",
        "pictures without an object": f"{split.without_objects}",
        "objects": f"{split.objects}",
        "crowds": f"{split.crowds}",
        "small / medium / large objects": f"{sizes.small} / {sizes.medium} / {sizes.large}",
        "heights, least / median / most": f"{heights.least} / {heights.median:g} / {heights.most}",
        "widths, least / median / most": f"{widths.least} / {widths.median:g} / {widths.most}",
        "boxes on a picture, at most": f"{split.most_boxes}",
        "pictures beyond max_objects": f"{split.beyond_max_objects}",
        "objects under 1 pixel after the resize": f"{split.below_one_pixel}",
        "objects under 16x16 pixels after the resize": f"{100 * split.hard_share:.1f}%",
        "repairs of the annotations": f"{sum(split.repairs.values())}",
    }


def class_rows(splits: Mapping[str, Split]) -> list[dict[str, str]]:
    """A row for each class: its name, and for each split its objects, their sizes, pictures and crowds."""
    rows = []
    for name in splits["train"].classes:
        row = {"class": name}
        for title, split in splits.items():
            counts = split.classes[name]
            row[f"{title} objects"] = f"{counts.objects}"
            row[f"{title} s / m / l"] = f"{counts.sizes.small} / {counts.sizes.medium} / {counts.sizes.large}"
            row[f"{title} pictures"] = f"{counts.pictures}"
            row[f"{title} crowds"] = f"{counts.crowds}"
        rows.append(row)
    return rows


def number_rows(splits: Mapping[str, Split]) -> list[dict[str, str]]:
    """A row for each number, with a column for each split."""
    columns = {name: numbers(split) for name, split in splits.items()}
    return [{"": what} | {name: column[what] for name, column in columns.items()} for what in columns["train"]]


def show(report: Report) -> None:
    """Prints the tables and remarks."""
    terminal.show(number_rows(report.splits))
    rows = class_rows(report.splits)
    terminal.show([{key: row[key] for key in row if not key.endswith(DETAILS)} for row in rows[:ROWS]])
    if len(rows) > ROWS:
        print(f"The page lists {phrases.counted(len(rows) - ROWS, 'more class')}.")
    for remark in report.remarks:
        print(f"- {remark}")
    if not report.remarks:
        print("Nothing conspicuous was found.")


def write(folder: Path, report: Report, sources: Mapping[str, Source]) -> None:
    """Writes data_report.json and index.html, with the readable pictures of the samples and their boxes."""
    content = {"jaxkd": __version__} | dataclasses.asdict(report)
    storage.write(folder / "data_report.json", json.dumps(content, indent=2) + "\n")
    storage.write(folder / "index.html", _page(report, sources))


def jpeg_with_boxes(source: Source, index: int) -> bytes:
    """A picture of a source with its boxes, as a JPEG of the page's size."""
    image, record = source.read(index), source.records[index]
    boxes = []
    for corners, label, crowd in zip(record.boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), strict=True):
        boxes.append(draw.Box(tuple(corners), label, source.classes[label], dashed=crowd))
    scale = SIDE / max(image.shape[:2])
    picture = draw.boxes_on(image, boxes, scale=scale, names=len(boxes) <= NAMED or not _distinct(source))
    stream = io.BytesIO()
    picture.save(stream, "jpeg", quality=85)
    return stream.getvalue()


def _page(report: Report, sources: Mapping[str, Source]) -> str:
    sheets = "".join(_sheet(name, source, report.samples[name]) for name, source in sources.items())
    body = f"""{html.remarks(report.remarks) or "<p>Nothing conspicuous was found.</p>"}
<h2>Numbers</h2>
{html.table(number_rows(report.splits))}
<p class="soft">Small, medium and large are COCO's: areas below 32x32, below 96x96 and from there on, in pixels of the
original pictures. The resize is that of the recipe's loader. File names in both: {len(report.shared.names)}.</p>
<h2>Classes</h2>
{html.table(class_rows(report.splits))}
{sheets}"""
    return html.page("Data of the recipe", body)


def _sheet(name: str, source: Source, sample: Sample) -> str:
    """Pictures of one source, their legend, and the sentences on those that cannot be read."""
    figures = []
    for index in sample.readable:
        record = source.records[index]
        crowds = int(np.sum(record.crowd))
        objects = phrases.counted(len(record.boxes) - crowds, "object")
        caption = f"{record.file}, {record.width}x{record.height}, {objects}"
        if crowds:
            caption += f", {phrases.counted(crowds, 'crowd')}"
        picture = html.picture(jpeg_with_boxes(source, index), caption)
        figures.append(f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>\n")
    keys = {name: draw.COLOURS[label] for label, name in enumerate(source.classes) if _distinct(source)}
    crowds = "Dashed frames are crowds." if any(source.records[index].crowd.any() for index in sample.readable) else ""
    notes = f"{crowds} {fonts.legend(source.classes)}".strip()
    return (
        f"<h2>Pictures of {escape(name)}</h2>\n"
        f"{html.remarks(list(sample.unreadable.values()))}"
        f'<p class="legend">{html.legend(keys)} <span class="soft">{escape(notes)}</span></p>\n'
        f'<div class="sheet">\n{"".join(figures)}</div>\n'
    )


def _distinct(source: Source) -> bool:
    """Whether every class has a colour of its own."""
    return len(source.classes) <= len(draw.COLOURS)

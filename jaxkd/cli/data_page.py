"""What `jaxkd inspect data` shows: tables in the terminal, the same as JSON, and one page that holds its pictures."""

import base64
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from rich import markup
from rich.console import Console
from rich.table import Table

from jaxkd import __version__, draw
from jaxkd.data.base import Source
from jaxkd.data.survey import Overlap, Sample, Split

ROWS = 40  # classes that the terminal shows; the page shows all
DETAILS = ("pictures", "crowds")  # columns of the classes that only the page has room for
SIDE = 480  # pixels of the long side of a picture on the page
NAMED = 12  # boxes up to which each carries its name; all do where colours stand for several classes
STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #ddd; --soft: #666; --mark: #a85b00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #eaeaea; --paper: #141414; --line: #333; --soft: #a0a0a0; --mark: #ffb454; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.remarks li { color: var(--mark); overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } img { width: 100%; height: auto; border-radius: 4px; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .3em; border-radius: 2px; }
.legend span { margin-right: 1em; white-space: nowrap; }
"""


@dataclass(frozen=True)
class Report:
    """Everything that is shown; `splits` and `samples` have "train" and "val"."""

    splits: Mapping[str, Split]
    shared: Overlap
    samples: Mapping[str, Sample]
    remarks: Sequence[str]


def numbers(split: Split) -> dict[str, str]:
    """The numbers of a source as they are shown."""
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
    """A row for each class: its name, and for each split objects with their sizes, pictures and crowds."""
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
    return [{"": what} | {name: shown[what] for name, shown in columns.items()} for what in columns["train"]]


def show(report: Report) -> None:
    """Prints the tables and remarks."""
    console = Console()
    console.width = max(console.width, 120)  # a pipe or a narrow terminal would cut numbers off
    console.print(_table(number_rows(report.splits)))
    rows = class_rows(report.splits)
    console.print(_table([{key: row[key] for key in row if not key.endswith(DETAILS)} for row in rows[:ROWS]]))
    if len(rows) > ROWS:
        print(f"{len(rows) - ROWS} more classes are listed on the page.")
    for remark in report.remarks:
        print(f"- {remark}")
    if not report.remarks:
        print("Nothing conspicuous was found.")


def write(folder: Path, report: Report, sources: Mapping[str, Source]) -> None:
    """Writes data_report.json and index.html, with the readable pictures of the samples and their boxes."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"jaxkd": __version__} | dataclasses.asdict(report)
    (folder / "data_report.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(_page(report, sources), encoding="utf-8")


def drawn(source: Source, index: int) -> bytes:
    """A picture of a source with its boxes, as a JPEG no larger than the page needs."""
    image, record = source.read(index), source.records[index]
    boxes = []
    for corners, label, crowd in zip(record.boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), strict=True):
        boxes.append(draw.Box(tuple(corners), label, source.classes[label], dashed=crowd))
    scale = SIDE / max(image.shape[:2])
    picture = draw.boxes_on(image, boxes, scale=scale, names=len(boxes) <= NAMED or not _distinct(source))
    stream = io.BytesIO()
    picture.save(stream, "jpeg", quality=85)
    return stream.getvalue()


def _table(rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table()
    for place, title in enumerate(rows[0]):
        table.add_column(title, justify="right" if place else "left", no_wrap=bool(place))
    for row in rows:
        table.add_row(*map(markup.escape, row.values()))
    return table


def _page(report: Report, sources: Mapping[str, Source]) -> str:
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in report.remarks)
    sheets = "".join(_sheet(name, source, report.samples[name]) for name, source in sources.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data of the recipe</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Data of the recipe</h1>
{f'<ul class="remarks">{remarks}</ul>' if remarks else "<p>Nothing conspicuous was found.</p>"}
<h2>Numbers</h2>
{_html_table(number_rows(report.splits))}
<p class="soft">Small, medium and large are COCO's: areas below 32x32, below 96x96 and from there on, in pixels of the
original pictures. The resize is that of the recipe's loader. File names in both: {len(report.shared.names)}.</p>
<h2>Classes</h2>
{_html_table(class_rows(report.splits))}
{sheets}
<p class="soft">jaxkd {escape(__version__)}</p>
</body>
</html>
"""


def _html_table(rows: Sequence[Mapping[str, str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row.values())}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _sheet(name: str, source: Source, sample: Sample) -> str:
    """Pictures of one source, with what their colours mean, and those that cannot be read."""
    figures = []
    for index in sample.readable:
        record = source.records[index]
        crowds = int(np.sum(record.crowd))
        about = f"{record.file}, {record.width}x{record.height}, {len(record.boxes) - crowds} objects"
        if crowds:
            about += f", {crowds} crowds"
        data = base64.b64encode(drawn(source, index)).decode()
        figures.append(
            f'<figure><img src="data:image/jpeg;base64,{data}" alt="{escape(about)}">'
            f"<figcaption>{escape(about)}</figcaption></figure>\n"
        )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in sample.unreadable.values())
    keys = {label: name for label, name in enumerate(source.classes) if _distinct(source)}
    legend = "".join(
        f'<span><i class="key" style="background:{draw.COLOURS[label]}"></i>{escape(name)}</span> '
        for label, name in keys.items()
    )
    crowds = "Dashed frames are crowds." if any(source.records[index].crowd.any() for index in sample.readable) else ""
    return (
        f"<h2>Pictures of {escape(name)}</h2>\n"
        f'{f"""<ul class="remarks">{reasons}</ul>""" if reasons else ""}'
        f'<p class="legend">{legend}<span class="soft">{crowds}</span></p>\n'
        f'<div class="sheet">\n{"".join(figures)}</div>\n'
    )


def _distinct(source: Source) -> bool:
    """Whether every class has a colour of its own."""
    return len(source.classes) <= len(draw.COLOURS)

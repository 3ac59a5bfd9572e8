"""The part of the page with the pictures on which most was gained, and most lost."""

import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from jaxkd import draw, html, letters
from jaxkd.comparison.layout import section, signed
from jaxkd.comparison.records import SCORE, Compared, Comparison
from jaxkd.data.base import Source

SIDE = 400  # pixels of the long side of a picture
QUALITIES = (82, 65, 45, 25)  # of JPEG: the first with which all pictures stay below BUDGET
BUDGET = 3_000_000  # bytes
DASHED = "Dashed frames are crowds and objects that need not be found."
STYLE = """
.row { margin: 1rem 0 1.75rem; }
.side { display: grid; grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); gap: .6rem; }
@media (max-width: 44rem) { .side { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
.side img { display: block; } .side figcaption { margin-top: .2rem; }
.row h4 { margin: 0 0 .35rem; font-size: .9rem; font-weight: 500; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; }
"""


def ranked(comparison: Comparison, *, most: int) -> dict[str, list[int]]:
    """The rows of the pictures that the detector in focus does better than the first, "gained", and worse, "lost".

    Those with the largest differences come first, at most so many.
    """
    gains = comparison.other.quality - comparison.first.quality
    order = np.argsort(-gains, kind="stable")
    return {
        "gained": [int(row) for row in order if gains[row] > 0][:most],
        "lost": [int(row) for row in order[::-1] if gains[row] < 0][:most],
    }


def pictures(comparison: Comparison, source: Source, *, most: int) -> str:
    """Truth, the first detector, the one in focus and the teacher side by side."""
    chosen = ranked(comparison, most=most)
    rows = [row for group in chosen.values() for row in group]
    if not rows:
        return ""
    records = {record.image_id: record.index for record in source.records}
    boxes = _boxes(comparison, source)
    drawn = _drawn(source, boxes, [records[comparison.images[row]] for row in rows])
    jpegs = dict(zip(rows, _encoded(drawn), strict=True))
    first, other = comparison.first.name, comparison.other.name
    titles = {"gained": f"Where {other} gains most", "lost": f"Where {other} loses most"}
    parts = []
    for group, members in chosen.items():
        files = [source.records[records[comparison.images[row]]].file for row in members]
        shown = [_row(comparison, file, row, jpegs[row]) for file, row in zip(files, members, strict=True)]
        parts.append(f"<h3>{escape(titles[group])}</h3>\n{''.join(shown) or '<p>On no picture.</p>'}")
    classes = {name: draw.COLOURS[label] for label, name in enumerate(source.classes) if not _named(source)}
    dashed = any(box.dashed for row in rows for box in boxes[0].get(comparison.images[row], []))
    said = [DASHED] if dashed else []
    if _named(source):
        said.append(letters.legend(source.classes))
    keys = f'<p class="legend">{html.legend(classes)} <span class="soft">{escape(" ".join(said))}</span></p>\n'
    how = (
        f"Boxes with a score of {SCORE:g} or more. Beside a name is the F1 of its boxes, right ones against wrong and "
        "missing ones, as the mean over overlaps from 0.5 to 0.95: 1 is perfect. Shown are the pictures where "
        f"{other} differs most from {first}."
    )
    return section("Pictures", how, keys + "".join(parts), name="pictures")


def _columns(comparison: Comparison) -> list[Compared]:
    """The detectors whose boxes are drawn."""
    shown = [comparison.first, comparison.other]
    return shown + ([comparison.teacher] if comparison.teacher else [])


def _boxes(comparison: Comparison, source: Source) -> list[dict[int, list[draw.Box]]]:
    """The boxes of the truth, and those of each detector that is shown, by the id of the picture."""
    truth = source.annotations()
    found = [draw.from_results(one.results, truth["categories"], least=SCORE) for one in _columns(comparison)]
    return [draw.from_results(truth["annotations"], truth["categories"]), *found]


def _drawn(
    source: Source, boxes: Sequence[dict[int, list[draw.Box]]], indices: Sequence[int]
) -> list[list[Image.Image]]:
    """For each picture a drawing of each of the `boxes`."""
    out = []
    for index in indices:
        image, number = source.read(index), source.records[index].image_id
        scale = SIDE / max(image.shape[:2])
        out.append([draw.boxes_on(image, found.get(number, []), scale=scale, names=_named(source)) for found in boxes])
    return out


def _named(source: Source) -> bool:
    """Whether boxes carry the names of their classes, for which there are too few colours."""
    return len(source.classes) > len(draw.COLOURS)


def _encoded(drawn: Sequence[Sequence[Image.Image]]) -> list[list[bytes]]:
    """The drawings as JPEGs, as good as the budget lets them be."""
    encoded = []
    for quality in QUALITIES:
        encoded = [[_jpeg(drawing, quality) for drawing in row] for row in drawn]
        if sum(len(jpeg) for row in encoded for jpeg in row) <= BUDGET:
            break
    return encoded


def _jpeg(drawing: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    drawing.save(stream, "jpeg", quality=quality)
    return stream.getvalue()


def _row(comparison: Comparison, file: str, row: int, jpegs: Sequence[bytes]) -> str:
    """The drawings of one picture, under how much was gained on it."""
    shown = _columns(comparison)
    captions = ["truth", *(f"{one.name} {one.quality[row]:.2f}" for one in shown)]
    figures = "".join(
        f"<figure>{html.picture(jpeg, f'{caption}: {file}')}<figcaption>{escape(caption)}</figcaption></figure>\n"
        for caption, jpeg in zip(captions, jpegs, strict=True)
    )
    gain = signed(f"{comparison.other.quality[row] - comparison.first.quality[row]:+.2f}")
    side = f'<div class="side" style="--columns:{len(jpegs)}">\n{figures}</div>'
    return f'<div class="row"><h4><b>{gain}</b> {escape(file)}</h4>{side}</div>\n'

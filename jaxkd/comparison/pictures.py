"""The section of the page with the pictures of the largest gains and losses."""

import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from jaxkd import draw, fonts, html
from jaxkd.comparison.layout import section, signed
from jaxkd.comparison.records import SCORE, ComparedDetector, Comparison
from jaxkd.data.base import Source

SIDE = 400  # pixels of the long side of a picture
QUALITIES = (82, 65, 45, 25)  # of JPEG, tried in turn until all pictures fit in BUDGET
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
    """Rows of pictures on which the detector in focus is better than the reference, "gained", and worse, "lost".

    The largest differences come first, at most `most` of each.
    """
    gains = comparison.focused.quality - comparison.reference.quality
    order = np.argsort(-gains, kind="stable")
    return {
        "gained": [int(row) for row in order if gains[row] > 0][:most],
        "lost": [int(row) for row in order[::-1] if gains[row] < 0][:most],
    }


def pictures(comparison: Comparison, source: Source, *, most: int) -> str:
    """The section: ground truth, the reference, the detector in focus and the teacher, side by side."""
    groups = ranked(comparison, most=most)
    rows = [row for group in groups.values() for row in group]
    if not rows:
        return ""
    records = {record.image_id: record.index for record in source.records}
    boxes = _boxes(comparison, source)
    drawings = _drawings(source, boxes, [records[comparison.images[row]] for row in rows])
    jpegs = dict(zip(rows, _encoded(drawings), strict=True))
    reference, focused = comparison.reference.name, comparison.focused.name
    titles = {"gained": f"Where {focused} gains most", "lost": f"Where {focused} loses most"}
    parts = []
    for group, members in groups.items():
        files = [source.records[records[comparison.images[row]]].file for row in members]
        figures = [_row(comparison, file, row, jpegs[row]) for file, row in zip(files, members, strict=True)]
        parts.append(f"<h3>{escape(titles[group])}</h3>\n{''.join(figures) or '<p>On no picture.</p>'}")
    classes = {name: draw.COLOURS[label] for label, name in enumerate(source.classes) if not _has_names(source)}
    dashed = any(box.dashed for row in rows for box in boxes[0].get(comparison.images[row], []))
    notes = [DASHED] if dashed else []
    if _has_names(source):
        notes.append(fonts.legend(source.classes))
    keys = f'<p class="legend">{html.legend(classes)} <span class="soft">{escape(" ".join(notes))}</span></p>\n'
    explanation = (
        f"Boxes with a score of {SCORE:g} or more. Beside a name is the F1 of its boxes, right ones against wrong and "
        "missing ones, as the mean over overlaps from 0.5 to 0.95: 1 is perfect. Shown are the pictures where "
        f"{focused} differs most from {reference}."
    )
    return section("Pictures", explanation, keys + "".join(parts), name="pictures")


def _columns(comparison: Comparison) -> list[ComparedDetector]:
    """The detectors whose boxes are drawn."""
    detectors = [comparison.reference, comparison.focused]
    return detectors + ([comparison.teacher] if comparison.teacher else [])


def _boxes(comparison: Comparison, source: Source) -> list[dict[int, list[draw.Box]]]:
    """The boxes of the ground truth, and of each detector that is drawn, by the id of the picture."""
    truth = source.annotations()
    detections = [
        draw.from_results(detector.results, truth["categories"], least=SCORE) for detector in _columns(comparison)
    ]
    return [draw.from_results(truth["annotations"], truth["categories"]), *detections]


def _drawings(
    source: Source, boxes: Sequence[dict[int, list[draw.Box]]], indices: Sequence[int]
) -> list[list[Image.Image]]:
    """For each picture a drawing with each of the `boxes`."""
    out = []
    for index in indices:
        image, number = source.read(index), source.records[index].image_id
        scale = SIDE / max(image.shape[:2])
        out.append(
            [
                draw.boxes_on(image, of_picture.get(number, []), scale=scale, names=_has_names(source))
                for of_picture in boxes
            ]
        )
    return out


def _has_names(source: Source) -> bool:
    """Whether boxes carry class names, because there are more classes than colours."""
    return len(source.classes) > len(draw.COLOURS)


def _encoded(drawings: Sequence[Sequence[Image.Image]]) -> list[list[bytes]]:
    """The drawings as JPEGs, in the best quality that fits in BUDGET."""
    encoded = []
    for quality in QUALITIES:
        encoded = [[_jpeg(drawing, quality) for drawing in row] for row in drawings]
        if sum(len(jpeg) for row in encoded for jpeg in row) <= BUDGET:
            break
    return encoded


def _jpeg(drawing: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    drawing.save(stream, "jpeg", quality=quality)
    return stream.getvalue()


def _row(comparison: Comparison, file: str, row: int, jpegs: Sequence[bytes]) -> str:
    """The drawings of one picture, under the gain on it."""
    detectors = _columns(comparison)
    captions = ["truth", *(f"{detector.name} {detector.quality[row]:.2f}" for detector in detectors)]
    figures = "".join(
        f"<figure>{html.picture(jpeg, f'{caption}: {file}')}<figcaption>{escape(caption)}</figcaption></figure>\n"
        for caption, jpeg in zip(captions, jpegs, strict=True)
    )
    gain = signed(f"{comparison.focused.quality[row] - comparison.reference.quality[row]:+.2f}")
    side = f'<div class="side" style="--columns:{len(jpegs)}">\n{figures}</div>'
    return f'<div class="row"><h4><b>{gain}</b> {escape(file)}</h4>{side}</div>\n'

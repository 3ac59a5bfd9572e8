"""The panels that `jaxkd explain` draws: the picture with its truth; masks, gates and prototypes of each method."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from jaxkd import draw, fonts, phrases
from jaxkd.cli.explain_sheet import INK, Panel, Part
from jaxkd.data.base import Source
from jaxkd.errors import ConfigError
from jaxkd.train.finished_run import FinishedRun
from jaxkd.train.refresh import Objects
from jaxkd.types import Explanation, Regions

COLUMNS = 8  # most prototypes of a class that are drawn
CROP, NAME, GAP = 96, 160, 6  # pixels: side of a prototype, width of its class name, gap between two
LETTERS = 20  # most letters of a class name
TAUGHT, NOT_TAUGHT = 3, 0  # colours of regions: green and red


@dataclass(frozen=True)
class _Picture:
    """The picture that is explained."""

    image: np.ndarray  # [h w 3] uint8, in its own size
    regions: Regions  # in pixels of the detectors' canvas
    scale: float  # pixels of the canvas per pixel of the picture


def parts(finished: FinishedRun, split: str, index: int) -> list[Part]:
    """All parts of the sheet for a picture of a split.

    Raises ConfigError where no method of the run has anything to draw, and DataError where the picture cannot be read.
    """
    source = finished.sources[split]
    image = source.read(index)
    regions, explanations, scale = finished.explain(split, index)
    not_drawn = phrases.listed([name for name in finished.pair.all_methods if name not in explanations])
    if not explanations:
        raise ConfigError(f"The run is taught by {not_drawn}, which cannot be drawn; name the workdir of another run.")
    sheet_parts = [Part("The picture", [_truth_panel(source, image, index)])]
    sheet_parts += [
        _part(finished, method, explanation, _Picture(image, regions, scale))
        for method, explanation in explanations.items()
    ]
    return sheet_parts + ([Part("Not drawn", [], [f"What {not_drawn} does on a picture."])] if not_drawn else [])


def _part(finished: FinishedRun, method: str, explanation: Explanation, picture: _Picture) -> Part:
    """The part of a method: masks from the finest level on, gates in the order of their captions, and prototypes."""
    order = [stem for stem, _ in explanation.captions]
    gates = sorted(explanation.gates, key=lambda name: order.index(name) if name in order else len(order))
    panels = [
        _mask_panel(explanation, picture, method=method, name=name) for name in sorted(explanation.masks, key=_stride)
    ]
    panels += [_gate_panel(explanation, picture, method=method, name=name) for name in gates]
    notes = [f"{panel.title}: empty, {panel.empty}." for panel in panels if panel.empty]
    if method in finished.state.memory:
        panel = _prototype_panel(finished, method)
        panels += [panel] if panel else []
        notes += [] if panel else ["prototypes: empty, none have been looked for yet."]
    module = type(finished.pair.all_methods[method]).__module__.removeprefix("jaxkd.")
    return Part(f"{method} ({module})", panels, notes)


def _truth_panel(source: Source, image: np.ndarray, index: int) -> Panel:
    record = source.records[index]
    rows = zip(record.boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), strict=True)
    boxes = [draw.Box(tuple(box), label, source.classes[label], dashed=crowd) for box, label, crowd in rows]
    crowds = int(record.crowd.sum())
    caption = phrases.counted(len(boxes) - crowds, "object") + (
        f", {phrases.counted(crowds, 'crowd')}" if crowds else ""
    )
    return Panel("truth", "truth", caption, draw.boxes_on(image, boxes))


def _mask_panel(explanation: Explanation, picture: _Picture, *, method: str, name: str) -> Panel:
    """The weight of each cell of a level, as a heat map over the picture."""
    mask, stride = explanation.masks[name][0], _stride(name)
    drawing = draw.heat_on(picture.image, mask, stride=stride / picture.scale)
    empty = "" if (mask > 0).any() else explanation.empty
    title = f"{name.removesuffix(f'_{stride}')}, stride {stride}"
    return Panel(f"{method}_{name}", title, _caption(explanation, name), drawing, empty)


def _stride(name: str) -> int:
    """The stride at the end of a mask's name."""
    return int(name.rpartition("_")[2])


def _gate_panel(explanation: Explanation, picture: _Picture, *, method: str, name: str) -> Panel:
    """Positive regions: green where the gate is open and the teacher teaches, red elsewhere."""
    is_open, positives = explanation.gates[name][0], np.flatnonzero(picture.regions.positive[0])
    boxes = []
    for region in positives:
        x0, y0, x1, y1 = (float(side) / picture.scale for side in picture.regions.boxes[0, region])
        boxes.append(draw.Box((x0, y0, x1, y1), TAUGHT if is_open[region] else NOT_TAUGHT, ""))
    caption = f"{_caption(explanation, name)}: {int(is_open[positives].sum())} of {len(positives)} (green; others red)"
    empty = "" if len(positives) else "no region has an object"
    drawing = draw.boxes_on(picture.image, boxes, names=False)
    return Panel(f"{method}_{name}", name.replace("_", " "), caption, drawing, empty)


def _caption(explanation: Explanation, name: str) -> str:
    return next((caption for stem, caption in explanation.captions if name.startswith(stem)), "")


def _prototype_panel(finished: FinishedRun, method: str) -> Panel | None:
    """A row of crops for each class, from the finest level; None where there are none."""
    source = finished.sources["train"]
    numbers = np.asarray(finished.state.memory[method].objects[0]).reshape(len(source.classes), -1)
    if (numbers < 0).all():
        return None
    objects = finished.objects(method)
    rows = [_class_row(source, objects, label, numbers[label, :COLUMNS]) for label in range(len(numbers))]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height + GAP for row in rows)), "white")
    for place, row in enumerate(rows):
        sheet.paste(row, (0, place * (row.height + GAP)))
    caption = "objects of the training pictures that stand for their class, on the finest level"
    return Panel(f"{method}_prototypes", "prototypes", caption, sheet, wide=True)


def _class_row(source: Source, objects: Objects, label: int, numbers: np.ndarray) -> Image.Image:
    """The name of a class and crops of its prototypes."""
    row = Image.new("RGB", (NAME + len(numbers) * (CROP + GAP), CROP), "white")
    name = fonts.class_text(source.classes[label], label=label)
    title = name if len(name) <= LETTERS else f"{name[: LETTERS - 3]}..."
    prototypes = numbers[numbers >= 0]
    text = title if len(prototypes) else f"{title}\nnone"
    ImageDraw.Draw(row).text((0, CROP / 2), text, fill=INK, font=fonts.font_of(text, 15), anchor="lm")
    for place, number in enumerate(prototypes):
        x0, y0, x1, y1 = (round(float(side)) for side in objects.boxes[number])
        crop = source.read(int(objects.pictures[number]))[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        row.paste(Image.fromarray(crop).resize((CROP, CROP)), (NAME + place * (CROP + GAP), 0))
    return row

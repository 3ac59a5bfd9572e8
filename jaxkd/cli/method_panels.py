"""What `jaxkd explain` draws: a part of its sheet for the picture and its truth, and one for each method."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from jaxkd import draw, letters, words
from jaxkd.cli.sheet import INK, Panel, Part
from jaxkd.data.base import Source
from jaxkd.errors import ConfigError
from jaxkd.train.finished_run import FinishedRun
from jaxkd.train.refresh import Objects
from jaxkd.types import Explanation, Regions

COLUMNS = 8  # prototypes of a class that are drawn
CROP, NAME, GAP = 96, 160, 6  # pixels: a prototype's side, the room for the name of its class, and between two
LETTERS = 20  # that this room holds
TAUGHT, LEFT_ALONE = 3, 0  # colours of regions: green and red


@dataclass(frozen=True)
class _Seen:
    """The picture that is explained."""

    image: np.ndarray  # [h w 3] uint8, as it is
    regions: Regions  # in pixels of what the detectors see
    scale: float  # of these to a pixel of the picture


def parts(found: FinishedRun, split: str, index: int) -> list[Part]:
    """Everything that can be drawn of a picture of a split.

    Raises ConfigError where no method of the run has anything to draw, and DataError where the picture cannot be read.
    """
    source = found.sources[split]
    image = source.read(index)
    regions, shown, scale = found.explain(split, index)
    silent = words.listed([name for name in found.pair.methods if name not in shown])
    if not shown:
        raise ConfigError(f"The run is taught by {silent}, which cannot be drawn; name the workdir of another run.")
    made = [Part("The picture", [_truth(source, image, index)])]
    made += [_part(found, method, one, _Seen(image, regions, scale)) for method, one in shown.items()]
    return made + ([Part("Not drawn", [], [f"What {silent} does on a picture."])] if silent else [])


def _part(found: FinishedRun, method: str, shown: Explanation, seen: _Seen) -> Part:
    """Maps from the finest level on, gates in the order of their captions, and prototypes."""
    order = [stem for stem, _ in shown.captions]
    gates = sorted(shown.gates, key=lambda name: order.index(name) if name in order else len(order))
    panels = [_map(shown, seen, method=method, name=name) for name in sorted(shown.masks, key=_stride)]
    panels += [_gate(shown, seen, method=method, name=name) for name in gates]
    notes = [f"{panel.title}: empty, {panel.empty}." for panel in panels if panel.empty]
    if method in found.state.memory:
        panel = _prototypes(found, method)
        panels += [panel] if panel else []
        notes += [] if panel else ["prototypes: empty, none have been looked for yet."]
    module = type(found.pair.methods[method]).__module__.removeprefix("jaxkd.")
    return Part(f"{method} ({module})", panels, notes)


def _truth(source: Source, image: np.ndarray, index: int) -> Panel:
    record = source.records[index]
    rows = zip(record.boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), strict=True)
    boxes = [draw.Box(tuple(box), label, source.classes[label], dashed=crowd) for box, label, crowd in rows]
    crowds = int(record.crowd.sum())
    said = words.counted(len(boxes) - crowds, "object") + (f", {words.counted(crowds, 'crowd')}" if crowds else "")
    return Panel("truth", "truth", said, draw.boxes_on(image, boxes))


def _map(shown: Explanation, seen: _Seen, *, method: str, name: str) -> Panel:
    """How much each cell of a level counts, glowing over the picture."""
    cells, stride = shown.masks[name][0], _stride(name)
    picture = draw.heat_on(seen.image, cells, stride=stride / seen.scale)
    empty = "" if (cells > 0).any() else shown.empty
    title = f"{name.removesuffix(f'_{stride}')}, stride {stride}"
    return Panel(f"{method}_{name}", title, _caption(shown, name), picture, empty)


def _stride(name: str) -> int:
    """The stride at the end of a map's name."""
    return int(name.rpartition("_")[2])


def _gate(shown: Explanation, seen: _Seen, *, method: str, name: str) -> Panel:
    """Positive regions: green where the teacher teaches, red where it is not let to."""
    open_, places = shown.gates[name][0], np.flatnonzero(seen.regions.positive[0])
    boxes = []
    for place in places:
        x0, y0, x1, y1 = (float(side) / seen.scale for side in seen.regions.boxes[0, place])
        boxes.append(draw.Box((x0, y0, x1, y1), TAUGHT if open_[place] else LEFT_ALONE, ""))
    caption = f"{_caption(shown, name)}: {int(open_[places].sum())} of {len(places)} (green; others red)"
    empty = "" if len(places) else "no region has an object"
    picture = draw.boxes_on(seen.image, boxes, names=False)
    return Panel(f"{method}_{name}", name.replace("_", " "), caption, picture, empty)


def _caption(shown: Explanation, name: str) -> str:
    return next((said for stem, said in shown.captions if name.startswith(stem)), "")


def _prototypes(found: FinishedRun, method: str) -> Panel | None:
    """A row of crops for each class, from the finest level; None where there are none."""
    source = found.sources["train"]
    numbers = np.asarray(found.state.memory[method].objects[0]).reshape(len(source.classes), -1)
    if (numbers < 0).all():
        return None
    objects = found.objects(method)
    rows = [_class_row(source, objects, label, numbers[label, :COLUMNS]) for label in range(len(numbers))]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height + GAP for row in rows)), "white")
    for place, row in enumerate(rows):
        sheet.paste(row, (0, place * (row.height + GAP)))
    said = "objects of the training pictures that stand for their class, on the finest level"
    return Panel(f"{method}_prototypes", "prototypes", said, sheet, wide=True)


def _class_row(source: Source, objects: Objects, label: int, numbers: np.ndarray) -> Image.Image:
    """The name of a class and crops of its prototypes."""
    row = Image.new("RGB", (NAME + len(numbers) * (CROP + GAP), CROP), "white")
    name = letters.written(source.classes[label], label=label)
    shown = name if len(name) <= LETTERS else f"{name[: LETTERS - 3]}..."
    there = numbers[numbers >= 0]
    said = shown if len(there) else f"{shown}\nnone"
    ImageDraw.Draw(row).text((0, CROP / 2), said, fill=INK, font=letters.font_of(said, 15), anchor="lm")
    for place, number in enumerate(there):
        x0, y0, x1, y1 = (round(float(side)) for side in objects.boxes[number])
        part = source.read(int(objects.pictures[number]))[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        row.paste(Image.fromarray(part).resize((CROP, CROP)), (NAME + place * (CROP + GAP), 0))
    return row

"""Pictures with rectangles of pure colours, whose boxes can be found again by their colour."""

import numpy as np

from jaxkd.data.base import PictureError, Record
from jaxkd.data.labelled import Labelled
from jaxkd.data.repairs import Repairs
from jaxkd.data.transforms import Sample

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
COLOURS = (RED, GREEN, BLUE)  # by label
GROUND = 60


def paint(size, boxes, colours):
    image = np.full((*size, 3), GROUND, np.uint8)
    for (x0, y0, x1, y1), colour in zip(boxes, colours, strict=True):
        image[y0:y1, x0:x1] = colour
    return image


def picture(boxes, colours, *, size=(60, 90), crowd=()):
    boxes = np.array(boxes).reshape(-1, 4)
    labels = np.arange(len(boxes), dtype=np.int32)
    image = paint(size, boxes.tolist(), colours)
    return Labelled(
        Sample(image, boxes.astype(np.float32)), labels, np.isin(labels, crowd), np.ones(len(labels), np.float32)
    )


def find(image, colour):
    """The box of all pixels that are nearer to the colour than to the ground."""
    distance = np.abs(image.astype(int) - colour).sum(-1)
    rows, columns = np.nonzero(distance < np.abs(np.array(colour) - GROUND).sum() / 2)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else None


class Painted:
    """Landscape and portrait pictures with one rectangle of each colour."""

    def __init__(self, count=9, *, broken=()):
        self.classes, self.category_ids, self.repairs = ("red", "green", "blue"), (1, 2, 3), Repairs("painted")
        self.broken, self.reads, records = set(broken), 0, []
        for index in range(count):
            rng = np.random.default_rng(index)
            size = (120, 180) if index % 3 else (180, 120)
            side = rng.integers(20, 40, (3, 2))
            corner = np.stack([rng.integers(0, size[1] - 40, 3), np.arange(3) * size[0] // 3], -1)
            boxes = np.concatenate([corner, corner + np.minimum(side, size[0] // 3 - 2)], -1).astype(np.float32)
            labels = np.arange(3, dtype=np.int32)
            records.append(Record(index, index + 1, f"{index}.png", *size, boxes, labels, np.zeros(3, bool)))
        self.records = tuple(records)

    def read(self, index):
        self.reads += 1
        record = self.records[index]
        if index in self.broken:
            raise PictureError(f"{record.file} does not decode; replace it.")
        return paint((record.height, record.width), record.boxes.astype(int).tolist(), COLOURS)

    def annotations(self):
        return {}

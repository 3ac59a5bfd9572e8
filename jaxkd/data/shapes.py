"""A data source of drawn pictures: circles, squares and triangles of random colours on noise, without any file."""

import dataclasses
from typing import Annotated

import cv2
import numpy as np
from jaxtyping import UInt8

from jaxkd.data import pictures
from jaxkd.data.base import Record
from jaxkd.data.repairs import Repairs
from jaxkd.ranges import Count, Range, Seed

CLASSES = ("circle", "square", "triangle")
Side = Annotated[int, Range(32)]  # of a picture, in pixels
OVERLAP = 0.2  # greatest share of an object that an earlier one may cover


@dataclasses.dataclass(frozen=True)
class Config:
    """Drawn pictures; equal settings give equal pictures on every machine."""

    count: Count = 64
    """Number of pictures."""
    size: tuple[Side, Side] = (96, 128)
    """Height and width of a picture in pixels."""
    seed: Seed = 0
    """Seed of objects, colours and noise."""
    max_objects: Count = 4
    """Most objects of a picture; each has at least one."""


def load(config: Config) -> "ShapesSource":
    """The drawn source."""
    return ShapesSource(config)


class ShapesSource:
    """Pictures that are drawn when they are read."""

    def __init__(self, config: Config):
        self.classes = CLASSES
        self.category_ids = (1, 2, 3)
        self.repairs, self.reading = Repairs("drawn shapes"), pictures.Config(exif="turn")
        self._config = config
        self.records = tuple(self._record(index) for index in range(config.count))

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of a record, drawn."""
        height, width = self._config.size
        rng = np.random.default_rng((self._config.seed, index, 1))
        image = rng.integers(0, 96, (height, width, 3), np.uint8)
        record = self.records[index]
        for box, label in zip(record.boxes, record.labels, strict=True):
            colour = rng.integers(128, 256, 3).tolist()
            cv2.fillPoly(image, [_outline(box, CLASSES[label])], colour)
        return image

    def annotations(self) -> dict:
        """The ground truth as a COCO dict."""
        height, width = self._config.size
        annotations = []
        for record in self.records:
            for (x0, y0, x1, y1), label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": record.image_id,
                        "category_id": self.category_ids[label],
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": 0,
                    }
                )
        return {
            "images": [{"id": record.image_id, "height": height, "width": width} for record in self.records],
            "categories": [{"id": number, "name": name} for number, name in zip((1, 2, 3), CLASSES, strict=True)],
            "annotations": annotations,
        }

    def _record(self, index: int) -> Record:
        height, width = self._config.size
        rng = np.random.default_rng((self._config.seed, index, 0))
        count = rng.integers(1, self._config.max_objects + 1)
        boxes = np.zeros((0, 4), np.float32)
        for _ in range(8 * count):
            side = int(rng.integers(min(height, width) // 6, min(height, width) // 2))
            x0, y0 = int(rng.integers(0, width - side + 1)), int(rng.integers(0, height - side + 1))
            box = np.array([x0, y0, x0 + side, y0 + side], np.float32)
            if len(boxes) < count and _covered(box, boxes) <= OVERLAP:
                boxes = np.concatenate([boxes, box[None]])
        return Record(
            index=index,
            image_id=index + 1,
            file=f"shapes-{index}",
            height=height,
            width=width,
            boxes=boxes,
            labels=rng.integers(0, len(CLASSES), len(boxes), np.int32),
            crowd=np.zeros(len(boxes), bool),
        )


def _covered(box: np.ndarray, others: np.ndarray) -> float:
    """The largest overlap of `box` with another one, as a share of the smaller of both."""
    if not len(others):
        return 0.0
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    intersection = np.clip(high - low, 0, None).prod(-1)
    return float(
        (intersection / np.minimum((box[2:] - box[:2]).prod(), (others[:, 2:] - others[:, :2]).prod(-1))).max()
    )


def _outline(box: np.ndarray, name: str) -> np.ndarray:
    """Vertices [n 2] of the shape that fills the box, which is half-open: x1 and y1 are the first pixels outside."""
    x0, y0, x1, y1 = (box - [0, 0, 1, 1]).tolist()
    if name == "square":
        vertices = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    elif name == "triangle":
        vertices = [((x0 + x1) / 2, y0), (x1, y1), (x0, y1)]
    else:
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radius = (x1 - x0) / 2
        vertices = np.stack([x0 + radius * (1 + np.cos(angles)), y0 + radius * (1 + np.sin(angles))], -1)
    return np.rint(np.asarray(vertices)).astype(np.int32)

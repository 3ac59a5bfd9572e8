"""One picture and its ground truth as a row of a batch: boxes clipped, limited in number and padded."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from jaxkd.data import transforms
from jaxkd.data.base import Record, TeacherBoxes
from jaxkd.data.labelled import Labelled, largest
from jaxkd.types import Batch, Detections, TeacherView


@dataclasses.dataclass(frozen=True)
class ResizedPicture(Labelled):
    """A picture of its final size with its ground truth."""

    scales: Float32[np.ndarray, "2"]  # (y, x) from original to resized pixels
    # For the canvas of each teacher that has one of its own, by name; "" is `config.teacher`.
    teachers: Mapping[str, UInt8[np.ndarray, "h w 3"]] = dataclasses.field(default_factory=dict)

    def flipped(self) -> "ResizedPicture":
        """The picture mirrored left to right, on all canvases."""
        teachers = {name: transforms.flip_image(image) for name, image in self.teachers.items()}
        flipped = super().flipped()
        return dataclasses.replace(self, sample=flipped.sample, teacher_boxes=flipped.teacher_boxes, teachers=teachers)


@dataclasses.dataclass(frozen=True)
class Canvas:
    """What rows of one bucket are padded to."""

    bucket: tuple[int, int]  # height and width
    objects: int  # ground truth boxes
    # Height and width of the canvas of each teacher that has one of its own, by name.
    teachers: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    teacher_boxes: bool = False  # whether rows have the teacher's detections, as many as ground truth boxes
    class_scores: int = 0  # classes of which these have a score each; 0 for none
    weights: bool = False  # whether rows have weights of objects


def to_row(resized: ResizedPicture, canvas: Canvas, *, index: int, real: bool) -> Batch:
    """A row of a batch: a Batch without its leading axis."""
    limit = canvas.objects
    image, boxes = resized.sample.image, resized.sample.boxes
    crowd = resized.crowd | transforms.tiny(boxes)
    fields: dict[str, Any] = {
        "images": transforms.pad(image, bucket=canvas.bucket),
        "sizes": np.array(image.shape[:2], np.int32),
        "boxes": _padded(boxes, limit),
        "labels": _padded(resized.labels, limit),
        "valid": _padded(~crowd, limit),
        "crowd": _padded(crowd, limit),
        "ids": np.int32(index),
        "scales": resized.scales,
        "real": np.bool_(real),
    }
    if canvas.weights:
        fields["weights"] = _padded(resized.weights, limit)
    views = {
        name: _view(teacher, canvas.teachers[name], size=image.shape[:2]) for name, teacher in resized.teachers.items()
    }
    fields["teacher"] = views.pop("", None)
    fields["further"] = views
    if canvas.teacher_boxes:
        fields["detections"] = _detections(resized.teacher_boxes, canvas)
    return Batch(**fields)


def blank(canvas: Canvas) -> Batch:
    """A row without objects, of black pictures that fill their canvases."""
    black = {name: np.zeros((*size, 3), np.uint8) for name, size in canvas.teachers.items()}
    none = np.zeros(0, np.int32)
    picture = ResizedPicture(
        transforms.Sample(np.zeros((*canvas.bucket, 3), np.uint8), np.zeros((0, 4), np.float32)),
        labels=none,
        crowd=none.astype(bool),
        weights=none.astype(np.float32),
        scales=np.ones(2, np.float32),
        teachers=black,
    )
    return to_row(picture, canvas, index=0, real=True)


def _view(image: UInt8[np.ndarray, "h w 3"], canvas: tuple[int, int], *, size: tuple[int, ...]) -> TeacherView:
    """A picture on a teacher's canvas; `size` is the picture's height and width on the student's."""
    sizes = np.array(image.shape[:2], np.int32)
    return TeacherView(
        images=transforms.pad(image, bucket=canvas), sizes=sizes, scales=(sizes / np.array(size)).astype(np.float32)
    )


def _detections(teacher_boxes: TeacherBoxes, canvas: Canvas) -> Detections:
    """The best detections, padded."""
    limit = canvas.objects
    best = teacher_boxes.selected(np.argsort(-teacher_boxes.scores, kind="stable")[:limit])
    return Detections(
        boxes=_padded(best.boxes, limit),
        scores=_padded(best.scores, limit),
        labels=_padded(best.labels, limit),
        valid=_padded(np.ones(len(best.scores), bool), limit),
        class_scores=_padded(best.scores_of(canvas.class_scores), limit) if canvas.class_scores else None,
    )


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    """`values`, padded with zeros to `length`."""
    padded = np.zeros((length, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    return padded


def clipped(record: Record, image: np.ndarray) -> Record:
    """The record with its boxes clipped to the decoded picture, where that has another size than annotated."""
    height, width = image.shape[:2]
    if (record.height, record.width) == (height, width):
        return record
    boxes = np.clip(record.boxes, 0, np.array([width, height, width, height], np.float32))
    return _select(dataclasses.replace(record, boxes=boxes), np.all(boxes[:, 2:] > boxes[:, :2], axis=-1))


def with_largest(record: Record, limit: int) -> Record:
    """The record with its `limit` largest boxes, in their order."""
    if len(record.boxes) <= limit:
        return record
    return _select(record, largest(record.boxes, limit))


def _select(record: Record, keep: np.ndarray) -> Record:
    weights = None if record.weights is None else record.weights[keep]
    columns = {name: getattr(record, name)[keep] for name in ("boxes", "labels", "crowd")}
    return dataclasses.replace(record, weights=weights, **columns)

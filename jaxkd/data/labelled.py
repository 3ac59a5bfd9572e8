"""A picture with its ground truth, and the one rule for the boxes that a transform cuts."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from jaxkd.data import transforms
from jaxkd.data.base import NO_BOXES, Record, TeacherBoxes
from jaxkd.data.transforms import Sample

OBJECT = 0.4  # share of an object's area that has to be left for it to stay an object
LARGE, LARGE_SIDE = 0.25, 24.0  # or this share, where the shorter side that is left has so many pixels
CROWD = 0.1  # share from which what is left becomes a crowd, in which nothing counts as background
WHOLE = 0.999  # share from which a box counts as uncut: the rest is rounding


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A picture with its ground truth."""

    sample: Sample
    labels: Int32[np.ndarray, "n"]
    crowd: Bool[np.ndarray, "n"]
    weights: Float32[np.ndarray, "n"]
    teacher_boxes: TeacherBoxes = dataclasses.field(default=NO_BOXES, kw_only=True)  # go where the picture goes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        height, width = self.sample.image.shape[:2]
        return height, width

    def selected(self, indices: Int[np.ndarray, "m"] | Bool[np.ndarray, "n"]) -> "Labelled":
        """The picture with some of its boxes."""
        sample = Sample(self.sample.image, self.sample.boxes[indices])
        columns = {name: getattr(self, name)[indices] for name in ("labels", "crowd", "weights")}
        return dataclasses.replace(self, sample=sample, **columns)

    def resized(self, height: int, width: int, *, antialias: bool = False) -> "Labelled":
        """The picture of another size; see `transforms.resize_image`."""
        boxes = transforms.resize_boxes(self.teacher_boxes.boxes, self.size, height=height, width=width)
        sample = transforms.resize(self.sample, height=height, width=width, antialias=antialias)
        return dataclasses.replace(self, sample=sample, teacher_boxes=with_boxes(self.teacher_boxes, boxes))

    def moved(self, *, right: int, down: int) -> "Labelled":
        """The picture with its boxes so many pixels further right and down, as on a larger or a smaller one."""
        offset = np.array([right, down, right, down], np.float32)
        sample = Sample(self.sample.image, self.sample.boxes + offset)
        teacher_boxes = with_boxes(self.teacher_boxes, self.teacher_boxes.boxes + offset)
        return dataclasses.replace(self, sample=sample, teacher_boxes=teacher_boxes)

    def flipped(self) -> "Labelled":
        """The picture mirrored left to right."""
        boxes = transforms.flip_boxes(self.teacher_boxes.boxes, width=self.size[1])
        teacher_boxes = with_boxes(self.teacher_boxes, boxes)
        return dataclasses.replace(self, sample=transforms.flip(self.sample), teacher_boxes=teacher_boxes)


def of_record(record: Record, image: UInt8[np.ndarray, "h w 3"]) -> Labelled:
    """The picture of a record with the record's ground truth."""
    weights = np.ones(len(record.labels), np.float32) if record.weights is None else record.weights
    teacher_boxes = record.teacher_boxes or NO_BOXES
    return Labelled(Sample(image, record.boxes), record.labels, record.crowd, weights, teacher_boxes=teacher_boxes)


def with_boxes(of: TeacherBoxes, boxes: Float32[np.ndarray, "n 4"]) -> TeacherBoxes:
    """The same detections with other boxes."""
    return dataclasses.replace(of, boxes=boxes)


def joined(parts: Sequence[TeacherBoxes]) -> TeacherBoxes:
    """All detections of several parts of a picture, or of several files."""
    width = next((part.class_scores.shape[1] for part in parts if part.class_scores is not None), 0)
    return TeacherBoxes(
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        class_scores=np.concatenate([part.scores_of(width) for part in parts]) if width else None,
    )


def largest(boxes: Float32[np.ndarray, "n 4"], limit: int) -> Int[np.ndarray, "m"]:
    """Indices of the `limit` largest boxes, in their order; of all where there are no more."""
    return np.sort(np.argsort(-areas(boxes), kind="stable")[:limit])


def areas(boxes: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n"]:
    """The areas of the boxes in square pixels."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)


def cut(picture: Labelled, *, detail: float = 1.0) -> Labelled:
    """The picture with its boxes, which may reach beyond it, cut to it.

    Of an object of which at least .4 of the area is left, or .25 with both sides at least 24 pixels, the rest is the
    object. From .1 on, the rest is a crowd; below, or with a side of less than a pixel, it is left out. A crowd stays
    a crowd, however little is left. A box that is not cut stays as it is.

    Args:
      picture: a picture with boxes in its pixels.
      detail: pixels of this picture in a side of one pixel of the student's canvas, in which the sides are measured.
    """
    height, width = picture.size
    boxes = picture.sample.boxes
    inside = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    shorter = (inside[:, 2:] - inside[:, :2]).min(-1) / detail
    left = areas(inside) / np.maximum(areas(boxes), np.finfo(np.float32).tiny)
    whole = left >= WHOLE
    is_object = whole | (left >= OBJECT) | ((left >= LARGE) & (shorter >= LARGE_SIDE))
    keep = whole | (((left >= CROWD) | picture.crowd) & (shorter >= 1))
    result = Labelled(
        Sample(picture.sample.image, inside),
        picture.labels,
        picture.crowd | ~is_object,
        picture.weights,
        teacher_boxes=_cut_boxes(picture.teacher_boxes, (height, width)),
    )
    return result.selected(keep)


def _cut_boxes(of: TeacherBoxes, size: tuple[int, int]) -> TeacherBoxes:
    """Detections cut to a picture of this size; of which less than .4 of the area is left, left out."""
    inside = np.clip(of.boxes, 0, np.array([size[1], size[0]] * 2, np.float32))
    keep = areas(inside) >= np.maximum(OBJECT * areas(of.boxes), np.finfo(np.float32).tiny)
    return with_boxes(of, inside).selected(keep)

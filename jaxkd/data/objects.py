"""The annotated objects of a source as arrays: checked against their pictures, as records, and as COCO's truth."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int32

from jaxkd.data.base import Record, Source, check_boxes, coco_objects, coco_truth
from jaxkd.data.folder import PictureFile
from jaxkd.data.repairs import Repairs


@dataclasses.dataclass(frozen=True)
class Objects:
    """Objects in the order of their pictures."""

    pictures: Int32[np.ndarray, "n"]  # index of the picture
    boxes: Float64[np.ndarray, "n 4"]  # (x0, y0, x1, y1) in pixels of the picture, half-open
    labels: Int32[np.ndarray, "n"]
    crowd: Bool[np.ndarray, "n"]
    areas: Float64[np.ndarray, "n"]  # in pixels; NaN for the box's own

    def only(self, keep: Bool[np.ndarray, "n"]) -> "Objects":
        """The objects where `keep` is true."""
        return Objects(**{field.name: getattr(self, field.name)[keep] for field in dataclasses.fields(self)})

    def checked(
        self,
        files: Sequence[PictureFile],
        repairs: Repairs,
        *,
        file: object,
        strict: bool,
        example: Callable[[int], str],
    ) -> "Objects":
        """The objects that have an area in their picture, clipped to it; others are counted in `repairs`.

        Raises:
          DataError: in strict mode for the first fault; `file` and `example`, of an index, name the place.
        """
        heights, widths = np.array([file.size for file in files]).reshape(-1, 2)[self.pictures].T
        checked = check_boxes(self.boxes, heights=heights, widths=widths)
        repairs.add_faults(
            checked.faults | {"boxes_clipped": checked.clipped}, file=file, strict=strict, example=example
        )
        boxes = np.where(checked.clipped[:, None], checked.boxes, self.boxes)
        kept = dataclasses.replace(self, boxes=boxes).only(checked.keep)
        rows = np.column_stack([kept.pictures, kept.labels, kept.boxes])
        repairs.add("boxes_repeated", len(rows) - len(np.unique(rows, axis=0)))
        return kept

    def to_records(self, files: Sequence[PictureFile], ids: Sequence[int]) -> tuple[Record, ...]:
        """The record of each picture file, with these image ids."""
        bounds = np.searchsorted(self.pictures, np.arange(len(files) + 1))
        return tuple(
            Record(
                index=index,
                image_id=image_id,
                file=file.file,
                height=file.size[0],
                width=file.size[1],
                boxes=self._within(file, low, high),
                labels=self.labels[low:high],
                crowd=self.crowd[low:high],
            )
            for index, (file, image_id, (low, high)) in enumerate(
                zip(files, ids, itertools.pairwise(bounds.tolist()), strict=True)
            )
        )

    def truth(self, source: Source) -> dict:
        """The COCO dict of a source with these objects; the ids of annotations count from 1."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        areas, annotations, ids = np.where(np.isnan(self.areas), sides.prod(-1), self.areas), [], itertools.count(1)
        bounds = np.searchsorted(self.pictures, np.arange(len(source.records) + 1)).tolist()
        for index, (low, high) in enumerate(itertools.pairwise(bounds)):
            annotations += coco_objects(source, index, ids=ids, boxes=self.boxes[low:high], areas=areas[low:high])
        return coco_truth(source, annotations)

    def _within(self, file: PictureFile, low: int, high: int) -> np.ndarray:
        height, width = file.size  # a box may still leave it by less than what counts as clipped
        return np.clip(self.boxes[low:high], 0, [width, height, width, height]).astype(np.float32)


def from_lists(rows: Sequence[tuple[int, Sequence[float], int, bool, float]]) -> Objects:
    """Objects from (picture, four numbers, label, crowd, area) each."""
    columns: list[Any] = list(zip(*rows, strict=True)) or [[]] * 5
    return Objects(
        pictures=np.array(columns[0], np.int32),
        boxes=np.array(columns[1], np.float64).reshape(-1, 4),
        labels=np.array(columns[2], np.int32),
        crowd=np.array(columns[3], bool),
        areas=np.array(columns[4], np.float64),
    )

"""Detections as COCO's JSON, written picture by picture."""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxkd import phrases
from jaxkd.predictor import FrameDetections


class CocoFile:
    """A file with images, categories and annotations; it gets its final name at the end of its `with`.

    Where the `with` ends by an error, the detections so far are in a file beside it that ends in .part, which is named
    on stderr; an earlier file stays. Annotations are written as they come and are not kept in memory.
    """

    def __init__(self, file: Path, *, classes: Sequence[str]):
        self.categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
        self.images: list[dict[str, Any]] = []
        self._file, self._part = file, file.with_suffix(".part")
        self._annotations = 0
        self._open: IO[str] | None = None

    def __enter__(self) -> "CocoFile":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if self._open is None:
            return
        # After an error that one is reported, so a failure of this last write is suppressed.
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext(), self._open:
            self._open.write(f'], "images": {json.dumps(self.images)}}}\n')
        if kind:
            pictures = phrases.counted(len(self.images), "picture")
            print(f"What was found in {pictures} until then is in {self._part}.", file=sys.stderr)
        else:
            os.replace(self._part, self._file)

    def add(self, prediction: FrameDetections) -> list[dict[str, Any]]:
        """Writes a picture with its detections, and returns these as COCO annotations; pictures are numbered from 1."""
        if self._open is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._open = self._part.open("w")
            self._open.write(f'{{"categories": {json.dumps(self.categories)}, "annotations": [')
        number, frame = len(self.images) + 1, prediction.frame
        height, width = frame.image.shape[:2]
        image = {"id": number, "file_name": frame.file, "width": width, "height": height}
        if frame.number is not None:
            image |= {"video": frame.file, "frame": frame.number, "seconds": frame.seconds}
        self.images.append(image)
        rows = self._rows(prediction, number)
        for row in rows:
            self._open.write(f"{',' if self._annotations else ''}\n{json.dumps(row)}")
            self._annotations += 1
        return rows

    def _rows(self, prediction: FrameDetections, image_id: int) -> list[dict[str, Any]]:
        detections = prediction.detections
        valid = np.asarray(detections.valid)
        boxes = np.asarray(detections.boxes, np.float64)[valid]
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(
            boxes.tolist(), np.asarray(detections.labels)[valid], np.asarray(detections.scores)[valid], strict=True
        )
        return [
            {
                "id": self._annotations + number,
                "image_id": image_id,
                "category_id": int(label) + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "score": float(score),
            }
            for number, (box, label, score) in enumerate(rows, start=1)
        ]

"""COCO's JSON of what was found in pictures, written while they come."""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxkd import words
from jaxkd.predictor import Found


class CocoFile:
    """A file with images, categories and annotations; it is in its place, whole, at the end of its `with`.

    Where the `with` ends early, what was found lies beside it, in a file that ends in .part, and this is said on
    stderr; an earlier file keeps its place. Annotations go to the disk as they come, and are no object to the memory.
    """

    def __init__(self, file: Path, *, classes: Sequence[str]):
        self.categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
        self.images: list[dict[str, Any]] = []
        self._file, self._spare = file, file.with_suffix(".part")
        self._annotations = 0
        self._open: IO[str] | None = None

    def __enter__(self) -> "CocoFile":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if self._open is None:
            return
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext(), self._open:  # what went wrong is said
            self._open.write(f'], "images": {json.dumps(self.images)}}}\n')
        if kind:
            seen = words.counted(len(self.images), "picture")
            print(f"What was found in {seen} until then is in {self._spare}.", file=sys.stderr)
        else:
            os.replace(self._spare, self._file)

    def add(self, found: Found) -> list[dict[str, Any]]:
        """Writes a picture with its detections, and gives these; pictures are numbered from 1."""
        if self._open is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._open = self._spare.open("w")
            self._open.write(f'{{"categories": {json.dumps(self.categories)}, "annotations": [')
        number, shot = len(self.images) + 1, found.shot
        height, width = shot.image.shape[:2]
        image = {"id": number, "file_name": shot.file, "width": width, "height": height}
        if shot.frame is not None:
            image |= {"video": shot.file, "frame": shot.frame, "seconds": shot.seconds}
        self.images.append(image)
        rows = self._rows(found, number)
        for row in rows:
            self._open.write(f"{',' if self._annotations else ''}\n{json.dumps(row)}")
            self._annotations += 1
        return rows

    def _rows(self, found: Found, image_id: int) -> list[dict[str, Any]]:
        seen = found.detections
        valid = np.asarray(seen.valid)
        boxes = np.asarray(seen.boxes, np.float64)[valid]
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(boxes.tolist(), np.asarray(seen.labels)[valid], np.asarray(seen.scores)[valid], strict=True)
        return [
            {
                "id": self._annotations + place,
                "image_id": image_id,
                "category_id": int(label) + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "score": float(score),
            }
            for place, (box, label, score) in enumerate(rows, start=1)
        ]

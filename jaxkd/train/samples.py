"""Sample pictures for the sinks: the same validation pictures at each evaluation, ground truth beside detections."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from jaxkd import draw
from jaxkd.data.base import Record, Source
from jaxkd.errors import DataError

PICTURES = 4  # drawn at each evaluation
LONGEST = 640  # pixels of a picture's long side as drawn
MIN_SCORE = 0.3  # of a box that is drawn


class SamplePictures:
    """A few pictures with objects, spread over the first `limit` of a split, or over all of them for 0."""

    def __init__(self, split: Source, *, limit: int = 0, count: int = PICTURES):
        self._split = split
        with_objects = [record for record in split.records[: limit or None] if len(record.boxes)]
        chosen = np.linspace(0, len(with_objects) - 1, min(count, len(with_objects))).astype(int)
        self._records = [with_objects[index] for index in chosen]

    def __call__(self, results: Sequence[dict]) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
        """Each picture with truth and detections side by side, for the COCO results of an evaluation.

        A picture that cannot be read is left out.
        """
        image_ids = {record.image_id for record in self._records}
        categories = self._categories()
        detections = draw.from_results(
            [row for row in results if row["image_id"] in image_ids], categories, least=MIN_SCORE
        )
        drawings = {}
        for record in self._records:
            try:
                image = self._split.read(record.index)
            except DataError:
                continue
            scale = min(1.0, LONGEST / max(image.shape[:2]))
            pair = (self._truth(record), detections.get(record.image_id, []))
            row = [draw.boxes_on(image, boxes, scale=scale) for boxes in pair]
            drawings[f"pictures/{record.image_id}"] = np.asarray(
                draw.table([row], ["truth", f"found, {MIN_SCORE} and more"])
            )
        return drawings

    def _categories(self) -> list[dict]:
        pairs = zip(self._split.category_ids, self._split.classes, strict=True)
        return [{"id": number, "name": name} for number, name in pairs]

    def _truth(self, record: Record) -> list[draw.Box]:
        rows = zip(record.boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), strict=True)
        return [draw.Box(tuple(box), label, self._split.classes[label], dashed=crowd) for box, label, crowd in rows]

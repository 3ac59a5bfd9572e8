"""The validation pictures that a run shows as it learns: always the same ones, truth beside what the student finds."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from jaxkd import draw
from jaxkd.data.base import Record, Source
from jaxkd.errors import DataError

SHOWN = 4  # pictures
LONGEST = 640  # pixels of a picture's long side as it is shown
LEAST = 0.3  # score of a box that is drawn


class SamplePictures:
    """A few pictures with objects, spread over the first `limit` of a split, or over all of them for 0."""

    def __init__(self, split: Source, *, limit: int = 0, shown: int = SHOWN):
        self._split = split
        full = [record for record in split.records[: limit or None] if len(record.boxes)]
        places = np.linspace(0, len(full) - 1, min(shown, len(full))).astype(int)
        self._records = [full[place] for place in places]

    def __call__(self, results: Sequence[dict]) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
        """Each picture twice, side by side, for the COCO results of an evaluation; what cannot be read is left out."""
        wanted = {record.image_id for record in self._records}
        categories = self._categories()
        found = draw.from_results([row for row in results if row["image_id"] in wanted], categories, least=LEAST)
        pages = {}
        for record in self._records:
            try:
                image = self._split.read(record.index)
            except DataError:
                continue
            scale = min(1.0, LONGEST / max(image.shape[:2]))
            pair = (self._truth(record), found.get(record.image_id, []))
            row = [draw.boxes_on(image, boxes, scale=scale) for boxes in pair]
            pages[f"pictures/{record.image_id}"] = np.asarray(draw.table([row], ["truth", f"found, {LEAST} and more"]))
        return pages

    def _categories(self) -> list[dict]:
        pairs = zip(self._split.category_ids, self._split.classes, strict=True)
        return [{"id": number, "name": name} for number, name in pairs]

    def _truth(self, record: Record) -> list[draw.Box]:
        rows = zip(record.boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), strict=True)
        return [draw.Box(tuple(box), label, self._split.classes[label], dashed=crowd) for box, label, crowd in rows]

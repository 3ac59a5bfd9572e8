"""Two sources of the same classes, one after the other."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from jaxkd.data.base import Record, Source


class Joined:
    """The records of both sources; those of the second come after the first's. It is only read, never scored."""

    def __init__(self, first: Source, second: Source):
        self._sources, self._length = (first, second), len(first.records)
        self.classes, self.category_ids, self.repairs = first.classes, first.category_ids, first.repairs
        moved = (
            dataclasses.replace(record, index=self._length + record.index, image_id=-1 - record.index)
            for record in second.records
        )
        self.records: Sequence[Record] = (*first.records, *moved)

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record."""
        first, second = self._sources
        return first.read(index) if index < self._length else second.read(index - self._length)

    def annotations(self) -> dict:
        """The ground truth of the first source: the second has none that was annotated."""
        return self._sources[0].annotations()

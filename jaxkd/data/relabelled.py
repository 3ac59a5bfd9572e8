"""A source whose classes are brought to another list by their names."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from jaxkd.data import pictures
from jaxkd.data.base import Record, Source, Stored


class Relabelled:
    """A source with the class list of another one, which has all names that an object here has.

    A class that the source does not know has no object, and a category id of its own.
    """

    def __init__(self, whole: Source, classes: Sequence[str]):
        self._whole = whole
        self.classes, self.repairs = tuple(classes), whole.repairs
        self.reading = pictures.reading_of(whole)
        own = dict(zip(whole.classes, whole.category_ids, strict=True))
        free = max(whole.category_ids, default=0)
        numbers = []
        for name in self.classes:
            free += name not in own
            numbers.append(own.get(name, free))
        self.category_ids = tuple(numbers)
        places = {name: place for place, name in enumerate(self.classes)}
        table = np.array([places.get(name, -1) for name in whole.classes] or [-1], np.int32)
        self.records: Sequence[Record] = tuple(
            dataclasses.replace(record, labels=table[record.labels]) for record in whole.records
        )
        if (rule := getattr(whole, "voc_rule", None)) is not None:
            self.voc_rule = rule
        if isinstance(whole, Stored):
            self.content = whole.content

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record."""
        return self._whole.read(index)

    def annotations(self) -> dict:
        """The truth of the source, with this list of classes."""
        named = zip(self.category_ids, self.classes, strict=True)
        return self._whole.annotations() | {"categories": [{"id": number, "name": name} for number, name in named]}

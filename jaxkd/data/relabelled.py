"""A source whose labels are mapped, by class names, to another list of classes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from jaxkd.data import pictures
from jaxkd.data.base import Record, Source, Stored


class Relabelled:
    """A source with another list of classes, which has the names of all classes that have an object.

    A class that the source does not have gets no objects and a new category id.
    """

    def __init__(self, source: Source, classes: Sequence[str]):
        self._source = source
        self.classes, self.repairs = tuple(classes), source.repairs
        self.reading = pictures.reading_of(source)
        category_ids = dict(zip(source.classes, source.category_ids, strict=True))
        last_id = max(source.category_ids, default=0)
        ids = []
        for name in self.classes:
            last_id += name not in category_ids
            ids.append(category_ids.get(name, last_id))
        self.category_ids = tuple(ids)
        label_of = {name: label for label, name in enumerate(self.classes)}
        table = np.array([label_of.get(name, -1) for name in source.classes] or [-1], np.int32)
        self.records: Sequence[Record] = tuple(
            dataclasses.replace(record, labels=table[record.labels]) for record in source.records
        )
        if (rule := getattr(source, "voc_rule", None)) is not None:
            self.voc_rule = rule
        if isinstance(source, Stored):
            self.content = source.content

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record."""
        return self._source.read(index)

    def annotations(self) -> dict:
        """The ground truth of the source, with this list of classes."""
        categories = zip(self.category_ids, self.classes, strict=True)
        return self._source.annotations() | {
            "categories": [{"id": category_id, "name": name} for category_id, name in categories]
        }

"""The objects of some classes of another source; those of its other classes are background."""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np

from jaxkd.config import closest
from jaxkd.data import coco
from jaxkd.data.base import Record, Source, Subset, check_distinct, load_inner
from jaxkd.data.relabelled import Relabelled
from jaxkd.data.repairs import Repairs
from jaxkd.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Config:
    """All pictures of another source with the objects of some classes."""

    source: Any = dataclasses.field(default_factory=coco.Config)
    """The data source whose objects are chosen, a component."""
    classes: tuple[str, ...] = ()
    """Their classes, in the order of their labels; () for all classes of the source."""
    absent: Literal["refuse", "leave_out"] = "refuse"
    """A class that the source does not have is an error ("refuse"), or is no class of this source either."""


def load(config: Config) -> Relabelled:
    """The source with the chosen classes; the classes and objects that are left out are counted.

    Raises ConfigError where the inner component is no data source, where a class is listed twice or (see `absent`) is
    not in the source, and where none is.
    """
    check_distinct(config.classes, of="data.only.classes")
    source = load_inner(config.source, of="data.only")
    source.repairs = Repairs.like(source.repairs, title="data.only")
    classes = tuple(name for name in config.classes if name in source.classes) or source.classes
    unknown = [name for name in config.classes if name not in source.classes]
    if unknown and (config.absent == "refuse" or len(unknown) == len(config.classes)):
        near = closest(unknown[0], set(source.classes))
        raise ConfigError(f"{source.repairs.title} has no class {unknown[0]!r}{near}.")
    return Relabelled(_Chosen(source, classes), classes)


class _Chosen(Subset):
    """A source without the objects of all but some classes, which it counts in the repairs."""

    def __init__(self, source: Source, classes: Collection[str]):
        super().__init__(source, range(len(source.records)))
        wanted = np.array([name in classes for name in source.classes], bool)
        self._categories = {number for number, keep in zip(source.category_ids, wanted, strict=True) if keep}
        self._count_others(wanted)
        self.records: Sequence[Record] = tuple(_selected(record, wanted[record.labels]) for record in self.records)

    def annotations(self) -> dict:
        """The ground truth of the chosen classes alone."""
        truth = super().annotations()
        annotations = [item for item in truth["annotations"] if item["category_id"] in self._categories]
        return truth | {"annotations": annotations}

    def _count_others(self, wanted: np.ndarray) -> None:
        others = [name for name, keep in zip(self.classes, wanted, strict=True) if not keep]
        self.repairs.add("classes_not_wanted", len(others), example=others[0] if others else "")
        for record in self.records:
            labels = record.labels[~wanted[record.labels]]
            example = f"{self.classes[labels[0]]} on {record.file}" if len(labels) else ""
            self.repairs.add("labels_not_wanted", len(labels), example=example)


def _selected(record: Record, keep: np.ndarray) -> Record:
    """The record with some of its objects."""
    columns = {name: getattr(record, name)[keep] for name in ("boxes", "labels", "crowd")}
    weights = None if record.weights is None else record.weights[keep]
    return dataclasses.replace(record, **columns, weights=weights)

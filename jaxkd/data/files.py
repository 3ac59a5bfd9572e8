"""Single picture files without truth, to look for objects in."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxkd.data import pictures
from jaxkd.data.base import PictureError, Record, coco_truth


class FilesSource:
    """The readable ones of some picture files; `failed` names the others with the reason.

    Image ids count from 1, in the order of `paths`.
    """

    def __init__(self, paths: Sequence[Path], *, classes: tuple[str, ...]):
        self.classes = classes
        self.category_ids = tuple(range(1, len(classes) + 1))
        self.failed: dict[Path, str] = {}
        self.repairs: dict[str, int] = {}
        self.paths: list[Path] = []
        records = []
        for path in paths:
            try:
                height, width = pictures.read(path).shape[:2]
            except PictureError as error:
                self.failed[path] = str(error)
                continue
            records.append(blank_record(len(records), path, height, width))
            self.paths.append(path)
        self.records: Sequence[Record] = records

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record; PictureError where it has become unreadable."""
        return pictures.read(self.paths[index])

    def annotations(self) -> dict:
        """A COCO dict of the pictures and categories, with no object in it."""
        return coco_truth(self, [])


def blank_record(index: int, path: Path, height: int, width: int) -> Record:
    """The record of a picture without truth."""
    return Record(
        index=index,
        image_id=index + 1,
        file=str(path),
        height=height,
        width=width,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int32),
        crowd=np.zeros(0, bool),
    )

"""The records of a data source, on the host: what every source gives, and the checks that all of them share."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, UInt8

from jaxkd.errors import DataError

SLACK = 0.5  # pixels by which rounding may push a box over its picture's edge before it counts as clipped
LONGEST = 2**24  # pixels of a side; up to there float32 knows every whole number
SHOWN = 60  # characters of a faulty value that a message repeats
CONTROL = re.compile("[\0-\x1f\x7f\ud800-\udfff]")  # line breaks and the like, and halves of characters


class PictureError(DataError):
    """One picture that cannot be used; a loader puts another in its place and counts it."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One picture and its truth. Boxes are (x0, y0, x1, y1) in pixels of the original picture, half-open."""

    index: int  # position in the source
    image_id: int  # id in the source's own annotations
    file: str  # name of the picture, for messages
    height: int
    width: int
    boxes: Float32[np.ndarray, "n 4"]
    labels: Int32[np.ndarray, "n"]  # index into the source's classes
    crowd: Bool[np.ndarray, "n"]  # regions where nothing may be called background


@runtime_checkable
class Source(Protocol):
    """A set of annotated pictures."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]  # the annotations' own id of each class
    records: Sequence[Record]
    repairs: dict[str, int]  # how often each fault of the annotations was repaired or left out

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record; PictureError where only this one is unusable, DataError where all are."""
        ...

    def annotations(self) -> dict:
        """The truth for an evaluation, as a COCO dict: images, categories and annotations with their own ids.

        Those of a picture are in the order of its record's boxes, one for each.
        """
        ...


@runtime_checkable
class Stored(Protocol):
    """A source whose pictures lie in files, or in records of a data set."""

    def content(self, index: int) -> bytes:
        """The bytes of a record's file."""
        ...


class Part:
    """Some pictures of a source, as a source whose records are counted anew."""

    def __init__(self, whole: Source, chosen: Sequence[int] | np.ndarray):
        self._whole, self._chosen = whole, chosen
        self.classes, self.category_ids, self.repairs = whole.classes, whole.category_ids, dict(whole.repairs)
        self.records: Sequence[Record] = tuple(whole.records[index] for index in chosen)

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record."""
        return self._whole.read(int(self._chosen[index]))

    def annotations(self) -> dict:
        """The truth of the whole source."""
        return self._whole.annotations()


def digest(source: Source) -> str:
    """A number, in hexadecimal digits, for the classes and records of a source; pixels do not count."""
    found = hashlib.sha256(repr((source.classes, source.category_ids)).encode())
    for record in source.records:
        found.update(repr((record.image_id, record.file, record.height, record.width, len(record.labels))).encode())
        for values in (record.boxes, record.labels, record.crowd):
            found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class CheckedBoxes:
    """Boxes inside their pictures, which of them to keep, and what was wrong with the others."""

    boxes: Float32[np.ndarray, "n 4"]
    keep: Bool[np.ndarray, "n"]
    clipped: Bool[np.ndarray, "n"]
    faults: dict[str, Bool[np.ndarray, "n"]]  # by name of the fault: the boxes that are left out for it


def check_boxes(
    boxes: Float[np.ndarray, "n 4"], *, heights: np.ndarray | int, widths: np.ndarray | int
) -> CheckedBoxes:
    """Boxes (x0, y0, x1, y1) clipped to their pictures, without those that hold no pixel of it.

    `heights` and `widths` are one number each, or one a box.
    """
    finite = np.all(np.isfinite(boxes), axis=-1)
    boxes = np.where(finite[:, None], boxes, 0.0)
    sized = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    limits = np.stack(np.broadcast_arrays(np.zeros(len(boxes)), widths, heights), -1)
    inside = np.clip(boxes, limits[:, [0, 0, 0, 0]], limits[:, [1, 2, 1, 2]]).astype(np.float32)
    keep = sized & (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    return CheckedBoxes(
        boxes=inside,
        keep=keep,
        clipped=keep & (np.abs(inside - boxes) > SLACK).any(-1),
        faults={
            "boxes_not_finite": ~finite,
            "boxes_without_area": finite & ~sized,
            "boxes_outside": sized & ~keep,
        },
    )


def check_file_name(name: str, *, where: str) -> str:
    """`name` itself where it stays inside the folder it is looked up in.

    Raises:
      DataError: for an absolute path, a drive letter, a '..' part, a backslash, or a character that no text has.
    """
    parts = name.split("/")
    if not name or "\\" in name or ".." in parts or parts[0] == "" or re.match("[A-Za-z]:", name):
        raise DataError(
            f"{where} names the file {shown(name)}, which could lead out of the picture folder; "
            "use names relative to that folder with '/' between their parts."
        )
    return check_text(name, where=f"{where} names the file")


def check_text(name: str, *, where: str) -> str:
    """`name` itself where it can be printed in one line; DataError for line breaks, a NUL or half a character."""
    if CONTROL.search(name):
        raise DataError(f"{where} {shown(name)}, which has a character that no name has; rename it.")
    return name


def shown(value: Any) -> str:
    """A value of a file as one short printable piece, for a message."""
    text = ascii(value) if CONTROL.search(str(value)) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def check_links(path: Path, *, folder: Path) -> None:
    """Raises DataError where symbolic links lead from `path` out of `folder`."""
    root = os.path.realpath(folder)
    if os.path.commonpath([root, os.path.realpath(path)]) != root:
        raise DataError(f"{path} is a link out of {folder}; copy the file or set allow_links.")


def count_faults(repairs: dict[str, int], faults: dict[str, np.ndarray], *, file: Path | str, strict: bool) -> None:
    """Adds the number of True entries of every fault to `repairs`, leaving out the zeros.

    Raises:
      DataError: in strict mode, for the first fault of `file` that is not zero.
    """
    found = {name: int(mask.sum()) for name, mask in faults.items() if mask.any()}
    for name, number in found.items():
        if strict:
            raise DataError(f"{file}: {name} = {number}; correct the file, or leave out strict.")
        repairs[name] = repairs.get(name, 0) + number


def coco_truth(source: Source, annotations: list[dict]) -> dict:
    """A COCO dict of a source's pictures and classes with these annotations."""
    return {
        "images": [
            {"id": record.image_id, "file_name": record.file, "height": record.height, "width": record.width}
            for record in source.records
        ],
        "categories": [
            {"id": number, "name": name} for number, name in zip(source.category_ids, source.classes, strict=True)
        ],
        "annotations": annotations,
    }


def coco_objects(
    source: Source,
    index: int,
    *,
    ids: Iterable[Any],
    boxes: Float[np.ndarray, "n 4"],
    areas: Float[np.ndarray, "n"],
    difficult: Bool[np.ndarray, "n"] | None = None,
) -> list[dict]:
    """COCO's annotations of the objects of one record.

    A difficult object is never a crowd, whatever training takes it for: COCO's AP would then forgive every detection
    that lies inside it, however small. It has 1 for "difficult" and for "ignore", others 0.

    Args:
      ids: of the record's objects; an iterator gives away no more than these.
      boxes, areas: of the record's objects, as exactly as they are known.
      difficult: which of them are (VOC); None for data that does not know the word.
    """
    record, out = source.records[index], []
    rows = zip(boxes.tolist(), areas.tolist(), ids, strict=False)  # ids last: they may never end
    for place, ((x0, y0, x1, y1), area, number) in enumerate(rows):
        item = {
            "id": number,
            "image_id": record.image_id,
            "category_id": source.category_ids[record.labels[place]],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": area,
            "iscrowd": int(record.crowd[place]),
        }
        if difficult is not None:
            flag = int(difficult[place])
            item |= {"iscrowd": 0 if flag else item["iscrowd"], "difficult": flag, "ignore": flag}
        out.append(item)
    return out

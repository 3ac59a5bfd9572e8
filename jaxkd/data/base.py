"""The protocol and the records of a data source (numpy, on the host), and the checks that all sources share."""

import dataclasses
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, UInt8

from jaxkd import config as configs
from jaxkd.data.repairs import Repairs
from jaxkd.errors import ConfigError, DataError

CLIP_TOLERANCE = 0.5  # pixels; a box that lies at most this beyond its picture's edge is not counted as clipped
MAX_SIDE = 2**24  # pixels of a side; float32 holds every whole number up to it
MAX_REPR = 60  # characters of a faulty value that a message quotes
CONTROL = re.compile("[\0-\x1f\x7f\ud800-\udfff]")  # line breaks and other control characters, and lone surrogates


class PictureError(DataError):
    """One picture that cannot be used; the loader replaces it by another and counts it."""


UNSAID = -1.0  # in place of the score of a class of which a file of detections says nothing


@dataclasses.dataclass(frozen=True)
class TeacherBoxes:
    """The teacher's detections on a picture, best first, where they are read from a file."""

    boxes: Float32[np.ndarray, "n 4"]  # as those of the ground truth
    labels: Int32[np.ndarray, "n"]  # index into the teacher's classes
    scores: Float32[np.ndarray, "n"]  # in [0, 1]
    class_scores: Float32[np.ndarray, "n k"] | None = None  # of each of the source's classes, or UNSAID; None for none

    def selected(self, indices: Int[np.ndarray, "m"] | Bool[np.ndarray, "n"]) -> "TeacherBoxes":
        """Some of the detections."""
        class_scores = None if self.class_scores is None else self.class_scores[indices]
        return TeacherBoxes(self.boxes[indices], self.labels[indices], self.scores[indices], class_scores)

    def scores_of(self, classes: int) -> Float32[np.ndarray, "n k"]:
        """The scores of so many classes; UNSAID for all where there are none."""
        if self.class_scores is not None:
            return self.class_scores
        return np.full((len(self.scores), classes), UNSAID, np.float32)


NO_BOXES = TeacherBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32))


@dataclasses.dataclass(frozen=True)
class Record:
    """One picture and its ground truth. Boxes are (x0, y0, x1, y1) in pixels of the original picture, half-open."""

    index: int  # position in the source
    image_id: int  # id in the source's own annotations
    file: str  # name of the picture, for messages
    height: int
    width: int
    boxes: Float32[np.ndarray, "n 4"]
    labels: Int32[np.ndarray, "n"]  # index into the source's classes
    crowd: Bool[np.ndarray, "n"]  # regions in which nothing counts as background
    teacher_boxes: TeacherBoxes | None = None  # None unless the teacher is a file of detections
    weights: Float32[np.ndarray, "n"] | None = None  # of objects that a teacher found, in (0, 1]; None where all are 1


@runtime_checkable
class Source(Protocol):
    """A set of annotated pictures."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]  # id of each class in the annotations
    records: Sequence[Record]
    repairs: Repairs  # what was left out, repaired or guessed

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record; PictureError where this picture is unusable, DataError where all are."""
        ...

    def annotations(self) -> dict:
        """The ground truth for an evaluation as a COCO dict: images, categories, and annotations with unique ids.

        The annotations of a picture are in the order of its record's boxes, one for each.
        """
        ...


@runtime_checkable
class Stored(Protocol):
    """A source whose pictures are stored as files, or as encoded bytes in the records of a data set."""

    reading: Any  # `pictures.Config`: how the bytes are decoded

    def content(self, index: int) -> bytes:
        """The bytes of a record's file."""
        ...


class Subset:
    """Some pictures of a source, as a source; the positions of its records start at 0 again, their ids stay."""

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray):
        self._source, self._indices = source, indices
        self.classes, self.category_ids, self.repairs = source.classes, source.category_ids, source.repairs
        self.records: Sequence[Record] = tuple(
            dataclasses.replace(source.records[index], index=position) for position, index in enumerate(indices)
        )
        for name in ("reading", "voc_rule"):  # not every source has them
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))
        if isinstance(source, Stored):
            self.content = lambda index: source.content(int(indices[index]))

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record."""
        return self._source.read(int(self._indices[index]))

    def annotations(self) -> dict:
        """The ground truth of these pictures alone."""
        truth, ids = self._source.annotations(), {record.image_id for record in self.records}
        return truth | {
            "images": [image for image in truth["images"] if image["id"] in ids],
            "annotations": [annotation for annotation in truth["annotations"] if annotation["image_id"] in ids],
        }


def load_inner(component: Any, *, of: str) -> Source:
    """The source of a data source's Config that is a field of another one; `of` names that one in the message.

    Raises ConfigError where it is no data source.
    """
    load: Callable[[Any], Source] | None = getattr(configs.module_of(component), "load", None)
    if load is None:
        raise ConfigError(f"The source of {of} is {short_repr(component)}; give a data source's component.")
    return load(component)


def digest(source: Source) -> str:
    """A hash, in hexadecimal digits, of the classes and records of a source; the pixels are not in it."""
    sha = hashlib.sha256(repr((source.classes, source.category_ids)).encode())
    for record in source.records:
        sha.update(repr((record.image_id, record.file, record.height, record.width, len(record.labels))).encode())
        for values in (record.boxes, record.labels, record.crowd):
            sha.update(np.ascontiguousarray(values).tobytes())
    return sha.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class CheckedBoxes:
    """Boxes clipped to their pictures, which of them to keep, and what was wrong with the others."""

    boxes: Float32[np.ndarray, "n 4"]
    keep: Bool[np.ndarray, "n"]
    clipped: Bool[np.ndarray, "n"]
    faults: dict[str, Bool[np.ndarray, "n"]]  # by name of the fault: the boxes left out for it


def check_boxes(
    boxes: Float[np.ndarray, "n 4"], *, heights: np.ndarray | int, widths: np.ndarray | int
) -> CheckedBoxes:
    """Boxes (x0, y0, x1, y1) clipped to their pictures; those that are not finite or left without an area are not kept.

    `heights` and `widths` are one number for all boxes, or one a box.
    """
    finite = np.all(np.isfinite(boxes), axis=-1)
    boxes = np.where(finite[:, None], boxes, 0.0)
    has_area = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    limits = np.stack(np.broadcast_arrays(np.zeros(len(boxes)), widths, heights), -1)
    within = np.clip(boxes, limits[:, [0, 0, 0, 0]], limits[:, [1, 2, 1, 2]]).astype(np.float32)
    keep = has_area & (within[:, 2] > within[:, 0]) & (within[:, 3] > within[:, 1])
    return CheckedBoxes(
        boxes=within,
        keep=keep,
        clipped=keep & (np.abs(within - boxes) > CLIP_TOLERANCE).any(-1),
        faults={
            "boxes_not_finite": ~finite,
            "boxes_without_area": finite & ~has_area,
            "boxes_outside": has_area & ~keep,
        },
    )


def check_file_name(name: str, *, where: str) -> str:
    """`name`, unchanged, where it stays inside the folder that it is relative to.

    Raises:
      DataError: for an absolute path, a drive letter, a '..' part, a backslash, a control character, or a lone
        surrogate.
    """
    parts = name.split("/")
    if not name or "\\" in name or ".." in parts or parts[0] == "" or re.match("[A-Za-z]:", name):
        raise DataError(
            f"{where} names the file {short_repr(name)}, which could lead out of the picture folder; "
            "use names relative to that folder with '/' between their parts."
        )
    return check_text(name, where=f"{where} names the file")


def check_text(name: str, *, where: str) -> str:
    """`name`, unchanged, where it can be printed in one line; DataError for control characters and lone surrogates."""
    if CONTROL.search(name):
        raise DataError(f"{where} {short_repr(name)}, which has a character that no name has; rename it.")
    return name


def check_distinct(classes: Sequence[str], *, of: str) -> None:
    """Raises ConfigError where a list of classes, that of `of`, has a name twice."""
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise ConfigError(f"{of} lists {repeated[0]!r} twice; make the names different.")


def short_repr(value: Any) -> str:
    """A short printable representation of a value read from a file, for a message."""
    text = ascii(value) if CONTROL.search(str(value)) else repr(value)
    return text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}..."


def check_links(path: Path, *, folder: Path) -> None:
    """Raises DataError where symbolic links lead from `path` out of `folder`."""
    root = os.path.realpath(folder)
    if os.path.commonpath([root, os.path.realpath(path)]) == root:
        return
    below = [part for part in (*reversed(path.parents), path) if part != folder and part.is_relative_to(folder)]
    link = next((part for part in below if part.is_symlink()), path)
    raise DataError(
        f"{link} is a link to {os.path.realpath(link)}, out of {folder}; copy what it leads to, or set allow_links."
    )


def evenly_spaced(length: int, count: int) -> list[int]:
    """At most `count` evenly spaced indices from 0 to `length` - 1, both ends included where there are two."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


def coco_truth(source: Source, annotations: list[dict]) -> dict:
    """The COCO dict of a source's pictures and classes with these annotations."""
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
    """COCO annotations of the objects of one record.

    A difficult object is never written as a crowd, even where training treats it as one: COCO's AP would then ignore
    every detection inside it, however small. It has "difficult" and "ignore" = 1, other objects have 0.

    Args:
      ids: of the record's objects; no more than these are taken from an iterator.
      boxes, areas: of the record's objects, not yet rounded to float32.
      difficult: which objects are difficult (VOC); None for data without this flag.
    """
    record, annotations = source.records[index], []
    rows = zip(boxes.tolist(), areas.tolist(), ids, strict=False)  # ids last: the iterator may be endless
    for position, ((x0, y0, x1, y1), area, number) in enumerate(rows):
        annotation = {
            "id": number,
            "image_id": record.image_id,
            "category_id": source.category_ids[record.labels[position]],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": area,
            "iscrowd": int(record.crowd[position]),
        }
        if difficult is not None:
            flag = int(difficult[position])
            annotation |= {"iscrowd": 0 if flag else annotation["iscrowd"], "difficult": flag, "ignore": flag}
        annotations.append(annotation)
    return annotations

"""Detections of any program in a file, matched to the pictures of a source."""

import dataclasses
import math
import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Int64

from jaxkd import phrases
from jaxkd.data import json_stream
from jaxkd.data.base import NO_BOXES, Record, Source, Subset, TeacherBoxes, short_repr
from jaxkd.data.ids import as_int
from jaxkd.data.labelled import joined
from jaxkd.errors import DataError, WeightsError

LEAST_SCORE = 0.05  # of a detection that is kept
WANTED = "a list of {image_id, category_id, bbox, score} (COCO's results), or what jaxkd predict writes"


@dataclasses.dataclass(frozen=True)
class Detections:
    """The detections of a file."""

    file: Path
    names: Mapping[int, str]  # file names of pictures by their id; {} where the file has none
    sizes: Mapping[int, tuple[int, int]]  # width and height of pictures by their id, as far as the file has them
    categories: Mapping[int, str]  # names of classes by their id; {} where the file has none
    image_ids: Int64[np.ndarray, "n"]
    category_ids: Int64[np.ndarray, "n"]
    boxes: Float32[np.ndarray, "n 4"]  # (x0, y0, x1, y1) in pixels of the original picture
    scores: Float32[np.ndarray, "n"]
    sentences: tuple[str, ...]  # what was left out


@dataclasses.dataclass(frozen=True)
class Matched:
    """A source whose records have the detections of a file, where there are any of their picture."""

    source: Source
    images: frozenset[int]  # ids in the file of the pictures that were matched
    sentences: tuple[str, ...]  # what was left out


def read(file: Path) -> Detections:
    """The detections of a file, in bounded memory; boxes without an area and scores below LEAST_SCORE are left out.

    Raises WeightsError where it is no such file, or a score is no probability.
    """
    rows, names, sizes, categories = _Rows(file), {}, {}, {}
    for key, item in _items(file):
        if key in ("", "annotations"):
            rows.add(item)
            continue
        number = as_int(item.get("id")) if isinstance(item, dict) else None
        if key == "categories" and number is not None and isinstance(item.get("name"), str):
            categories[number] = item["name"]
        if key == "images" and number is not None and isinstance(item.get("file_name"), str):
            names[number] = item["file_name"]
            width, height = as_int(item.get("width")), as_int(item.get("height"))
            if width and height and width > 0 and height > 0:
                sizes[number] = width, height
    if not rows.count:
        raise WeightsError(f"{file} has no detection; wanted is {WANTED}.")
    return rows.detections(names, sizes, categories)


def _items(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        yield from json_stream.items(file)
    except DataError as error:
        raise WeightsError(str(error)) from error


class _Rows:
    """Rows of a file, collected in arrays."""

    def __init__(self, file: Path):
        self.count, self._file, self._left_out = 0, file, Counter()
        self._ids, self._numbers = array("q"), array("f")

    def add(self, row: Any) -> None:
        """Checks a row and keeps it."""
        self.count += 1
        try:
            image_id, category_id = as_int(row["image_id"]), as_int(row["category_id"])
            x, y, width, height = (float(value) for value in row["bbox"])
            score = float(row["score"])
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            lacking = f" (it lacks {error})" if isinstance(error, KeyError) else ""
            raise self._error(row, f"is no detection{lacking}; wanted is {WANTED}") from error
        if image_id is None or category_id is None:
            raise self._error(row, "has no whole number as image_id or category_id")
        if score > 1 or score < 0:
            raise self._error(row, f"has the score {score:g}; wanted are scores from 0 to 1")
        numbers = (x, y, x + width, y + height, score)
        if not all(map(math.isfinite, numbers)) or width <= 0 or height <= 0:
            self._left_out["boxes without an area or with a number that is not finite"] += 1
        elif score < LEAST_SCORE:
            self._left_out[f"scores below {LEAST_SCORE:g}"] += 1
        else:
            self._ids.extend((image_id, category_id))
            self._numbers.extend(numbers)

    def _error(self, row: Any, words: str) -> WeightsError:
        return WeightsError(f"{self._file}: detection {self.count}, {short_repr(row)}, {words}.")

    def detections(
        self, names: Mapping[int, str], sizes: Mapping[int, tuple[int, int]], categories: Mapping[int, str]
    ) -> Detections:
        """All of them."""
        ids = np.array(self._ids, np.int64).reshape(-1, 2)
        numbers = np.array(self._numbers, np.float32).reshape(-1, 5)
        sentences = [f"{self._file.name}: {name}, left out: {count}." for name, count in self._left_out.items()]
        columns = ids[:, 0], ids[:, 1], numbers[:, :4], numbers[:, 4]
        return Detections(self._file, names, sizes, categories, *columns, tuple(sentences))


def classes_of(detections: Detections, source: Source) -> dict[int, str]:
    """The names of the classes that are detected, by their ids: those of the file, or of the source without them.

    Raises WeightsError where no id is known.
    """
    names = detections.categories or dict(zip(source.category_ids, source.classes, strict=True))
    detected = np.unique(detections.category_ids).tolist()
    known = {number: names[number] for number in sorted(names) if number in detected}
    if not known:
        raise WeightsError(
            f"{detections.file} detects categories {', '.join(map(str, detected[:5]))}, and known are "
            f"{', '.join(map(str, list(names)[:5]))}; give a file with categories."
        )
    return known


def match(
    detections: Detections,
    source: Source,
    *,
    classes: Sequence[str],
    limit: int,
    whole: bool = True,
    ambiguous: Collection[str] = (),
) -> Matched:
    """The source with the detections on its pictures, which are matched by file name, or else by id.

    Those that the source has already, of another file, stay.

    Args:
      detections: of a file.
      source: any.
      classes: the teacher's, with those that the file detects.
      limit: most detections of a picture, of which those with the highest scores are kept.
      whole: whether the file has to have a picture of the source.
      ambiguous: file names without folders that several sources have, by which nothing is matched.

    Raises WeightsError where it has none and is to have one.
    """
    labels = {number: list(classes).index(name) for number, name in classes_of(detections, source).items()}
    known = np.isin(detections.category_ids, list(labels))
    index_of = _indices(detections, source.records, ambiguous)
    rows_of = _rows_by_image(detections.image_ids, np.flatnonzero(known))
    left_out = Counter({"of unknown categories": int((~known).sum())})
    boxes: dict[int, TeacherBoxes] = {}
    scaled = 0
    for number in rows_of.keys() & index_of.keys():
        record = source.records[index_of[number]]
        size = (record.width, record.height)
        rows, clipped = _on_picture(detections, rows_of[number], size, detections.sizes.get(number, size), left_out)
        scaled += detections.sizes.get(number, size) != size
        left_out[f"beyond the {limit} best of a picture"] += max(len(rows) - limit, 0)
        of_rows = np.array([labels[category] for category in detections.category_ids[rows].tolist()], np.int32)
        boxes[record.index] = TeacherBoxes(clipped[:limit], of_rows[:limit], detections.scores[rows[:limit]])
    if not boxes and whole:
        number = int(detections.image_ids[0])
        shared = " Names that two splits have tell nothing: a file without names is matched by id." if ambiguous else ""
        raise WeightsError(
            f"{detections.file} has no picture of the data: it has {detections.names.get(number, number)}, and the "
            f"data {source.records[0].file}; they are matched by file name, or by id where the file has no names."
            f"{shared}"
        )
    file = detections.file.name
    sentences = [f"{file}: detections {words}, left out: {count}." for words, count in left_out.items() if count]
    if scaled:
        pictures = phrases.counted(scaled, "picture")
        sentences.append(f"{file}: {pictures} of another size than the data's, whose boxes were scaled.")
    return Matched(_WithTeacherBoxes(source, boxes), frozenset(rows_of) & frozenset(index_of), tuple(sentences))


def _on_picture(
    detections: Detections,
    rows: Int[np.ndarray, "n"],
    size: tuple[int, int],
    own_size: tuple[int, int],
    left_out: Counter,
) -> tuple[Int[np.ndarray, "m"], Float32[np.ndarray, "m 4"]]:
    """The rows of one picture whose boxes are inside of it, best first, and these boxes.

    `size` is the width and height of the picture, `own_size` that which the program saw.
    """
    edges = np.array(size * 2, np.float32)
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    clipped = np.clip(detections.boxes[rows] * (edges / np.array(own_size * 2, np.float32)), 0, edges)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(-1)
    left_out["outside of their picture"] += int((~inside).sum())
    return rows[inside], clipped[inside]


class _WithTeacherBoxes(Subset):
    """All pictures of a source, with the detections of some beside those that it has."""

    def __init__(self, source: Source, boxes: Mapping[int, TeacherBoxes]):
        super().__init__(source, range(len(source.records)))
        self.records: Sequence[Record] = tuple(
            dataclasses.replace(record, teacher_boxes=_joined(record.teacher_boxes, boxes.get(record.index, NO_BOXES)))
            for record in self.records
        )


def _joined(before: TeacherBoxes | None, more: TeacherBoxes) -> TeacherBoxes:
    """The detections of two files, best first."""
    if before is None:
        return more
    both = joined([before, more])
    order = np.argsort(-both.scores, kind="stable")
    return TeacherBoxes(both.boxes[order], both.labels[order], both.scores[order])


def _indices(detections: Detections, records: Sequence[Record], ambiguous: Collection[str]) -> dict[int, int]:
    """The position of the record of each picture of the file that is one, by the picture's id in the file."""
    if not detections.names:
        return {record.image_id: record.index for record in records}
    by_file = {record.file: record.index for record in records if record.file not in ambiguous}
    counts = Counter(last_part(record.file) for record in records)
    by_last = {
        name: record.index
        for record in records
        if counts[name := last_part(record.file)] == 1 and name not in ambiguous
    }
    found = {number: by_file.get(name, by_last.get(last_part(name))) for number, name in detections.names.items()}
    return {number: index for number, index in found.items() if index is not None}


def last_part(file: str) -> str:
    """The last part of a path with either kind of slash."""
    return re.split(r"[/\\]", file)[-1]


def _rows_by_image(image_ids: Int64[np.ndarray, "n"], rows: Int[np.ndarray, "m"]) -> dict[int, Int[np.ndarray, "k"]]:
    """Those of the rows that belong to each picture, by its id."""
    if not len(rows):
        return {}
    rows = rows[np.argsort(image_ids[rows], kind="stable")]
    numbers, starts = np.unique(image_ids[rows], return_index=True)
    return dict(zip(numbers.tolist(), np.split(rows, starts[1:]), strict=True))

"""A file of detections, as any program may write it, read row by row and checked."""

import dataclasses
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from jaxkd.data import json_stream
from jaxkd.data.base import UNSAID, short_repr
from jaxkd.data.ids import as_int
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
    # Scores of each class in [0, 1], in the order of `categories`; UNSAID in a row without them, None where none has.
    class_scores: Float32[np.ndarray, "n k"] | None
    sentences: tuple[str, ...]  # what was left out


def read(file: Path) -> Detections:
    """The detections of a file, in bounded memory; boxes without an area and scores below LEAST_SCORE are left out.

    A row may have the scores of all classes too, as `scores`. Raises WeightsError where it is no such file, a score is
    no probability, or a row has not one for each class.
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
        self._scored, self._class_scores = array("q"), array("f")  # places of rows with scores of classes, and these
        self._width, self._first = 0, 0  # scores of such a row, and the number of the first in the file

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
        class_scores = self._scores_of_classes(row)
        numbers = (x, y, x + width, y + height, score)
        if not all(map(math.isfinite, numbers)) or width <= 0 or height <= 0:
            self._left_out["boxes without an area or with a number that is not finite"] += 1
        elif score < LEAST_SCORE:
            self._left_out[f"scores below {LEAST_SCORE:g}"] += 1
        else:
            if class_scores:
                self._scored.append(len(self._ids) // 2)
                self._class_scores.extend(class_scores)
            self._ids.extend((image_id, category_id))
            self._numbers.extend(numbers)

    def _scores_of_classes(self, row: Any) -> list[float]:
        """The scores of each class in a row; [] in one without them."""
        given = row.get("scores")
        if given is None:
            return []
        try:
            values = [float(value) for value in given] if isinstance(given, list) else []
        except (TypeError, ValueError, OverflowError):
            values = []
        if not values:
            raise self._error(row, "has scores that are no list of numbers; wanted is one number for each class")
        if wrong := [value for value in values if not 0 <= value <= 1]:
            raise self._error(row, f"has {wrong[0]:g} among its scores of classes; wanted are numbers from 0 to 1")
        self._width, self._first = self._width or len(values), self._first or self.count
        if len(values) != self._width:
            others = f"and detection {self._first} of {self._width}; wanted is one number for each class"
            raise self._error(row, f"has scores of {len(values)} classes, {others}")
        return values

    def _error(self, row: Any, words: str) -> WeightsError:
        return WeightsError(f"{self._file}: detection {self.count}, {short_repr(row)}, {words}.")

    def detections(
        self, names: Mapping[int, str], sizes: Mapping[int, tuple[int, int]], categories: Mapping[int, str]
    ) -> Detections:
        """All of them."""
        ids = np.array(self._ids, np.int64).reshape(-1, 2)
        numbers = np.array(self._numbers, np.float32).reshape(-1, 5)
        sentences = [f"{self._file.name}: {name}, left out: {count}." for name, count in self._left_out.items()]
        columns = ids[:, 0], ids[:, 1], numbers[:, :4], numbers[:, 4], self._matrix(len(ids), categories)
        return Detections(self._file, names, sizes, categories, *columns, tuple(sentences))

    def _matrix(self, rows: int, categories: Mapping[int, str]) -> Float32[np.ndarray, "n k"] | None:
        """The scores of classes of all rows that were kept."""
        if self._width and categories and self._width != len(categories):
            raise WeightsError(
                f"{self._file}: detection {self._first} has scores of {self._width} classes, and its categories are "
                f"{len(categories)}; wanted is one number for each, in their order."
            )
        if not self._scored:
            return None
        values = np.frombuffer(self._class_scores, np.float32).reshape(-1, self._width)
        if len(values) == rows:
            return values
        matrix = np.full((rows, self._width), UNSAID, np.float32)
        matrix[np.frombuffer(self._scored, np.int64)] = values
        return matrix

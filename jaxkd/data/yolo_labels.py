"""The rows of YOLO's label files: a class and a box, or a polygon, in shares of the picture."""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxkd.data import plain_text
from jaxkd.data.base import short_repr
from jaxkd.errors import DataError

MAX_FILE_BYTES = 2**22  # of a label file; ten thousand boxes are a tenth of it
BOX = 5  # fields of a box: class, centre x, centre y, width, height
NUMBER = re.compile(r"-?\d*\.?\d+([eE][+-]?\d+)?")
MAX_CLASS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of several label files; coordinates are shares of the picture."""

    files: np.ndarray  # [n] index of the label file
    lines: np.ndarray  # [n] line in it, from 1
    ids: np.ndarray  # [n] number of the class
    corners: np.ndarray  # [n 4] float64, x0, y0, x1, y1
    least: np.ndarray  # [n] the least and the greatest coordinate as written; nan where one is
    most: np.ndarray  # [n]
    polygons: np.ndarray  # [n] whether the row is a polygon, which the corners enclose

    def only(self, keep: np.ndarray) -> "Rows":
        """The rows where `keep` is true."""
        return Rows(*(getattr(self, field.name)[keep] for field in dataclasses.fields(self)))


def read(files: Sequence[str], *, keypoints: bool) -> Rows:
    """The rows of label files; "" is a file without rows. With `keypoints` only the box that a row begins with is read.

    Raises:
      DataError: for a file that cannot be read, and for a row that is neither a box nor a polygon.
    """
    numbers, details = [], []
    for index, name in enumerate(files):
        text = plain_text.read(Path(name), limit=MAX_FILE_BYTES) if name else ""
        for line, row in enumerate(text.splitlines(), start=1):
            if fields := row.split():
                try:
                    class_id, coordinates = _parsed(fields, keypoints=keypoints)
                except ValueError as error:
                    raise DataError(f"{name}, line {line}, is {short_repr(row.strip())}: {error}.") from error
                polygon = len(coordinates) > BOX - 1
                numbers.append(_enclosing(coordinates) if polygon else _centred(coordinates))
                details.append((index, line, class_id, polygon))
    values = np.array(numbers, np.float64).reshape(-1, 6)
    columns = np.array(details, np.int64).reshape(-1, 4)
    return Rows(
        files=columns[:, 0],
        lines=columns[:, 1],
        ids=columns[:, 2],
        corners=values[:, :4],
        least=values[:, 4],
        most=values[:, 5],
        polygons=columns[:, 3].astype(bool),
    )


def is_row(line: str) -> bool:
    """Whether a line looks like a row of a label file: a whole number and four or more others."""
    fields = line.lstrip("\ufeff").split()
    return len(fields) >= BOX and fields[0].isdecimal() and all(NUMBER.fullmatch(field) for field in fields[1:])


def _parsed(fields: Sequence[str], *, keypoints: bool) -> tuple[int, list[float]]:
    """The class and the coordinates of a row: 4 of a box, or 6 or more of a polygon; ValueError says what is wrong."""
    if any("," in field or ";" in field or "_" in field for field in fields):
        raise ValueError("write blanks between the numbers, and a point before decimals")
    try:
        class_number, *coordinates = map(float, fields)
    except ValueError:
        raise ValueError("write numbers alone, class cx cy w h") from None
    if not (class_number.is_integer() and 0 <= class_number <= MAX_CLASS):
        raise ValueError("the class has to be a whole number from 0")
    count = len(fields)
    if keypoints and count >= BOX:
        return int(class_number), coordinates[: BOX - 1]
    if count == BOX + 1:
        raise ValueError("6 numbers look like predictions, class cx cy w h score; the truth has no score")
    if count < BOX or count % 2 == 0:
        raise ValueError(
            f"{count} numbers are no box, class cx cy w h, and no polygon, class x y x y x y; boxes with keypoints "
            "need kpt_shape in the data.yaml"
        )
    return int(class_number), coordinates


def _centred(box: Sequence[float]) -> tuple[float, ...]:
    """Corners, least and greatest coordinate of a box (centre x, centre y, width, height)."""
    x, y, width, height = box
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2, *_range(box)


def _enclosing(points: Sequence[float]) -> tuple[float, ...]:
    """Corners, least and greatest coordinate of the upright box around a polygon (x, y, x, y, ...)."""
    (left, right), (top, bottom) = _range(points[::2]), _range(points[1::2])
    return left, top, right, bottom, *_range(points)


def _range(numbers: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest number; nan for both where one is nan."""
    if any(math.isnan(number) for number in numbers):
        return math.nan, math.nan
    return min(numbers), max(numbers)

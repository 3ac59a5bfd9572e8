"""Pictures in the parquet files of Hugging Face's data sets, read row group by row group."""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxkd.data import hugging_face, pictures
from jaxkd.data.base import PictureError, Record, short_repr
from jaxkd.data.folder import PictureFile
from jaxkd.data.hugging_face import BROKEN, Row
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError, first_line

COLUMNS = ("image", "objects", "width", "height", "image_id")  # those that are read
KEPT_BYTES = 2**30  # of encoded pictures that stay in memory; the others are read again with their row group
GROUPS = 4  # row groups that stay in memory beyond that


def of_split(root: Path, split: str) -> list[Path]:
    """The parquet files of a split, sorted: SPLIT-*.parquet or SPLIT.parquet in root or data/, or those in SPLIT/."""
    for folder in (root / "data", root):
        if found := [*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")]:
            return sorted(found)
    return sorted(path for path in (root / split).glob("*.parquet") if path.name not in hugging_face.METADATA)


def column_names(file: Path) -> list[str]:
    """The names of the columns of a parquet file; [] where it cannot be read."""
    try:
        return hugging_face.parquet(file).read_schema(file).names
    except BROKEN:
        return []


def names_of(file: Path) -> tuple[str, ...]:
    """The class names in a file's schema; () without them."""
    return hugging_face.names_of_schema(_opened(file).schema_arrow.metadata)


def categories(files: Sequence[Path]) -> tuple[int | str, ...]:
    """The categories of all objects in parquet files; their pictures are not read."""
    found = []
    for file in files:
        for group in range(_opened(file).num_row_groups):
            for number, content in enumerate(_group(file, group, ["objects"]).to_pylist()):
                where = f"{file}, row group {group}, row {number},"
                found += hugging_face.to_row(content, file="", where=where).categories
    return tuple(found)


class Shards:
    """The pictures of parquet files in order, at most `limit` of them (0: all).

    Attributes:
      title: the files, for messages.
      rows: the pictures with their objects.
      names: class names in the first file's schema; () without them.
      reading: how pictures are decoded.

    Raises:
      DataError: where a file cannot be read or has no pictures and objects.
    """

    def __init__(self, files: Sequence[Path], *, reading: pictures.Config, limit: int):
        reading = reading.validated()
        self.reading = dataclasses.replace(reading, exif="turn" if reading.follows_exif else "ignore")
        self.title = str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} parquet files)"
        self.rows: list[Row] = []
        self._files, self._limit = files, limit
        self._headers: dict[int, pictures.Header] = {}
        self._places: list[tuple[int, int, int]] = []  # file, row group and row of each picture
        self._kept: dict[int, bytes] = {}
        self._groups: OrderedDict[tuple[int, int], list[bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self.names = names_of(files[0])
        kept, names = 0, set()
        for file, content in self._contents():
            index = len(self.rows)
            self.rows.append(self._row(content, file, names))
            encoded = _encoded(content["image"], self.rows[-1].where)
            kept += len(encoded)
            if kept <= KEPT_BYTES:
                self._kept[index] = encoded
            try:
                self._headers[index] = pictures.read_header(encoded, name=self.rows[-1].file)
            except PictureError:
                continue  # `measured` lacks it
        if not self.rows:
            raise DataError(f"{self.title} has no row; wanted is one a picture.")

    def measured(self, _: Repairs) -> dict[int, PictureFile]:
        """The pictures with a header that can be read, by index, with their sizes."""
        return {
            index: PictureFile(
                self.rows[index].file, header.turned_size if self.reading.follows_exif else header.stored_size
            )
            for index, header in self._headers.items()
        }

    def content(self, index: int, _: Record) -> bytes:
        """The encoded picture of a row; raises DataError where its file can no longer be read."""
        if index in self._kept:
            return self._kept[index]
        file, group, row = self._places[index]
        with self._lock:
            if (file, group) not in self._groups:
                table = _group(self._files[file], group, ["image"])
                where = f"{self._files[file]}"
                self._groups[file, group] = [_encoded(value, where) for value in table["image"].to_pylist()]
                if len(self._groups) > GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end((file, group))
            return self._groups[file, group][row]

    def read(self, index: int, record: Record) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a row, whose record this is; raises as `pictures.decode` does."""
        size = (record.height, record.width)
        return pictures.decode(self.content(index, record), name=record.file, size=size, reading=self.reading)

    def _contents(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The values of each row, and its file; notes the places."""
        for number, file in enumerate(self._files):
            opened = _opened(file)
            columns = [name for name in COLUMNS if name in opened.schema_arrow.names]
            for group in range(opened.num_row_groups):
                for row, content in enumerate(_group(file, group, columns).to_pylist()):
                    if self._limit and len(self._places) >= self._limit:
                        return
                    self._places.append((number, group, row))
                    yield file, content

    def _row(self, content: dict[str, Any], file: Path, names: set[str]) -> Row:
        """The next row, whose picture has its stored name where that is not among `names` yet; else its place."""
        number = len(self.rows)
        where = f"{file}, row group {self._places[number][1]}, row {self._places[number][2]},"
        path = content["image"].get("path") if isinstance(content["image"], dict) else None
        name = path if path and path not in names else f"{file.name}/{number}"
        names.add(name)
        return hugging_face.to_row(content, file=name, where=where)


def _opened(file: Path) -> Any:
    try:
        opened = hugging_face.parquet(file).ParquetFile(file)
    except BROKEN as error:
        raise DataError(f"{file} is no parquet file that can be read ({first_line(error)}); write it again.") from error
    names = opened.schema_arrow.names
    if missing := [name for name in ("image", "objects") if name not in names]:
        raise DataError(
            f"{file} has no column {' and no column '.join(missing)}, but {short_repr(names)}; give a data set for "
            "object detection."
        )
    return opened


def _group(file: Path, group: int, columns: list[str]) -> Any:
    try:
        return hugging_face.parquet(file).ParquetFile(file).read_row_group(group, columns=columns)
    except BROKEN as error:
        raise DataError(f"Row group {group} of {file} cannot be read ({first_line(error)}); write it again.") from error


def _encoded(image: Any, where: str) -> bytes:
    """The bytes of a picture from its column, which Hugging Face stores as {"bytes", "path"}."""
    content = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(content, bytes):
        raise DataError(f"{where} has a picture without bytes; write the data set with its pictures embedded.")
    return content

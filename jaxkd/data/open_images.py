"""The data source of Open Images: a CSV file of boxes in shares of the picture, and a folder of pictures."""

import csv
import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.data import formats, pictures
from jaxkd.data.base import Record, check_distinct, check_file_name, check_text, short_repr
from jaxkd.data.folder import FolderSource, PictureFile, PictureFolder
from jaxkd.data.objects import Objects, from_lists
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError
from jaxkd.paths import PathText, path_of
from jaxkd.ranges import Natural

SIDES = ("XMin", "YMin", "XMax", "YMax")
COLUMNS = ("ImageID", "LabelName", *SIDES)  # those that the file has to have, in any order
PIXELS = 1.5  # a greater number is no share of a picture


@dataclasses.dataclass(frozen=True)
class Config:
    """A split as Open Images has it: the pictures of a folder, named by their ids, and the CSV file of their boxes.

    Pictures of the file that are not in the folder are left out, and so are those of the folder without a row.
    """

    annotations: PathText = "train-annotations-bbox.csv"
    """The file of boxes, with the columns ImageID, LabelName, XMin, XMax, YMin and YMax."""
    images: PathText = "train"
    """Folder of the pictures ImageID.jpg."""
    names: PathText = "class-descriptions-boxable.csv"
    """File of `label,name` lines; empty to take the labels as names."""
    classes: tuple[str, ...] = ()
    """Class names in the order of their labels, others are left out; () for all in the annotations, sorted."""
    limit: Natural = 0
    """Only the first pictures of the file; 0 for all."""
    reading: pictures.Config = dataclasses.field(default_factory=pictures.Config)
    """How picture files are decoded."""
    strict: bool = False
    """Stop at faults that are otherwise repaired or left out, and counted."""
    allow_links: bool = False
    """Follow symbolic links that lead out of the picture folder."""


def load(config: Config) -> "OpenImagesSource":
    """The source of a CSV file; pictures are decoded when they are read.

    Groups of objects (IsGroupOf) are crowds. Rows with the confidence 0, which deny an object, are left out.

    Raises:
      ConfigError: where classes repeat.
      DataError: where a file or folder is missing, a row is no box, or none of its pictures is in the folder.
    """
    check_distinct(config.classes, of="classes")
    folder = path_of(config.images)
    if not folder.is_dir():
        raise DataError(f"There is no picture folder {folder}; correct the path of the images.")
    return OpenImagesSource(config, folder)


class Row(NamedTuple):
    """One line of the file."""

    line: int
    image: str
    label: str
    corners: list[float]  # (x0, y0, x1, y1) in shares of the picture
    crowd: bool
    denied: bool


class OpenImagesSource(FolderSource):
    """The records of the pictures that exist, in the order of the file; image ids count from 1."""

    def __init__(self, config: Config, folder: Path):
        self.repairs = Repairs(str(config.annotations))
        self._config, self._file = config, path_of(config.annotations)
        rows = self._rows_of_pictures(_pictures_in(folder))
        self._folder = PictureFolder(
            folder,
            annotation_path=self._file,
            reading=config.reading,
            strict=config.strict,
            allow_links=config.allow_links,
        )
        files = list(rows)
        measured = self._folder.measure([check_file_name(file, where=str(folder)) for file in files])
        self._count_unreadable([file for index, file in enumerate(files) if index not in measured])
        self.reading = self._folder.reading
        indices = sorted(measured)
        kept = [rows[files[index]] for index in indices]
        names = read_names(path_of(config.names)) if config.names else {}
        self.classes = config.classes or self._used_names(kept, names)
        self.category_ids = tuple(range(1, len(self.classes) + 1))
        self._objects = self._checked_objects(kept, [measured[index] for index in indices], names)
        self.records: Sequence[Record] = self._objects.to_records(
            [measured[index] for index in indices], list(range(1, len(indices) + 1))
        )

    def annotations(self) -> dict:
        """The ground truth as a COCO dict; the area of an object is that of its box."""
        return self._objects.truth(self)

    def _rows_of_pictures(self, files: Mapping[str, str]) -> dict[str, list[Row]]:
        """The rows of each picture that exists, by its file; the others are counted."""
        rows: dict[str, list[Row]] = {}
        absent, denied, first_absent, first_denied = 0, 0, "", ""
        for row in read_rows(self._file):
            file = files.get(row.image)
            if file is None:
                absent, first_absent = absent + 1, first_absent or f"line {row.line}, {row.image}"
                continue
            if file not in rows and self._config.limit and len(rows) >= self._config.limit:
                continue
            of_picture = rows.setdefault(file, [])
            if row.denied:
                denied, first_denied = denied + 1, first_denied or f"line {row.line}"
            else:
                of_picture.append(row)
        if not rows:
            raise DataError(
                f"None of the pictures that {self._file} describes is in {path_of(self._config.images)}; correct the "
                "path of the images."
            )
        self.repairs.add("annotations_of_absent_pictures", absent, example=first_absent)
        self.repairs.add("objects_denied", denied, example=first_denied)
        without = [] if self._config.limit else [file for file in files.values() if file not in rows]
        self.repairs.add("pictures_without_rows", len(without), example=next(iter(without), ""))
        return rows

    def _count_unreadable(self, files: Sequence[str]) -> None:
        self.repairs.add_faults(
            {"pictures_unreadable": np.ones(len(files), bool)},
            file=self._file,
            strict=self._config.strict,
            example=lambda index: files[index],
        )

    def _used_names(self, rows: Sequence[Sequence[Row]], names: Mapping[str, str]) -> tuple[str, ...]:
        used = {row.label: row for of_picture in rows for row in reversed(of_picture)}
        if not used:
            raise DataError(f"{self._file} has no object of a picture that exists to take a class from; set classes.")
        by_name: dict[str, str] = {}
        for label, row in used.items():
            name = self._name_of(row, names)
            if by_name.setdefault(name, label) != label:
                raise DataError(
                    f"{path_of(self._config.names)} calls both {by_name[name]} and {label} {short_repr(name)}; make "
                    "the names different."
                )
        return tuple(sorted(by_name))

    def _name_of(self, row: Row, names: Mapping[str, str]) -> str:
        if not self._config.names:
            return row.label
        if row.label not in names:
            raise DataError(
                f"{self._file}, line {row.line}, has the label {short_repr(row.label)}, which "
                f"{path_of(self._config.names)} does not name; add it there, or give another file in names."
            )
        return names[row.label]

    def _checked_objects(
        self, rows: Sequence[Sequence[Row]], files: Sequence[PictureFile], names: Mapping[str, str]
    ) -> Objects:
        label_of = {name: label for label, name in enumerate(self.classes)}
        flat, lines, unwanted = [], [], []
        for picture, (of_picture, file) in enumerate(zip(rows, files, strict=True)):
            height, width = file.size
            for row in of_picture:
                label = label_of.get(self._name_of(row, names))
                if label is None:
                    unwanted.append(row)
                    continue
                corners = np.multiply(row.corners, [width, height, width, height])
                flat.append((picture, corners.tolist(), label, row.crowd, float("nan")))
                lines.append(row.line)
        self.repairs.add(
            "labels_not_wanted",
            len(unwanted),
            example=f"line {unwanted[0].line}, {self._name_of(unwanted[0], names)}" if unwanted else "",
        )
        return from_lists(flat).checked(
            files,
            self.repairs,
            file=self._file,
            strict=self._config.strict,
            example=lambda index: f"line {lines[index]}",
        )


def read_names(file: Path) -> dict[str, str]:
    """The names of labels in a file of `label,name` lines, with or without a header LabelName,DisplayName.

    Raises:
      DataError: where the file cannot be read, or a line is no label with a name.
    """
    names = {}
    for line, values in _csv_rows(file):
        if len(values) < 2 or not values[1].strip():
            raise DataError(f"{file}, line {line}, holds {short_repr(','.join(values))}; wanted is `label,name`.")
        if values[0] != "LabelName":
            names[values[0]] = check_text(values[1].strip(), where=f"{file}, line {line}, has the name")
    return names


def count_labels(file: Path, folder: Path) -> Counter[str]:
    """The number of objects of each label in a file of boxes, of the pictures that are in the folder."""
    there = _pictures_in(folder)
    return Counter(row.label for row in read_rows(file) if row.image in there and not row.denied)


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of a file of boxes, one after the other, for such a file can have millions.

    Raises:
      DataError: where the file cannot be read, lacks a column, or a number is none or no share of a picture.
    """
    lines = _csv_rows(file)
    _, header = next(lines, (1, []))
    if missing := [name for name in COLUMNS if name not in header]:
        raise DataError(
            f"{file} has no column {' and no column '.join(missing)} in its first line; give a file such as "
            "train-annotations-bbox.csv."
        )
    place = {name: header.index(name) for name in (*COLUMNS, "Confidence", "IsGroupOf") if name in header}
    group, confidence = place.get("IsGroupOf"), place.get("Confidence")
    sides = [place[name] for name in SIDES]
    for line, values in lines:
        if len(values) != len(header):
            raise DataError(f"{file}, line {line}, has {len(values)} of {len(header)} columns; complete it.")
        try:
            corners = [float(values[side]) for side in sides]
            denied = confidence is not None and float(values[confidence]) == 0
        except ValueError as error:
            raise DataError(f"{file}, line {line}, has a text where a number belongs ({error}); correct it.") from error
        if max(corners) > PIXELS:
            raise DataError(
                f"{file}, line {line}, has the corners {corners}; wanted are shares of the picture, from 0 to 1."
            )
        yield Row(
            line=line,
            image=values[place["ImageID"]],
            label=values[place["LabelName"]],
            corners=corners,
            crowd=group is not None and values[group] == "1",
            denied=denied,
        )


def _csv_rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV file that hold something, with their numbers."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            yield from ((reader.line_num, values) for values in reader if values)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {file}; correct its path.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); it has to be a CSV file.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is no CSV file in UTF-8 ({error}); correct it.") from error


def _pictures_in(folder: Path) -> dict[str, str]:
    """The pictures directly in a folder by their names without suffix; of several with one name, the first."""
    with os.scandir(folder) as entries:
        files = sorted(entry.name for entry in entries)
    stems: dict[str, str] = {}
    for name in files:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in formats.PICTURES:
            stems.setdefault(stem, name)
    return stems

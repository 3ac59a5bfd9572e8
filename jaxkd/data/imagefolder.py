"""The data source of Hugging Face's data sets on disk: an imagefolder with its metadata, or parquet files."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from jaxkd.config import closest
from jaxkd.data import box_forms, hugging_face, names, pictures, shards, sizes
from jaxkd.data.base import Record, check_distinct, check_text, short_repr
from jaxkd.data.folder import PictureFile, PictureFolder
from jaxkd.data.hugging_face import Row
from jaxkd.data.objects import Objects, from_lists
from jaxkd.data.repairs import Repairs
from jaxkd.data.shards import Shards
from jaxkd.errors import DataError
from jaxkd.paths import PathText, path_of
from jaxkd.ranges import Natural

MISSING_SHARE = 0.5  # share of pictures that cannot be read, above which the paths are wrong
MAX_CLASSES = 100_000  # of categories without names
MISFIT_SHARE = 0.05  # share of boxes that leave their pictures in every form, above which none is taken


@dataclasses.dataclass(frozen=True)
class Config:
    """A split: a folder with a metadata file beside its pictures, or parquet files that hold them."""

    root: PathText = "dataset"
    """Folder of the data set; a README.md in it may name the classes."""
    split: str = "train"
    """The split: a folder below root or root/data with metadata.jsonl, .csv or .parquet, or the first part of the names
    in root or root/data, as in data/train-00000-of-00001.parquet; "" where root itself has the metadata file."""
    classes: tuple[str, ...] = ()
    """Class names in the order of their numbers; () for those that the data set has, or else the numbers as names."""
    boxes: Literal["auto", "xywh", "corners", "xywh_shares", "corners_shares"] = "auto"
    """The four numbers of a box: [x, y, width, height] or corners [x0, y0, x1, y1], in pixels or in shares of the
    picture; "auto" takes the form in which the fewest boxes leave their pictures."""
    limit: Natural = 0
    """Only the first pictures of the split; 0 for all."""
    reading: pictures.Config = dataclasses.field(default_factory=pictures.Config)
    """How picture files are decoded."""
    strict: bool = False
    """Stop at faults that are otherwise repaired or left out, and counted."""
    allow_links: bool = False
    """Follow symbolic links that lead out of the split's folder."""


def load(config: Config) -> "ImageFolderSource":
    """The source of a split, every row of which is checked; pictures are decoded when they are read.

    Raises:
      ConfigError: where classes repeat, or pyarrow is needed and missing.
      DataError: where there is no such split, a row is not as it should be, or no form of boxes fits the pictures.
    """
    check_distinct(config.classes, of="classes")
    root = path_of(config.root)
    if not root.is_dir():
        raise DataError(f"There is no folder {root}; correct the path of the data set.")
    folders = [root / config.split, root / "data" / config.split] if config.split else [root]
    for folder in folders:
        if (file := hugging_face.metadata_file(folder)) is not None:
            return ImageFolderSource(config, _Folder(file, config), names=hugging_face.names_of_readme(root))
    if config.split and (files := shards.of_split(root, config.split)):
        opened = Shards(files, reading=config.reading, limit=config.limit)
        return ImageFolderSource(config, opened, names=opened.names or hugging_face.names_of_readme(root))
    raise DataError(
        f"{root} has no split {config.split!r}: no {folders[0] / 'metadata.jsonl'}, .csv or .parquet, and no "
        f"{root / 'data' / (config.split or 'train')}-*.parquet; correct root or split."
    )


class _Folder:
    """The pictures beside a metadata file, with what `Shards` has of those in parquet files."""

    def __init__(self, file: Path, config: Config):
        self.title = str(file)
        rows = hugging_face.read_metadata(file)
        self.rows = rows[: config.limit] if config.limit else rows
        self._folder = PictureFolder(
            file.parent,
            annotation_path=file,
            reading=config.reading,
            strict=config.strict,
            allow_links=config.allow_links,
        )

    @property
    def reading(self) -> pictures.Config:
        """How files are decoded."""
        return self._folder.reading

    def measured(self, repairs: Repairs) -> dict[int, PictureFile]:
        """The pictures that can be read, by index, with their sizes; names that differ slightly are counted."""
        listed = [row.file for row in self.rows]
        return self._folder.measure(
            names.find(listed, Path(self.title).parent, repairs, where=lambda index: self.rows[index].where)
        )

    def content(self, _: int, record: Record) -> bytes:
        """The bytes of a picture's file."""
        return self._folder.content(record)

    def read(self, _: int, record: Record) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture in a file."""
        return self._folder.read(record)


class ImageFolderSource:
    """The records of a split, in the order of its rows.

    Image ids are those of the column image_id where all rows have one of their own, and else count from 1.
    """

    def __init__(self, config: Config, stored: _Folder | Shards, *, names: Sequence[str]):
        self.repairs = Repairs(stored.title)
        self._config, self._stored = config, stored
        measured = stored.measured(self.repairs)
        self._indices = sorted(measured)  # of the rows whose pictures can be read
        self._count_unreadable()
        self.reading = stored.reading
        rows, files = [stored.rows[index] for index in self._indices], [measured[index] for index in self._indices]
        self._count_other_sizes(rows, files)
        self.classes, self.category_ids = class_names(rows, config.classes, names, self.repairs)
        self._objects = self._checked_objects(rows, files)
        self.records: Sequence[Record] = self._objects.to_records(files, _image_ids(rows))

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record; raises as `PictureFolder.read` and `Shards.read` do."""
        return self._stored.read(self._indices[index], self.records[index])

    def content(self, index: int) -> bytes:
        """The bytes of a record's file."""
        return self._stored.content(self._indices[index], self.records[index])

    def annotations(self) -> dict:
        """The ground truth as a COCO dict; areas are those of the data set, else those of the boxes."""
        return self._objects.truth(self)

    def _count_unreadable(self) -> None:
        rows = self._stored.rows
        unreadable = ~np.isin(np.arange(len(rows)), self._indices)
        if unreadable.mean() > MISSING_SHARE:
            raise DataError(
                f"{unreadable.sum()} of {len(rows)} pictures of {self._stored.title} cannot be read, the first "
                f"{short_repr(rows[int(np.argmax(unreadable))].file)}; add them, or correct their names."
            )
        self._count({"pictures_unreadable": unreadable}, lambda index: rows[index].file)

    def _count_other_sizes(self, rows: Sequence[Row], files: Sequence[PictureFile]) -> None:
        differs = [
            row.size is not None and np.abs(np.subtract(row.size, file.size)).max() > sizes.TOLERANCE
            for row, file in zip(rows, files, strict=True)
        ]
        self._count(
            {"sizes_other": np.array(differs, bool)},
            lambda index: (
                f"{files[index].file}, {sizes.size_text(files[index].size)} in place of "
                f"{sizes.size_text(rows[index].size or ())}"
            ),
        )

    def _checked_objects(self, rows: Sequence[Row], files: Sequence[PictureFile]) -> Objects:
        label_of = {name: label for label, name in enumerate(self.classes)}
        flat, places = [], []
        for picture, row in enumerate(rows):
            for number, entry in enumerate(zip(row.boxes, row.categories, row.crowd, row.areas, strict=True), start=1):
                box, category, crowd, area = entry
                label = category if isinstance(category, int) else label_of[category]
                flat.append((picture, box, label, crowd, area))
                places.append((row.where, number))
        listed = from_lists(flat)

        def example(index: int) -> str:
            where, number = places[index]
            return f"{where} object {number}, {listed.boxes[index].tolist()}"

        heights, widths = np.array([file.size for file in files]).reshape(-1, 2)[listed.pictures].T
        form = self._form(listed.boxes, heights, widths, example)
        boxes = box_forms.corners(listed.boxes, form, heights=heights, widths=widths)
        found = dataclasses.replace(listed, boxes=boxes)
        return found.checked(files, self.repairs, file=self._stored.title, strict=self._config.strict, example=example)

    def _form(self, numbers: np.ndarray, heights: np.ndarray, widths: np.ndarray, example: Callable[[int], str]) -> str:
        """The form of the boxes; said where it is not COCO's, DataError where none fits."""
        if self._config.boxes != "auto":
            return self._config.boxes
        counts = box_forms.misfits(numbers, heights=heights, widths=widths)
        form = box_forms.fitting(counts)
        if counts[form] > MISFIT_SHARE * len(numbers):
            tried = " and ".join(f"{count} as {box_forms.FORMS[name]}" for name, count in counts.items())
            raise DataError(
                f"{self._stored.title}: of {len(numbers)} boxes {tried} leave their picture; correct them, or say in "
                "boxes what they are."
            )
        if form != "xywh" and len(numbers):
            self.repairs.add("boxes_in_another_form", len(numbers), example=f"{example(0)} as {box_forms.FORMS[form]}")
        return form

    def _count(self, faults: dict[str, np.ndarray], example: Callable[[int], str]) -> None:
        self.repairs.add_faults(faults, file=self._stored.title, strict=self._config.strict, example=example)


def class_names(
    rows: Sequence[Row], given: Sequence[str], declared: Sequence[str], repairs: Repairs
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The classes of a split, given or declared by its data set or made of its categories; and their category ids.

    Numbers without names become names, which is counted in `repairs`; names without a list are sorted.

    Raises:
      DataError: where categories are both numbers and names, or one is not in the list.
    """
    check_distinct(declared, of=f"The data set of {repairs.title}")
    places = {}
    for row in rows:
        for category in row.categories:
            places.setdefault(category, row.where)
    numbers = {category: where for category, where in places.items() if isinstance(category, int)}
    if numbers and len(numbers) < len(places):
        number, name = next(iter(numbers)), next(category for category in places if isinstance(category, str))
        raise DataError(
            f"{places[number]} has the category {number} and {places[name]} {short_repr(name)}; write either numbers "
            "or names."
        )
    if numbers or (declared and not places):
        return _of_numbers(numbers, given or declared, rows, repairs)
    if not given and not places:
        raise DataError(f"{repairs.title} has no object to take a class from; set classes.")
    for name in places:
        check_text(name, where=f"{places[name]} has the category")
        if given and name not in given:
            raise DataError(
                f"{places[name]} has the category {short_repr(name)}, which is not among the "
                f"classes{closest(name, set(given))}; correct it, or set classes."
            )
    classes = tuple(given) or (tuple(declared) if set(places) <= set(declared) else tuple(sorted(places)))
    return classes, tuple(range(1, len(classes) + 1))


def _of_numbers(
    places: dict[int, str], listed: Sequence[str], rows: Sequence[Row], repairs: Repairs
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The classes and category ids of categories that are numbers; `places` are those of the first of each."""
    if not listed:
        listed = [str(number) for number in range(min(max(places) + 1, MAX_CLASSES))]
        repairs.add("classes_without_names", len(listed))
    outside = [number for number in places if not 0 <= number < len(listed)]
    if outside:
        used = [number for row in rows for number in row.categories if isinstance(number, int)]
        count = len(listed)
        beyond = sum(not 0 <= number < count for number in used)
        advice = "numbers seem to count from 1: subtract 1" if min(used) == 1 and max(used) == count else "correct them"
        raise DataError(
            f"{places[outside[0]]} has the category {outside[0]}, and there are {count} classes that count from 0; "
            f"{beyond} of {len(used)} objects have such a category; {advice}."
        )
    return tuple(listed), tuple(range(len(listed)))


def _image_ids(rows: Sequence[Row]) -> list[int]:
    ids = [row.image_id for row in rows]
    whole = [number for number in ids if number is not None]
    return whole if len(set(whole)) == len(ids) else list(range(1, len(ids) + 1))

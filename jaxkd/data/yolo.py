"""The data source of YOLO's layout: pictures, and for each a text file of boxes in shares of the picture."""

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxkd.config import closest
from jaxkd.data import pictures, yolo_files, yolo_labels, yolo_lists
from jaxkd.data.base import Record, check_boxes, check_file_name, check_links, coco_objects, coco_truth
from jaxkd.data.folder import FolderSource, PictureFile, PictureFolder
from jaxkd.data.repairs import Repairs
from jaxkd.data.yolo_files import Description
from jaxkd.data.yolo_labels import Rows
from jaxkd.errors import DataError
from jaxkd.paths import PathText, path_of
from jaxkd.ranges import Natural

TOLERANCE = 0.01  # by how much a coordinate may leave the range from 0 to 1; it is then clipped
BEYOND_SHARE = 0.05  # share of boxes with a coordinate further out, above which the file is not in shares
PIXELS = 1.5  # median of these boxes' greatest coordinates, above which they are pixels
MISSING_SHARE = 0.5  # share of pictures that cannot be read, above which the paths are wrong


@dataclasses.dataclass(frozen=True)
class Config:
    """A split of a YOLO data set: the pictures of a folder or list, and the .txt of each below labels/ or beside it."""

    data: PathText = "data.yaml"
    """The data.yaml, or darknet's obj.data, that names splits and classes; or a folder with images/ and labels/."""
    split: str = "train"
    """The split to take: "train", "val" or "test"."""
    classes: tuple[str, ...] = ()
    """Class names in the order of their numbers; () for those that the data names, or else the numbers as names."""
    limit: Natural = 0
    """Only the first pictures of the split; 0 for all."""
    reading: pictures.Config = dataclasses.field(default_factory=pictures.Config)
    """How picture files are decoded."""
    strict: bool = False
    """Stop at faults that are otherwise repaired or left out, and counted."""
    allow_links: bool = False
    """Follow symbolic links that lead out of the folder of the pictures and labels."""


def load(config: Config) -> "YoloSource":
    """The source of a split, every label file of which is checked; pictures are decoded when they are read.

    Boxes are shares of the picture as it is displayed, turned by its EXIF tag. Sizes are those in the files' headers.

    Raises:
      DataError: where a file or folder is missing, a row is no box, a class has no name, or boxes are in pixels.
    """
    description = yolo_files.describe(path_of(config.data))
    if config.split not in description.splits:
        named = description.missing.get(config.split)
        raise DataError(
            f"{description.file} names {named!r} for the split {config.split!r}, which is not there; correct it."
            if named
            else f"{description.file} has no split {config.split!r}{closest(config.split, set(description.splits))}."
        )
    return YoloSource(config, description)


class YoloSource(FolderSource):
    """The records of a split, in the order of its folders and lists; image ids count from 1."""

    def __init__(self, config: Config, description: Description):
        self.repairs = Repairs(f"{description.file} ({config.split})")
        self._config, self._description = config, description
        moved = [f"{text}, taken from {path}" for text, path in description.moved.items()]
        self.repairs.add("paths_elsewhere", len(moved), example=next(iter(moved), ""))
        paths = description.splits[config.split]
        listed = yolo_lists.pictures_of(paths, description.root, self.repairs)
        listed = listed[: config.limit] if config.limit else listed
        labels = yolo_lists.labels_of(listed, self.repairs)
        if not config.limit:
            yolo_lists.count_unused([path for path in paths if path.is_dir()], labels, self.repairs)
        root = self._common_root([*listed, *filter(None, labels)])
        self._folder = PictureFolder(
            root,
            annotation_path=description.file,
            reading=config.reading,
            strict=config.strict,
            allow_links=config.allow_links,
        )
        files = self._readable_files([os.path.relpath(picture, root).replace(os.sep, "/") for picture in listed])
        self.reading = self._folder.reading
        label_files = [labels[index] for index in files]
        if not config.allow_links:
            folders = {os.path.dirname(label) for label in label_files if label}
            for path in (*sorted(folders), *filter(os.path.islink, label_files)):
                check_links(Path(path), folder=root)
        rows = yolo_labels.read(label_files, keypoints=description.keypoints)
        names = self._names(rows, label_files)
        self.classes, self.category_ids = tuple(names.values()), tuple(names)
        self.records: Sequence[Record] = self._make_records(list(files.values()), rows, label_files)

    def annotations(self) -> dict:
        """The ground truth as a COCO dict; the area of an object is that of its box."""
        annotations, ids = [], itertools.count(1)
        for index, record in enumerate(self.records):
            boxes = record.boxes.astype(np.float64)
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
            annotations += coco_objects(self, index, ids=ids, boxes=boxes, areas=areas)
        return coco_truth(self, annotations)

    def _common_root(self, files: Sequence[str]) -> Path:
        """The folder of the data set, or where a file is not below it, the one that holds all files."""
        root = os.path.abspath(self._description.root)
        common = os.path.commonpath([os.path.dirname(file) for file in files])
        return Path(root if os.path.commonpath([root, common]) == root else common)

    def _readable_files(self, names: Sequence[str]) -> dict[int, PictureFile]:
        """The pictures with a header, by their place in `names`; others are left out and counted."""
        files = self._folder.measure([check_file_name(name, where=str(self._description.file)) for name in names])
        unreadable = np.array([index not in files for index in range(len(names))])
        if unreadable.mean() > MISSING_SHARE:
            raise DataError(
                f"{unreadable.sum()} of {len(names)} pictures that {self._description.file} names cannot be read, the "
                f"first {names[int(np.argmax(unreadable))]}; correct the paths."
            )
        self._count({"pictures_unreadable": unreadable}, lambda index: names[index])
        return dict(sorted(files.items()))

    def _names(self, rows: Rows, files: Sequence[str]) -> Mapping[int, str]:
        """The class names by number; raises DataError where a row has a number without a name."""
        names = dict(enumerate(self._config.classes)) or self._description.names
        used = sorted(set(rows.ids.tolist()))
        if not names:
            count = used[-1] + 1 if used else 0
            self.repairs.add("classes_without_names", count)
            return {number: str(number) for number in range(count)}
        unknown = ~np.isin(rows.ids, list(names))
        if unknown.any():
            first, count = int(np.argmax(unknown)), len(names)
            from_one = used[0] >= 1 and used[-1] <= count and list(names) == list(range(count))
            advice = (
                f"all are from 1 to {count}, so they seem to count from 1: subtract 1"
                if from_one
                else "correct the rows, or add the name"
            )
            raise DataError(
                f"{_place(rows, files, first)} has the class {rows.ids[first]}, and there are {count} names, 0 to "
                f"{max(names)}; {unknown.sum()} of {len(unknown)} rows have such a class; {advice}."
            )
        return names

    def _make_records(self, files: Sequence[PictureFile], rows: Rows, label_files: Sequence[str]) -> tuple[Record, ...]:
        rows = self._without_faulty(rows, label_files)
        heights, widths = np.array([file.size for file in files]).reshape(-1, 2)[rows.files].T
        boxes = rows.corners * np.stack([widths, heights, widths, heights], -1)
        checked = check_boxes(boxes, heights=heights, widths=widths)
        faults = checked.faults | {"boxes_clipped": checked.clipped, "polygons_to_boxes": checked.keep & rows.polygons}
        strict = {name: mask for name, mask in faults.items() if name != "polygons_to_boxes"}
        self._count(strict, lambda index: _place(rows, label_files, index))
        self.repairs.add("polygons_to_boxes", int(faults["polygons_to_boxes"].sum()))
        boxes, kept = checked.boxes[checked.keep], rows.only(checked.keep)
        labels = np.searchsorted(np.array(self.category_ids, np.int64), kept.ids).astype(np.int32)
        bounds = np.searchsorted(kept.files, np.arange(len(files) + 1))
        return tuple(
            Record(
                index=index,
                image_id=index + 1,
                file=file.file,
                height=file.size[0],
                width=file.size[1],
                boxes=boxes[low:high],
                labels=labels[low:high],
                crowd=np.zeros(high - low, bool),
            )
            for index, (file, (low, high)) in enumerate(zip(files, itertools.pairwise(bounds), strict=True))
        )

    def _without_faulty(self, rows: Rows, files: Sequence[str]) -> Rows:
        """The rows in shares of the picture, each once; others are counted, and DataError where they are many."""
        with np.errstate(invalid="ignore"):
            has_area = (rows.corners[:, 2:] > rows.corners[:, :2]).all(-1) & np.isfinite(rows.corners).all(-1)
            beyond = has_area & ((rows.least < -TOLERANCE) | (rows.most > 1 + TOLERANCE))
        if beyond.any() and beyond.mean() > BEYOND_SHARE:
            in_pixels = np.median(rows.most[beyond]) > PIXELS
            raise DataError(
                f"{beyond.sum()} of {len(beyond)} boxes, the first in {_place(rows, files, int(np.argmax(beyond)))}, "
                f"have numbers beyond 0 to 1{' in pixels, not shares' if in_pixels else ''}; divide by the picture's "
                "width and height."
            )
        entries = np.column_stack([rows.files, rows.ids, rows.corners])
        repeated = np.ones(len(entries), bool)
        repeated[np.unique(entries, axis=0, return_index=True)[1]] = False
        faults = {"boxes_beyond_shares": beyond, "rows_repeated": repeated & ~beyond}
        self._count(faults, lambda index: _place(rows, files, index))
        return rows.only(~beyond & ~repeated)

    def _count(self, faults: dict[str, np.ndarray], example: Callable[[int], str]) -> None:
        self.repairs.add_faults(faults, file=self._description.file, strict=self._config.strict, example=example)


def _place(rows: Rows, files: Sequence[str], index: int) -> str:
    """The file and line of a row."""
    return f"{files[rows.files[index]]}, line {rows.lines[index]}"

"""Pictures in a folder with a COCO annotation file."""

import dataclasses
import difflib
import itertools
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxkd.config import asset_path
from jaxkd.data import pictures
from jaxkd.data.base import (
    LONGEST,
    Record,
    check_boxes,
    check_file_name,
    check_text,
    coco_objects,
    coco_truth,
    count_faults,
    shown,
)
from jaxkd.errors import DataError
from jaxkd.ranges import Natural

LARGEST_FILE = 2**31  # bytes of JSON; more would fill the memory of most machines
CORNER_SHARE = 0.05  # share of boxes that may leave their picture before they are suspected to be corners
NORMALISED = 1.5  # no pixel box ends below this
LARGEST_NUMBER = 2**63  # of a box; more is no slip of the pen, and past a float's range

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """A folder of pictures and the COCO file that describes them; "assets:NAME" is what comes with the package."""

    images: str = "assets:bccd/images"  # folder that the file names are looked up in
    annotations: str = "assets:bccd/train.json"
    limit: Natural = 0  # only the first pictures of the file; 0 for all
    strict: bool = False  # stop at faults that would otherwise be repaired or left out, and counted
    allow_links: bool = False  # follow symbolic links that lead out of the picture folder


def load(config: Config) -> "CocoSource":
    """The source that a COCO file describes, checked from end to end; pictures are first opened when they are read.

    Raises:
      DataError: where the file or folder is missing, or the file is not what COCO describes.
    """
    file, folder = asset_path(config.annotations), asset_path(config.images)
    content = _read_json(file)
    if not folder.is_dir():
        raise DataError(f"There is no picture folder {folder}; correct the path of the images.")
    return CocoSource(content, config=config, file=file, folder=folder)


class CocoSource:
    """Records of a COCO file, its classes in the order of their category ids."""

    def __init__(self, content: dict, *, config: Config, file: Path, folder: Path):
        self.repairs: dict[str, int] = {}
        self._config = config
        self._file = file
        self._folder = folder
        categories = _categories(content, file)
        self.category_ids = tuple(categories)
        self.classes = tuple(categories.values())
        self._images = _images(content, file)
        if config.limit:
            self._images = self._images[: config.limit]
        self._truth = self._check_truth(content)
        self.records: Sequence[Record] = self._make_records()
        self._count_oddities()

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record.

        Raises:
          PictureError: where this picture is missing or broken.
          DataError: where it may not be used: a link out of the folder, or in strict mode a wrong size.
        """
        return pictures.read_record(
            self.records[index],
            self._folder,
            described=self._file,
            strict=self._config.strict,
            allow_links=self._config.allow_links,
        )

    def annotations(self) -> dict:
        """The truth as a COCO dict with the file's own ids and areas; segmentations are left out."""
        truth, annotations = self._truth, []
        bounds = np.cumsum([0, *(len(record.boxes) for record in self.records)])
        for index, (low, high) in enumerate(itertools.pairwise(bounds)):
            annotations += coco_objects(
                self, index, ids=truth.ids[low:high], boxes=truth.exact[low:high], areas=truth.areas[low:high]
            )
        return coco_truth(self, annotations)

    def _check_truth(self, content: dict) -> "_Truth":
        items = content.get("annotations", [])
        if not isinstance(items, list):
            raise DataError(f"{self._file} holds no list under 'annotations'; write one, or leave the key out.")
        truth, unknown = _gather(items, self._images, self.category_ids, self._file, known=_all_ids(content))
        self._tally({"annotations_of_unknown_pictures": np.ones(unknown, bool)})
        sizes = np.array([(image["height"], image["width"]) for image in self._images]).reshape(-1, 2)
        heights, widths = sizes[truth.pictures].T
        _refuse_other_formats(truth.exact, heights, widths, self._file)
        checked = check_boxes(truth.exact, heights=heights, widths=widths)
        self._tally(checked.faults | {"boxes_clipped": checked.clipped})
        exact = np.where(checked.clipped[:, None], checked.boxes, truth.exact)
        return dataclasses.replace(truth, boxes=checked.boxes, exact=exact).only(checked.keep)

    def _tally(self, faults: dict[str, np.ndarray]) -> None:
        count_faults(self.repairs, faults, file=self._file, strict=self._config.strict)

    def _make_records(self) -> tuple[Record, ...]:
        truth = self._truth
        bounds = np.searchsorted(truth.pictures, np.arange(len(self._images) + 1))
        return tuple(
            Record(
                index=index,
                image_id=image["id"],
                file=image["file_name"],
                height=image["height"],
                width=image["width"],
                boxes=truth.boxes[low:high],
                labels=truth.labels[low:high],
                crowd=truth.crowd[low:high],
            )
            for index, (image, low, high) in enumerate(zip(self._images, bounds[:-1], bounds[1:], strict=True))
        )

    def _count_oddities(self) -> None:
        """Counts what is kept as it is and yet worth knowing."""
        rows = np.column_stack([self._truth.pictures, self._truth.labels, self._truth.boxes])
        ids = self._truth.ids
        counts = {
            "boxes_repeated": len(rows) - len(np.unique(rows, axis=0)),
            "annotation_ids_repeated_or_zero": len(ids) - len(set(ids) - {0}),
            "files_listed_again": len(self.records) - len({record.file for record in self.records}),
        }
        self.repairs |= {name: count for name, count in counts.items() if count}
        if self.repairs:
            log.warning("%s: %s", self._file, ", ".join(f"{name} {count}" for name, count in self.repairs.items()))


@dataclasses.dataclass(frozen=True)
class _Truth:
    """All annotations in the order of their pictures."""

    ids: list[Any]
    pictures: np.ndarray  # [n] index of the picture
    labels: np.ndarray  # [n] index of the class
    boxes: np.ndarray  # [n 4] float32, clipped
    exact: np.ndarray  # [n 4] float64, as in the file where nothing was clipped
    areas: np.ndarray  # [n]
    crowd: np.ndarray  # [n]

    def only(self, keep: np.ndarray) -> "_Truth":
        """The annotations that a mask keeps, sorted by their pictures."""
        order = np.flatnonzero(keep)
        order = order[np.argsort(self.pictures[order], kind="stable")]
        return _Truth(
            ids=[self.ids[place] for place in order],
            pictures=self.pictures[order],
            labels=self.labels[order],
            boxes=self.boxes[order],
            exact=self.exact[order],
            areas=self.areas[order],
            crowd=self.crowd[order],
        )


def _read_json(file: Path) -> dict:
    try:
        if file.exists() and not file.is_file():
            raise DataError(f"{file} cannot be read (it is a directory or a device); give a COCO annotation file.")
        if file.stat().st_size > LARGEST_FILE:
            raise DataError(f"{file} is larger than 2 GB; split it into several files.")
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"There is no annotation file {file}; correct the path of the annotations.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); it has to be a COCO annotation file.") from error
    try:
        parsed = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{file} is not UTF-8 in line {line}; save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file} is not valid JSON in line {error.lineno}, column {error.colno}: {error.msg}."
        ) from error
    except (ValueError, RecursionError) as error:  # of a number with thousands of digits, of lists in lists in lists
        raise DataError(f"{file} is not JSON that can be read ({error}); COCO annotations are plainer.") from error
    if not isinstance(parsed, dict):
        raise DataError(f"{file} holds a JSON {type(parsed).__name__}; COCO annotations are an object with 'images'.")
    return parsed


def _entries(content: dict, key: str, fields: dict[str, type], file: Path) -> list[dict]:
    """The list under `key`, each entry of it a dict with these fields of these types."""
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{file} lists no {key}; COCO annotations have 'images' and 'categories', both not empty.")
    for place, entry in enumerate(entries):
        for field, kind in fields.items():
            value = entry.get(field) if isinstance(entry, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                wanted = f"it has to be of type {kind.__name__}"
                raise DataError(f"{file}: entry {place} of {key} has {field} = {shown(value)}; {wanted}.")
    return entries


def _categories(content: dict, file: Path) -> dict[int, str]:
    """Names by category id, in the order of the ids."""
    entries = _entries(content, "categories", {"id": int, "name": str}, file)
    for entry in entries:
        check_text(entry["name"], where=f"{file}: category {shown(entry['id'])} has the name")
    for field in ("id", "name"):
        value, count = Counter(entry[field] for entry in entries).most_common(1)[0]
        if count > 1:
            raise DataError(f"{file} has {count} categories with the {field} {shown(value)}; make them different.")
    return {entry["id"]: entry["name"] for entry in sorted(entries, key=lambda entry: entry["id"])}


def _images(content: dict, file: Path) -> list[dict]:
    entries = _entries(content, "images", {"id": int, "file_name": str, "height": int, "width": int}, file)
    for entry in entries:
        height, width, where = entry["height"], entry["width"], f"{file}: image {shown(entry['id'])}"
        check_file_name(entry["file_name"], where=where)
        if not (1 <= height <= LONGEST and 1 <= width <= LONGEST):
            raise DataError(f"{where} is {shown(width)}x{shown(height)}; give its true size.")
    value, count = Counter(entry["id"] for entry in entries).most_common(1)[0]
    if count > 1:
        raise DataError(f"{file} has {count} images with the id {shown(value)}; make the ids different.")
    return entries


def _all_ids(content: dict) -> set[int]:
    return {image["id"] for image in content["images"]}


def _gather(
    items: list, images: list[dict], category_ids: tuple[int, ...], file: Path, *, known: set[int]
) -> tuple[_Truth, int]:
    """Annotations of these images as arrays, boxes as corners, and how many belong to no image of the file at all."""
    places = {image["id"]: place for place, image in enumerate(images)}
    labels = {number: label for label, number in enumerate(category_ids)}
    ids, kept, boxes, areas, unknown = [], [], [], [], 0
    for item in items:
        picture = item.get("image_id") if isinstance(item, dict) else None
        if not isinstance(picture, int) or picture not in places:
            unknown += not isinstance(picture, int) or picture not in known
            continue
        category = item.get("category_id")
        if not isinstance(category, int) or category not in labels:
            near = difflib.get_close_matches(shown(category), [str(number) for number in labels], n=1)
            hint = f" (the nearest id is {near[0]})" if near else ""
            raise DataError(
                f"{_where(item, file)} has the category {shown(category)}, which 'categories' does not "
                f"list{hint}; add it there or correct the annotation."
            )
        box, number = _numbers(item, file), item.get("id")
        ids.append(number if isinstance(number, int) else None)
        kept.append((places[picture], labels[category], _is_crowd(item, file)))
        boxes.append(box)
        areas.append(_area(item, box))
    exact = np.array(boxes, np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        exact[:, 2:] += exact[:, :2]
        rough = exact.astype(np.float32)
    columns = np.array(kept, np.int32).reshape(-1, 3)
    truth = _Truth(
        ids=ids,
        pictures=columns[:, 0],
        labels=columns[:, 1],
        boxes=rough,
        exact=exact,
        areas=np.array(areas, np.float64),
        crowd=columns[:, 2].astype(bool),
    )
    return truth, unknown


def _where(item: dict, file: Path) -> str:
    return f"{file}: annotation {shown(item.get('id'))}"


def _is_crowd(item: dict, file: Path) -> bool:
    flag = item.get("iscrowd")
    if flag is not None and flag not in (0, 1):
        raise DataError(f"{_where(item, file)} has iscrowd = {shown(flag)}; write 0 or 1.")
    return bool(flag)


def _area(item: dict, box: list) -> float:
    """The file's area, or that of the box where the file has none that can be."""
    area = item.get("area")
    if isinstance(area, (int, float)) and 0 <= area <= LONGEST**2:
        return float(area)
    return float(max(box[2], 0) * max(box[3], 0))


def _numbers(item: dict, file: Path) -> list:
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        rotated = "; rotated boxes are not supported" if isinstance(box, list) and len(box) == 5 else ""
        raise DataError(
            f"{_where(item, file)} has bbox = {shown(box)}; wanted are 4 numbers [x, y, width, height]{rotated}."
        )
    if not all(type(value) is float or (type(value) is int and abs(value) < LARGEST_NUMBER) for value in box):
        raise DataError(f"{_where(item, file)} has bbox = {shown(box)}; write plain numbers.")
    return box


def _refuse_other_formats(corners: np.ndarray, heights: np.ndarray, widths: np.ndarray, file: Path) -> None:
    """Stops where the boxes of the whole file only make sense in another format than [x, y, width, height]."""
    with np.errstate(invalid="ignore"):
        raw = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], -1)
        sized = np.isfinite(corners).all(-1) & (raw[:, 2:] > 0).all(-1)
    raw, limits = raw[sized], np.stack([widths, heights], -1)[sized]
    if not len(raw):
        return
    if raw.max() <= NORMALISED and limits.max() > 2:
        raise DataError(f"{file}: no box exceeds {NORMALISED}, so they are shares of the picture; multiply to pixels.")
    leaving = (corners[sized][:, 2:] > limits + 1).any(-1)
    as_corners = (raw[:, 2:] > raw[:, :2]).all(-1) & (raw[:, 2:] <= limits + 1).all(-1)
    if leaving.mean() > CORNER_SHARE and as_corners.all():
        raise DataError(
            f"{file}: {leaving.sum()} of {len(raw)} boxes leave their picture, and all of them fit as corners "
            "[x0, y0, x1, y1]; COCO wants [x, y, width, height]."
        )

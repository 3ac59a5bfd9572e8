"""Pictures in a folder with a COCO annotation file."""

import dataclasses
import difflib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from jaxkd.data import pictures
from jaxkd.data.base import LONGEST, Record, check_boxes, check_text, coco_objects, coco_truth, shown
from jaxkd.data.folder import Found, PictureFolder
from jaxkd.data.ids import Ids, whole
from jaxkd.data.repairs import Repairs
from jaxkd.data.sizes import Described
from jaxkd.errors import DataError
from jaxkd.paths import PathText, path_of
from jaxkd.ranges import Natural

LARGEST_FILE = 2**31  # bytes of JSON; more would fill the memory of most machines
CORNER_SHARE = 0.05  # share of boxes that may leave their picture before they are suspected to be corners
NORMALISED = 1.5  # no pixel box ends below this
LARGEST_NUMBER = 2**63  # of a box; more is no slip of the pen, and past a float's range


@dataclasses.dataclass(frozen=True)
class Config:
    """A folder of pictures and the COCO file that describes them; "assets:NAME" is what comes with the package."""

    images: PathText = "assets:bccd/images"  # folder that the file names are looked up in
    annotations: PathText = "assets:bccd/train.json"
    limit: Natural = 0  # only the first pictures of the file; 0 for all
    groups: Literal["auto", "keep"] = "auto"  # categories above others that no object has: no classes, or kept
    reading: pictures.Config = dataclasses.field(default_factory=pictures.Config)  # how files become pictures
    strict: bool = False  # stop at faults that would otherwise be repaired or left out, and counted
    allow_links: bool = False  # follow symbolic links that lead out of the picture folder


def load(config: Config) -> "CocoSource":
    """The source that a COCO file describes, checked from end to end; pictures are first opened when they are read.

    Raises:
      DataError: where the file or folder is missing, or the file is not what COCO describes.
    """
    file, folder = path_of(config.annotations), path_of(config.images)
    content = _read_json(file)
    if not folder.is_dir():
        raise DataError(f"There is no picture folder {folder}; correct the path of the images.")
    return CocoSource(content, config=config, file=file, folder=folder)


class CocoSource:
    """Records of a COCO file, its classes in the order of their category ids."""

    def __init__(self, content: dict, *, config: Config, file: Path, folder: Path):
        self.repairs = Repairs(str(file))
        self._config, self._file = config, file
        items = _listed(content, file)
        categories = _categories(content, items, file, self.repairs, groups=config.groups)
        self.category_ids = tuple(categories)
        self.classes = tuple(categories.values())
        images = _images(content, file)
        ids = Ids((image["id"] for image in images), self.repairs, of="images", file=file, text=True)
        if config.limit:
            images = images[: config.limit]
        self._folder = PictureFolder(
            folder, described=file, reading=config.reading, strict=config.strict, allow_links=config.allow_links
        )
        truth = _gather(items, ids, self.category_ids, file, self.repairs, most=len(images), strict=config.strict)
        found = self._folder.find(_described(images, truth, file), self.repairs)
        self.reading = self._folder.reading
        self._truth = self._inside(truth, found)
        self.records: Sequence[Record] = self._make_records(found, ids.numbers)
        self._count_oddities()

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record; raises as `PictureFolder.read` does."""
        return self._folder.read(self.records[index])

    def content(self, index: int) -> bytes:
        """The bytes of a record's file; raises as `pictures.content_of` does."""
        return self._folder.content(self.records[index])

    def annotations(self) -> dict:
        """The truth as a COCO dict with the file's own ids and areas; segmentations are left out."""
        truth, annotations = self._truth, []
        bounds = np.cumsum([0, *(len(record.boxes) for record in self.records)])
        for index, (low, high) in enumerate(itertools.pairwise(bounds)):
            annotations += coco_objects(
                self, index, ids=truth.ids[low:high], boxes=truth.exact[low:high], areas=truth.areas[low:high]
            )
        return coco_truth(self, annotations)

    def _inside(self, truth: "_Truth", found: Sequence[Found]) -> "_Truth":
        """The annotations whose boxes hold a pixel of their picture, in its real pixels and clipped to it."""
        heights, widths = np.array([one.size for one in found]).reshape(-1, 2)[truth.pictures].T
        factors = np.array([one.factors for one in found]).reshape(-1, 2)[truth.pictures]
        _refuse_other_formats(truth.exact * factors[:, [1, 0, 1, 0]], heights, widths, self._file)
        exact = truth.exact * factors[:, [1, 0, 1, 0]]
        checked = check_boxes(exact, heights=heights, widths=widths)

        def example(place: int) -> str:
            picture, box = found[truth.pictures[place]], truth.exact[place].tolist()
            sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            text = ", ".join(f"{side:g}" for side in sides)
            return f"annotation {shown(truth.ids[place])}, [{text}] on {picture.file}"

        self.repairs.add_faults(
            checked.faults | {"boxes_clipped": checked.clipped},
            file=self._file,
            strict=self._config.strict,
            example=example,
        )
        exact = np.where(checked.clipped[:, None], checked.boxes, exact)
        areas = truth.areas * factors.prod(-1)
        return dataclasses.replace(truth, boxes=checked.boxes, exact=exact, areas=areas).only(checked.keep)

    def _make_records(self, found: Sequence[Found], ids: Sequence[int]) -> tuple[Record, ...]:
        truth = self._truth
        bounds = np.searchsorted(truth.pictures, np.arange(len(found) + 1))
        return tuple(
            Record(
                index=index,
                image_id=number,
                file=one.file,
                height=one.size[0],
                width=one.size[1],
                boxes=truth.boxes[low:high],
                labels=truth.labels[low:high],
                crowd=truth.crowd[low:high],
            )
            for index, (one, number, low, high) in enumerate(zip(found, ids, bounds[:-1], bounds[1:], strict=False))
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
        for name, number in counts.items():
            self.repairs.add(name, number)


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


def _entries(content: dict, key: str, name: str, file: Path) -> list[dict]:
    """The list under `key`, each entry of it a dict with a text under `name`."""
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{file} lists no {key}; COCO annotations have 'images' and 'categories', both not empty.")
    for place, entry in enumerate(entries):
        value = entry.get(name) if isinstance(entry, dict) else None
        if not isinstance(value, str):
            raise DataError(f"{file}: entry {place} of {key} has {name} = {shown(value)}; it has to be text.")
    return [{"id": None} | entry for entry in entries]


def _listed(content: dict, file: Path) -> list:
    items = content.get("annotations", [])
    if not isinstance(items, list):
        raise DataError(f"{file} holds no list under 'annotations'; write one, or leave the key out.")
    return items


def _categories(
    content: dict, items: list, file: Path, repairs: Repairs, *, groups: Literal["auto", "keep"]
) -> dict[int, str]:
    """Names by category id, in the order of the ids; without those that only group others, unless they are kept."""
    entries = _entries(content, "categories", "name", file)
    for entry in entries:
        check_text(entry["name"], where=f"{file}: category {shown(entry['id'])} has the name")
    numbers = Ids((entry["id"] for entry in entries), repairs, of="categories", file=file, text=False).numbers
    used = {whole(item.get("category_id")) for item in items if isinstance(item, dict)}
    found = {}
    for number, entry in sorted(zip(numbers, entries, strict=True), key=lambda pair: pair[0]):
        others = [other for other in entries if other is not entry]
        above = any(other.get("supercategory") == entry["name"] for other in others)
        below = any(other["name"] == entry.get("supercategory") for other in others)
        if above and not below and number not in used and groups == "auto":
            repairs.add("categories_that_only_group", example=f"{shown(entry['name'])} (id {number})")
        else:
            found[number] = entry["name"]
    name, count = Counter(found.values()).most_common(1)[0] if found else ("", 0)
    if count > 1:
        raise DataError(f"{file} has {count} categories with the name {shown(name)}; make them different.")
    return found


def _images(content: dict, file: Path) -> list[dict]:
    """The entries under 'images', with a "size" (height, width), None where the file gives none."""
    entries = _entries(content, "images", "file_name", file)
    for entry in entries:
        given = entry.get("height"), entry.get("width")
        sides = [whole(side) for side in given]
        where = f"{file}: image {shown(entry['id'])}"
        if given == (None, None):
            entry["size"] = None
            continue
        if not all(side is not None and 1 <= side <= LONGEST for side in sides):
            raise DataError(f"{where} has width = {shown(given[1])} and height = {shown(given[0])}; write its size.")
        entry["size"] = tuple(sides)
    return entries


def _described(images: Sequence[dict], truth: "_Truth", file: Path) -> list[Described]:
    """What the file says of each picture, and how far its boxes reach."""
    extents = np.zeros((len(images), 2))
    with np.errstate(invalid="ignore"):
        reach = np.where(np.isfinite(truth.exact[:, [3, 2]]), truth.exact[:, [3, 2]], 0)
    np.maximum.at(extents, truth.pictures, reach)
    return [
        Described(
            image["file_name"], f"{file}: image {shown(image['id'])}", image["size"], (float(bottom), float(right))
        )
        for image, (bottom, right) in zip(images, extents, strict=True)
    ]


def _gather(
    items: list, ids: Ids, category_ids: tuple[int, ...], file: Path, repairs: Repairs, *, most: int, strict: bool
) -> "_Truth":
    """Annotations of the first `most` pictures as arrays, boxes as corners; those of no picture at all are counted."""
    places = {number: place for place, number in enumerate(ids.numbers)}
    labels = {number: label for label, number in enumerate(category_ids)}
    own, kept, boxes, areas, unknown = [], [], [], [], []
    for item in items:
        picture = ids.find(item.get("image_id")) if isinstance(item, dict) else None
        if picture is None:
            unknown.append(item)
            continue
        if places[picture] >= most:
            continue
        category = whole(item.get("category_id"))
        if category not in labels:
            given = item.get("category_id")
            near = difflib.get_close_matches(shown(given), [str(number) for number in labels], n=1)
            hint = f" (the nearest id is {near[0]})" if near else ""
            raise DataError(
                f"{_where(item, file)} has the category {shown(given)}, which 'categories' does not "
                f"list{hint}; add it there or correct the annotation."
            )
        box, number = _numbers(item, file), whole(item.get("id"))
        own.append(number)
        kept.append((places[picture], labels[category], _is_crowd(item, file)))
        boxes.append(box)
        areas.append(_area(item, box))

    def example(place: int) -> str:
        item = unknown[place]
        return (
            f"annotation {shown(item.get('id'))} of image {shown(item.get('image_id'))}"
            if isinstance(item, dict)
            else shown(item)
        )

    faults = {"annotations_of_unknown_pictures": np.ones(len(unknown), bool)}
    repairs.add_faults(faults, file=file, strict=strict, example=example)
    exact = np.array(boxes, np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        exact[:, 2:] += exact[:, :2]
        rough = exact.astype(np.float32)
    columns = np.array(kept, np.int32).reshape(-1, 3)
    return _Truth(
        ids=own,
        pictures=columns[:, 0],
        labels=columns[:, 1],
        boxes=rough,
        exact=exact,
        areas=np.array(areas, np.float64),
        crowd=columns[:, 2].astype(bool),
    )


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

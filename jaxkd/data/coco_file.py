"""The content of a COCO annotation file, checked entry by entry: categories, images and annotations."""

import dataclasses
import difflib
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxkd.data.base import MAX_SIDE, check_text, short_repr
from jaxkd.data.ids import Ids, as_int
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError

MAX_FILE_BYTES = 2**31  # bytes of JSON; more would fill the memory of most machines
MAX_NUMBER = 2**63  # of a box; a larger integer may be past a float's range


@dataclasses.dataclass(frozen=True)
class Truth:
    """All annotations of a file as arrays, sorted by picture."""

    ids: list[Any]
    pictures: np.ndarray  # [n] index of the picture
    labels: np.ndarray  # [n] index of the class
    boxes: np.ndarray  # [n 4] float32, clipped
    exact: np.ndarray  # [n 4] float64; as in the file, except where clipped
    areas: np.ndarray  # [n]
    crowd: np.ndarray  # [n]

    def only(self, keep: np.ndarray) -> "Truth":
        """The annotations where `keep` is true, sorted by picture."""
        order = np.flatnonzero(keep)
        order = order[np.argsort(self.pictures[order], kind="stable")]
        return Truth(
            ids=[self.ids[index] for index in order],
            pictures=self.pictures[order],
            labels=self.labels[order],
            boxes=self.boxes[order],
            exact=self.exact[order],
            areas=self.areas[order],
            crowd=self.crowd[order],
        )


def read(file: Path) -> dict:
    """The object in a JSON file; raises DataError where there is none."""
    try:
        if file.exists() and not file.is_file():
            raise DataError(f"{file} cannot be read (it is a directory or a device); give a COCO annotation file.")
        if file.stat().st_size > MAX_FILE_BYTES:
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
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, or lists nested too deep
        raise DataError(f"{file} is not JSON that can be read ({error}); COCO annotations are plainer.") from error
    if not isinstance(parsed, dict):
        raise DataError(f"{file} holds a JSON {type(parsed).__name__}; COCO annotations are an object with 'images'.")
    return parsed


def _entries(content: dict, key: str, name: str, file: Path) -> list[dict]:
    """The list under `key`, each entry of which is a dict with a string under `name`."""
    entries = content.get(key)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{file} lists no {key}; COCO annotations have 'images' and 'categories', both not empty.")
    for position, entry in enumerate(entries):
        value = entry.get(name) if isinstance(entry, dict) else None
        if not isinstance(value, str):
            raise DataError(f"{file}: entry {position} of {key} has {name} = {short_repr(value)}; it has to be text.")
    return [{"id": None} | entry for entry in entries]


def annotation_list(content: dict, file: Path) -> list:
    """The list under 'annotations', [] where there is no such key."""
    annotations = content.get("annotations", [])
    if not isinstance(annotations, list):
        raise DataError(f"{file} holds no list under 'annotations'; write one, or leave the key out.")
    return annotations


def categories(
    content: dict, annotations: list, file: Path, repairs: Repairs, *, groups: Literal["auto", "keep"]
) -> dict[int, str]:
    """Names by category id, sorted by id; without supercategories that have no object, unless `groups` is "keep"."""
    entries = _entries(content, "categories", "name", file)
    for entry in entries:
        check_text(entry["name"], where=f"{file}: category {short_repr(entry['id'])} has the name")
    numbers = Ids((entry["id"] for entry in entries), repairs, of="categories", file=file, text=False).numbers
    used = {as_int(annotation.get("category_id")) for annotation in annotations if isinstance(annotation, dict)}
    names = {}
    for category_id, entry in sorted(zip(numbers, entries, strict=True), key=lambda pair: pair[0]):
        others = [other for other in entries if other is not entry]
        above = any(other.get("supercategory") == entry["name"] for other in others)
        below = any(other["name"] == entry.get("supercategory") for other in others)
        if above and not below and category_id not in used and groups == "auto":
            repairs.add("categories_that_only_group", example=f"{short_repr(entry['name'])} (id {category_id})")
        else:
            names[category_id] = entry["name"]
    name, count = Counter(names.values()).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise DataError(f"{file} has {count} categories with the name {short_repr(name)}; make them different.")
    return names


def images(content: dict, file: Path) -> list[dict]:
    """The entries under 'images', with a "size" (height, width), None where the file gives none."""
    entries = _entries(content, "images", "file_name", file)
    for entry in entries:
        size = entry.get("height"), entry.get("width")
        sides = [as_int(side) for side in size]
        where = f"{file}: image {short_repr(entry['id'])}"
        if size == (None, None):
            entry["size"] = None
            continue
        if not all(side is not None and 1 <= side <= MAX_SIDE for side in sides):
            raise DataError(
                f"{where} has width = {short_repr(size[1])} and height = {short_repr(size[0])}; write its size."
            )
        entry["size"] = tuple(sides)
    return entries


def to_arrays(
    annotations: list,
    ids: Ids,
    category_ids: tuple[int, ...],
    file: Path,
    repairs: Repairs,
    *,
    limit: int,
    strict: bool,
) -> "Truth":
    """The annotations of the first `limit` pictures, boxes as corners; annotations of unlisted pictures are counted."""
    index_of = {image_id: index for index, image_id in enumerate(ids.numbers)}
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    annotation_ids, rows, boxes, areas, unknown = [], [], [], [], []
    for annotation in annotations:
        image_id = ids.find(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if image_id is None:
            unknown.append(annotation)
            continue
        if index_of[image_id] >= limit:
            continue
        category = as_int(annotation.get("category_id"))
        if category not in label_of:
            given = annotation.get("category_id")
            nearest = difflib.get_close_matches(short_repr(given), [str(category_id) for category_id in label_of], n=1)
            hint = f" (the nearest id is {nearest[0]})" if nearest else ""
            raise DataError(
                f"{_where(annotation, file)} has the category {short_repr(given)}, which 'categories' does not "
                f"list{hint}; add it there or correct the annotation."
            )
        box, annotation_id = _box(annotation, file), as_int(annotation.get("id"))
        annotation_ids.append(annotation_id)
        rows.append((index_of[image_id], label_of[category], _is_crowd(annotation, file)))
        boxes.append(box)
        areas.append(_area(annotation, box))

    def example(index: int) -> str:
        annotation = unknown[index]
        return (
            f"annotation {short_repr(annotation.get('id'))} of image {short_repr(annotation.get('image_id'))}"
            if isinstance(annotation, dict)
            else short_repr(annotation)
        )

    faults = {"annotations_of_unknown_pictures": np.ones(len(unknown), bool)}
    repairs.add_faults(faults, file=file, strict=strict, example=example)
    exact = np.array(boxes, np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        exact[:, 2:] += exact[:, :2]
        rounded = exact.astype(np.float32)
    columns = np.array(rows, np.int32).reshape(-1, 3)
    return Truth(
        ids=annotation_ids,
        pictures=columns[:, 0],
        labels=columns[:, 1],
        boxes=rounded,
        exact=exact,
        areas=np.array(areas, np.float64),
        crowd=columns[:, 2].astype(bool),
    )


def _where(annotation: dict, file: Path) -> str:
    return f"{file}: annotation {short_repr(annotation.get('id'))}"


def _is_crowd(annotation: dict, file: Path) -> bool:
    flag = annotation.get("iscrowd")
    if flag is not None and flag not in (0, 1):
        raise DataError(f"{_where(annotation, file)} has iscrowd = {short_repr(flag)}; write 0 or 1.")
    return bool(flag)


def _area(annotation: dict, box: list) -> float:
    """The annotated area, or the area of the box where it is missing or impossible."""
    area = annotation.get("area")
    if isinstance(area, (int, float)) and 0 <= area <= MAX_SIDE**2:
        return float(area)
    return float(max(box[2], 0) * max(box[3], 0))


def _box(annotation: dict, file: Path) -> list:
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        rotated = "; rotated boxes are not supported" if isinstance(box, list) and len(box) == 5 else ""
        raise DataError(
            f"{_where(annotation, file)} has bbox = {short_repr(box)}; "
            f"wanted are 4 numbers [x, y, width, height]{rotated}."
        )
    if not all(type(value) is float or (type(value) is int and abs(value) < MAX_NUMBER) for value in box):
        raise DataError(f"{_where(annotation, file)} has bbox = {short_repr(box)}; write plain numbers.")
    return box

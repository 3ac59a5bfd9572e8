"""What a COCO annotation file says, checked entry by entry: its categories, images and annotations."""

import dataclasses
import difflib
import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxkd.data.base import LONGEST, check_text, shown
from jaxkd.data.ids import Ids, whole
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError

LARGEST_FILE = 2**31  # bytes of JSON; more would fill the memory of most machines
LARGEST_NUMBER = 2**63  # of a box; more is no slip of the pen, and past a float's range


@dataclasses.dataclass(frozen=True)
class Truth:
    """All annotations in the order of their pictures."""

    ids: list[Any]
    pictures: np.ndarray  # [n] index of the picture
    labels: np.ndarray  # [n] index of the class
    boxes: np.ndarray  # [n 4] float32, clipped
    exact: np.ndarray  # [n 4] float64, as in the file where nothing was clipped
    areas: np.ndarray  # [n]
    crowd: np.ndarray  # [n]

    def only(self, keep: np.ndarray) -> "Truth":
        """The annotations that a mask keeps, sorted by their pictures."""
        order = np.flatnonzero(keep)
        order = order[np.argsort(self.pictures[order], kind="stable")]
        return Truth(
            ids=[self.ids[place] for place in order],
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


def listed(content: dict, file: Path) -> list:
    """The entries under 'annotations', [] where there is no such key."""
    items = content.get("annotations", [])
    if not isinstance(items, list):
        raise DataError(f"{file} holds no list under 'annotations'; write one, or leave the key out.")
    return items


def categories(
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


def images(content: dict, file: Path) -> list[dict]:
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


def gather(
    items: list, ids: Ids, category_ids: tuple[int, ...], file: Path, repairs: Repairs, *, most: int, strict: bool
) -> "Truth":
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
    return Truth(
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

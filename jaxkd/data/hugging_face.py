"""Rows of Hugging Face's data sets on disk: a picture and its objects, from metadata.jsonl, .csv or .parquet."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxkd.data import plain_text, plain_yaml
from jaxkd.data.base import MAX_SIDE, short_repr
from jaxkd.data.ids import as_int
from jaxkd.errors import ConfigError, DataError, first_line

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CATEGORIES = ("category", "categories", "category_id", "label", "labels", "class", "classes")
CROWDS = ("iscrowd", "is_crowd")
MAX_BYTES = 2**31  # of a metadata file
MAX_NUMBER = 2**63  # of a box; a larger integer may be past a float's range
BROKEN = (OSError, ValueError, KeyError, NotImplementedError)  # what pyarrow raises for a file that it cannot read
INFO = "dataset_info"  # key of a README's description of the features


@dataclasses.dataclass(frozen=True)
class Row:
    """A picture and its objects, as the data set has them."""

    where: str  # place in the data set, for messages
    file: str  # name of the picture
    boxes: Sequence[Sequence[float]]  # four numbers each, in any form
    categories: Sequence[int | str]  # of each box its class, a number or a name
    crowd: Sequence[bool]
    areas: Sequence[float]  # NaN where none is given
    size: tuple[int, int] | None = None  # annotated height and width
    image_id: int | None = None


def metadata_file(folder: Path) -> Path | None:
    """The metadata file of a folder of pictures; None where there is none, DataError where there are several."""
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} has both {found[0].name} and {found[1].name}; keep the one that is right.")
    return found[0] if found else None


def read_metadata(file: Path) -> list[Row]:
    """The rows of a metadata file, one a picture.

    Raises:
      DataError: where the file cannot be read, a row lacks its picture or its boxes are none, or a picture comes twice.
    """
    values = {".jsonl": _json_lines, ".csv": _csv_lines, ".parquet": _parquet_rows}[file.suffix](file)
    rows, places = [], {}
    for where, content in values:
        name = content.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{where} has file_name = {short_repr(name)}; it has to be the name of a picture.")
        if name in places:
            raise DataError(f"{where} has the picture {short_repr(name)} again; wanted is one row a picture.")
        places[name] = where
        rows.append(to_row(content, file=name, where=where))
    if not rows:
        raise DataError(f"{file} has no row; wanted is one a picture.")
    return rows


def to_row(content: Mapping[str, Any], *, file: str, where: str) -> Row:
    """The row of a picture from the values in its columns; one without `objects` has none.

    `objects` is a dict of lists, a list of dicts, or either of these as JSON text.

    Raises:
      DataError: where a box is no four numbers, or has no category.
    """
    objects = _columns(content.get("objects"), where)
    boxes = [_box(box, f"{where} object {number}") for number, box in enumerate(objects.get("bbox") or [], start=1)]
    key = next((key for key in CATEGORIES if objects.get(key) is not None), None)
    if boxes and key is None:
        raise DataError(f"{where} has objects without a category; write one of {', '.join(CATEGORIES)} for each box.")
    categories = _list_of(objects, key, boxes, where) if key else []
    for number, category in enumerate(categories, start=1):
        if type(category) not in (int, str):
            raise DataError(f"{where} object {number} has {key} = {short_repr(category)}; write a number or a name.")
    flags = next((key for key in CROWDS if objects.get(key) is not None), None)
    areas = _list_of(objects, "area", boxes, where) if objects.get("area") is not None else [None] * len(boxes)
    height, width = as_int(content.get("height")), as_int(content.get("width"))
    return Row(
        where=where,
        file=file,
        boxes=boxes,
        categories=categories,
        crowd=[bool(flag) for flag in _list_of(objects, flags, boxes, where)] if flags else [False] * len(boxes),
        areas=[_area(area) for area in areas],
        size=(height, width) if height and width else None,
        image_id=as_int(content.get("image_id")),
    )


def names_of_readme(folder: Path) -> tuple[str, ...]:
    """The class names in the YAML at the head of a data set's README.md; () where it has none."""
    file = folder / "README.md"
    if not file.is_file():
        return ()
    lines = plain_text.read(file).splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        return ()
    end = next(number for number, line in enumerate(lines[1:], start=1) if line.strip() == "---")
    head = plain_yaml.parse("\n".join(lines[1:end]), where=str(file))
    return _names_below(_objects_below(head.get(INFO))) if isinstance(head, dict) else ()


def names_of_schema(metadata: Mapping[bytes, bytes] | None) -> tuple[str, ...]:
    """The class names in the metadata of a parquet file's schema, which Hugging Face writes there; () without them."""
    try:
        content = json.loads((metadata or {}).get(b"huggingface", b"null"))
    except ValueError:
        return ()
    return _names_below(_objects_below(content))


def parquet(file: Path | str) -> ModuleType:
    """pyarrow's module for parquet files; raises ConfigError where it is not installed."""
    try:
        import pyarrow.parquet  # late: a heavy library, of use to these files alone
    except ImportError as error:
        raise ConfigError(f"Reading {file} needs pyarrow: pip install pyarrow.") from error
    return pyarrow.parquet


def _json_lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(plain_text.read(file, limit=MAX_BYTES).split("\n"), start=1):
        if line.strip():
            content = _json(line, f"{file}, line {number},")
            if not isinstance(content, dict):
                raise DataError(f"{file}, line {number}, holds a JSON {type(content).__name__}; write an object.")
            yield f"{file}, line {number},", content


def _csv_lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(plain_text.read(file, limit=MAX_BYTES), newline=""))
    try:
        for content in reader:
            yield f"{file}, line {reader.line_num},", {key: value for key, value in content.items() if key is not None}
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}, is no row of a CSV file ({error}); correct it.") from error


def _parquet_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        table = parquet(file).ParquetFile(file).read()
    except BROKEN as error:
        raise DataError(f"{file} is no parquet file that can be read ({first_line(error)}); write it again.") from error
    for number, content in enumerate(table.to_pylist()):
        yield f"{file}, row {number},", content


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({error}); correct it.") from error


def _columns(objects: Any, where: str) -> Mapping[str, Any]:
    """The objects as a dict of lists."""
    if isinstance(objects, str):
        objects = _json(objects, f"{where} objects") if objects.strip() else None
    if objects is None:
        return {}
    if isinstance(objects, list) and all(isinstance(item, dict) for item in objects):
        objects = {key: [item.get(key) for item in objects] for key in {key: None for item in objects for key in item}}
    if not isinstance(objects, dict):
        raise DataError(f"{where} has objects = {short_repr(objects)}; wanted is {{'bbox': [...], 'category': [...]}}.")
    if not isinstance(objects.get("bbox") or [], list):
        raise DataError(f"{where} has bbox = {short_repr(objects['bbox'])}; wanted is a list of boxes.")
    return objects


def _list_of(objects: Mapping[str, Any], key: str, boxes: Sequence[Any], where: str) -> list[Any]:
    values = objects[key]
    if not isinstance(values, list) or len(values) != len(boxes):
        raise DataError(
            f"{where} has {len(boxes)} boxes and {key} = {short_repr(values)}; wanted is a list of one for each box."
        )
    return values


def _box(box: Any, where: str) -> list[float]:
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise DataError(f"{where} has bbox = {short_repr(box)}; wanted are 4 numbers.")
    return [float(value) for value in box]


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < MAX_NUMBER)


def _area(value: Any) -> float:
    return float(value) if _is_number(value) and 0 <= value <= MAX_SIDE**2 else float("nan")


def _names_below(value: Any) -> tuple[str, ...]:
    """The names of the first list of classes in a description of features, as README.md or a schema has them."""
    if isinstance(value, dict):
        names = value.get("class_label", value if value.get("_type") == "ClassLabel" else {})
        names = names.get("names") if isinstance(names, dict) else None
        if isinstance(names, dict) and all(str(key).isdecimal() for key in names):
            names = [names[key] for key in sorted(names, key=int)]
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return next(filter(None, map(_names_below, _inner(value))), ())


def _objects_below(value: Any) -> Any:
    """The feature `objects` in a description of features; None where there is none."""
    if isinstance(value, dict) and ("objects" in value or value.get("name") == "objects"):
        return value.get("objects", value)
    return next(filter(None, map(_objects_below, _inner(value))), None)


def _inner(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()

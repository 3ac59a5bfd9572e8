"""What a YOLO data set says of itself: its splits and class names, from data.yaml, obj.data or a bare folder."""

import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxkd.data import plain_text, plain_yaml
from jaxkd.data.base import check_text, short_repr
from jaxkd.data.ids import as_int
from jaxkd.data.layouts.base import SPLITS, WORDS, Tree, base, join, split_of, walk
from jaxkd.data.yolo_labels import is_row
from jaxkd.data.yolo_lists import label_of
from jaxkd.errors import DataError

MAX_CLASSES = 100_000
SAMPLE = 20  # label files of a folder, and lines of each, that tell whether they are labels
YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NOTHING = ("", "~", "null", "none")  # how a yaml writes that a split is not there
NO_NAMES = "names no classes; they are called by their numbers, so a teacher's classes match none of them"


@dataclasses.dataclass(frozen=True)
class Description:
    """A YOLO data set as its files describe it."""

    file: Path  # data.yaml, obj.data or the folder itself, for messages
    root: Path  # folder that the lines of list files are relative to
    names: Mapping[int, str]  # of the classes by their ids, ids ascending; {} where nothing names them
    splits: Mapping[str, tuple[Path, ...]]  # of "train", "val" and "test" those that exist: folders and list files
    keypoints: bool = False  # whether rows go on with keypoints after the box
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)  # paths of splits that are not there
    moved: Mapping[str, Path] = dataclasses.field(default_factory=dict)  # where written paths are instead
    notes: tuple[str, ...] = ()  # what was assumed, one sentence each


def describe(path: Path) -> Description:
    """The data set of a data.yaml, an obj.data or a folder.

    Raises:
      DataError: where it is not there, cannot be read, contradicts itself, or nothing in it is annotated.
    """
    if path.is_dir():
        tree = walk(path)
        file = top_file(tree)
        return describe(tree.path(file)) if file else describe_folder(tree)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _of_yaml(path)
    return _of_obj_data(path)


def top_file(tree: Tree) -> str:
    """The data.yaml or obj.data of a tree, the least deep first; "" where there is none.

    A yaml of another name is one where it has `names` and `train` or `val` at its top.

    Raises:
      DataError: where there are two of these and no data.yaml.
    """
    ranked = [(name.count("/"), 1, name) for name in tree.named("obj.data")]
    for name in tree.with_suffix(".yaml", ".yml"):
        head, usual = tree.head(name), base(name).lower() in YAML_NAMES
        if re.search(rb"(?m)^names\s*:", head) and (usual or re.search(rb"(?m)^(train|val)\s*:", head)):
            ranked.append((name.count("/"), 0 if usual else 2, name))
    ranked.sort()
    if len(ranked) > 1 and ranked[0][1] == 2 and ranked[1][:2] == ranked[0][:2]:
        raise DataError(
            f"{tree.path(ranked[0][2])} and {tree.path(ranked[1][2])} both describe a YOLO data set; give one of them "
            "in place of the folder."
        )
    return ranked[0][2] if ranked else ""


def describe_folder(tree: Tree, *, names: Mapping[int, str] | None = None) -> Description:
    """The data set of a folder without a data.yaml: pictures in images/ with labels/, or with a .txt beside each.

    The folders' names tell the splits; without such a word everything is "train". `names` are the classes where they
    are known.

    Raises:
      DataError: where no picture has a label file.
    """
    folders = labelled_folders(tree)
    if not folders:
        raise DataError(
            f"{tree.root} has no picture with a labels/NAME.txt or a .txt beside it; give the data.yaml, or a folder "
            "of images/ and labels/."
        )
    by_split: dict[str, list[str]] = {}
    for folder in folders:
        by_split.setdefault(split_of(folder), []).append(folder)
    notes = []
    unsorted = by_split.pop("", [])
    if unsorted and by_split:
        notes.append(f"{tree.path(unsorted[0])} belongs to no split by its name, so its pictures are passed over.")
    elif unsorted:
        by_split["train"] = unsorted
    known, said = (names, "") if names is not None else _listed_names(tree)
    notes += [said] if said else []
    splits = {name: tuple(map(tree.path, _outermost(by_split[name]))) for name in SPLITS if name in by_split}
    return Description(tree.root, tree.root, _checked_names(known, tree.root), splits, notes=tuple(notes))


def labelled_folders(tree: Tree) -> list[str]:
    """The folders of a tree with a picture that has a label file, sorted; [] where no label file looks like one."""
    texts = set(tree.with_suffix(".txt"))
    first: dict[str, list[str]] = {}  # label files of each folder, a few
    for folder in tree.folders if texts else ():
        labels = (label_of(name, texts.__contains__) for name in tree.pictures_in(folder))
        if found := list(itertools.islice((label for label in labels if label in texts), SAMPLE)):
            first[folder] = found
    looks_right = any(is_row(line) for labels in first.values() for label in labels for line in _lines(tree, label))
    return list(first) if looks_right else []


def _lines(tree: Tree, name: str) -> list[str]:
    """The first lines of a text file of a tree."""
    return tree.head(name).decode(errors="replace").splitlines()[:SAMPLE]


def _of_yaml(file: Path) -> Description:
    content = _read_yaml(file)
    names = _names(content, file)
    entries = {
        WORDS[key]: _texts(value, file, key)
        for key, value in content.items()
        if key in WORDS and not (isinstance(value, str) and value.lower() in NOTHING)
    }
    folder, path = file.parent, content.get("path", "")
    if not isinstance(path, str):
        raise DataError(f"{file}: path is {short_repr(path)}; write the folder of the data.")
    written = [folder / path, Path(path)] if path.lower() not in NOTHING else [folder]
    keypoints = "kpt_shape" in content
    if not entries:
        found = describe_folder(walk(next(filter(Path.is_dir, written), folder)), names=names)
        return dataclasses.replace(found, file=file, keypoints=keypoints)
    root = next(filter(Path.is_dir, written), folder)
    return Description(file, root, names, keypoints=keypoints, **_resolved(entries, [*written, folder]))


def _of_obj_data(file: Path) -> Description:
    """Of darknet's file of `key = value` lines; its paths may have a first folder that is not there."""
    rows = [line.partition("=") for line in plain_text.read(file).splitlines() if line.strip()[:1] not in ("", "#")]
    if not all(equals for _, equals, _ in rows):
        raise DataError(f"{file} is no list of 'key = value' lines such as 'train = train.txt'; give a data.yaml.")
    values = {key.strip().lower(): value.strip() for key, _, value in rows}
    entries = {WORDS[key]: [value] for key, value in values.items() if key in WORDS and value}
    bases = [file.parent, file.parent.parent]
    found = Description(file, file.parent, {}, **_resolved(entries, bases, without_first=True))
    if written := values.get("names"):
        candidates = filter(Path.is_file, _spellings(written, bases, without_first=True))
        names_file = next(candidates, file.parent / base(written))
        found = dataclasses.replace(found, names=_checked_names(_lines_as_names(names_file), names_file))
    _check_count(values.get("classes"), found.names, file, key="classes")
    if not found.splits:
        raise DataError(f"{file} names no list of pictures that exists; write a line such as 'train = train.txt'.")
    return found


def _resolved(
    entries: Mapping[str, Sequence[str]], bases: Sequence[Path], *, without_first: bool = False
) -> dict[str, Any]:
    """The fields of a Description that follow from the written folders and lists of each split."""
    splits, missing, moved = {}, {}, {}
    for split in sorted(entries, key=SPLITS.index):
        paths = []
        for text in entries[split]:
            spellings = _spellings(text, bases, without_first=without_first)
            if path := next(filter(Path.exists, spellings), None):
                paths.append(path)
                moved |= {text: path} if path != bases[0] / text else {}
            else:
                missing[split] = text
        if split not in missing:
            splits[split] = tuple(paths)
    return {"splits": splits, "missing": missing, "moved": moved}


def _spellings(text: str, bases: Sequence[Path], *, without_first: bool) -> Iterable[Path]:
    """Where a written path may be: below each base as written, then without leading '../', or its first folder."""
    text = text.replace("\\", "/")
    yield from (place / text for place in bases)
    short = re.sub(r"^(\.\./)+", "", text)
    yield from (place / short for place in bases)
    if without_first and "/" in short:
        yield from (place / short.partition("/")[2] for place in bases)


def _read_yaml(file: Path) -> dict[str, Any]:
    """The mapping of a yaml; all values are text, lists and dicts."""
    content = plain_yaml.parse(plain_text.read(file), where=str(file))
    if not isinstance(content, dict):
        raise DataError(f"{file} holds no keys; a data.yaml has 'train', 'val' and 'names'.")
    return content


def _texts(value: Any, file: Path, key: str) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise DataError(f"{file}: {key} is {short_repr(value)}; write a folder, a list file, or a list of these.")
    return texts


def _names(content: Mapping[str, Any], file: Path) -> Mapping[int, str]:
    """The names of a data.yaml by id, or numbers as names where it has only their count."""
    value = content.get("names", "")
    if isinstance(value, list):
        names = dict(enumerate(value))
    elif isinstance(value, dict):
        names = {_id_of(key, file): name for key, name in value.items()}
        if len(names) < len(value):
            raise DataError(f"{file} gives one class two names; write each number once.")
    elif value.lower() in NOTHING:
        count = as_int(content.get("nc"))
        return {number: str(number) for number in range(count)} if count and 0 < count <= MAX_CLASSES else {}
    else:
        raise DataError(f"{file}: names is {short_repr(value)}; write a list, or a number and a name a line.")
    checked = _checked_names(names, file)
    _check_count(content.get("nc"), checked, file, key="nc")
    return checked


def _id_of(key: str, file: Path) -> int:
    number = as_int(key)
    if number is None or number < 0:
        raise DataError(f"{file}: names has the key {short_repr(key)}; write the number of a class, from 0.")
    return number


def _check_count(text: Any, names: Mapping[int, str], file: Path, *, key: str) -> None:
    """Raises DataError where a written number of classes is not that of the names; with holes their range passes."""
    if text is None or not names:
        return
    if as_int(text) not in (len(names), max(names) + 1):
        raise DataError(f"{file}: {key} is {short_repr(text)}, and there are {len(names)} names; make them agree.")


def _checked_names(names: Mapping[int, Any], file: Path) -> dict[int, str]:
    for number, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{file} gives the class {number} the name {short_repr(name)}; write text.")
        check_text(name, where=f"{file}: class {number} has the name")
    stripped = {number: names[number].strip() for number in sorted(names)}
    repeated = [name for name, count in Counter(stripped.values()).items() if count > 1]
    if repeated:
        raise DataError(f"{file} has the class name {short_repr(repeated[0])} twice; make the names different.")
    return stripped


def _listed_names(tree: Tree) -> tuple[Mapping[int, str], str]:
    """The names in classes.txt, a .names file or Label Studio's notes.json, and a sentence on where they are from."""
    readers: tuple[tuple[Sequence[str], Callable[[Path], Mapping[int, str]]], ...] = (
        (tree.named("classes.txt"), _lines_as_names),
        (tree.with_suffix(".names"), _lines_as_names),
        (tree.named("notes.json"), _notes_as_names),
    )
    for files, read in readers:
        for name in sorted(files, key=lambda name: name.count("/")):
            if names := read(tree.path(name)):
                return names, f"The class names are those of {name}."
    return {}, f"{tree.root} {NO_NAMES}."


def _lines_as_names(file: Path) -> Mapping[int, str]:
    return dict(enumerate(line.strip() for line in plain_text.read(file).strip().splitlines()))


def _notes_as_names(file: Path) -> Mapping[int, str]:
    try:
        categories = json.loads(plain_text.read(file))["categories"]
        return {int(entry["id"]): str(entry["name"]) for entry in categories}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}  # another program's notes


def _outermost(folders: Sequence[str]) -> list[str]:
    """The folders that lie in no other of them."""
    return [
        folder
        for folder in folders
        if not any(folder != other and join(folder, "").startswith(join(other, "")) for other in folders)
    ]

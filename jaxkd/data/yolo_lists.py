"""The pictures of a YOLO split, from folders and list files, and the label file of each."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jaxkd.data import files, plain_text
from jaxkd.data.base import evenly_spaced
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError

MAX_LIST_BYTES = 2**28  # of a list of pictures
SAMPLE = 200  # lines of a list that tell what they are relative to
TWINS = {"images": "labels", "Images": "Labels", "IMAGES": "LABELS"}  # the folder of the labels by that of the pictures


def pictures_of(paths: Sequence[Path], root: Path, repairs: Repairs) -> list[str]:
    """The absolute paths of the pictures in folders and list files, each once, in order.

    Args:
      paths: folders, searched with all below; and files that list a picture a line.
      root: folder that lines of lists may be relative to.
      repairs: counts pictures that are listed again or in a format that is not read.

    Raises:
      DataError: where a list cannot be read, or there is no picture at all.
    """
    found: list[str] = []
    for path in paths:
        found += _in_folder(path, repairs) if path.is_dir() else _in_list(path, root, repairs)
    repeated = [name for name, count in Counter(found).items() if count > 1]
    repairs.add("files_listed_again", len(found) - len(set(found)), example=repeated[0] if repeated else "")
    if not found:
        raise DataError(f"{paths[0]} holds no picture; correct the path of the pictures.")
    return list(dict.fromkeys(found))


def labels_of(pictures: Sequence[str], repairs: Repairs) -> list[str]:
    """The label file of each picture, "" where there is none: then all of it is background.

    Raises:
      DataError: where no picture has one.
    """
    labels = existing_labels(pictures)
    if not any(labels):
        raise DataError(
            f"None of {len(pictures)} pictures has a label file; the first was looked for at "
            f"{label_of(pictures[0], os.path.exists)}: put the labels there."
        )
    missing = [picture for picture, label in zip(pictures, labels, strict=True) if not label]
    repairs.add("labels_missing", len(missing), example=missing[0] if missing else "")
    shared = {label: count for label, count in Counter(filter(None, labels)).items() if count > 1}
    repairs.add("labels_shared", sum(shared.values()), example=next(iter(shared), ""))
    return labels


def existing_labels(pictures: Sequence[str]) -> list[str]:
    """The label file of each picture, "" where there is none."""
    candidates = (label_of(picture, os.path.exists) for picture in pictures)
    return [label if os.path.exists(label) else "" for label in candidates]


def label_of(picture: str, exists: Callable[[str], bool]) -> str:
    """The label file of a picture: below labels/ in place of the last images/, or else the .txt beside it.

    `exists` tells which of the two is there; the first where neither is.
    """
    stem = os.path.splitext(picture)[0]
    parts = stem.split("/")
    last = max((index for index, part in enumerate(parts[:-1]) if part in TWINS), default=-1)
    beside = f"{stem}.txt"
    if last < 0:
        return beside
    twin = f"{'/'.join([*parts[:last], TWINS[parts[last]], *parts[last + 1 :]])}.txt"
    return beside if not exists(twin) and exists(beside) else twin


def count_unused(folders: Sequence[Path], labels: Sequence[str], repairs: Repairs) -> None:
    """Counts the label files of whole folders of pictures that belong to no picture."""
    used, unused = set(labels), []
    for folder in folders:
        twin = Path(label_of(os.path.join(os.path.abspath(folder), "x"), lambda _: False)).parent
        if twin == Path(os.path.abspath(folder)):
            continue  # labels beside the pictures, with other text files
        below = (os.path.join(parent, name) for parent, _, names in os.walk(twin) for name in sorted(names))
        unused += [file for file in below if file.endswith(".txt") and file not in used]
    repairs.add("labels_without_pictures", len(unused), example=unused[0] if unused else "")


def _in_folder(folder: Path, repairs: Repairs) -> Iterator[str]:
    """The pictures in and below a folder."""
    found = files.expand_folders(
        [folder], on_unsupported=lambda message: repairs.add("pictures_unsupported", example=message.partition(",")[0])
    )
    return (os.path.abspath(path) for path in map(str, found) if not os.path.isdir(path))


def _in_list(file: Path, root: Path, repairs: Repairs) -> list[str]:
    """The pictures that a file lists: lines with "./" are relative to it, others to `root` or, in vain, to it."""
    lines = [line.strip().strip("\"'") for line in plain_text.read(file, limit=MAX_LIST_BYTES).splitlines()]
    lines = [line for line in lines if line]
    with_backslashes = [line for line in lines if "\\" in line]
    repairs.add("names_with_backslashes", len(with_backslashes), example=next(iter(with_backslashes), ""))
    lines = [line.replace("\\", "/") for line in lines]
    own, others = [], []
    for line in lines:
        (own if line.startswith("./") else others).append(line)
    bases = list(dict.fromkeys((root, file.parent, file.parent.parent)))
    resolve = {True: _resolver(own, [file.parent, *bases]), False: _resolver(others, bases)}
    return [resolve[line.startswith("./")](line) for line in lines]


def _resolver(lines: Sequence[str], bases: Sequence[Path]) -> Callable[[str], str]:
    """The way to a path by which most lines exist: below one of the bases, as written or without the first folder."""

    def way(base: Path, pattern: str) -> Callable[[str], str]:
        return lambda line: os.path.abspath(base / re.sub(pattern, "", line))

    ways = [way(base, pattern) for pattern, base in itertools.product((r"^\./", r"^(\./)?[^/]+/"), bases)]
    sample = [lines[index] for index in evenly_spaced(len(lines), SAMPLE)] if lines else []
    return max(ways, key=lambda resolve: sum(os.path.exists(resolve(line)) for line in sample))

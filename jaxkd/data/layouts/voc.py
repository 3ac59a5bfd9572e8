"""Pascal VOC: folders of Annotations and JPEGImages with lists of splits or without, and XML beside pictures."""

import dataclasses
import re
from collections.abc import Sequence

from jaxkd.config import component
from jaxkd.data import plain_text, plain_xml
from jaxkd.data.layouts.base import SPLITS, Dataset, Tree, base, join, parent, split_of
from jaxkd.data.voc_files import ANNOTATIONS, LISTS
from jaxkd.errors import DataError


@dataclasses.dataclass(frozen=True)
class _Folder:
    """A folder of annotations."""

    name: str  # in the tree: the folder that holds Annotations, or the XML itself
    annotations: tuple[str, ...]  # XML files
    lists: frozenset[str]  # names of its lists


def evidence(tree: Tree) -> Dataset | None:
    """The data set of the VOC annotations in a tree; None where there is none.

    Raises:
      DataError: where folders of annotations lie at several depths, or an annotation cannot be read.
    """
    folders = [] if tree.given else _folders(tree)
    if not folders:
        return None
    parents = sorted({parent(folder.name) if folder.name else "" for folder in folders})
    if len(parents) > 1:
        raise DataError(
            f"{tree.path(parents[0])} and {tree.path(parents[1])} both hold folders of VOC annotations; give one."
        )
    root, notes = parents[0], []
    splits: dict[str, list[str]] = {}
    for folder in folders:
        for split, name in _splits(tree, folder, notes).items():
            splits.setdefault(split, []).append(name if name.endswith("/") else _as_listed(folder.name, name))
    if "" in splits:
        unsorted = splits.pop("")
        if splits:
            notes += [f"{name} belongs to no split by its name, so it is passed over." for name in unsorted]
        else:
            splits["train"] = unsorted
    names = [name for folder in folders for file in folder.annotations for name in _names(tree, file)]
    classes = tuple(sorted(set(names)))
    return Dataset(
        format="voc",
        splits={
            split: component("data.voc", root=str(tree.path(root)), splits=tuple(splits[split]), classes=classes)
            for split in SPLITS
            if split in splits
        },
        classes=classes,
        assumptions=tuple(notes),
        count=lambda: len(names),
    )


def _folders(tree: Tree) -> list[_Folder]:
    """The folders that hold annotations of VOC, sorted."""
    by_folder: dict[str, list[str]] = {}
    for name in tree.with_suffix(".xml"):
        by_folder.setdefault(parent(name), []).append(name)
    found = []
    for folder, files in by_folder.items():
        if re.search(rb"<annotation[\s>]", tree.head(files[0])):
            holder = parent(folder) if folder and base(folder).lower() in ANNOTATIONS else folder
            lists = frozenset(
                base(name)[:-4] for name in tree.files_in(join(holder, LISTS)) if name.lower().endswith(".txt")
            )
            found.append(_Folder(holder, tuple(files), lists))
    return sorted(found, key=lambda folder: folder.name)


def _splits(tree: Tree, folder: _Folder, notes: list[str]) -> dict[str, str]:
    """The list of each split of a folder; of a folder without lists all of it, "" where its name tells no split."""
    below = f"{base(folder.name)}/" if folder.name else "./"
    if not folder.lists:
        return {split_of(folder.name): below}
    splits = {split: split for split in SPLITS if split in folder.lists}
    if "test" in splits and not _has_annotations(tree, folder, splits["test"]):
        notes.append(f"No picture of {below}{LISTS}/test.txt has an annotation, so there is no test.")
        del splits["test"]
    if "trainval" in folder.lists and not {"train", "val"} <= splits.keys():
        splits = {split: name for split, name in splits.items() if split == "test"} | {"train": "trainval"}
    if not splits:
        named = ", ".join(sorted(folder.lists))
        notes.append(f"The lists of {below} ({named}) tell no split, so all its annotations are taken.")
        return {split_of(folder.name): below}
    return splits


def _has_annotations(tree: Tree, folder: _Folder, listed: str) -> bool:
    """Whether a picture of a list has an annotation; those of VOC's test lists are not always published."""
    text = plain_text.read(tree.path(join(folder.name, f"{LISTS}/{listed}.txt")))
    stems = {base(file)[: -len(".xml")] for file in folder.annotations}
    return any(words[0] in stems for words in map(str.split, text.splitlines()) if words)


def _as_listed(folder: str, name: str) -> str:
    """A list of a folder as a split of `data.voc`."""
    return f"{base(folder)}/{name}" if folder else name


def _names(tree: Tree, file: str) -> Sequence[str]:
    """The class names of an annotation's objects."""
    found = (element.findtext("name") or "" for element in plain_xml.read(tree.path(file)).findall("object"))
    return [name.strip() for name in found]

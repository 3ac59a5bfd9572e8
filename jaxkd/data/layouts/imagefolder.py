"""Hugging Face's data sets on disk: metadata.jsonl, .csv or .parquet beside pictures, or parquet files with them."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from jaxkd.config import component
from jaxkd.data import hugging_face, shards
from jaxkd.data.layouts.base import SPLITS, Dataset, Tree, base, parent, split_of
from jaxkd.errors import DataError


@dataclasses.dataclass(frozen=True)
class _Part:
    """A split."""

    root: str  # folder of the data set, in the tree
    name: str  # the field `split` of the source
    categories: tuple[int | str, ...]  # of all objects
    declared: tuple[str, ...]  # class names that the data set has for its numbers


def evidence(tree: Tree) -> Dataset | None:
    """The data set of the metadata or parquet files in a tree, or of the one that was given; None where there is none.

    Files without boxes, as those of classification or captions, are none of this layout.

    Raises:
      DataError: where a file with boxes cannot be read, or two folders are one split.
    """
    parts: dict[str, _Part] = {}
    for split, part in [*_metadata(tree), *_shards(tree)]:
        if split in parts:
            raise DataError(
                f"{tree.root} has the split {split or 'train'!r} twice, as {parts[split].name!r} and {part.name!r}; "
                "put train, val or test into the names, or give one of the folders."
            )
        parts[split] = part
    notes = []
    if "" in parts and len(parts) > 1:
        notes.append(
            f"{parts.pop('').name or 'The metadata at the top'} belongs to no split by its name, so it is passed over."
        )
    if not parts:
        return None
    parts = {split or "train": part for split, part in parts.items()}
    classes, listed = _classes(list(parts.values()))
    if classes and not listed and all(isinstance(category, int) for category in _all(parts.values())):
        notes.append("Nothing names the classes; they are called by their numbers, so a teacher's match none of them.")
    return Dataset(
        format="imagefolder",
        splits={
            split: component(
                "data.imagefolder",
                root=str(tree.path(parts[split].root)),
                split=parts[split].name,
                classes=() if listed else classes,
            )
            for split in SPLITS
            if split in parts
        },
        classes=classes,
        assumptions=tuple(notes),
        count=lambda: sum(len(part.categories) for part in parts.values()),
    )


def _metadata(tree: Tree) -> Iterable[tuple[str, _Part]]:
    """The folders with a metadata file of boxes, by their split."""
    found = [tree.given] if tree.given else [name for name in tree.named(*hugging_face.METADATA) if name in tree.files]
    for name in found:
        if base(name).lower() in hugging_face.METADATA and _has_boxes(tree, name):
            folder = parent(name)
            rows = hugging_face.read_metadata(tree.path(name))
            declared = hugging_face.names_of_readme(tree.root)
            yield split_of(folder), _Part("", folder, tuple(item for row in rows for item in row.categories), declared)


def _has_boxes(tree: Tree, name: str) -> bool:
    if name.lower().endswith(".parquet"):
        return "objects" in shards.column_names(tree.path(name))
    return b"objects" in (head := tree.head(name)) and b"bbox" in head


def _shards(tree: Tree) -> Iterable[tuple[str, _Part]]:
    """The sets of parquet files with pictures and boxes, by their split."""
    found = [tree.given] if tree.given else tree.with_suffix(".parquet")
    sets: dict[tuple[str, str], list[Path]] = {}
    for name in found:
        if not name.lower().endswith(".parquet") or base(name).lower() in hugging_face.METADATA:
            continue
        if {"image", "objects"} <= set(shards.column_names(tree.path(name))):
            sets.setdefault(_root_and_split(name), []).append(tree.path(name))
    for (root, split), files in sets.items():
        declared = shards.names_of(files[0]) or hugging_face.names_of_readme(tree.path(root))
        yield split_of(split), _Part(root, split, shards.categories(files), declared)


def _root_and_split(name: str) -> tuple[str, str]:
    """The folder of the data set and the split of a file: data/train-00000-of-00001.parquet, or train/0000.parquet."""
    folder, stem = parent(name), base(name).rpartition(".")[0]
    prefix = re.sub(r"-\d+(-of-\d+.*)?$", "", stem)
    if split_of(prefix) or not folder:
        return (parent(folder) if base(folder) == "data" else folder), prefix
    return parent(folder), base(folder)


def _classes(parts: list[_Part]) -> tuple[tuple[str, ...], bool]:
    """The classes of all splits, and whether the data set lists them itself."""
    categories, declared = _all(parts), parts[0].declared
    names = [category for category in categories if isinstance(category, str)]
    if declared and set(names) <= set(declared) and all(part.declared == declared for part in parts):
        return declared, True
    if names:
        return tuple(sorted(set(names))), False
    numbers = [category for category in categories if isinstance(category, int)]
    return tuple(str(number) for number in range(max(numbers, default=-1) + 1)), False


def _all(parts: Iterable[_Part]) -> list[int | str]:
    return [category for part in parts for category in part.categories]

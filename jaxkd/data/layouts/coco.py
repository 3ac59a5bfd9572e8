"""COCO: .json files with images, annotations and categories, a split each, and the folders of their pictures."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from jaxkd import phrases
from jaxkd.config import component
from jaxkd.data import coco_file, names
from jaxkd.data.layouts.base import SPLITS, Dataset, Tree, base, join, parent, split_of
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError

SAMPLE = 200  # file names that tell the folder of the pictures
ENOUGH = 0.95  # share of them that has to be there
FOLDERS = ("images", "data", "jpegimages")  # where pictures lie, in lower case
MAX_FOLDERS = 100  # folders of pictures that are tried, where none of the usual ones has them
# Beginnings of the names of files that describe the pictures of instances_*.json once more, for other tasks.
OTHER_TASKS = ("person_keypoints", "captions", "stuff", "panoptic", "image_info")
FIRST = ("instances", "_annotations.coco")  # beginnings of the names that are taken before others


@dataclasses.dataclass(frozen=True)
class _File:
    """A COCO file with boxes."""

    name: str  # in the tree
    pictures: tuple[str, ...]  # the first file names
    classes: tuple[str, ...]
    objects: int
    notes: tuple[str, ...]


def evidence(tree: Tree) -> Dataset | None:
    """The data set of the COCO files in a tree, or of the one that was given; None where there is none.

    Raises:
      DataError: where two files describe one split, or the pictures of a file are not found.
    """
    if tree.given:
        candidates = {"train": [tree.given]} if _looks_right(tree, tree.given) else {}
    else:
        candidates = _by_split([name for name in tree.with_suffix(".json") if _looks_right(tree, name)])
    notes: list[str] = []
    unnamed = candidates.pop("", [])
    files = {split: file for split in candidates if (file := _choose(tree, candidates[split], notes))}
    if files:
        notes += [f"{name} belongs to no split by its name, so it is passed over." for name in unnamed]
    elif file := _choose(tree, unnamed, notes):
        files = {"train": file}
    else:
        return None
    folders = {split: _folder(tree, file, split) for split, file in files.items()}
    classes = _union([files[split].classes for split in SPLITS if split in files])
    differ = any(set(file.classes) != set(classes) for file in files.values())
    if differ:
        notes.append("The splits list different classes; all have the classes of all, matched by name.")
    return Dataset(
        format="coco",
        splits={
            split: component(
                "data.coco",
                images=str(folders[split]),
                annotations=str(tree.path(files[split].name)),
                classes=classes if differ else (),
            )
            for split in SPLITS
            if split in files
        },
        classes=classes,
        assumptions=(*notes, *dict.fromkeys(note for file in files.values() for note in file.notes)),
        count=lambda: sum(file.objects for file in files.values()),
    )


def _looks_right(tree: Tree, name: str) -> bool:
    """Whether a file begins as a JSON object with images or annotations."""
    head = tree.head(name).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(b"{") and bool(re.search(rb'"(images|annotations)"\s*:', head))


def _by_split(found: Sequence[str]) -> dict[str, list[str]]:
    """The files by the split that their names tell, "" for those that tell none."""
    files: dict[str, list[str]] = {}
    for name in found:
        files.setdefault(split_of(name), []).append(name)
    return files


def _rank(name: str) -> int:
    """The order in which files of one split are taken."""
    start = base(name).lower()
    return 0 if start.startswith(FIRST) else 2 if start.startswith(OTHER_TASKS) else 1


def _choose(tree: Tree, candidates: Sequence[str], notes: list[str]) -> _File | None:
    """The file of a split among several, None where none has boxes; what is passed over is added to `notes`."""
    for rank in range(3):
        files = [file for name in candidates if _rank(name) == rank and (file := _read(tree, name, notes))]
        if len(files) > 1:
            listed = phrases.listed([str(tree.path(file.name)) for file in files[:2]])
            raise DataError(
                f"{listed} both are COCO files of one split by their names; put train, val or test into the names, or "
                "move one out of the folder."
            )
        if files:
            passed_over = [name for name in candidates if _rank(name) > rank]
            notes += [f"{name} is passed over for {base(files[0].name)}." for name in passed_over]
            return files[0]
    return None


def _read(tree: Tree, name: str, notes: list[str]) -> _File | None:
    """A COCO file; None where it is none or has no boxes, which is added to `notes`."""
    file = tree.path(name)
    content = coco_file.read(file)
    images, annotations = content.get("images"), content.get("annotations")
    if not (isinstance(images, list) and images and isinstance(images[0], dict) and "file_name" in images[0]):
        return None
    if not any(isinstance(entry, dict) and "bbox" in entry for entry in annotations or ()):
        notes.append(f"{name} has no bbox in its annotations, so it is passed over.")
        return None
    annotations = coco_file.annotation_list(content, file)
    repairs = Repairs(str(file))
    categories = coco_file.categories(content, annotations, file, repairs, groups="auto")
    pictures = tuple(image["file_name"] for image in coco_file.images(content | {"images": images[:SAMPLE]}, file))
    return _File(name, pictures, tuple(categories.values()), len(annotations), tuple(repairs.sentences()))


def _folder(tree: Tree, file: _File, split: str) -> Path:
    """The folder of a file's pictures; DataError where none has enough of them."""
    shares = {}
    for folder in dict.fromkeys(_folders(tree, file.name, split)):
        shares[folder] = names.share_found(file.pictures, tree.path(folder))
        if shares[folder] >= ENOUGH:
            return tree.path(folder)
    best = max(shares, key=lambda folder: shares[folder])
    there = f"{tree.path(best)} has {shares[best]:.0%} of them" if shares[best] else f"none is below {tree.root}"
    raise DataError(
        f"The pictures of {tree.path(file.name)} are not found: of its first {len(file.pictures)} file names, such as "
        f"{file.pictures[0]!r}, {there}; put the pictures there, or correct the names."
    )


def _folders(tree: Tree, file: str, split: str) -> list[str]:
    """Where the pictures of a file may be, the likeliest first."""
    stem = base(file).lower()
    folders, place = [parent(file)], parent(file)
    while True:
        below = [folder for folder in tree.folders if parent(folder) in (place, join(place, "images")) and folder]
        of_split = [folder for folder in below if split_of(base(folder)) == split]
        folders += sorted(of_split, key=lambda folder: base(folder).lower() not in stem)
        folders += [found for name in FOLDERS if (found := tree.find(join(place, name))) in tree.folders and found]
        folders.append(place)
        if not place:
            break
        place = parent(place)
    others = (folder for folder in tree.folders if tree.pictures_in(folder))
    return folders + [folder for _, folder in zip(range(MAX_FOLDERS), others, strict=False)]


def _union(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """All names of several lists, in the order of the first that has them."""
    return tuple(dict.fromkeys(name for names in lists for name in names))

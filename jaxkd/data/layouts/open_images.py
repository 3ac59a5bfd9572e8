"""Open Images: *-annotations-bbox.csv, class-descriptions*.csv and folders of pictures named by their ids."""

from collections import Counter
from collections.abc import Mapping

from jaxkd.config import component
from jaxkd.data import open_images
from jaxkd.data.layouts.base import SPLITS, Dataset, Tree, base, split_of
from jaxkd.errors import DataError

NAMES = ("class-descriptions", "classes.csv")  # beginnings of the names of the file that names the labels


def evidence(tree: Tree) -> Dataset | None:
    """The data set of the CSV files of boxes in a tree, or of the one that was given; None where there is none.

    Raises:
      DataError: where two files are one split, or none has a folder of pictures.
    """
    files: dict[str, str] = {}
    for name in [tree.given] if tree.given else tree.with_suffix(".csv"):
        if not _looks_right(tree, name):
            continue
        split = split_of(name) or "train"
        if split in files:
            raise DataError(
                f"{tree.path(files[split])} and {tree.path(name)} are both of the split {split!r}; move one out."
            )
        files[split] = name
    if not files:
        return None
    folders = {split: folder for split, name in files.items() if (folder := _folder(tree, name, split)) is not None}
    without = [name for split, name in files.items() if split not in folders]
    notes = [f"{name} has no folder of pictures, so it is passed over." for name in without]
    splits = [split for split in SPLITS if split in folders]
    if not splits:
        name = next(iter(files.values()))
        raise DataError(f"No folder in {tree.root} has pictures of {name}, such as train/ID.jpg; put them there.")
    names = _names_file(tree)
    if not names:
        notes.append("No class-descriptions*.csv names the labels, so they are their own names.")
    counts = {split: open_images.count_labels(tree.path(files[split]), tree.path(folders[split])) for split in splits}
    classes = _classes(tree, names, counts)
    return Dataset(
        format="open_images",
        splits={
            split: component(
                "data.open_images",
                annotations=str(tree.path(files[split])),
                images=str(tree.path(folders[split])),
                names=str(tree.path(names)) if names else "",
                classes=classes,
            )
            for split in splits
        },
        classes=classes,
        assumptions=tuple(notes),
        count=lambda: sum(sum(labels.values()) for labels in counts.values()),
    )


def _looks_right(tree: Tree, name: str) -> bool:
    """Whether the first line of a file has the columns of boxes."""
    first = tree.head(name).removeprefix(b"\xef\xbb\xbf").splitlines()[:1]
    header = {column.strip() for line in first for column in line.decode(errors="replace").split(",")}
    return header >= set(open_images.COLUMNS)


def _folder(tree: Tree, file: str, split: str) -> str | None:
    """The folder of a split's pictures: of those with its word the one with the most; else the only folder there is."""
    counts = {folder: len(found) for folder in tree.folders if (found := tree.pictures_in(folder))}
    of_split = [folder for folder in counts if split_of(folder) == split]
    if not of_split and not split_of(file) and len(counts) == 1:
        of_split = list(counts)
    return max(of_split, key=lambda folder: counts[folder], default=None)


def _names_file(tree: Tree) -> str:
    """The file that names the labels, that of the classes with boxes first; "" where there is none."""
    found = [name for name in tree.with_suffix(".csv") if base(name).lower().startswith(NAMES)]
    return min(found, key=lambda name: ("boxable" not in name.lower(), name), default="")


def _classes(tree: Tree, names: str, counts: Mapping[str, Counter[str]]) -> tuple[str, ...]:
    """The names of the labels of all splits, sorted; a label without a name is its own."""
    name_of = open_images.read_names(tree.path(names)) if names else {}
    return tuple(sorted({name_of.get(label, label) for labels in counts.values() for label in labels}))

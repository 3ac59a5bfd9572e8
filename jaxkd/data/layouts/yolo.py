"""YOLO: a data.yaml or obj.data that names splits and classes, or a bare folder of pictures with label files."""

from pathlib import Path

import numpy as np

from jaxkd.config import component
from jaxkd.data import yolo_files, yolo_labels, yolo_lists
from jaxkd.data.layouts.base import Dataset, Tree
from jaxkd.data.repairs import Repairs
from jaxkd.data.yolo_files import Description

GIVEN = (".yaml", ".yml", ".data")  # suffixes of files that describe a set


def with_description(tree: Tree) -> Dataset | None:
    """The data set of the data.yaml or obj.data that was given or is nearest to the root; None without one."""
    file = tree.given if tree.given.lower().endswith(GIVEN) else "" if tree.given else yolo_files.top_file(tree)
    return _dataset(yolo_files.describe(tree.path(file)), tree.path(file)) if file else None


def bare(tree: Tree) -> Dataset | None:
    """The data set of a folder whose pictures have label files, without a data.yaml; None without such pictures."""
    if tree.given or not yolo_files.labelled_folders(tree):
        return None
    return _dataset(yolo_files.describe_folder(tree), tree.root)


def _dataset(description: Description, path: Path) -> Dataset:
    notes = [f"{text!r} is not there as it is written; {place} is taken." for text, place in description.moved.items()]
    notes += [f"There is no {text!r}, so there is no {split}." for split, text in description.missing.items()]
    notes += description.notes
    splits = dict(description.splits)
    if "train" in splits and splits["train"] == splits.get("val"):
        notes.append("train and val are the same pictures, so scores will be too good.")
    if "test" in splits and not any(_labels(description, "test")):
        notes.append("No picture of test has a label file, so there is no test.")
        del splits["test"]
    classes = tuple(description.names.values())
    numbers = () if classes else _numbers_as_names(description)
    return Dataset(
        format="yolo",
        splits={split: component("data.yolo", data=str(path), split=split, classes=numbers) for split in splits},
        classes=classes or numbers,
        assumptions=tuple(notes),
        count=lambda: len(_ids(description)),
    )


def _labels(description: Description, split: str) -> list[str]:
    """The label files of a split, of pictures without one ""."""
    repairs = Repairs("")  # the source counts them again when it is loaded
    pictures = yolo_lists.pictures_of(description.splits[split], description.root, repairs)
    return yolo_lists.existing_labels(pictures)


def _ids(description: Description) -> np.ndarray:
    """The class numbers of all rows."""
    labels = [label for split in description.splits for label in _labels(description, split)]
    return yolo_labels.read(labels, keypoints=description.keypoints).ids


def _numbers_as_names(description: Description) -> tuple[str, ...]:
    """The numbers of the classes up to the greatest in the label files."""
    return tuple(str(number) for number in range(int(_ids(description).max(initial=-1)) + 1))

"""From a folder of annotated pictures, or a file of one, to the sources that read it."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxkd import phrases
from jaxkd.config import closest
from jaxkd.data.layouts import coco, imagefolder, open_images, refused, voc, yolo
from jaxkd.data.layouts.base import MAX_DEPTH, MAX_ENTRIES, SPLITS, Dataset, Tree, is_picture, walk
from jaxkd.errors import ConfigError, DataError

# What finds each format, the most trusted first; a format may come again.
LAYOUTS: tuple[tuple[str, Callable[[Tree], Dataset | None]], ...] = (
    ("yolo", yolo.with_description),
    ("coco", coco.evidence),
    ("voc", voc.evidence),
    ("imagefolder", imagefolder.evidence),
    ("open_images", open_images.evidence),
    ("yolo", yolo.bare),
)
FORMATS = tuple(dict.fromkeys(name for name, _ in LAYOUTS))
TITLES: Mapping[str, str] = {
    "coco": "COCO",
    "yolo": "YOLO",
    "voc": "Pascal VOC",
    "imagefolder": "Hugging Face",
    "open_images": "Open Images",
}
WANTED = (
    "a data.yaml, COCO's .json with images and annotations, Pascal VOC's .xml, Hugging Face's metadata.jsonl or "
    "parquet files, Open Images' annotations-bbox.csv, or a .txt of boxes for each picture (YOLO)"
)


def recognise(path: Path, *, format: str = "") -> Dataset:
    """The format, splits and classes of a folder, or of a file such as a data.yaml; no picture is decoded.

    Args:
      path: the folder or file.
      format: one of FORMATS where only that is meant; "" tries all, the most trusted first.

    What was assumed or passed over is in the `assumptions` of the result. It always has a split "train".

    Raises:
      ConfigError: for an unknown format.
      DataError: where there is no such folder, nothing in it is recognised, what is cannot be used, or two formats have
        unequal numbers of objects.
    """
    if format and format not in FORMATS:
        raise ConfigError(f"There is no format {format!r}{closest(format, set(FORMATS))}.")
    tree = walk(path)
    dataset, others = _found(tree, format)
    if dataset is None:
        raise _not_found(tree, path, format)
    notes = [*dataset.assumptions, *(_compared(dataset, other, path) for other in others)]
    if not tree.complete:
        notes.append(f"{path} has more than {MAX_ENTRIES} files and folders; the others were not looked at.")
    return dataclasses.replace(_with_train(dataset, path, notes), assumptions=tuple(notes))


def _found(tree: Tree, format: str) -> tuple[Dataset | None, list[Dataset | DataError]]:
    """The first data set by trust, None without one, and what other formats give; raises what the first one raises."""
    results: dict[str, Dataset | DataError] = {}
    for name, evidence in LAYOUTS:
        if name in results or format not in ("", name):
            continue
        try:
            found = evidence(tree)
        except DataError as error:
            found = error
        if isinstance(found, DataError) and not results:
            raise found
        if found is not None:
            results[name] = found
    first, *others = results.values() or [None]
    assert not isinstance(first, DataError)
    return first, [other for other in others if other is not None]


def _compared(dataset: Dataset, other: Dataset | DataError, path: Path) -> str:
    """A sentence on another format that is passed over; raises DataError where its number of objects differs."""
    taken = TITLES[dataset.format]
    if isinstance(other, DataError):
        return f"It is taken as {taken}; another format cannot be read: {other}"
    counts = [each.count() if each.count else None for each in (dataset, other)]
    if None not in counts and counts[0] != counts[1]:
        raise DataError(
            f"{path} has annotations in two formats, {counts[0]} objects as {taken} and {counts[1]} as "
            f"{TITLES[other.format]}; say which is meant: --format={dataset.format} or --format={other.format}."
        )
    numbers = f" with the same {phrases.counted(counts[0], 'object')}" if counts[0] is not None else ""
    return f"It is taken as {taken}; annotations as {TITLES[other.format]}{numbers} are passed over."


def _with_train(dataset: Dataset, path: Path, notes: list[str]) -> Dataset:
    """The data set with a split "train": its only split, where that is another; the change is added to `notes`."""
    if "train" in dataset.splits:
        return dataset
    if len(dataset.splits) != 1:
        named = phrases.listed([split for split in SPLITS if split in dataset.splits]) or "no split"
        raise DataError(f"{path} has {named} and no train; add training pictures, or put train into a name.")
    ((split, source),) = dataset.splits.items()
    notes.append(f"There is only {split}, so it is taken for training.")
    return dataclasses.replace(dataset, splits={"train": source})


def _not_found(tree: Tree, path: Path, format: str) -> DataError:
    """The error where nothing is recognised: what was looked for, and what is there instead."""
    if words := refused.reason(tree):
        return DataError(f"{path} {words}.")
    if tree.given:
        return DataError(f"{path} describes no annotated pictures; give {WANTED}, or the folder of one.")
    pictures = sum(map(is_picture, tree.files))
    other = {suffix: len(tree.with_suffix(suffix)) for suffix in (".json", ".xml", ".txt", ".csv", ".yaml")}
    there = [phrases.counted(pictures, "picture")]
    there += [f"{number} {suffix}" for suffix, number in other.items() if number]
    meant = f"as {TITLES[format]} " if format else ""
    looked = "below it" if pictures else f"in it and {MAX_DEPTH} levels below"
    return DataError(
        f"{path} is not recognised {meant}as annotated pictures: there are {phrases.listed(there)} {looked}; wanted is "
        f"{WANTED}."
    )

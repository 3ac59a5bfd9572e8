"""One part of a data set without a validation split of its own, as split.json divides it; and the plan of that file."""

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxkd import storage
from jaxkd.data import coco, grouping, near_duplicates, plain_text
from jaxkd.data.base import Record, Source, Subset, check_text, load_inner, short_repr
from jaxkd.data.ids import as_int
from jaxkd.data.near_duplicates import Thumbnails
from jaxkd.errors import DataError
from jaxkd.json_values import dumps
from jaxkd.paths import PathText, path_of
from jaxkd.phrases import counted, listed, some
from jaxkd.ranges import Natural

PICTURES = 1000  # for validation, where that is a share between the least and the greatest one
LEAST_SHARE, GREATEST_SHARE = 0.1, 0.25
LEAST, MOST = 40, 2000  # pictures for validation
MAX_BYTES = 2**28  # of split.json; a million names take a tenth of it
NOTHING = -1  # stands for the class of a picture without an object
Part = Literal["train", "val"]
PARTS: tuple[Part, ...] = ("train", "val")
AGAIN = "delete the file to have the data split again"


@dataclasses.dataclass(frozen=True)
class Config:
    """The pictures of another source that split.json names for one part."""

    source: Any = dataclasses.field(default_factory=coco.Config)
    """The data source that is divided, a component."""
    file: PathText = "split.json"
    """The file that names the pictures of both parts, as `load_or_plan` writes it."""
    part: Part = "train"
    """The part to take."""
    limit: Natural = 0
    """Only the first pictures of the part; 0 for all."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Which pictures are for training and which for validation, by their names in the source, and why."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    seed: int = 0
    together: Mapping[str, int] = dataclasses.field(default_factory=dict)  # pictures by the reason why they are kept so
    cut: int = 0  # pictures of a group of more than half of all, which both parts have
    only_train: tuple[str, ...] = ()  # classes without an object in val

    def sentences(self) -> list[str]:
        """What was decided, for the user: one sentence each."""
        total = len(self.train) + len(self.val)
        lines = [f"{len(self.val)} of {counted(total, 'picture')} are held out for validation, by seed {self.seed}."]
        if self.together:
            reasons = listed([f"{count} {reason}" for reason, count in self.together.items()])
            lines.append(f"Pictures that belong together are in one part: {reasons}.")
        if self.cut:
            lines.append(
                f"{self.cut} pictures belong together and are too many for one part, so both have some; scores will be "
                "too good."
            )
        if self.only_train:
            noun = "class is" if len(self.only_train) == 1 else "classes are"
            lines.append(f"{len(self.only_train)} {noun} in train alone and cannot be scored: {some(self.only_train)}.")
        return lines


def load(config: Config) -> Subset:
    """The source of one part; the full source is loaded for it.

    Raises:
      ConfigError: where the inner component is no data source.
      DataError: where the file is missing or no split, or names other pictures than the source has.
    """
    source = load_inner(config.source, of="data.split")
    return part_of(source, _read_for(source, path_of(config.file)), part=config.part, limit=config.limit)


def part_of(source: Source, split: Split, *, part: Part, limit: int = 0) -> Subset:
    """The pictures of one part, the first `limit` of them, or with 0 all."""
    chosen = set(split.train if part == "train" else split.val)
    indices = [index for index, record in enumerate(source.records) if record.file in chosen]
    return Subset(source, indices[:limit] if limit else indices)


def _read_for(source: Source, file: Path) -> Split:
    """The split in a file; DataError where it names other pictures than the source has."""
    split = read(file)
    _check_names(split, [record.file for record in source.records], file)
    return split


def load_or_plan(file: Path, source: Source, *, seed: int) -> Split:
    """The split in a file, as it is; where there is no file, one is planned from all pictures and written.

    Raises:
      DataError: where the file is no split, or names other pictures than the source has, or none can be held out.
      StorageError: where the file cannot be written.
    """
    if file.exists():
        return _read_for(source, file)
    split = plan_split(source.records, near_duplicates.thumbnails(source), seed=seed, classes=source.classes)
    write(file, split)
    return split


def plan_split(records: Sequence[Record], thumbnails: Thumbnails, *, seed: int, classes: Sequence[str]) -> Split:
    """A division into training and validation that depends on the names, the pictures and the seed alone.

    Groups of pictures that belong together (`grouping.groups`) are divided, those with the rarest class first and
    otherwise in an order by the seed; each goes to the part that lacks the most of that class, so that both have every
    class in about the same shares. A class that one group alone has stays in training.

    Args:
      records: of the full source.
      thumbnails: of the records' pictures, see `near_duplicates.thumbnails`.
      seed: of the order.
      classes: names of the labels.

    Raises:
      DataError: where no picture can be held out.
    """
    files = [record.file for record in records]
    wanted = pictures_for_validation(len(files))
    labels, together = grouping.groups(files, thumbnails)
    labels, cut = _cut(labels, files, wanted)
    held_out = _held_out(labels, records, seed=seed, share=wanted / max(len(files), 1))
    if not held_out:
        raise DataError(
            f"None of {counted(len(files), 'picture')} can be held out for validation without a class that is left "
            "nothing to train on; give pictures for validation."
        )
    parts = {True: [], False: []}
    for index in range(len(files)):
        parts[index in held_out].append(index)
    seen, trained = ({label for index in parts[held] for label in _classes_of(records[index])} for held in parts)
    return Split(
        train=tuple(dict.fromkeys(files[index] for index in parts[False])),
        val=tuple(dict.fromkeys(files[index] for index in parts[True])),
        seed=seed,
        together=together,
        cut=cut,
        only_train=tuple(classes[label] for label in sorted(trained - seen - {NOTHING})),
    )


def pictures_for_validation(count: int) -> int:
    """How many of so many pictures are wanted for validation: 10 to 25 %, 40 to 2000, and never more than half."""
    share = float(np.clip(PICTURES / max(count, 1), LEAST_SHARE, GREATEST_SHARE))
    return min(int(np.clip(round(share * count), LEAST, MOST)), count // 2)


def read(file: Path) -> Split:
    """The split in a file; raises DataError where it is missing, or does not name the pictures of two parts."""
    content = _object(file)
    parts = {}
    for part in ("train", "val"):
        names = content.get(part)
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DataError(f"{file} has {part} = {short_repr(names)}; write a list of picture names, or {AGAIN}.")
        parts[part] = tuple(check_text(name, where=f"{file} names the picture") for name in names)
    repeated = [name for name, count in Counter(parts["train"] + parts["val"]).items() if count > 1]
    if repeated:
        raise DataError(f"{file} names {repeated[0]} twice; leave it in one part, or {AGAIN}.")
    together, classes = content.get("together"), content.get("only_train")
    return Split(
        **parts,
        seed=as_int(content.get("seed")) or 0,
        together={str(reason): as_int(count) or 0 for reason, count in together.items()}
        if isinstance(together, dict)
        else {},
        cut=as_int(content.get("cut")) or 0,
        only_train=tuple(map(str, classes)) if isinstance(classes, list) else (),
    )


def write(file: Path, split: Split) -> None:
    """Writes a split, whole or not at all; raises StorageError where that fails."""
    storage.write(file, dumps(split, indent=1) + "\n")


def _held_out(labels: np.ndarray, records: Sequence[Record], *, seed: int, share: float) -> set[int]:
    """The indices of the pictures for validation, whole groups each; `labels` names the group of each picture."""
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels.tolist()):
        members[label].append(index)
    groups = [
        (indices, Counter(label for index in indices for label in _classes_of(records[index])))
        for indices in members.values()
    ]
    pictures = Counter[int]()  # of each class
    for _, counts in groups:
        pictures.update(counts)
    owners = Counter(label for _, counts in groups for label in counts)
    wanted = {label: max(share * count, 1.0) if owners[label] > 1 else 0.0 for label, count in pictures.items()}
    lacking = {True: dict(wanted), False: {label: pictures[label] - count for label, count in wanted.items()}}
    rarest = [min(counts, key=lambda label: (pictures[label], label)) for _, counts in groups]
    ties = [_hash(seed, min(records[index].file for index in indices)) for indices, _ in groups]
    held_out: set[int] = set()
    for place in sorted(range(len(groups)), key=lambda place: (pictures[rarest[place]], rarest[place], ties[place])):
        (indices, counts), label = groups[place], rarest[place]
        held = lacking[True][label] > lacking[False][label]
        held_out.update(indices if held else ())
        for of, count in counts.items():
            lacking[held][of] -= count
    return held_out


def _classes_of(record: Record) -> set[int]:
    """The labels of a picture's objects, or NOTHING alone."""
    return set(record.labels[~record.crowd].tolist()) or {NOTHING}


def _hash(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed} {name}".encode(errors="surrogatepass")).hexdigest()


def _cut(labels: np.ndarray, files: Sequence[str], wanted: int) -> tuple[np.ndarray, int]:
    """The groups, with one of more than half of all pictures cut into runs in the order of names, and its size."""
    sizes = np.bincount(labels, minlength=1)
    largest = int(sizes.argmax())
    if 2 * sizes[largest] <= len(files):
        return labels, 0
    indices = sorted(np.flatnonzero(labels == largest).tolist(), key=lambda index: grouping.numbered(files[index]))
    labels = labels.copy()
    for low in range(0, len(indices), max(wanted, 1)):
        labels[indices[low : low + max(wanted, 1)]] = indices[low]
    return labels, len(indices)


def _object(file: Path) -> dict:
    """The object in a JSON file."""
    try:
        content = json.loads(plain_text.read(file, limit=MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON ({error}); {AGAIN}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds a JSON {type(content).__name__}, and no 'train' and 'val'; {AGAIN}.")
    return content


def _check_names(split: Split, files: Sequence[str], file: Path) -> None:
    """Raises DataError where the split and the data do not have the same pictures."""
    named, there = dict.fromkeys((*split.train, *split.val)), dict.fromkeys(files)
    if gone := [name for name in named if name not in there]:
        raise DataError(
            f"{file} names {counted(len(gone), 'picture')} that the data does not have, the first {gone[0]}; {AGAIN}."
        )
    if new := [name for name in there if name not in named]:
        raise DataError(
            f"{file} leaves {counted(len(new), 'picture')} of the data in no part, the first {new[0]}; {AGAIN}."
        )

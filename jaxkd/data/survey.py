"""What a data set holds, counted before anything is trained on it."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from jaxkd import words
from jaxkd.data import loader, pictures, transforms
from jaxkd.data.base import PictureError, Record, Source, Stored, spaced
from jaxkd.errors import DataError

SMALL, LARGE = 32**2, 96**2  # COCO's bounds of an object's area, in pixels of the original picture
HARD = 16.0  # pixels; smaller objects are rarely found


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Objects by COCO's classes of size: areas below 32x32 pixels, up to 96x96, and from there on."""

    small: int
    medium: int
    large: int


@dataclasses.dataclass(frozen=True)
class ClassCounts:
    """How often a class occurs."""

    objects: int
    crowds: int
    pictures: int  # with an object of it
    sizes: Sizes


@dataclasses.dataclass(frozen=True)
class Spread:
    """Of the sides of pictures, in pixels."""

    least: int
    median: float
    most: int


@dataclasses.dataclass(frozen=True)
class Split:
    """The numbers of one source; what is resized is so as the loader does it.

    Objects are boxes that training takes for some; crowds are the others, VOC's difficult objects among them unless
    they are kept.
    """

    pictures: int
    without_objects: int
    objects: int
    crowds: int
    sizes: Sizes
    classes: dict[str, ClassCounts]
    heights: Spread
    widths: Spread
    most_boxes: int  # on one picture, crowds included, for these take places too
    beyond_max_objects: int  # pictures with more boxes than the loader keeps
    below_one_pixel: int  # objects with a side below one pixel after the resize, which are not learned
    hard_share: float  # of objects whose area is below 16x16 pixels after the resize
    repairs: dict[str, int]
    repaired: tuple[str, ...]  # the same in words, with examples


@dataclasses.dataclass(frozen=True)
class Overlap:
    """File names that occur in two sources, and what the pictures behind some of them are."""

    names: tuple[str, ...]
    looked_at: int
    equal: tuple[str, ...]  # of those looked at, the ones with equal pixels


@dataclasses.dataclass(frozen=True)
class Sample:
    """Evenly spaced records of a source that were opened."""

    readable: tuple[int, ...]
    unreadable: dict[str, str]  # why, by file
    conspicuous: dict[str, str]  # why a picture is dark or flat, by file

    @property
    def opened(self) -> int:
        """The number of pictures that were opened."""
        return len(self.readable) + len(self.unreadable)


def count(source: Source, feeding: loader.Config, *, short: int) -> Split:
    """The numbers of a source with pictures, which the loader brings to the short side `short`; none is opened."""
    records = source.records
    boxes = _joined([record.boxes for record in records], (0, 4))
    labels = _joined([record.labels for record in records], (0,)).astype(int)
    crowd = _joined([record.crowd for record in records], (0,)).astype(bool)
    counts = np.array([len(record.boxes) for record in records])
    owners = np.repeat(np.arange(len(records)), counts)
    resized = boxes * np.repeat(_factors(records, feeding, short=short), counts, axis=0)
    sides = (resized[:, 2:] - resized[:, :2])[~crowd]
    with_objects = np.unique(owners[~crowd])
    areas = _areas(source)
    return Split(
        pictures=len(records),
        without_objects=len(records) - len(with_objects),
        objects=int((~crowd).sum()),
        crowds=int(crowd.sum()),
        sizes=_sizes(areas[~crowd]),
        classes={
            name: ClassCounts(
                objects=int((labels[~crowd] == label).sum()),
                crowds=int((labels[crowd] == label).sum()),
                pictures=len(np.unique(owners[~crowd & (labels == label)])),
                sizes=_sizes(areas[~crowd & (labels == label)]),
            )
            for label, name in enumerate(source.classes)
        },
        heights=_spread([record.height for record in records]),
        widths=_spread([record.width for record in records]),
        most_boxes=int(counts.max(initial=0)),
        beyond_max_objects=int((counts > feeding.max_objects).sum()),
        below_one_pixel=int(transforms.tiny(resized[~crowd].astype(np.float32)).sum()),
        hard_share=float((sides.prod(-1) < HARD**2).mean()) if len(sides) else 0.0,
        repairs={name: number for name, number in source.repairs.items() if name != loader.CROWDED},
        repaired=tuple(source.repairs.sentence(name) for name in source.repairs if name != loader.CROWDED),
    )


def overlap(train: Source, val: Source, *, look: int) -> Overlap:
    """File names that both sources have; the pixels of at most `look` of them are compared.

    Raises DataError where a source can read none of its pictures.
    """
    first, second = ({record.file: record.index for record in source.records} for source in (train, val))
    names = tuple(sorted(set(first) & set(second)))
    looked = [names[place] for place in spaced(len(names), look)]
    equal = [name for name in looked if _equal(train, first[name], val, second[name])]
    return Overlap(names=names, looked_at=len(looked), equal=tuple(equal))


def sample(source: Source, *, look: int) -> Sample:
    """Opens `look` evenly spaced pictures of a source; raises DataError where the source can read none at all."""
    readable, unreadable, conspicuous = [], {}, {}
    for index in spaced(len(source.records), look):
        file = source.records[index].file
        try:
            image = source.read(index)
        except PictureError as error:
            unreadable[file] = str(error)
            continue
        readable.append(index)
        if isinstance(source, Stored):
            why = pictures.conspicuous(source.content(index), image, reading=source.reading)
            conspicuous |= {file: why} if why else {}
    return Sample(readable=tuple(readable), unreadable=unreadable, conspicuous=conspicuous)


def about_pictures(name: str, sample: Sample) -> list[str]:
    """What is to be said of pictures of the split `name` that were opened, one sentence each."""
    found = []
    if sample.unreadable:
        found.append(
            f"{len(sample.unreadable)} of {sample.opened} pictures of {name} that were opened cannot be read; the "
            f"first: {next(iter(sample.unreadable.values()))}"
        )
    if sample.conspicuous:
        file, why = next(iter(sample.conspicuous.items()))
        found.append(
            f"{len(sample.conspicuous)} of {sample.opened} pictures of {name} that were opened are dark or flat; the "
            f"first, {file}: {why}."
        )
    return found


def refuse_unreadable(samples: dict[str, Sample]) -> None:
    """Raises DataError for a split of which no picture that was opened can be read."""
    for name, sample in samples.items():
        if not sample.readable:
            raise DataError(" ".join(about_pictures(name, sample)))


def remarks(
    splits: dict[str, Split], shared: Overlap, samples: dict[str, Sample], feeding: loader.Config
) -> tuple[str, ...]:
    """What is worth a thought before training, one sentence each; `splits` and `samples` have "train" and "val"."""
    found: list[str] = []
    for name, split in splits.items():
        other = splits["val" if name == "train" else "train"]
        absent = [cls for cls, counts in split.classes.items() if not counts.objects and other.classes[cls].objects]
        if absent:
            found.append(f"Classes with objects, but none in {name}: {_few(absent)}.")
        found += _about_boxes(name, split, feeding)
        found += about_pictures(name, samples[name])
    nowhere = [cls for cls in splits["train"].classes if not any(s.classes[cls].objects for s in splits.values())]
    if nowhere:
        found.append(f"Classes with no object at all: {_few(nowhere)}.")
    if shared.equal:
        found.append(
            f"train and val share {len(shared.names)} file names; of {shared.looked_at} that were compared "
            f"{len(shared.equal)} are the same picture: {_few(list(shared.equal))}; scores would be too good."
        )
    return tuple(found)


def _about_boxes(name: str, split: Split, feeding: loader.Config) -> list[str]:
    found = []
    if split.beyond_max_objects and name == "train":  # an evaluation takes all boxes
        found.append(
            f"{words.counted(split.beyond_max_objects, 'picture')} of {name} with more than "
            f"max_objects={feeding.max_objects} boxes; {split.most_boxes} would keep all of them."
        )
    if split.below_one_pixel:
        found.append(
            f"{words.counted(split.below_one_pixel, 'object')} of {name} narrower than one pixel after the resize, too "
            "small to be learned; larger pictures would help."
        )
    return found + [f"{name}: {sentence}" for sentence in split.repaired]


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _joined(parts: Sequence[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros(empty), *parts])


def _factors(records: Sequence[Record], feeding: loader.Config, *, short: int) -> np.ndarray:
    """By what (x, y, x, y) the loader multiplies the boxes of every record."""
    known: dict[tuple[int, int], tuple[float, float]] = {}
    for height, width in {(record.height, record.width) for record in records}:
        size = transforms.target_size(height, width, short=short, long=feeding.long)
        bucket = feeding.buckets[transforms.choose_bucket(*size, feeding.buckets)]
        fitted = transforms.fit_size(*size, bucket=bucket)
        known[height, width] = fitted[1] / width, fitted[0] / height
    return np.array([known[record.height, record.width] * 2 for record in records]).reshape(-1, 4)


def _areas(source: Source) -> np.ndarray:
    """The area of each box of the records, as an evaluation takes it where it knows as many objects."""
    told = defaultdict(list)
    for item in source.annotations()["annotations"]:
        told[item["image_id"]].append(item["area"])
    areas = [(record.boxes[:, 2:] - record.boxes[:, :2]).prod(-1) for record in source.records]
    for place, record in enumerate(source.records):
        if len(told[record.image_id]) == len(record.boxes):
            areas[place] = np.array(told[record.image_id])
    return _joined(areas, (0,))


def _sizes(areas: np.ndarray) -> Sizes:
    small, large = int((areas < SMALL).sum()), int((areas >= LARGE).sum())
    return Sizes(small=small, medium=len(areas) - small - large, large=large)


def _spread(sides: list[int]) -> Spread:
    return Spread(least=min(sides), median=float(np.median(sides)), most=max(sides))


def _equal(train: Source, one: int, val: Source, other: int) -> bool:
    try:
        return np.array_equal(train.read(one), val.read(other))
    except PictureError:
        return False

"""Statistics of a data set, counted before training, and remarks on them."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from jaxkd import phrases
from jaxkd.data import loader, pictures, transforms
from jaxkd.data.base import PictureError, Record, Source, Stored, evenly_spaced
from jaxkd.errors import DataError

SMALL, LARGE = 32**2, 96**2  # COCO's limits between small, medium and large objects, in square pixels
HARD_SIDE = 16.0  # pixels; objects below the area of this side are rarely detected


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers of objects by area in the original picture: below 32x32 pixels, below 96x96, and above (as in COCO)."""

    small: int
    medium: int
    large: int


@dataclasses.dataclass(frozen=True)
class ClassCounts:
    """How often a class occurs."""

    objects: int
    crowds: int
    pictures: int  # pictures with an object of the class
    sizes: Sizes


@dataclasses.dataclass(frozen=True)
class Spread:
    """Statistics of the heights or widths of pictures, in pixels."""

    least: int
    median: float
    most: int


@dataclasses.dataclass(frozen=True)
class Split:
    """The statistics of one source; pictures are resized as the loader does it.

    Objects are the boxes that training learns; crowds are the others, which include VOC's difficult objects unless
    these are kept.
    """

    pictures: int
    without_objects: int
    objects: int
    crowds: int
    sizes: Sizes
    classes: dict[str, ClassCounts]
    heights: Spread
    widths: Spread
    most_boxes: int  # greatest number of boxes on a picture, crowds included
    beyond_max_objects: int  # pictures with more boxes than the loader keeps
    below_one_pixel: int  # objects with a side below one pixel after the resize; not learned
    hard_share: float  # share of objects with an area below 16x16 pixels after the resize
    repairs: dict[str, int]
    repaired: tuple[str, ...]  # the same as sentences, with examples


@dataclasses.dataclass(frozen=True)
class Overlap:
    """File names that occur in two sources, and which of their pictures are equal."""

    names: tuple[str, ...]
    looked_at: int  # number of names whose pictures were compared
    equal: tuple[str, ...]  # names with equal pixels in both


NO_OVERLAP = Overlap(names=(), looked_at=0, equal=())  # of a source with no other


@dataclasses.dataclass(frozen=True)
class Sample:
    """The result of opening evenly spaced pictures of a source."""

    readable: tuple[int, ...]  # indices of records
    unreadable: dict[str, str]  # reason by file
    conspicuous: dict[str, str]  # reason why a picture is dark or flat, by file

    @property
    def opened(self) -> int:
        """The number of pictures that were opened."""
        return len(self.readable) + len(self.unreadable)


def count(source: Source, loader_config: loader.Config, *, short: int) -> Split:
    """The statistics of a source whose pictures the loader resizes to the short side `short`; no picture is opened."""
    records = source.records
    boxes = _concatenated([record.boxes for record in records], (0, 4))
    labels = _concatenated([record.labels for record in records], (0,)).astype(int)
    crowd = _concatenated([record.crowd for record in records], (0,)).astype(bool)
    counts = np.array([len(record.boxes) for record in records])
    owners = np.repeat(np.arange(len(records)), counts)
    resized = boxes * np.repeat(factors(records, loader_config, short=short), counts, axis=0)
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
        beyond_max_objects=int((counts > loader_config.max_objects).sum()),
        below_one_pixel=int(transforms.tiny(resized[~crowd].astype(np.float32)).sum()),
        hard_share=float((sides.prod(-1) < HARD_SIDE**2).mean()) if len(sides) else 0.0,
        repairs={name: number for name, number in source.repairs.items() if name != loader.BEYOND_MAX_OBJECTS},
        repaired=tuple(source.repairs.sentence(name) for name in source.repairs if name != loader.BEYOND_MAX_OBJECTS),
    )


def overlap(train: Source, val: Source, *, limit: int) -> Overlap:
    """File names that both sources have; the pixels of at most `limit` of them are compared.

    Raises DataError where a source can read none of its pictures.
    """
    first, second = ({record.file: record.index for record in source.records} for source in (train, val))
    names = tuple(sorted(set(first) & set(second)))
    compared = [names[position] for position in evenly_spaced(len(names), limit)]
    equal = [name for name in compared if _equal(train, first[name], val, second[name])]
    return Overlap(names=names, looked_at=len(compared), equal=tuple(equal))


def sample(source: Source, *, limit: int) -> Sample:
    """Opens at most `limit` evenly spaced pictures; raises DataError where the source can read none of its pictures."""
    readable, unreadable, conspicuous = [], {}, {}
    for index in evenly_spaced(len(source.records), limit):
        file = source.records[index].file
        try:
            image = source.read(index)
        except PictureError as error:
            unreadable[file] = str(error)
            continue
        readable.append(index)
        if isinstance(source, Stored):
            reason = pictures.why_dark_or_flat(source.content(index), image, reading=source.reading)
            conspicuous |= {file: reason} if reason else {}
    return Sample(readable=tuple(readable), unreadable=unreadable, conspicuous=conspicuous)


def picture_remarks(name: str, sample: Sample) -> list[str]:
    """Remarks on the opened pictures of the split `name`, one sentence each."""
    sentences = []
    if sample.unreadable:
        sentences.append(
            f"{len(sample.unreadable)} of {sample.opened} pictures of {name} that were opened cannot be read; the "
            f"first: {next(iter(sample.unreadable.values()))}"
        )
    if sample.conspicuous:
        file, reason = next(iter(sample.conspicuous.items()))
        sentences.append(
            f"{len(sample.conspicuous)} of {sample.opened} pictures of {name} that were opened are dark or flat; the "
            f"first, {file}: {reason}."
        )
    return sentences


def refuse_unreadable(samples: dict[str, Sample]) -> None:
    """Raises DataError for a split of which no opened picture can be read."""
    for name, sample in samples.items():
        if not sample.readable:
            raise DataError(" ".join(picture_remarks(name, sample)))


def remarks(
    splits: dict[str, Split], shared: Overlap, samples: dict[str, Sample], loader_config: loader.Config
) -> tuple[str, ...]:
    """Remarks to consider before training, one sentence each; `splits` and `samples` have "train" and maybe "val"."""
    sentences: list[str] = []
    for name, split in splits.items():
        absent = [
            class_name
            for class_name, counts in split.classes.items()
            if not counts.objects and any(other.classes[class_name].objects for other in splits.values())
        ]
        if absent:
            sentences.append(f"Classes with objects, but none in {name}: {_first_names(absent)}.")
        sentences += _box_remarks(name, split, loader_config)
        sentences += picture_remarks(name, samples[name])
    without_objects = [
        class_name
        for class_name in splits["train"].classes
        if not any(split.classes[class_name].objects for split in splits.values())
    ]
    if without_objects:
        sentences.append(f"Classes with no object at all: {_first_names(without_objects)}.")
    if shared.equal:
        sentences.append(
            f"train and val share {len(shared.names)} file names; of {shared.looked_at} that were compared "
            f"{len(shared.equal)} are the same picture: {_first_names(list(shared.equal))}; scores would be too good."
        )
    return tuple(sentences)


def _box_remarks(name: str, split: Split, loader_config: loader.Config) -> list[str]:
    sentences = []
    if split.beyond_max_objects and name == "train":  # evaluation takes all boxes
        sentences.append(
            f"{phrases.counted(split.beyond_max_objects, 'picture')} of {name} with more than "
            f"max_objects={loader_config.max_objects} boxes; {split.most_boxes} would keep all of them."
        )
    if split.below_one_pixel:
        sentences.append(
            f"{phrases.counted(split.below_one_pixel, 'object')} of {name} narrower than one pixel after the resize, "
            "too small to be learned; larger pictures would help."
        )
    return sentences + [f"{name}: {sentence}" for sentence in split.repaired]


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _concatenated(parts: Sequence[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros(empty), *parts])


def factors(records: Sequence[Record], loader_config: loader.Config, *, short: int) -> np.ndarray:
    """Factors [n 4] by which the loader multiplies the boxes (x0, y0, x1, y1) of each record."""
    factors_of: dict[tuple[int, int], tuple[float, float]] = {}
    for height, width in {(record.height, record.width) for record in records}:
        size = transforms.target_size(height, width, short=short, long=loader_config.long)
        bucket = loader_config.buckets[transforms.choose_bucket(*size, loader_config.buckets)]
        fitted = transforms.fit_size(*size, bucket=bucket)
        factors_of[height, width] = fitted[1] / width, fitted[0] / height
    return np.array([factors_of[record.height, record.width] * 2 for record in records]).reshape(-1, 4)


def _areas(source: Source) -> np.ndarray:
    """Area of each box of the records: as annotated where a picture has one annotation for each box, else the box's."""
    annotated = defaultdict(list)
    for annotation in source.annotations()["annotations"]:
        annotated[annotation["image_id"]].append(annotation["area"])
    areas = [(record.boxes[:, 2:] - record.boxes[:, :2]).prod(-1) for record in source.records]
    for index, record in enumerate(source.records):
        if len(annotated[record.image_id]) == len(record.boxes):
            areas[index] = np.array(annotated[record.image_id])
    return _concatenated(areas, (0,))


def _sizes(areas: np.ndarray) -> Sizes:
    small, large = int((areas < SMALL).sum()), int((areas >= LARGE).sum())
    return Sizes(small=small, medium=len(areas) - small - large, large=large)


def _spread(sides: list[int]) -> Spread:
    return Spread(least=min(sides), median=float(np.median(sides)), most=max(sides))


def _equal(train: Source, first: int, val: Source, second: int) -> bool:
    try:
        return np.array_equal(train.read(first), val.read(second))
    except PictureError:
        return False

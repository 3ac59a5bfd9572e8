"""Batches of pictures in static sizes, drawn from a source in an order that only the seed decides."""

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from jaxkd.data import transforms
from jaxkd.data.base import PictureError, Record, Source
from jaxkd.data.transforms import Sample
from jaxkd.errors import ConfigError, DataError
from jaxkd.ranges import Count, Natural, Share
from jaxkd.types import Batch

ORDER, AUGMENT = 0, 1  # what a random number is drawn for
CROWDED = "boxes_beyond_max_objects"  # an entry among the repairs of a source
Size = tuple[Count, Count]  # height and width in pixels

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, augmentation and reading; the sizes are those of the COCO recipe, 800 pixels with at most 1333."""

    buckets: tuple[Size, ...] = ((800, 1344), (1344, 800))  # (height, width) of a batch; each compiles once
    short: tuple[Count, ...] = (
        800,
    )  # short side of a picture; of several, training draws one and evaluation takes the first
    long: Count = 1333  # most pixels of the long side
    flip: Share = 0.5  # share of training pictures that are mirrored
    max_objects: Count = 100  # truth boxes a picture; beyond that the largest are kept
    threads: Natural = 2  # that read pictures
    prefetch: Natural = 4  # batches that are read ahead
    cache: bool = False  # keep training pictures in memory, decoded, and resized where `short` is one number
    skip_limit: Share = 0.01  # share of pictures that may be unreadable; one picture always may


@dataclasses.dataclass(frozen=True)
class Plan:
    """The pictures of a whole run, in order."""

    records: Int32[np.ndarray, "steps batch"]  # index in the source
    buckets: Int32[np.ndarray, "steps"]


def plan(source: Source, config: Config, *, seed: int, steps: int, batch: int) -> Plan:
    """What every step of a run will see, the same for every process and whatever the number of steps.

    Each epoch is a permutation of all records. They queue up by bucket; as soon as a bucket has a whole batch it
    becomes the next step, and what is left waits for the next epoch.
    """
    _check(config)
    bucket_of = _buckets_of(source, config, short=max(config.short))
    waiting = [np.zeros(0, np.int64) for _ in config.buckets]
    records, buckets = np.zeros((0, batch), np.int64), np.zeros(0, np.int64)
    parts_records, parts_buckets, planned, epoch = [], [], 0, 0
    while planned < steps:
        order = np.random.default_rng((seed, ORDER, epoch)).permutation(len(bucket_of))
        batches, owners, times = [], [], []
        for bucket, queue in enumerate(waiting):
            arrivals = np.flatnonzero(bucket_of[order] == bucket)
            whole = np.concatenate([queue, order[arrivals]])
            count = len(whole) // batch
            completed = np.arange(1, count + 1) * batch - 1 - len(queue)
            batches.append(whole[: count * batch].reshape(count, batch))
            owners.append(np.full(count, bucket))
            times.append(arrivals[completed])
            waiting[bucket] = whole[count * batch :]
        turn = np.argsort(np.concatenate(times), kind="stable")
        parts_records.append(np.concatenate(batches)[turn])
        parts_buckets.append(np.concatenate(owners)[turn])
        planned += len(turn)
        epoch += 1
    records = np.concatenate([records, *parts_records])[:steps].astype(np.int32)
    return Plan(records=records, buckets=np.concatenate([buckets, *parts_buckets])[:steps].astype(np.int32))


class Loader(Iterator[Batch]):
    """An iterator over batches of numpy arrays that can say where it stands and go on from there.

    `iterator` is the Grain iterator underneath, for checkpointers that know Grain; `sizes` are the heights and widths
    of the batches to come, each once.
    """

    def __init__(
        self,
        picture: Callable[[int], Batch],
        *,
        buckets: np.ndarray,
        rows: int,
        config: Config,
        skipped: dict[int, str],
    ):
        steps = len(buckets)
        self.steps, self.sizes = steps, tuple(config.buckets[number] for number in np.unique(buckets))
        self._skipped = skipped
        pictures = grain.MapDataset.range(steps * rows).map(lambda slot: picture(int(slot)))
        options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.prefetch)
        self.iterator = iter(pictures.batch(rows, drop_remainder=True).to_iter_dataset(options))

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        return next(self.iterator)

    def __len__(self) -> int:
        return self.steps

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the pictures that could not be read and were replaced, so far."""
        return tuple(self._skipped[index] for index in sorted(self._skipped))

    def get_state(self) -> dict[str, Any]:
        """Where the iterator stands: what `set_state` takes, and JSON can hold."""
        return self.iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where an iterator over the same run stood."""
        self.iterator.set_state(state)

    def close(self) -> None:
        """Ends the reading threads."""
        self.iterator.close()


def train_batches(
    source: Source,
    config: Config,
    *,
    seed: int,
    steps: int,
    batch: int,
    start: int = 0,
    process: int = 0,
    processes: int = 1,
) -> Loader:
    """The batches of a run from step `start` on: of each, the rows that belong to this process.

    Args:
      source: what to learn from.
      config: sizes and augmentation.
      seed: decides order and augmentation; nothing else does.
      steps: of the whole run, those before `start` included.
      batch: pictures a step, over all processes.
      start: the first step to give.
      process: which of the processes this one is.
      processes: how many share a batch, each a part of equal size.

    Raises:
      DataError: where no picture has an object, or while iterating, where too many pictures cannot be read.
      ConfigError: where the batch does not divide over the processes, or the sizes are none.
    """
    _check(config)
    rows = _rows(batch, processes)
    reader = _Reader(source, config, short=max(config.short), cache=config.cache)
    if not any((~record.crowd).any() for record in source.records):
        raise DataError(
            f"{source.repairs.title}: none of the {len(source.records)} training pictures has an object"
            f"{source.repairs.left_out()}; check the annotations and their categories."
        )
    _count_crowded(source, config)
    order = plan(source, config, seed=seed, steps=steps, batch=batch)

    def picture(slot: int) -> Batch:
        step, row = slot // rows, process * rows + slot % rows
        draw = np.random.default_rng((seed, AUGMENT, step * batch + row))
        short = int(draw.choice(config.short))
        mirrored = bool(draw.random() < config.flip)
        index, bucket = int(order.records[step, row]), int(order.buckets[step])
        return reader.picture(index, bucket=bucket, short=short, mirrored=mirrored, stand_in_is_real=True)

    loader = Loader(picture, buckets=order.buckets, rows=rows, config=config, skipped=reader.skipped)
    if start:
        loader.set_state({"next_index": start})
    return loader


def eval_batches(
    source: Source, config: Config, *, batch: int, limit: int = 0, process: int = 0, processes: int = 1
) -> Loader:
    """Every picture once, bucket by bucket in the order of the source, unchanged but for its size.

    The last batch of a bucket is filled with repeats, for which `Batch.real` is False; so it is for the stand-in of a
    picture that cannot be read. `limit` takes the first records only, `batch` counts the pictures of all processes.

    Raises:
      DataError: while iterating, where too many pictures cannot be read.
      ConfigError: where the batch does not divide over the processes, or the sizes are none.
    """
    _check(config)
    rows = _rows(batch, processes)
    reader = _Reader(source, config, short=config.short[0], cache=False)
    bucket_of = reader.bucket_of[: limit or None]
    batches, buckets, real = [], [], []
    for bucket in range(len(config.buckets)):
        members = np.flatnonzero(bucket_of == bucket)
        count = -(-len(members) // batch)
        batches.append(np.resize(members, (count, batch)))
        real.append(np.arange(count * batch).reshape(count, batch) < len(members))
        buckets.append(np.full(count, bucket))
    records, owners, genuine = np.concatenate(batches), np.concatenate(buckets), np.concatenate(real)

    def picture(slot: int) -> Batch:
        step, row = slot // rows, process * rows + slot % rows
        index, bucket = int(records[step, row]), int(owners[step])
        found = reader.picture(index, bucket=bucket, short=config.short[0], mirrored=False, stand_in_is_real=False)
        return dataclasses.replace(found, real=found.real & genuine[step, row])

    return Loader(picture, buckets=owners, rows=rows, config=config, skipped=reader.skipped)


def blank_row(image: UInt8[np.ndarray, "h w 3"], config: Config, *, index: int) -> tuple[int, Batch]:
    """The bucket of a picture without truth, and a Batch of it alone, without its leading axis, as evaluations see it.

    `index` becomes its id.
    """
    height, width = image.shape[:2]
    target = transforms.target_size(height, width, short=config.short[0], long=config.long)
    bucket = transforms.choose_bucket(*target, config.buckets)
    boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    record = Record(index, index, "", height, width, boxes, labels, labels.astype(bool))
    loaded = _sized(image, record, config, bucket=bucket, short=config.short[0])
    return bucket, _row(loaded, bucket=config.buckets[bucket], most=config.max_objects, index=index, real=True)


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A picture at its final size with its truth."""

    sample: Sample
    labels: Int32[np.ndarray, "n"]
    crowd: Bool[np.ndarray, "n"]
    scales: Float32[np.ndarray, "2"]  # (y, x)


class _Reader:
    """Reads pictures of one source from several threads, and puts others in place of those that cannot be read."""

    def __init__(self, source: Source, config: Config, *, short: int, cache: bool):
        self.skipped: dict[int, str] = {}
        self.bucket_of = _buckets_of(source, config, short=short)
        self._source = source
        self._config = config
        self._allowed = max(1, int(config.skip_limit * len(source.records)))
        self._lock = threading.Lock()
        self._why = ""  # the first of the skipped could not be read
        self._cache: dict[int, UInt8[np.ndarray, "h w 3"] | _Loaded] | None = {} if cache else None

    def picture(self, index: int, *, bucket: int, short: int, mirrored: bool, stand_in_is_real: bool) -> Batch:
        """One row of a batch: this record, or the next readable one."""
        for candidate in self._candidates(index):
            try:
                loaded = self._loaded(candidate, bucket=bucket, short=short)
            except PictureError as error:
                self._skip(candidate, error)
                continue
            sample = transforms.flip(loaded.sample) if mirrored else loaded.sample
            return _row(
                dataclasses.replace(loaded, sample=sample),
                bucket=self._config.buckets[bucket],
                most=self._config.max_objects,
                index=candidate,
                real=candidate == index or stand_in_is_real,
            )
        raise DataError(
            f"{self._source.repairs.title}: none of the {len(self._source.records)} pictures can be read; the first: "
            f"{self._why}"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        """The record, and those after it: first all of its bucket, then the rest."""
        if index not in self.skipped:
            yield index
        following = np.roll(np.arange(len(self.bucket_of)), -index - 1)
        same = self.bucket_of[following] == self.bucket_of[index]
        for candidate in np.concatenate([following[same], following[~same]]).tolist():
            if candidate not in self.skipped:
                yield candidate

    def _skip(self, index: int, error: PictureError) -> None:
        file = self._source.records[index].file
        with self._lock:
            new = index not in self.skipped
            self._why = self._why or str(error)
            self.skipped[index] = file
            if len(self.skipped) > self._allowed:
                raise DataError(
                    f"{len(self.skipped)} pictures cannot be read, more than the {self._allowed} that skip_limit "
                    f"allows; the last one: {error}"
                ) from error
        if new:
            log.warning("Skipped: %s", error)

    def _loaded(self, index: int, *, bucket: int, short: int) -> _Loaded:
        single = len(self._config.short) == 1 and bucket == self.bucket_of[index]
        kept = None if self._cache is None else self._cache.get(index)
        if isinstance(kept, _Loaded) and single:
            return kept
        image = kept if isinstance(kept, np.ndarray) else self._source.read(index)
        record = _largest(_inside(self._source.records[index], image), self._config.max_objects)
        loaded = _sized(image, record, self._config, bucket=bucket, short=short)
        if self._cache is not None and kept is None:
            self._cache[index] = loaded if single else image
        return loaded


def _sized(image: UInt8[np.ndarray, "h w 3"], record: Record, config: Config, *, bucket: int, short: int) -> _Loaded:
    """A picture and its truth at the size that it has in its bucket."""
    size = transforms.target_size(*image.shape[:2], short=short, long=config.long)
    height, width = transforms.fit_size(*size, bucket=config.buckets[bucket])
    return _Loaded(
        sample=transforms.resize(Sample(image=image, boxes=record.boxes), height=height, width=width),
        labels=record.labels,
        crowd=record.crowd,
        scales=np.array([height / image.shape[0], width / image.shape[1]], np.float32),
    )


def _row(loaded: _Loaded, *, bucket: tuple[int, int], most: int, index: int, real: bool) -> Batch:
    """A Batch without its leading axis."""
    image, boxes = loaded.sample.image, loaded.sample.boxes
    crowd = loaded.crowd | transforms.tiny(boxes)
    fields: dict[str, Any] = {
        "images": transforms.pad(image, bucket=bucket),
        "sizes": np.array(image.shape[:2], np.int32),
        "boxes": _filled(boxes, most),
        "labels": _filled(loaded.labels, most),
        "valid": _filled(~crowd, most),
        "crowd": _filled(crowd, most),
        "ids": np.int32(index),
        "scales": loaded.scales,
        "real": np.bool_(real),
    }
    return Batch(**fields)


def _filled(values: np.ndarray, length: int) -> np.ndarray:
    """`values` with zeros after them."""
    out = np.zeros((length, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out


def _inside(record: Record, image: np.ndarray) -> Record:
    """The record with its boxes clipped to the picture as it is, should the annotations give it another size."""
    height, width = image.shape[:2]
    if (record.height, record.width) == (height, width):
        return record
    boxes = np.clip(record.boxes, 0, np.array([width, height, width, height], np.float32))
    return _only(dataclasses.replace(record, boxes=boxes), np.all(boxes[:, 2:] > boxes[:, :2], axis=-1))


def _largest(record: Record, most: int) -> Record:
    """The record with its `most` largest boxes, in their old order."""
    if len(record.boxes) <= most:
        return record
    area = (record.boxes[:, 2:] - record.boxes[:, :2]).prod(-1)
    return _only(record, np.sort(np.argsort(-area, kind="stable")[:most]))


def _only(record: Record, keep: np.ndarray) -> Record:
    return dataclasses.replace(record, boxes=record.boxes[keep], labels=record.labels[keep], crowd=record.crowd[keep])


def _count_crowded(source: Source, config: Config) -> None:
    """Counts the boxes that training never sees; evaluations hold detections against the annotations themselves."""
    counts = [len(record.boxes) for record in source.records]
    beyond = sum(max(0, count - config.max_objects) for count in counts)
    if beyond and CROWDED not in source.repairs:
        most = source.records[int(np.argmax(counts))].file
        source.repairs.add(CROWDED, beyond, example=f"{most} has {max(counts)}, which max_objects would have to be")
        log.warning("%s: %s", source.repairs.title, source.repairs.sentence(CROWDED))


def _buckets_of(source: Source, config: Config, *, short: int) -> Int32[np.ndarray, "n"]:
    """The bucket of every record, by the size that its annotations give."""
    if not source.records:
        raise DataError("The source has no pictures; check its paths.")
    found: dict[tuple[int, int], int] = {}
    for size in {(record.height, record.width) for record in source.records}:
        target = transforms.target_size(*size, short=short, long=config.long)
        found[size] = transforms.choose_bucket(*target, config.buckets)
    return np.array([found[record.height, record.width] for record in source.records], np.int32)


def _check(config: Config) -> None:
    if not config.buckets or not config.short:
        raise ConfigError("data.loader needs at least one of buckets and one of short, and one of them is empty.")


def _rows(batch: int, processes: int) -> int:
    if batch < 1 or batch % processes:
        raise ConfigError(f"A batch of {batch} does not divide over {processes} processes; take a multiple of it.")
    return batch // processes

"""Batches of static size from a data source, in an order that depends on the seed alone."""

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import grain
import numpy as np
from jaxtyping import Int32, UInt8

from jaxkd.data import transforms
from jaxkd.data.base import PictureError, Record, Source
from jaxkd.data.rows import Canvas, ResizedPicture, clipped, to_row, with_largest
from jaxkd.data.transforms import Sample
from jaxkd.errors import ConfigError, DataError
from jaxkd.ranges import Count, Natural, Share
from jaxkd.types import Batch

ORDER, AUGMENT = 0, 1  # uses of random numbers, as part of their seeds
BEYOND_MAX_OBJECTS = "boxes_beyond_max_objects"  # name in the repairs of a source
Size = tuple[Count, Count]  # height and width in pixels

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class View:
    """The teacher's own canvas, on which it sees every picture; its pixel normalisation is in its own Config."""

    size: tuple[Natural, Natural] = (0, 0)
    """Height and width of the canvas in pixels; (0, 0) for none: the teacher sees the student's canvas."""
    fit: Literal["keep", "stretch"] = "keep"
    """A picture keeps the ratio of its sides and is padded ("keep"), or fills the canvas ("stretch")."""
    resample: Literal["none", "bilinear"] = "none"
    """How the teacher's feature maps come to the student's grid: by "bilinear" interpolation, or not at all ("none"),
    which is refused where a picture lies elsewhere on the two canvases and a method uses feature maps."""

    @property
    def on(self) -> bool:
        """Whether there is such a canvas."""
        return self.size != (0, 0)

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture of this size on the canvas."""
        if self.fit == "stretch":
            return self.size
        return transforms.contained_size(height, width, canvas=self.size)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, augmentation and reading of pictures; the default sizes are those of the COCO recipes, 800 and 1333."""

    buckets: tuple[Size, ...] = ((800, 1344), (1344, 800))
    """Height and width of the canvas of a batch; the step compiles once for each."""
    short: tuple[Count, ...] = (800,)
    """Short side of a picture in pixels; of several, training draws one a picture and evaluation takes the first."""
    long: Count = 1333
    """Greatest long side of a picture in pixels."""
    flip: Share = 0.5
    """Share of training pictures that are mirrored left to right."""
    max_objects: Count = 100
    """Most ground truth boxes of a picture; of more, the largest are kept."""
    threads: Natural = 2
    """Threads that read pictures."""
    prefetch: Natural = 4
    """Batches that are read ahead."""
    cache: bool = False
    """Keep training pictures in memory, decoded, and resized where `short` is one number."""
    skip_limit: Share = 0.01
    """Share of pictures that may be unreadable; one picture always may be."""
    teacher_view: View = dataclasses.field(default_factory=View)
    """The teacher's own canvas."""

    def alone(self) -> "Config":
        """The same without the teacher's canvas."""
        return dataclasses.replace(self, teacher_view=View())


@dataclasses.dataclass(frozen=True)
class Plan:
    """The pictures of a run, in order."""

    records: Int32[np.ndarray, "steps batch"]  # index in the source
    buckets: Int32[np.ndarray, "steps"]


def plan(source: Source, config: Config, *, seed: int, steps: int, batch: int) -> Plan:
    """The records of each step of a run; the same for all processes, and a longer run only adds steps.

    Each epoch is a permutation of all records. Records queue by bucket; as soon as a bucket has a full batch, that
    becomes the next step. Records that are left wait for the next epoch.
    """
    _check(config)
    bucket_of = _buckets_of(source, config, short=max(config.short))
    leftover = [np.zeros(0, np.int64) for _ in config.buckets]
    records, buckets = np.zeros((0, batch), np.int64), np.zeros(0, np.int64)
    epoch_records, epoch_buckets, planned, epoch = [], [], 0, 0
    while planned < steps:
        order = np.random.default_rng((seed, ORDER, epoch)).permutation(len(bucket_of))
        batches, bucket_indices, completion_times = [], [], []
        for bucket, queue in enumerate(leftover):
            arrivals = np.flatnonzero(bucket_of[order] == bucket)
            queued = np.concatenate([queue, order[arrivals]])
            count = len(queued) // batch
            completed = np.arange(1, count + 1) * batch - 1 - len(queue)
            batches.append(queued[: count * batch].reshape(count, batch))
            bucket_indices.append(np.full(count, bucket))
            completion_times.append(arrivals[completed])
            leftover[bucket] = queued[count * batch :]
        order_of_steps = np.argsort(np.concatenate(completion_times), kind="stable")
        epoch_records.append(np.concatenate(batches)[order_of_steps])
        epoch_buckets.append(np.concatenate(bucket_indices)[order_of_steps])
        planned += len(order_of_steps)
        epoch += 1
    records = np.concatenate([records, *epoch_records])[:steps].astype(np.int32)
    return Plan(records=records, buckets=np.concatenate([buckets, *epoch_buckets])[:steps].astype(np.int32))


class Loader(Iterator[Batch]):
    """An iterator over batches of numpy arrays, whose position can be saved and restored.

    `iterator` is the underlying Grain iterator, for checkpointers that support Grain; `sizes` are the distinct heights
    and widths of its batches.
    """

    def __init__(
        self,
        make_row: Callable[[int], Batch],
        *,
        buckets: np.ndarray,
        rows: int,
        config: Config,
        skipped: dict[int, str],
    ):
        steps = len(buckets)
        self.steps, self.sizes = steps, tuple(config.buckets[bucket] for bucket in np.unique(buckets))
        self._skipped = skipped
        rows_of_run = grain.MapDataset.range(steps * rows).map(lambda slot: make_row(int(slot)))
        options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.prefetch)
        self.iterator = iter(rows_of_run.batch(rows, drop_remainder=True).to_iter_dataset(options))

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
        """The position of the iterator, as JSON values for `set_state`."""
        return self.iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Moves to the position of an iterator over the same run."""
        self.iterator.set_state(state)

    def close(self) -> None:
        """Stops the reading threads."""
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
    """The batches of a run from step `start` on; of each, the rows of this process.

    Args:
      source: the training pictures.
      config: sizes and augmentation.
      seed: order and augmentation depend on it alone.
      steps: steps of the run, those before `start` included.
      batch: pictures a step, over all processes.
      start: the first step.
      process: index of this process.
      processes: processes that share a batch, in equal parts.

    Raises:
      DataError: where no picture has an object, or while iterating, where too many pictures cannot be read.
      ConfigError: where the batch does not divide over the processes, or there is no size.
    """
    _check(config)
    rows = _rows(batch, processes)
    reader = _Reader(source, config, short=max(config.short), cache=config.cache)
    if not any((~record.crowd).any() for record in source.records):
        raise DataError(
            f"{source.repairs.title}: none of the {len(source.records)} training pictures has an object"
            f"{source.repairs.left_out()}; check the annotations and their categories."
        )
    _count_dropped_boxes(source, config)
    run_plan = plan(source, config, seed=seed, steps=steps, batch=batch)

    def make_row(slot: int) -> Batch:
        step, row = slot // rows, process * rows + slot % rows
        rng = np.random.default_rng((seed, AUGMENT, step * batch + row))
        short = int(rng.choice(config.short))
        mirrored = bool(rng.random() < config.flip)
        index, bucket = int(run_plan.records[step, row]), int(run_plan.buckets[step])
        return reader.row(index, bucket=bucket, short=short, mirrored=mirrored, replacement_is_real=True)

    loader = Loader(make_row, buckets=run_plan.buckets, rows=rows, config=config, skipped=reader.skipped)
    if start:
        loader.set_state({"next_index": start})
    return loader


def eval_batches(
    source: Source,
    config: Config,
    *,
    batch: int,
    limit: int = 0,
    process: int = 0,
    processes: int = 1,
    teacher: bool = False,
) -> Loader:
    """Every picture once, bucket by bucket in the order of the source, resized and not augmented.

    The last batch of a bucket is filled with repeats, for which `Batch.real` is False; so it is for the replacement of
    a picture that cannot be read. `limit` takes the first records only; `batch` counts the pictures of all processes.
    The teacher's own canvas is only there where `teacher` asks for it.

    Raises:
      DataError: while iterating, where too many pictures cannot be read.
      ConfigError: where the batch does not divide over the processes, or there is no size.
    """
    _check(config)
    config = config if teacher else config.alone()
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
    records, bucket_indices, is_real = np.concatenate(batches), np.concatenate(buckets), np.concatenate(real)

    def make_row(slot: int) -> Batch:
        step, row = slot // rows, process * rows + slot % rows
        index, bucket = int(records[step, row]), int(bucket_indices[step])
        row_batch = reader.row(index, bucket=bucket, short=config.short[0], mirrored=False, replacement_is_real=False)
        return dataclasses.replace(row_batch, real=row_batch.real & is_real[step, row])

    return Loader(make_row, buckets=bucket_indices, rows=rows, config=config, skipped=reader.skipped)


def blank_row(image: UInt8[np.ndarray, "h w 3"], config: Config, *, index: int) -> tuple[int, Batch]:
    """The bucket of a picture without ground truth, and its row of an evaluation batch (a Batch without leading axis).

    `index` becomes its id.
    """
    height, width = image.shape[:2]
    target = transforms.target_size(height, width, short=config.short[0], long=config.long)
    bucket = transforms.choose_bucket(*target, config.buckets)
    boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    record = Record(index, index, "", height, width, boxes, labels, labels.astype(bool))
    config = config.alone()
    resized = _resized(image, record, config, bucket=bucket, short=config.short[0])
    return bucket, to_row(resized, _canvas(config, bucket), index=index, real=True)


class _Reader:
    """Reads the pictures of a source from several threads, and replaces those that cannot be read by others."""

    def __init__(self, source: Source, config: Config, *, short: int, cache: bool):
        self.skipped: dict[int, str] = {}
        self.bucket_of = _buckets_of(source, config, short=short)
        self._source = source
        self._config = config
        self._max_skipped = max(1, int(config.skip_limit * len(source.records)))
        self._lock = threading.Lock()
        self._first_error = ""  # error of the first skipped picture
        self._cache: dict[int, UInt8[np.ndarray, "h w 3"] | ResizedPicture] | None = {} if cache else None

    def row(self, index: int, *, bucket: int, short: int, mirrored: bool, replacement_is_real: bool) -> Batch:
        """One row of a batch: of this record, or of the next readable one."""
        for candidate in self._candidates(index):
            try:
                resized = self._load(candidate, bucket=bucket, short=short)
            except PictureError as error:
                self._skip(candidate, error)
                continue
            return to_row(
                resized.flipped() if mirrored else resized,
                _canvas(self._config, bucket),
                index=candidate,
                real=candidate == index or replacement_is_real,
            )
        raise DataError(
            f"{self._source.repairs.title}: none of the {len(self._source.records)} pictures can be read; the first: "
            f"{self._first_error}"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        """The record and then those after it: first all of its bucket, then the others; without skipped ones."""
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
            is_new = index not in self.skipped
            self._first_error = self._first_error or str(error)
            self.skipped[index] = file
            if len(self.skipped) > self._max_skipped:
                raise DataError(
                    f"{len(self.skipped)} pictures cannot be read, more than the {self._max_skipped} that skip_limit "
                    f"allows; the last one: {error}"
                ) from error
        if is_new:
            log.warning("Skipped: %s", error)

    def _load(self, index: int, *, bucket: int, short: int) -> ResizedPicture:
        one_size = len(self._config.short) == 1 and bucket == self.bucket_of[index]
        cached = None if self._cache is None else self._cache.get(index)
        if isinstance(cached, ResizedPicture) and one_size:
            return cached
        image = cached if isinstance(cached, np.ndarray) else self._source.read(index)
        record = with_largest(clipped(self._source.records[index], image), self._config.max_objects)
        resized = _resized(image, record, self._config, bucket=bucket, short=short)
        if self._cache is not None and cached is None:
            self._cache[index] = resized if one_size else image
        return resized


def _resized(
    image: UInt8[np.ndarray, "h w 3"], record: Record, config: Config, *, bucket: int, short: int
) -> ResizedPicture:
    """A picture and its ground truth, resized to fit its bucket, and for the teacher's canvas where there is one."""
    height, width = _student_size(image.shape[:2], config, bucket=bucket, short=short)
    view, teacher = config.teacher_view, None
    if view.on:
        fitted = view.fitted(*image.shape[:2])
        teacher = transforms.resize_image(image, height=fitted[0], width=fitted[1])
    return ResizedPicture(
        sample=transforms.resize(Sample(image=image, boxes=record.boxes), height=height, width=width),
        labels=record.labels,
        crowd=record.crowd,
        scales=np.array([height / image.shape[0], width / image.shape[1]], np.float32),
        teacher=teacher,
    )


def _student_size(size: tuple[int, ...], config: Config, *, bucket: int, short: int) -> tuple[int, int]:
    """Height and width of a picture of this size on the canvas of its bucket."""
    target = transforms.target_size(*size, short=short, long=config.long)
    return transforms.fit_size(*target, bucket=config.buckets[bucket])


def _canvas(config: Config, bucket: int) -> Canvas:
    return Canvas(config.buckets[bucket], config.max_objects, config.teacher_view.size)


def first_unlike(source: Source, config: Config) -> str:
    """The first picture that lies elsewhere on the teacher's own canvas than on the student's, as half a sentence.

    It is "" where there is none, or no such canvas.
    """
    view, known = config.teacher_view, set()
    if not view.on:
        return ""
    for record, bucket in zip(source.records, _buckets_of(source, config, short=max(config.short)), strict=True):
        size, bucket = (record.height, record.width), int(bucket)
        if size in known:
            continue
        known.add(size)
        for short in config.short:
            student, teacher = _student_size(size, config, bucket=bucket, short=short), view.fitted(*size)
            if (student, config.buckets[bucket]) != (teacher, view.size):
                sides = [f"{rows}x{columns}" for rows, columns in (student, config.buckets[bucket], teacher, view.size)]
                return (
                    f"{record.file} is {sides[0]} (height x width) on a canvas of {sides[1]} for the student, and "
                    f"{sides[2]} on {sides[3]} for the teacher"
                )
    return ""


def _count_dropped_boxes(source: Source, config: Config) -> None:
    """Counts the boxes beyond max_objects, which training leaves out; evaluation uses all annotations."""
    counts = [len(record.boxes) for record in source.records]
    beyond = sum(max(0, count - config.max_objects) for count in counts)
    if beyond and BEYOND_MAX_OBJECTS not in source.repairs:
        fullest = source.records[int(np.argmax(counts))].file
        source.repairs.add(
            BEYOND_MAX_OBJECTS, beyond, example=f"{fullest} has {max(counts)}, which max_objects would have to be"
        )
        log.warning("%s: %s", source.repairs.title, source.repairs.sentence(BEYOND_MAX_OBJECTS))


def _buckets_of(source: Source, config: Config, *, short: int) -> Int32[np.ndarray, "n"]:
    """The bucket of every record, by its annotated size."""
    if not source.records:
        raise DataError("The source has no pictures; check its paths.")
    bucket_of: dict[tuple[int, int], int] = {}
    for size in {(record.height, record.width) for record in source.records}:
        target = transforms.target_size(*size, short=short, long=config.long)
        bucket_of[size] = transforms.choose_bucket(*target, config.buckets)
    return np.array([bucket_of[record.height, record.width] for record in source.records], np.int32)


def _check(config: Config) -> None:
    if not config.buckets or not config.short:
        raise ConfigError("data.loader needs at least one of buckets and one of short, and one of them is empty.")
    if config.teacher_view.on and not all(config.teacher_view.size):
        raise ConfigError(
            f"data.loader.teacher_view.size is {config.teacher_view.size}; give a height and a width in pixels, or "
            "(0, 0) where the teacher sees the student's canvas."
        )


def _rows(batch: int, processes: int) -> int:
    if batch < 1 or batch % processes:
        raise ConfigError(f"A batch of {batch} does not divide over {processes} processes; take a multiple of it.")
    return batch // processes

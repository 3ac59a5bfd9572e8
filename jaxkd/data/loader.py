"""Batches of static size from a data source, in an order that depends on the seed alone."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import numpy as np
from jaxtyping import UInt8

from jaxkd.data import canvas
from jaxkd.data.augment import Augmenter, Request, draw
from jaxkd.data.augment import Config as Augmentation
from jaxkd.data.base import Record, Source
from jaxkd.data.canvas import Sizes, View
from jaxkd.data.joined import Joined
from jaxkd.data.plan import AUGMENT, mixed, plan
from jaxkd.data.reader import Reader
from jaxkd.data.rows import Canvas, to_row
from jaxkd.errors import ConfigError, DataError
from jaxkd.ranges import Natural, Share
from jaxkd.types import Batch

BEYOND_MAX_OBJECTS = "boxes_beyond_max_objects"  # name in the repairs of a source

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config(Sizes):
    """Sizes, order, augmentation and reading of pictures."""

    flip: Share = 0.5
    """Share of training pictures that are mirrored left to right."""
    augment: Augmentation = dataclasses.field(default_factory=Augmentation)
    """What else training changes of a picture."""
    repeat_threshold: Share = 0.0
    """Pictures of a class that a smaller share of all pictures has are shown up to four times an epoch; 0 for once."""
    threads: Natural = 2
    """Threads that read pictures."""
    prefetch: Natural = 4
    """Batches that are read ahead."""
    cache: bool = False
    """Keep training pictures in memory, decoded, and resized where `short` is one number and `augment` is off."""
    skip_limit: Share = 0.01
    """Share of pictures that may be unreadable; one picture always may be."""

    def alone(self) -> "Config":
        """The same without canvases of teachers."""
        return dataclasses.replace(self, teacher_view=View())

    def for_teacher(self, name: str) -> "Config":
        """The same with the canvas of one teacher alone, where it has one; the name "" is that of `config.teacher`."""
        return dataclasses.replace(self.alone(), teacher_view=self.views.get(name, View()))


@dataclasses.dataclass(frozen=True)
class SeveralViews(Config):
    """A `Config` for several teachers, each of which may have a canvas of its own."""

    further_views: Mapping[str, View] = dataclasses.field(default_factory=dict, hash=False)
    """The canvas of each teacher in `config.teachers`, by its name."""

    @property
    def views(self) -> Mapping[str, View]:
        """The canvases of all teachers that have one of their own."""
        return {**super().views, **{name: view for name, view in self.further_views.items() if view.on}}

    def alone(self) -> "SeveralViews":
        """The same without canvases of teachers."""
        return dataclasses.replace(self, teacher_view=View(), further_views={})


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
        self.steps, self.sizes = steps, tuple(dict.fromkeys(config.buckets[bucket] for bucket in np.unique(buckets)))
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
    unlabelled: Source | None = None,
    share: float = 0.5,
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
      unlabelled: pictures beside those of `source`, with pseudo-labels.
      share: share of a batch that is of these.

    Raises:
      DataError: where no picture has an object, or while iterating, where too many pictures cannot be read.
      ConfigError: where the batch does not divide over the processes, or there is no size.
    """
    config.check()
    config.augment.check()
    rows = _rows(batch, processes)
    one_size = len(config.short) == 1 and not config.augment.on
    shown = source if unlabelled is None else Joined(source, unlabelled)
    reader = Reader(
        shown,
        config,
        short=max(config.short),
        skip_limit=config.skip_limit,
        cache=config.cache,
        cache_resized=one_size,
    )
    if not any((~record.crowd).any() for record in source.records):
        raise DataError(
            f"{source.repairs.title}: none of the {len(source.records)} training pictures has an object"
            f"{source.repairs.left_out()}; check the annotations and their categories."
        )
    _count_dropped_boxes(source, config)
    if unlabelled is not None and batch < 2:
        raise ConfigError(f"A batch of {batch} has no place for pictures without labels; take 2 or more (train.batch).")
    more = 0 if unlabelled is None else min(max(round(batch * share), 1), batch - 1)
    run_plan = plan(
        source, config, seed=seed, steps=steps, batch=batch - more, repeat_threshold=config.repeat_threshold
    )
    if unlabelled is not None:
        first = len(source.records)
        run_plan = mixed(run_plan, reader.bucket_of[first:], seed=seed, batch=batch, first=first)
    labelled = len(source.records)
    augmented, canvases = Augmenter(shown.records, config, reader.original, labelled), _canvases(shown, config)

    def make_row(slot: int) -> Batch:
        step, row = slot // rows, process * rows + slot % rows
        rng = np.random.default_rng((seed, AUGMENT, step * batch + row))
        short = int(rng.choice(config.short))
        mirrored = bool(rng.random() < config.flip)
        index, bucket = int(run_plan.records[step, row]), int(run_plan.buckets[step])
        settings = config.augment.at(step, steps=steps)
        if settings.on:
            index, picture = augmented(Request(index, bucket, short, mirrored, settings, draw(rng)))
        else:
            index, picture = reader.resized(index, bucket=bucket, short=short)
            picture = picture.flipped() if mirrored else picture
        return to_row(picture, canvases[bucket], index=index, real=True)

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
    The teachers' own canvases are only there where `teacher` asks for them.

    Raises:
      DataError: while iterating, where too many pictures cannot be read.
      ConfigError: where the batch does not divide over the processes, or there is no size.
    """
    config.check()
    config = config if teacher else config.alone()
    rows = _rows(batch, processes)
    reader = Reader(source, config, short=config.short[0], skip_limit=config.skip_limit)
    bucket_of = reader.bucket_of[: limit or None]
    batches, buckets, real = [], [], []
    for bucket in range(len(config.buckets)):
        members = np.flatnonzero(bucket_of == bucket)
        count = -(-len(members) // batch)
        batches.append(np.resize(members, (count, batch)))
        real.append(np.arange(count * batch).reshape(count, batch) < len(members))
        buckets.append(np.full(count, bucket))
    canvases = _canvases(source, config, teacher=teacher)
    records, bucket_indices, is_real = np.concatenate(batches), np.concatenate(buckets), np.concatenate(real)

    def make_row(slot: int) -> Batch:
        step, row = slot // rows, process * rows + slot % rows
        index, bucket = int(records[step, row]), int(bucket_indices[step])
        shown, picture = reader.resized(index, bucket=bucket, short=config.short[0])
        return to_row(picture, canvases[bucket], index=shown, real=shown == index and bool(is_real[step, row]))

    return Loader(make_row, buckets=bucket_indices, rows=rows, config=config, skipped=reader.skipped)


def blank_row(image: UInt8[np.ndarray, "h w 3"], config: Config, *, index: int) -> tuple[int, Batch]:
    """The bucket of a picture without ground truth, and its row of an evaluation batch (a Batch without leading axis).

    `index` becomes its id.
    """
    height, width = image.shape[:2]
    bucket = config.bucket_of(height, width, short=config.short[0])
    boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    record = Record(index, index, "", height, width, boxes, labels, labels.astype(bool))
    config = config.alone()
    picture = canvas.resized(image, record, config, bucket=bucket, short=config.short[0])
    return bucket, to_row(picture, config.canvas(bucket), index=index, real=True)


def first_unlike(source: Source, config: Config) -> str:
    """Why pictures lie elsewhere on the canvas of `config.teacher` than on the student's, as half a sentence with the
    first of them; "" where there is none, or no such canvas. For another teacher see `Config.for_teacher`.
    """
    if config.teacher_view.on and config.augment.moves:
        return "data.loader.augment scales, crops or joins pictures, each canvas by its own factor"
    return canvas.first_unlike(source, config)


def _canvases(source: Source, config: Config, *, teacher: bool = True) -> list[Canvas]:
    """The canvas of each bucket; with the teacher's detections where the source has them and `teacher` sees them."""
    boxes = [record.teacher_boxes for record in source.records if record.teacher_boxes is not None] if teacher else []
    has_class_scores = any(one.class_scores is not None for one in boxes)
    fields = {
        "teacher_boxes": bool(boxes),
        "class_scores": len(source.classes) if has_class_scores else 0,
        "weights": any(record.weights is not None for record in source.records),
    }
    return [dataclasses.replace(config.canvas(bucket), **fields) for bucket in range(len(config.buckets))]


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


def _rows(batch: int, processes: int) -> int:
    if batch < 1 or batch % processes:
        raise ConfigError(f"A batch of {batch} does not divide over {processes} processes; take a multiple of it.")
    return batch // processes

"""What an exported file finds through its detect.py, held against what its detector finds."""

import dataclasses
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxkd.data import loader, transforms
from jaxkd.data.base import Part, Record, Source, Stored
from jaxkd.errors import ConfigError, DataError, JaxkdError, first_line
from jaxkd.evaluation import coco
from jaxkd.evaluation.run import evaluate
from jaxkd.export import base, standalone
from jaxkd.loading import build, prepare
from jaxkd.types import Batch, Detections

Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]  # images and sizes to outputs
REPEATS = 20
ALLOWED = 0.001  # of AP, between a float32 file and its detector


@dataclasses.dataclass(frozen=True)
class Checked:
    """Of the same pictures, one at a time."""

    pictures: int
    files: bool  # whether detect.py has read them from their files; else they are no files
    ap_own: float | None  # of the detector in its own buckets; None where they are the canvas alone, or not known
    ap: float  # of the detector on the canvas of the export
    ap_exported: float  # of the file, through its detect.py
    boxes: float  # largest difference of a coordinate, in pixels of the canvas
    scores: float  # largest difference of a score
    lost: int  # detections that only one of both has
    shrunk: int  # pictures that are too large for the canvas at the detector's own sizes
    unequal: int  # pictures that detect.py lays on the canvas with other pixels than training does
    first_unequal: str  # the first of these
    megabytes: float
    milliseconds: float  # of the detector, median on this machine
    milliseconds_exported: float


def feeding(subject: base.Subject, like: loader.Config | None = None) -> loader.Config:
    """How pictures come on the one canvas of an export; all but the sizes as in `like`."""
    like = loader.Config() if like is None else like
    return dataclasses.replace(like, buckets=(subject.size,), short=(subject.short,), long=subject.long)


def canvas(loaded: build.Loaded, source: Source) -> tuple[tuple[int, int], int]:
    """The bucket of a detector that the most pictures of a source fall in, and how many do."""
    config = prepare.own_sizes(loaded, loader.Config())
    chosen = [
        transforms.choose_bucket(*_own_size(record, short=config.short[0], long=config.long), config.buckets)
        for record in source.records
    ]
    counts = np.bincount(chosen, minlength=len(config.buckets))
    return config.buckets[int(counts.argmax())], int(counts.max())


def require_objects(source: Source, *, limit: int) -> None:
    """Raises DataError where none of the first `limit` pictures of a source, of all for 0, has an object."""
    first = source.records[: limit or None]
    if not any((~record.crowd).any() for record in first):
        raise _unscored(len(first))


def check(
    subject: base.Subject, folder: Path, source: Source, *, limit: int, like: loader.Config | None = None
) -> Checked:
    """Runs both over the first `limit` pictures of a source, or over all for 0.

    The file is asked as its users ask it: through `detect.py`, from the file of a picture where there is one. `like`
    says how pictures are read, as in training.

    Raises DataError where there is no object to find on them, ConfigError where the runtime is missing, and JaxkdError
    where detect.py cannot read a picture.
    """
    model, config, function = _opened(folder), feeding(subject, like), jax.jit(subject.function)

    def plain(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        return jax.device_get(function(images, sizes))

    run = model.run
    pairs = list(_pairs(plain, model, source, config, limit=limit))
    truth, only = source.annotations(), {pair.record.image_id for pair in pairs}
    ap, ap_exported = (
        coco.score(truth, [one for found in told for one in found], only=only).summary["AP"]
        for told in ([pair.expected for pair in pairs], [pair.told for pair in pairs])
    )
    if math.isnan(ap):
        raise _unscored(len(pairs))
    unequal = [pair.record.file for pair in pairs if not pair.is_equal]
    images, sizes = (np.asarray(array) for array in _one(source, config))
    return Checked(
        pictures=len(pairs),
        files=isinstance(source, Stored),
        ap_own=_own_ap(subject, plain, source, limit=limit, config=config),
        ap=ap,
        ap_exported=ap_exported,
        boxes=max((pair.boxes for pair in pairs), default=0.0),
        scores=max((pair.scores for pair in pairs), default=0.0),
        lost=sum(pair.lost for pair in pairs),
        shrunk=_shrunk(subject, [pair.record for pair in pairs]),
        unequal=len(unequal),
        first_unequal=unequal[0] if unequal else "",
        megabytes=base.written(folder / model.about["file"]),
        milliseconds=_median(plain, images, sizes),
        milliseconds_exported=_median(run, images, sizes),
    )


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> tuple[float, float, int]:
    """The largest differences of boxes and scores between two outputs for one picture, and the unpaired detections.

    A detection has at most one partner, of its class; the nearest boxes are paired first.
    """
    both = [
        (found["boxes"][0, :count], found["scores"][0, :count], found["labels"][0, :count])
        for found in (one, other)
        for count in (int(found["count"][0]),)
    ]
    (boxes, scores, labels), (theirs, their_scores, their_labels) = both
    gaps = np.abs(boxes[:, None].astype(float) - theirs[None]).max(-1)
    gaps = np.where(labels[:, None] == their_labels[None], gaps, np.inf)
    partners: dict[int, int] = {}
    for cell in np.argsort(gaps, axis=None, kind="stable")[: np.isfinite(gaps).sum()]:
        row, column = divmod(int(cell), len(theirs))
        if row not in partners and column not in partners.values():
            partners[row] = column
    rows, columns = (np.array(list(side), int) for side in (partners.keys(), partners.values()))
    box = float(gaps[rows, columns].max(initial=0.0))
    score = float(np.abs(scores[rows] - their_scores[columns]).max(initial=0.0))
    return box, score, len(boxes) + len(theirs) - 2 * len(partners)


def calibration(subject: base.Subject, source: Source, *, limit: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures spread over a source, each [1 H W 3] on its canvas with its size [1 2].

    Raises DataError where none can be read.
    """
    chosen = np.linspace(0, len(source.records) - 1, min(limit, len(source.records)), dtype=int)
    batches = loader.eval_batches(Part(source, chosen), feeding(subject), batch=1)
    pairs = [(np.asarray(batch.images), np.asarray(batch.sizes)) for batch in batches if np.asarray(batch.real).all()]
    batches.close()
    if not pairs:
        raise DataError("None of the training pictures that int8's ranges are set by can be read.")
    return pairs


def _unscored(pictures: int) -> DataError:
    return DataError(
        f"There is no object on the first {pictures} validation pictures, so nothing can be scored on them; give a "
        "larger --check, or --check=0 to leave the file unscored."
    )


def _opened(folder: Path) -> standalone.Model:
    try:
        return standalone.Model(folder)
    except ImportError as error:
        raise ConfigError(f"The file cannot be run to score it: {first_line(error)}.") from error


@dataclasses.dataclass(frozen=True)
class _Pair:
    """What the detector and detect.py find in one picture, as COCO's results, and how far their outputs differ."""

    record: Record
    expected: list[dict]
    told: list[dict]
    is_equal: bool  # whether the same canvas entered both
    boxes: float
    scores: float
    lost: int


def _pairs(
    plain: Run, model: standalone.Model, source: Source, config: loader.Config, *, limit: int
) -> Iterator[_Pair]:
    """The pictures that can be read, one after another; `model.run` is watched meanwhile."""
    run, passed = model.run, {}

    def watched(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        found = run(images, sizes)
        passed.update(images=images, sizes=sizes, found=found)
        return found

    model.run = watched
    batches = loader.eval_batches(source, config, batch=1, limit=limit)
    for batch in batches:
        if not batch.real[0]:
            continue
        record, expected = source.records[int(batch.ids[0])], plain(batch.images, batch.sizes)
        told = _as_detections(model(_picture(model, source, record), least=0.0), model.about["classes"])
        yield _Pair(
            record,
            coco.to_results(_detections(expected), batch, source),
            coco.to_results(told, batch.replace(scales=np.ones((1, 2))), source),
            np.array_equal(passed["images"], batch.images) and np.array_equal(passed["sizes"], batch.sizes),
            *differences(expected, passed["found"]),
        )
    batches.close()
    model.run = run


def _picture(model: standalone.Model, source: Source, record: Record) -> np.ndarray:
    """The picture as detect.py reads its file; of a source without files, as the source gives it."""
    if not isinstance(source, Stored):
        return source.read(record.index)
    try:
        return model.read(io.BytesIO(source.content(record.index)))
    except Exception as error:  # decoders raise nearly anything
        raise JaxkdError(
            f"detect.py cannot read {record.file}, which jaxkd reads ({first_line(error)}); please report this."
        ) from error


def _as_detections(rows: Sequence[dict], classes: Sequence[str]) -> Detections:
    """What detect.py tells of a picture, boxes in the picture's own pixels, [1 d ...]."""
    return Detections(
        boxes=np.array([row["box"] for row in rows]).reshape(1, -1, 4),
        scores=np.array([[row["score"] for row in rows]]),
        labels=np.array([[classes.index(row["class"]) for row in rows]], int),
        valid=np.ones((1, len(rows)), bool),
    )


def _detections(found: dict[str, np.ndarray]) -> Detections:
    there = np.arange(found["scores"].shape[1]) < np.asarray(found["count"])[:, None]
    return Detections(boxes=found["boxes"], scores=found["scores"], labels=found["labels"], valid=there)


def _own_ap(subject: base.Subject, plain: Run, source: Source, *, limit: int, config: loader.Config) -> float | None:
    """The detector's AP in its own buckets, None where it has none, or where the canvas is the only one."""
    own = prepare.own_sizes(subject.loaded, config)
    alike = (own.buckets, own.short[0], own.long) == (config.buckets, config.short[0], config.long)
    if alike or not subject.loaded.sizes.get("buckets"):
        return None

    def detect(batch: Batch) -> Detections:
        return _detections(plain(batch.images, batch.sizes))

    batches = loader.eval_batches(source, own, batch=1, limit=limit)
    found = evaluate(detect, batches, source)
    batches.close()
    return found.summary["AP"]


def _own_size(record: Record, *, short: int, long: int) -> tuple[int, int]:
    return transforms.target_size(record.height, record.width, short=short, long=long)


def _shrunk(subject: base.Subject, records: Sequence[Record]) -> int:
    """How many of the pictures do not fit on the canvas as large as the detector has them."""
    sizes = [_own_size(record, short=subject.short, long=subject.long) for record in records]
    return sum(height > subject.size[0] or width > subject.size[1] for height, width in sizes)


def _one(source: Source, config: loader.Config) -> tuple[np.ndarray, np.ndarray]:
    batches = loader.eval_batches(source, config, batch=1, limit=1)
    batch = next(batches)
    batches.close()
    return batch.images, batch.sizes


def _median(run: Run, images: np.ndarray, sizes: np.ndarray) -> float:
    seconds = []
    for _ in range(REPEATS + 3):
        began = time.perf_counter()
        run(images, sizes)
        seconds.append(time.perf_counter() - began)
    return 1e3 * float(np.median(seconds[3:]))

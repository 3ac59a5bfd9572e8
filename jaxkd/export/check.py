"""Compares the detections of an exported file, made through its detect.py, with those of its detector."""

import dataclasses
import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxkd.data import loader, transforms
from jaxkd.data.base import Record, Source, Stored, Subset
from jaxkd.errors import ConfigError, DataError, JaxkdError, first_line
from jaxkd.evaluation import coco
from jaxkd.evaluation.run import evaluate
from jaxkd.export import base, standalone
from jaxkd.loading import build, prepare
from jaxkd.types import Batch, Detections

Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]  # images and sizes to outputs
REPEATS = 20


@dataclasses.dataclass(frozen=True)
class Check:
    """What the file and its detector score and cost on the same pictures, one at a time."""

    pictures: int
    files: bool  # whether detect.py has read them from files; False where the source has none
    ap_own: float | None  # of the detector in its own buckets; None where the canvas is the only one, or none is known
    ap: float  # of the detector on the canvas of the export
    ap_exported: float  # of the file, through its detect.py
    boxes: float  # largest difference of a coordinate, in pixels of the canvas
    scores: float  # largest difference of a score
    lost: int  # detections that only one of the two has
    shrunk: int  # pictures that are too large for the canvas at the detector's own sizes
    unequal: int  # pictures of which detect.py and training make different canvases
    first_unequal: str  # the first of these
    megabytes: float
    milliseconds: float  # of the detector, median on this machine
    milliseconds_exported: float


def loader_config(subject: base.Subject, like: loader.Config | None = None) -> loader.Config:
    """The loader's settings for the one canvas of an export; all but the sizes as in `like`."""
    like = loader.Config() if like is None else like
    return dataclasses.replace(
        like,
        buckets=(subject.size,),
        short=(subject.short,),
        long=subject.long,
        fit=subject.fit,
        antialias=subject.antialias,
    )


def canvas(loaded: build.Loaded, source: Source) -> tuple[tuple[int, int], int]:
    """The bucket of a detector that most pictures of a source fall in, and how many do."""
    config = prepare.with_training_sizes(loaded, loader.Config())
    buckets = [
        transforms.choose_bucket(*_scaled_size(record, short=config.short[0], long=config.long), config.buckets)
        for record in source.records
    ]
    counts = np.bincount(buckets, minlength=len(config.buckets))
    return config.buckets[int(counts.argmax())], int(counts.max())


def require_objects(source: Source, *, limit: int) -> None:
    """Raises DataError where none of the first `limit` pictures of a source (0: of all) has an object."""
    first = source.records[: limit or None]
    if not any((~record.crowd).any() for record in first):
        raise _unscored(len(first))


def check(
    subject: base.Subject, folder: Path, source: Source, *, limit: int, like: loader.Config | None = None
) -> Check:
    """Runs detector and file over the first `limit` pictures of a source (0: over all).

    The file runs as users run it: through `detect.py`, from the file of a picture where there is one. `like` says how
    pictures are read, as in training.

    Raises DataError where the pictures have no object, ConfigError where the runtime is missing, and JaxkdError
    where detect.py cannot read a picture.
    """
    model, config, function = _opened(folder), loader_config(subject, like), jax.jit(subject.function)

    def run_detector(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        return jax.device_get(function(images, sizes))

    run_exported = model.run
    pairs = list(_pairs(run_detector, model, source, config, limit=limit, canvases=subject.canvases))
    truth, only = source.annotations(), {pair.record.image_id for pair in pairs}
    ap, ap_exported = (
        coco.score(truth, [result for of_picture in results for result in of_picture], only=only).summary["AP"]
        for results in ([pair.expected for pair in pairs], [pair.exported for pair in pairs])
    )
    if math.isnan(ap):
        raise _unscored(len(pairs))
    unequal = [pair.record.file for pair in pairs if not pair.is_equal]
    images, sizes = (np.asarray(array) for array in _one(source, config))
    return Check(
        pictures=len(pairs),
        files=isinstance(source, Stored),
        ap_own=_bucket_ap(subject, source, limit=limit, config=config),
        ap=ap,
        ap_exported=ap_exported,
        boxes=max((pair.boxes for pair in pairs), default=0.0),
        scores=max((pair.scores for pair in pairs), default=0.0),
        lost=sum(pair.lost for pair in pairs),
        shrunk=_shrunk(subject, [pair.record for pair in pairs]),
        unequal=len(unequal),
        first_unequal=unequal[0] if unequal else "",
        megabytes=base.megabytes(folder / model.description["file"]),
        milliseconds=_median(run_detector, images, sizes),
        milliseconds_exported=_median(run_exported, subject.canvases(images, sizes), sizes),
    )


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> tuple[float, float, int]:
    """The largest differences of boxes and scores between two outputs for a picture, and the number of unmatched ones.

    A detection is matched to at most one other of its class; the nearest boxes are matched first.
    """
    both = [
        (outputs["boxes"][0, :count], outputs["scores"][0, :count], outputs["labels"][0, :count])
        for outputs in (one, other)
        for count in (int(outputs["count"][0]),)
    ]
    (boxes, scores, labels), (other_boxes, other_scores, other_labels) = both
    gaps = np.abs(boxes[:, None].astype(float) - other_boxes[None]).max(-1)
    gaps = np.where(labels[:, None] == other_labels[None], gaps, np.inf)
    partners: dict[int, int] = {}
    for cell in np.argsort(gaps, axis=None, kind="stable")[: np.isfinite(gaps).sum()]:
        row, column = divmod(int(cell), len(other_boxes))
        if row not in partners and column not in partners.values():
            partners[row] = column
    rows, columns = (np.array(list(side), int) for side in (partners.keys(), partners.values()))
    box_difference = float(gaps[rows, columns].max(initial=0.0))
    score_difference = float(np.abs(scores[rows] - other_scores[columns]).max(initial=0.0))
    return box_difference, score_difference, len(boxes) + len(other_boxes) - 2 * len(partners)


def calibration(subject: base.Subject, source: Source, *, limit: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures evenly spread over a source: pairs of a canvas [1 H W 3] and its picture's size [1 2].

    Raises DataError where none can be read.
    """
    indices = np.linspace(0, len(source.records) - 1, min(limit, len(source.records)), dtype=int)
    batches = loader.eval_batches(Subset(source, indices), loader_config(subject), batch=1)
    pairs = [
        (subject.canvases(np.asarray(batch.images), np.asarray(batch.sizes)), np.asarray(batch.sizes))
        for batch in batches
        if np.asarray(batch.real).all()
    ]
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
    """Detections of the detector and of detect.py in one picture, as COCO results, and how far their outputs differ."""

    record: Record
    expected: list[dict]
    exported: list[dict]
    is_equal: bool  # whether both ran on the same canvas
    boxes: float
    scores: float
    lost: int


def _pairs(
    run_detector: Run,
    model: standalone.Model,
    source: Source,
    config: loader.Config,
    *,
    limit: int,
    canvases: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Iterator[_Pair]:
    """The pictures that can be read, one after another; meanwhile `model.run` records its inputs and outputs.

    `canvases` makes those of detect.py of the loader's.
    """
    run, calls = model.run, {}

    def recorded(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        outputs = run(images, sizes)
        calls.update(images=images, sizes=sizes, outputs=outputs)
        return outputs

    model.run = recorded
    batches = loader.eval_batches(source, config, batch=1, limit=limit)
    for batch in batches:
        if not batch.real[0]:
            continue
        record, expected = source.records[int(batch.ids[0])], run_detector(batch.images, batch.sizes)
        detections = _as_detections(model(_picture(model, source, record), least=0.0), model.description["classes"])
        yield _Pair(
            record,
            coco.to_results(_detections(expected), batch, source),
            coco.to_results(detections, batch.replace(scales=np.ones((1, 2))), source),
            np.array_equal(calls["images"], canvases(batch.images, batch.sizes))
            and np.array_equal(calls["sizes"], batch.sizes),
            *differences(expected, calls["outputs"]),
        )
    batches.close()
    model.run = run


def _picture(model: standalone.Model, source: Source, record: Record) -> np.ndarray:
    """The picture as detect.py reads its file, or as the source gives it where there are no files."""
    if not isinstance(source, Stored):
        return source.read(record.index)
    try:
        return model.read(io.BytesIO(source.content(record.index)))
    except Exception as error:  # decoders raise nearly anything
        raise JaxkdError(
            f"detect.py cannot read {record.file}, which jaxkd reads ({first_line(error)}); please report this."
        ) from error


def _as_detections(rows: Sequence[dict], classes: Sequence[str]) -> Detections:
    """The rows of detect.py for one picture as a batch of one; boxes in pixels of the picture."""
    return Detections(
        boxes=np.array([row["box"] for row in rows]).reshape(1, -1, 4),
        scores=np.array([[row["score"] for row in rows]]),
        labels=np.array([[classes.index(row["class"]) for row in rows]], int),
        valid=np.ones((1, len(rows)), bool),
    )


def _detections(outputs: dict[str, np.ndarray]) -> Detections:
    valid = np.arange(outputs["scores"].shape[1]) < np.asarray(outputs["count"])[:, None]
    return Detections(boxes=outputs["boxes"], scores=outputs["scores"], labels=outputs["labels"], valid=valid)


def _bucket_ap(subject: base.Subject, source: Source, *, limit: int, config: loader.Config) -> float | None:
    """The detector's AP as it was trained, in its own buckets.

    None where it has none, or where it is the detector that is exported and the canvas is its only one.
    """
    bucket_config = prepare.with_training_sizes(subject.loaded, config)
    is_same = (bucket_config.buckets, bucket_config.short[0], bucket_config.long) == (
        config.buckets,
        config.short[0],
        config.long,
    )
    is_exported = subject.own.loaded is subject.loaded
    if (is_same and is_exported) or not subject.loaded.sizes.get("buckets"):
        return None
    function = jax.jit(subject.own.function)

    def detect(batch: Batch) -> Detections:
        return _detections(jax.device_get(function(batch.images, batch.sizes)))

    batches = loader.eval_batches(source, bucket_config, batch=1, limit=limit)
    evaluation = evaluate(detect, batches, source)
    batches.close()
    return evaluation.summary["AP"]


def _scaled_size(record: Record, *, short: int, long: int) -> tuple[int, int]:
    return transforms.target_size(record.height, record.width, short=short, long=long)


def _shrunk(subject: base.Subject, records: Sequence[Record]) -> int:
    """How many of the pictures are too large for the canvas at the detector's own scale; of stretched ones none is."""
    if subject.fit == "stretch":
        return 0
    sizes = [_scaled_size(record, short=subject.short, long=subject.long) for record in records]
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

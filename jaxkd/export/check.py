"""What an exported file finds, held against what its detector finds."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.data.base import Part, Source
from jaxkd.errors import DataError
from jaxkd.evaluation.run import evaluate
from jaxkd.export import base, standalone
from jaxkd.types import Batch, Detections

Run = Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]  # images and sizes to outputs
REPEATS = 20
ALLOWED = 0.001  # of AP, between a float32 file and its detector


@dataclasses.dataclass(frozen=True)
class Checked:
    """Of the same pictures, one at a time."""

    pictures: int
    ap: float  # of the detector
    ap_exported: float
    boxes: float  # largest difference of a coordinate, in pixels of the canvas
    scores: float  # largest difference of a score
    lost: int  # detections that only one of both has
    megabytes: float
    milliseconds: float  # of the detector, median on this machine
    milliseconds_exported: float


def feeding(subject: base.Subject) -> loader.Config:
    """How pictures come on the one canvas of an export."""
    sizes = {"buckets": (subject.size,), "short": (subject.short,), "long": subject.long}
    return configs.build(configs.component("data.loader", **sizes))


def require_objects(source: Source, *, limit: int) -> None:
    """Raises DataError where none of the first `limit` pictures of a source, of all for 0, has an object."""
    first = source.records[: limit or None]
    if not any((~record.crowd).any() for record in first):
        raise _unscored(len(first))


def check(subject: base.Subject, folder: Path, source: Source, *, limit: int) -> Checked:
    """Runs both over the first `limit` pictures of a source, or over all for 0.

    Raises DataError where there is no object to find on them.
    """
    model = standalone.Model(folder)
    config = feeding(subject)
    function = jax.jit(subject.function)

    def plain(images: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
        return jax.device_get(function(images, sizes))

    found: dict[str, list[dict[str, np.ndarray]]] = {}
    scores = {}
    for name, run in (("detector", plain), ("exported", model.run)):
        found[name] = []
        batches = loader.eval_batches(source, config, batch=1, limit=limit)
        evaluation = evaluate(_detect(run, found[name]), batches, source)
        batches.close()
        scores[name] = evaluation
        if math.isnan(evaluation.summary["AP"]):
            raise _unscored(evaluation.pictures)
    gaps = [differences(*pair) for pair in zip(found["detector"], found["exported"], strict=True)]
    images, sizes = (np.asarray(array) for array in _one(source, config))
    return Checked(
        pictures=scores["exported"].pictures,
        ap=scores["detector"].summary["AP"],
        ap_exported=scores["exported"].summary["AP"],
        boxes=max((gap[0] for gap in gaps), default=0.0),
        scores=max((gap[1] for gap in gaps), default=0.0),
        lost=sum(gap[2] for gap in gaps),
        megabytes=base.written(folder / model.about["file"]),
        milliseconds=_median(plain, images, sizes),
        milliseconds_exported=_median(model.run, images, sizes),
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


def _detect(run: Run, kept: list[dict[str, np.ndarray]]) -> Callable[[Batch], Detections]:
    def detect(batch: Batch) -> Detections:
        found = run(np.asarray(batch.images), np.asarray(batch.sizes))
        kept.append(found)
        there = np.arange(found["scores"].shape[1]) < np.asarray(found["count"])[:, None]
        return Detections(boxes=found["boxes"], scores=found["scores"], labels=found["labels"], valid=there)

    return detect


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

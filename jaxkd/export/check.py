"""What an exported file finds, held against what its detector finds."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.data.base import Part, Source
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


def feeding(subject: base.Subject, shorts: tuple[int, ...], long: int) -> loader.Config:
    """How pictures come on the one canvas of an export."""
    return configs.build(configs.component("data.loader", buckets=(subject.size,), short=shorts, long=long))


def check(subject: base.Subject, folder: Path, source: Source, *, limit: int) -> Checked:
    """Runs both over the first `limit` pictures of a source."""
    model = standalone.Model(folder)
    about = model.about["picture"]
    config = feeding(subject, (about["short"],), about["long"])
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

    A detection is paired with the one of its class in the other whose box is the nearest.
    """
    rows = [
        (found["boxes"][0, :count], found["scores"][0, :count], found["labels"][0, :count])
        for found in (one, other)
        for count in (int(found["count"][0]),)
    ]
    (boxes, scores, labels), (theirs, their_scores, their_labels) = rows
    gaps = np.abs(boxes[:, None].astype(float) - theirs[None]).max(-1)
    gaps = np.where(labels[:, None] == their_labels[None], gaps, np.inf)
    if not gaps.size:
        return 0.0, 0.0, gaps.shape[0] + gaps.shape[1]
    nearest = gaps.argmin(1)
    paired = np.isfinite(gaps.min(1))
    box = float(gaps.min(1)[paired].max(initial=0.0))
    score = float(np.abs(scores - their_scores[nearest])[paired].max(initial=0.0))
    return box, score, int((~paired).sum()) + len(theirs) - len(np.unique(nearest[paired]))


def calibration(subject: base.Subject, source: Source, *, limit: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures spread over a source, each [1 H W 3] on its canvas with its size [1 2]."""
    about = base.describe(subject, kind="", file="")["picture"]
    chosen = np.linspace(0, len(source.records) - 1, min(limit, len(source.records)), dtype=int)
    config = feeding(subject, (about["short"],), about["long"])
    batches = loader.eval_batches(Part(source, chosen), config, batch=1)
    pairs = [(np.asarray(batch.images), np.asarray(batch.sizes)) for batch in batches if np.asarray(batch.real).all()]
    batches.close()
    return pairs


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

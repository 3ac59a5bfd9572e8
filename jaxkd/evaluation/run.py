"""A detector over a split: detections of every picture once, and their scores."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxkd.evaluation import coco
from jaxkd.types import Batch, Detections


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a detector found in a split and what that is worth."""

    results: list[dict[str, Any]]  # COCO-style detections in original pixels
    scores: coco.Scores
    pictures: int


@runtime_checkable
class Split(coco.Originals, Protocol):
    """What is needed of a data source to score detections on it."""

    def annotations(self) -> dict:
        """The truth as a COCO dict."""
        ...


def find(
    detect: Callable[[Batch], Detections], batches: Iterable[Batch], source: coco.Originals
) -> tuple[list[dict[str, Any]], set[int]]:
    """COCO-style detections in every picture of `batches`, and the ids of these pictures."""
    results, seen = [], set()
    for batch in batches:
        results += coco.to_results(jax.device_get(detect(batch)), batch, source)
        seen |= {source.records[index].image_id for index in np.asarray(batch.ids)[np.asarray(batch.real)]}
    return results, seen


def evaluate(detect: Callable[[Batch], Detections], batches: Iterable[Batch], source: Split) -> Evaluation:
    """Scores of `detect` over `batches` of pictures of `source`, on just the pictures that the batches hold."""
    results, seen = find(detect, batches, source)
    scores = coco.score(source.annotations(), results, only=seen)
    return Evaluation(results=results, scores=scores, pictures=len(seen))

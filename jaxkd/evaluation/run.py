"""A detector over a split: detections of every picture once, and their scores."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxkd.evaluation import coco
from jaxkd.evaluation import voc as pascal
from jaxkd.types import Batch, Detections


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a detector found in a split and what that is worth."""

    results: list[dict[str, Any]]  # COCO-style detections in original pixels
    scores: coco.Scores
    pictures: int
    voc: pascal.Scores | None = None  # where the split has VOC's truth

    @property
    def summary(self) -> dict[str, float]:
        """COCO's twelve numbers, and VOC's mean as "VOC AP" where it is known."""
        return self.scores.summary | ({} if self.voc is None else {"VOC AP": self.voc.mean})


@runtime_checkable
class Split(coco.Originals, Protocol):
    """What is needed of a data source to score detections on it."""

    def annotations(self) -> dict:
        """The truth as a COCO dict."""
        ...


def find(
    detect: Callable[[Batch], Detections],
    batches: Iterable[Batch],
    source: coco.Originals,
    *,
    whole: Callable[[Any], Any] = jax.device_get,
) -> tuple[list[dict[str, Any]], set[int]]:
    """COCO-style detections in every picture of `batches`, each once, and the ids of these pictures.

    `whole` makes numpy arrays of what `detect` gives and of arrays [b ...] of a batch: where processes share a batch,
    of all their parts in order.
    """
    results, seen = [], set()
    for batch in batches:
        found, rows = whole((detect(batch), coco.Rows(ids=batch.ids, scales=batch.scales, real=batch.real)))
        rows = rows.replace(real=np.asarray(rows.real) & _first_time(np.asarray(rows.ids), seen))
        results += coco.to_results(found, rows, source)
        seen |= set(np.asarray(rows.ids)[rows.real].tolist())
    return results, {source.records[index].image_id for index in seen}


def _first_time(ids: np.ndarray, seen: set[int]) -> np.ndarray:
    """Which of the pictures are neither seen before nor earlier in this batch; [b] bool."""
    first = np.zeros(len(ids), bool)
    first[np.unique(ids, return_index=True)[1]] = True
    return first & ~np.isin(ids, list(seen))


def evaluate(
    detect: Callable[[Batch], Detections],
    batches: Iterable[Batch],
    source: Split,
    *,
    whole: Callable[[Any], Any] = jax.device_get,
) -> Evaluation:
    """Scores of `detect` over `batches` of pictures of `source`, on just the pictures that the batches hold.

    A source with an attribute `voc_rule`, one of the rules of `voc.score`, is scored by that rule too. For `whole` see
    `find`.
    """
    results, seen = find(detect, batches, source, whole=whole)
    truth, rule = source.annotations(), getattr(source, "voc_rule", None)
    return Evaluation(
        results=results,
        scores=coco.score(truth, results, only=seen),
        pictures=len(seen),
        voc=None if rule is None else pascal.score(truth, results, rule=rule, only=seen),
    )

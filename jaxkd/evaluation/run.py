"""Evaluation of a detector on a split: detections of every picture once, and their scores."""

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
    """Detections of a split and their scores."""

    results: list[dict[str, Any]]  # COCO-style detections in original pixels
    scores: coco.Scores
    pictures: int
    voc: pascal.Scores | None = None  # where the split has a VOC rule

    @property
    def summary(self) -> dict[str, float]:
        """COCO's twelve numbers, and VOC's mean as "VOC AP" where it is computed."""
        return self.scores.summary | ({} if self.voc is None else {"VOC AP": self.voc.mean})


@runtime_checkable
class Split(coco.PictureSource, Protocol):
    """The needed parts of a data source to score detections on it."""

    def annotations(self) -> dict:
        """The truth as a COCO dict."""
        ...


def detect_all(
    detect: Callable[[Batch], Detections],
    batches: Iterable[Batch],
    source: coco.PictureSource,
    *,
    gather: Callable[[Any], Any] = jax.device_get,
) -> tuple[list[dict[str, Any]], set[int]]:
    """COCO-style detections in every picture of `batches`, each once, and the ids of these pictures.

    `gather` returns the outputs of `detect` and arrays [b ...] of a batch as numpy arrays; where processes share a
    batch, it concatenates their parts in order.
    """
    results, indices = [], set()
    for batch in batches:
        detections, rows = gather((detect(batch), coco.Rows(ids=batch.ids, scales=batch.scales, real=batch.real)))
        rows = rows.replace(real=np.asarray(rows.real) & _is_new(np.asarray(rows.ids), indices))
        results += coco.to_results(detections, rows, source)
        indices |= set(np.asarray(rows.ids)[rows.real].tolist())
    return results, {source.records[index].image_id for index in indices}


def _is_new(ids: np.ndarray, known: set[int]) -> np.ndarray:
    """Which pictures are new: neither in `known` nor earlier in this batch; [b] bool."""
    first = np.zeros(len(ids), bool)
    first[np.unique(ids, return_index=True)[1]] = True
    return first & ~np.isin(ids, list(known))


def evaluate(
    detect: Callable[[Batch], Detections],
    batches: Iterable[Batch],
    source: Split,
    *,
    gather: Callable[[Any], Any] = jax.device_get,
) -> Evaluation:
    """Scores of `detect` over `batches` of pictures of `source`, on the pictures of the batches only.

    A source with an attribute `voc_rule`, one of the rules of `voc.score`, is also scored by that rule. For `gather`
    see `detect_all`.
    """
    results, image_ids = detect_all(detect, batches, source, gather=gather)
    truth, rule = source.annotations(), getattr(source, "voc_rule", None)
    return Evaluation(
        results=results,
        scores=coco.score(truth, results, only=image_ids),
        pictures=len(image_ids),
        voc=None if rule is None else pascal.score(truth, results, rule=rule, only=image_ids),
    )

"""A detector over a split: detections of every picture once, and their scores."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxkd.data.base import Source
from jaxkd.evaluation import coco
from jaxkd.types import Batch, Detections


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a detector found in a split and what that is worth."""

    results: list[dict[str, Any]]  # COCO-style detections in original pixels
    scores: coco.Scores
    pictures: int


def evaluate(
    detect: Callable[[Batch], Detections], batches: Iterable[Batch], source: Source, *, limit: int = 0
) -> Evaluation:
    """Scores of `detect` over `batches`, which hold the first `limit` pictures of `source` (all of them for 0)."""
    results, pictures = [], 0
    for batch in batches:
        found = jax.device_get(detect(batch))
        results += coco.to_results(found, batch, source)
        pictures += int(np.asarray(batch.real).sum())
    truth = first_pictures(source.annotations(), limit)
    return Evaluation(results=results, scores=coco.score(truth, results), pictures=pictures)


def first_pictures(truth: dict, limit: int) -> dict:
    """The truth of the first `limit` pictures only; all of it for 0."""
    if not limit or limit >= len(truth["images"]):
        return truth
    images = truth["images"][:limit]
    ids = {image["id"] for image in images}
    return truth | {"images": images, "annotations": [a for a in truth["annotations"] if a["image_id"] in ids]}

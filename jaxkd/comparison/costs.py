"""What detectors cost on the pictures of a source."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from jaxkd.data import loader
from jaxkd.data.base import Source
from jaxkd.detectors.base import Params
from jaxkd.evaluation import cost
from jaxkd.train import evaluate


@dataclass(frozen=True)
class Subject:
    """A detector, and how pictures are prepared for it."""

    detector: evaluate.HasDetect
    params: Params
    feeding: loader.Config


def costs_of(subjects: Mapping[str, Subject], source: Source, *, batch: int) -> dict[str, cost.Cost]:
    """Each one's cost on `batch` pictures at once; equal detectors are measured once, and so are equal.

    Those of the source's first `batch` pictures that are of one bucket are repeated until there are so many.
    """
    measured: dict[tuple[evaluate.HasDetect, loader.Config], cost.Cost] = {}
    for subject in subjects.values():
        key = (subject.detector, subject.feeding)
        if key not in measured:
            batches = loader.eval_batches(source, subject.feeding, batch=batch, limit=batch)
            first = jax.tree.map(jax.numpy.asarray, next(batches))
            batches.close()
            measured[key] = cost.measure(subject.detector.detect, subject.params, first)
    return {name: measured[(subject.detector, subject.feeding)] for name, subject in subjects.items()}

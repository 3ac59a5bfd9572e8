"""Parameters, operations and times of detectors on the pictures of a source."""

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
    """A detector and the settings of its loader."""

    detector: evaluate.HasDetect
    params: Params
    loader_config: loader.Config


def costs_of(subjects: Mapping[str, Subject], source: Source, *, batch: int) -> dict[str, cost.Cost]:
    """Each detector's cost on batches of `batch` pictures; equal detectors are measured once and share the result.

    The batch is the first pictures of the source that share a bucket, repeated until it is full.
    """
    measured: dict[tuple[evaluate.HasDetect, loader.Config], cost.Cost] = {}
    for subject in subjects.values():
        key = (subject.detector, subject.loader_config)
        if key not in measured:
            batches = loader.eval_batches(source, subject.loader_config, batch=batch, limit=batch)
            first = jax.tree.map(jax.numpy.asarray, next(batches))
            batches.close()
            measured[key] = cost.measure(subject.detector.detect, subject.params, first)
    return {name: measured[(subject.detector, subject.loader_config)] for name, subject in subjects.items()}

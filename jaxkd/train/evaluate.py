"""A detector over a source's pictures: what it scores, what it finds."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh

from jaxkd.data import loader
from jaxkd.data.base import Source
from jaxkd.detectors.base import Detector, Params
from jaxkd.errors import JaxkdError
from jaxkd.evaluation.run import Evaluation, evaluate
from jaxkd.train import hosts, mesh
from jaxkd.types import Batch, Detections


@runtime_checkable
class HasDetect(Protocol):
    """Whatever finds objects of a source's classes; hashable."""

    def detect(self, params: Params, batch: Batch) -> Detections:
        """Detections whose labels are the source's."""
        ...


@dataclass(frozen=True)
class RelabelledDetector:
    """A detector of other classes, which finds those that a source has too."""

    detector: Detector
    columns: tuple[int, ...]  # its column for each class of the source, or a negative number

    def detect(self, params: Params, batch: Batch) -> Detections:
        """Its detections with the source's labels; those of other classes are not valid."""
        found = self.detector.detect(params, batch)
        table = np.full(len(self.detector.classes), -1, np.int32)
        for label, column in enumerate(self.columns):
            if column >= 0:
                table[column] = label
        labels = jnp.asarray(table)[found.labels]
        return found.replace(labels=jnp.maximum(labels, 0), valid=found.valid & (labels >= 0))


def evaluate_source(
    detector: HasDetect,
    params: Params,
    source: Source,
    feeding: loader.Config,
    devices: Mesh,
    *,
    batch: int,
    limit: int = 0,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """What the detector scores on the first `limit` pictures of a source, or on all of them for 0.

    Processes share the pictures, and all of them get the scores. Raises Interrupted before the next batch where
    `stopped` says so, which has to be the same on all of them.
    """
    with _compiled_over(detector, params, source, feeding, devices, batch=batch, limit=limit) as (detect, batches):
        evaluation = evaluate(detect, _until(stopped, batches), source, whole=hosts.whole)
        unreadable = hosts.total(len(batches.skipped))
    wanted = min(limit or len(source.records), len(source.records))
    if not wanted - unreadable <= evaluation.pictures <= wanted:
        raise JaxkdError(f"The evaluation scored {evaluation.pictures} pictures of {wanted}, {unreadable} unreadable.")
    return evaluation


class Interrupted(Exception):
    """An evaluation that was asked to stop."""


def _until(stopped: Callable[[], bool], batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        if stopped():
            raise Interrupted
        yield batch


@contextlib.contextmanager
def _compiled_over(
    detector: HasDetect,
    params: Params,
    source: Source,
    feeding: loader.Config,
    devices: Mesh,
    *,
    batch: int,
    limit: int,
) -> Iterator[tuple[Callable[[Batch], Detections], loader.Loader]]:
    """A compiled detect of host batches, and the batches of a source."""
    batches = loader.eval_batches(
        source,
        feeding,
        batch=-(-batch // devices.size) * devices.size,
        limit=limit,
        process=jax.process_index(),
        processes=jax.process_count(),
    )
    params = mesh.put_replicated(params, devices)
    detect = compiled_detect(detector, devices)
    try:
        yield lambda one: detect(params, mesh.put_batch(one, devices)), batches
    finally:
        batches.close()


@functools.lru_cache(maxsize=8)
def compiled_detect(detector: HasDetect, devices: Mesh) -> Callable[[Params, Batch], Detections]:
    """`detector.detect`, compiled once for detectors that are equal, each device looking at its part of the batch."""
    return jax.jit(mesh.over_batch(detector.detect, devices, replicated=1, gathered=True))

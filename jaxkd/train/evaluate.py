"""Evaluation of a detector on the pictures of a source, on all devices of all hosts."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh

from jaxkd.data import loader
from jaxkd.data.base import Source
from jaxkd.detectors.base import Params
from jaxkd.distill.classes import relabelled
from jaxkd.errors import JaxkdError
from jaxkd.evaluation.run import Evaluation, detect_all, evaluate
from jaxkd.train import hosts, mesh
from jaxkd.train.view import to_student
from jaxkd.types import Batch, Detections


@runtime_checkable
class HasDetect(Protocol):
    """A detector, or a wrapper of one, whose labels are those of a source; hashable."""

    def detect(self, params: Params, batch: Batch) -> Detections:
        """Detections with the source's labels."""
        ...


@runtime_checkable
class HasClasses(HasDetect, Protocol):
    """A detector with the class list of its labels."""

    classes: tuple[str, ...]


@dataclass(frozen=True)
class RelabelledDetector:
    """A detector of another class list, evaluated on the classes that a source shares with it."""

    detector: HasClasses
    columns: tuple[int, ...]  # the detector's column for each class of the source; negative where it has none

    def detect(self, params: Params, batch: Batch) -> Detections:
        """The detector's detections with the source's labels; those of other classes are not valid."""
        detections = self.detector.detect(params, batch)
        return relabelled(detections, self.columns, classes=len(self.detector.classes))


@dataclass(frozen=True)
class OwnCanvasDetector:
    """A teacher that is evaluated on its own canvas, with boxes on the student's."""

    detector: HasDetect

    def detect(self, params: Params, batch: Batch) -> Detections:
        """The detections in pixels of the student's canvas."""
        return to_student(self.detector.detect(params, batch.as_teacher_sees()), batch)


def evaluate_source(
    detector: HasDetect,
    params: Params,
    source: Source,
    loader_config: loader.Config,
    devices: Mesh,
    *,
    batch: int,
    limit: int = 0,
    teacher: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """The detector's scores on the first `limit` pictures of a source, or on all of them for 0.

    With `teacher`, batches have the teacher's own canvas where the loader has one.

    Processes share the pictures, and all of them get the scores. Raises Interrupted before the next batch once
    `stopped` returns True, which it has to do on all processes at once.
    """
    batches = _batches(source, loader_config, devices, batch=batch, limit=limit, teacher=teacher)
    with _detect(detector, params, devices, batches) as detect:
        evaluation = evaluate(detect, _unless_stopped(stopped, batches), source, gather=hosts.gathered)
        unreadable = hosts.total(len(batches.skipped))
    expected = min(limit or len(source.records), len(source.records))
    if not expected - unreadable <= evaluation.pictures <= expected:
        raise JaxkdError(
            f"The evaluation scored {evaluation.pictures} pictures of {expected}, {unreadable} unreadable."
        )
    return evaluation


def detect_source(
    detector: HasDetect,
    params: Params,
    source: Source,
    loader_config: loader.Config,
    devices: Mesh,
    *,
    batch: int,
    stopped: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """COCO-style detections of a teacher in every picture of a source; processes share the pictures, all get all.

    Raises Interrupted as `evaluate_source` does.
    """
    batches = _batches(source, loader_config, devices, batch=batch, teacher=True)
    with _detect(detector, params, devices, batches) as detect:
        return detect_all(detect, _unless_stopped(stopped, batches), source, gather=hosts.gathered)[0]


def as_student(detector: HasClasses, columns: tuple[int, ...], *, own_canvas: bool) -> HasDetect:
    """A teacher whose detections have the student's labels and lie on the student's canvas."""
    out: HasDetect = RelabelledDetector(detector, columns) if columns else detector
    return OwnCanvasDetector(out) if own_canvas else out


def _batches(
    source: Source, loader_config: loader.Config, devices: Mesh, *, batch: int, limit: int = 0, teacher: bool = False
) -> loader.Loader:
    """This process's part of all pictures, in batches that divide over the devices."""
    return loader.eval_batches(
        source,
        loader_config,
        batch=-(-batch // devices.size) * devices.size,
        limit=limit,
        process=jax.process_index(),
        processes=jax.process_count(),
        teacher=teacher,
    )


class Interrupted(Exception):
    """An evaluation was stopped before its end."""


def _unless_stopped(stopped: Callable[[], bool], batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        if stopped():
            raise Interrupted
        yield batch


@contextlib.contextmanager
def _detect(
    detector: HasDetect, params: Params, devices: Mesh, batches: loader.Loader
) -> Iterator[Callable[[Batch], Detections]]:
    """A compiled detect that takes host batches; closes `batches` at the end."""
    params = mesh.put_replicated(params, devices)
    detect = compiled_detect(detector, devices)
    try:
        yield lambda host_batch: detect(params, mesh.put_batch(host_batch, devices))
    finally:
        batches.close()


@functools.lru_cache(maxsize=8)
def compiled_detect(detector: HasDetect, devices: Mesh) -> Callable[[Params, Batch], Detections]:
    """`detector.detect` with the batch split over the devices, compiled once for detectors that are equal."""
    return jax.jit(mesh.over_batch(detector.detect, devices, replicated=1, gathered=True))

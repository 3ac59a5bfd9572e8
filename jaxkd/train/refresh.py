"""Rebuilding the methods' memory between epochs, from both detectors' features of objects of the training set."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from jaxkd.config import module_of
from jaxkd.data import loader
from jaxkd.data.base import Source, Subset
from jaxkd.detectors.base import Detector, Params
from jaxkd.distill import base
from jaxkd.distill.prototypes import Choice, Truth, Vectors
from jaxkd.train import hosts, mesh
from jaxkd.train.lesson import Lesson, teacher_maps
from jaxkd.train.state import State
from jaxkd.train.step import Pair
from jaxkd.types import Batch

OBJECT_FIELDS = ("boxes", "labels", "valid", "scales", "ids", "real")  # fields of a batch that describe the objects


class Objects(NamedTuple):
    """Objects of the training set, in the order in which their prototypes are numbered."""

    pictures: Int[np.ndarray, "n"]  # index in the source
    labels: Int[np.ndarray, "n"]
    boxes: Float[np.ndarray, "n 4"]  # in pixels of the original picture


class Refresh:
    """Rebuilds the memory of the methods that have one, at the beginning of the epochs that their Config sets.

    Every device computes the vectors of its part of the pictures. Every host gathers them all and searches among them,
    so that all end with the same memory. The teacher never changes, so its vectors are computed once.
    """

    def __init__(
        self,
        pair: Pair,
        source: Source,
        loader_config: loader.Config,
        devices: Mesh,
        *,
        batch: int,
        steps_per_epoch: int,
    ):
        self._pair, self._source, self._loader_config, self._devices = pair, source, loader_config, devices
        self._batch, self._steps = batch, steps_per_epoch
        self._methods = {
            name: config for name, config in pair.all_methods.items() if hasattr(module_of(config), "init_memory")
        }
        self._choices: dict[str, Choice] = {}
        self._teacher_vectors: dict[str, tuple[np.ndarray, ...]] = {}

    def due(self, step: int) -> list[str]:
        """The methods whose memory is to be rebuilt before step `step`, counted from 0."""
        epoch, within = divmod(step, self._steps)
        return [
            name
            for name, config in self._methods.items()
            if within == 0 and epoch >= config.start_epoch and (epoch - config.start_epoch) % config.refresh_every == 0
        ]

    def __call__(self, state: State, teacher_params: Params, due: list[str]) -> State:
        """The state with the memory of the methods `due` rebuilt."""
        memory = dict(state.memory)
        for name in due:
            config = self._methods[name]
            objects, student = self.describe(name, state.params["detector"], "student")
            if name not in self._teacher_vectors:
                params = self._pair.params_of(self._pair.lesson_of(name)[0], teacher_params)
                self._teacher_vectors[name] = self.describe(name, params, "teacher")[1]
            vectors = Vectors(labels=objects.labels, student=student, teacher=self._teacher_vectors[name])
            rebuilt = module_of(config).refresh_memory(config, vectors, classes=len(self._source.classes))
            memory[name] = mesh.put_replicated(jax.device_get(rebuilt), self._devices)
        return state.replace(memory=memory)

    def _select_objects(self, config: Any) -> Choice:
        records, kept = self._source.records, [~record.crowd for record in self._source.records]
        boxes = np.concatenate([record.boxes[keep] for record, keep in zip(records, kept, strict=True)])
        truth = Truth(
            pictures=np.repeat(np.arange(len(records)), [keep.sum() for keep in kept]),
            labels=np.concatenate([record.labels[keep] for record, keep in zip(records, kept, strict=True)]),
            sides=(boxes[:, 2:] - boxes[:, :2])[:, ::-1],
        )
        return module_of(config).select_objects(config, truth, pictures=len(records), classes=len(self._source.classes))

    def describe(self, name: str, params: Params, who: base.Who) -> tuple[Objects, tuple[np.ndarray, ...]]:
        """The objects that a method selects, and their vectors [n d] a level from the features of one detector."""
        if name not in self._choices:
            self._choices[name] = self._select_objects(self._methods[name])
        teacher, lesson = self._pair.lesson_of(name)
        vectors_of = _compiled(lesson, self._methods[name], who, self._devices)
        choice = self._choices[name]
        batches = loader.eval_batches(
            Subset(self._source, choice.pictures),
            self._loader_config.for_teacher(teacher),
            batch=-(-self._batch // self._devices.size) * self._devices.size,
            process=jax.process_index(),
            processes=jax.process_count(),
            teacher=who == "teacher",
        )
        objects, levels = [], []
        try:
            for batch in batches:
                gathered, vectors = hosts.gathered(vectors_of(params, mesh.put_batch(batch, self._devices)))
                row, column = np.nonzero(gathered["valid"] & gathered["real"][:, None])
                boxes = gathered["boxes"][row, column] / np.tile(gathered["scales"][row][:, ::-1], 2)
                truth = Truth(
                    pictures=choice.pictures[gathered["ids"][row]],
                    labels=gathered["labels"][row, column],
                    sides=(boxes[:, 2:] - boxes[:, :2])[:, ::-1],
                )
                keep = choice.holds(truth)
                objects.append(Objects(truth.pictures[keep], truth.labels[keep], boxes[keep]))
                levels.append([level[row[keep], column[keep]] for level in vectors])
        finally:
            batches.close()
        all_objects = Objects(*(np.concatenate(parts) for parts in zip(*objects, strict=True)))
        return all_objects, tuple(np.concatenate(parts) for parts in zip(*levels, strict=True))


@functools.lru_cache(maxsize=8)
def _compiled(lesson: Lesson, config: Any, who: base.Who, devices: Mesh) -> Callable:
    """A compiled (parameters, batch) -> (the batch without its pictures, vectors of its truth boxes a level).

    It is the same function, with what it has compiled, for equal arguments.
    """
    traits = (lesson.student.traits, lesson.teacher_traits)

    def vectors_of(params: Params, batch: Batch):
        if who == "student":
            features = lesson.student.features(params, batch)
        else:
            features = cast(Detector, lesson.teacher).features(params, batch.as_teacher_sees())
            features = teacher_maps(lesson, features, batch)
        vectors = module_of(config).object_vectors(config, *traits, features, batch, who=who)
        return {name: getattr(batch, name) for name in OBJECT_FIELDS}, vectors

    return jax.jit(mesh.over_batch(vectors_of, devices, replicated=1, gathered=True))

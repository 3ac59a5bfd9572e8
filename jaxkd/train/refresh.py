"""What methods rebuild between epochs: both detectors look at chosen objects of the training set."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import UInt8

from jaxkd.config import module_of
from jaxkd.data import loader
from jaxkd.data.base import Record, Source
from jaxkd.detectors.base import Params
from jaxkd.distill import base
from jaxkd.distill.prototypes import Choice, Truth, Vectors
from jaxkd.train import mesh
from jaxkd.train.state import State
from jaxkd.train.step import Pair
from jaxkd.types import Batch

TRUTH = ("boxes", "labels", "valid", "scales", "ids", "real")  # what of a batch goes with its objects' vectors


class Refresh:
    """New memory for the methods that have one, at the beginning of the epochs that they ask for.

    Every device and every host describes its part of the pictures, and all of them search among all vectors, so they
    end with the same memory. The teacher never changes, so its vectors are computed once.
    """

    def __init__(
        self, pair: Pair, source: Source, feeding: loader.Config, devices: Mesh, *, batch: int, steps_per_epoch: int
    ):
        self._pair, self._source, self._feeding, self._devices = pair, source, feeding, devices
        self._batch, self._steps = batch, steps_per_epoch
        self._methods = {name: config for name, config in pair.methods.items() if hasattr(module_of(config), "memory")}
        self._choices: dict[str, Choice] = {}
        self._taught: dict[str, tuple[np.ndarray, ...]] = {}
        self._looks: dict[tuple[str, base.Who], Callable] = {}

    def due(self, step: int) -> list[str]:
        """The methods whose memory is to be rebuilt before step `step`, counted from 0."""
        epoch, within = divmod(step, self._steps)
        return [
            name
            for name, config in self._methods.items()
            if within == 0 and epoch >= config.start_epoch and (epoch - config.start_epoch) % config.refresh_every == 0
        ]

    def __call__(self, state: State, frozen: Params, due: list[str]) -> State:
        """The state with the memory of the methods `due` rebuilt."""
        memory = dict(state.memory)
        for name in due:
            config = self._methods[name]
            if name not in self._choices:
                self._choices[name] = self._choose(config)
            labels, student = self._describe(name, state.params["detector"], "student")
            if name not in self._taught:
                self._taught[name] = self._describe(name, frozen, "teacher")[1]
            vectors = Vectors(labels=labels, student=student, teacher=self._taught[name])
            found = module_of(config).refresh(config, vectors, classes=len(self._source.classes))
            memory[name] = mesh.put_replicated(jax.device_get(found), self._devices)
        return state.replace(memory=memory)

    def _choose(self, config: Any) -> Choice:
        records, kept = self._source.records, [~record.crowd for record in self._source.records]
        boxes = np.concatenate([record.boxes[keep] for record, keep in zip(records, kept, strict=True)])
        truth = Truth(
            pictures=np.repeat(np.arange(len(records)), [keep.sum() for keep in kept]),
            labels=np.concatenate([record.labels[keep] for record, keep in zip(records, kept, strict=True)]),
            sides=(boxes[:, 2:] - boxes[:, :2])[:, ::-1],
        )
        return module_of(config).choose(config, truth, pictures=len(records), classes=len(self._source.classes))

    def _describe(self, name: str, params: Params, who: base.Who) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Labels and vectors [n d] a level of the chosen objects, in the order of the pictures."""
        choice = self._choices[name]
        chosen = choice.pictures
        batches = loader.eval_batches(
            _Some(self._source, chosen),
            self._feeding,
            batch=-(-self._batch // self._devices.size) * self._devices.size,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        if (name, who) not in self._looks:
            self._looks[name, who] = self._compiled(self._methods[name], who)
        labels, levels = [], []
        try:
            for batch in batches:
                seen, vectors = _on_every_host(self._looks[name, who](params, mesh.put_batch(batch, self._devices)))
                sides = (seen["boxes"][..., 2:] - seen["boxes"][..., :2])[..., ::-1] / seen["scales"][:, None]
                there = seen["valid"] & seen["real"][:, None]
                row, place = np.nonzero(there)
                truth = Truth(pictures=chosen[seen["ids"][row]], labels=seen["labels"][there], sides=sides[row, place])
                keep = choice.holds(truth)
                labels.append(truth.labels[keep])
                levels.append([level[row[keep], place[keep]] for level in vectors])
        finally:
            batches.close()
        return np.concatenate(labels), tuple(np.concatenate(parts) for parts in zip(*levels, strict=True))

    def _compiled(self, config: Any, who: base.Who) -> Callable:
        """A compiled (parameters, batch) -> (the batch without its pictures, vectors of its truth boxes a level)."""
        student, teacher = self._pair.student, self._pair.teacher
        assert teacher is not None
        detector = student if who == "student" else teacher

        def look(params: Params, batch: Batch):
            features = detector.features(params, batch)
            vectors = module_of(config).describe(config, student.traits, teacher.traits, features, batch, who=who)
            return {name: getattr(batch, name) for name in TRUTH}, vectors

        return jax.jit(mesh.over_batch(look, self._devices, replicated=1, gathered=True))


def _on_every_host(tree: Any) -> Any:
    """The whole of arrays that are spread over the hosts, as numpy."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


class _Some:
    """Some pictures of a source, as a source."""

    def __init__(self, whole: Source, chosen: np.ndarray):
        self._whole, self._chosen = whole, chosen
        self.classes, self.category_ids, self.repairs = whole.classes, whole.category_ids, whole.repairs
        self.records: Sequence[Record] = tuple(whole.records[index] for index in chosen)

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record."""
        return self._whole.read(int(self._chosen[index]))

    def annotations(self) -> dict:
        """The truth of the whole source."""
        return self._whole.annotations()

"""A trained run, opened again to explain what its methods do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.data.base import Source, Subset
from jaxkd.errors import ConfigError
from jaxkd.loading import build, prepare
from jaxkd.train import checkpoint, loop, mesh, pairing
from jaxkd.train.lesson import STUDENT_REGIONS, StepInputs, image_keys, on_regions
from jaxkd.train.refresh import Objects, Refresh
from jaxkd.train.state import State
from jaxkd.train.step import Pair, initial_state, with_teacher_outputs
from jaxkd.types import Explanation, Regions


@dataclass(frozen=True)
class FinishedRun:
    """A run with distillation and its last checkpoint, on one device."""

    pair: Pair
    state: State
    teacher_params: Any
    sources: dict[str, Source]
    loader_config: loader.Config
    devices: Mesh

    def explain(self, split: str, index: int) -> tuple[Regions, dict[str, Explanation], float]:
        """The student's regions on one picture, an explanation for each method that has `explain`, and the scale.

        The scale is the smaller one of the picture's two factors from original to resized pixels.
        """
        batches = loader.eval_batches(Subset(self.sources[split], [index]), self.loader_config, batch=1, teacher=True)
        batch = jax.tree.map(jax.numpy.asarray, next(batches))
        batches.close()

        def explain_batch(params, teacher_params, memory, batch, key):
            inputs = with_teacher_outputs(self.pair, StepInputs(batch, teacher_params, key=key))
            features = self.pair.student.features(params, batch)
            keys = image_keys(inputs)
            outputs, explanations = {}, {}
            for teacher, lesson in self.pair.lessons.items():
                given = inputs.further.get(teacher, inputs)
                outputs[teacher] = on_regions(lesson, params, features, given, source=STUDENT_REGIONS, keys=keys)
                for name, config in lesson.methods.items():
                    module = configs.module_of(config)
                    if hasattr(module, "explain"):
                        explanations[name] = module.explain(config, outputs[teacher].replace(memory=memory.get(name)))
            return next(iter(outputs.values())).regions, explanations

        regions_and_explanations = jax.jit(explain_batch)(
            self.state.params["detector"], self.teacher_params, self.state.memory, batch, self.state.key
        )
        return *jax.device_get(regions_and_explanations), float(batch.scales.min())

    def objects(self, name: str) -> Objects:
        """The objects of the training set, in the order that a method numbers its prototypes by."""
        refresh = Refresh(
            self.pair, self.sources["train"], self.loader_config, self.devices, batch=8, steps_per_epoch=1
        )
        return refresh.describe(name, self.state.params["detector"], "student")[0]


def open_finished(recipe: configs.Recipe, workdir: Path) -> FinishedRun:
    """The run in `workdir`.

    Raises ConfigError where it has no teacher or no checkpoint yet, and what `loop.run` raises for its recipe.
    """
    config = configs.build(recipe.train)
    sources = prepare.load_sources(recipe.data)
    classes = sources["train"].classes
    teachers = pairing.teachers_of(recipe, prepare.load_teachers(recipe, sources["train"]))
    if not teachers:
        raise ConfigError(f"The run in {workdir} has no teacher; there is nothing to explain.")
    loader_config = pairing.loader_config_of(recipe, teachers)
    sources, _ = pairing.with_detections(teachers, sources, limit=loader_config.max_objects)
    student = build.student(recipe.student, classes)
    pair = pairing.make_pair(recipe, config, student, teachers)
    folder, key = workdir / loop.CHECKPOINTS, jax.random.key(config.seed)
    latest = checkpoint.newest(folder)
    if latest is None:
        raise ConfigError(f"The run in {workdir} has no checkpoint yet.")
    state = checkpoint.restore(folder, latest, initial_state(pair, student.init(key), key))
    return FinishedRun(pair, state, pairing.params_of(teachers), sources, loader_config, mesh.make_mesh(1))

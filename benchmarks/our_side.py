"""Our detectors with ResNet-FPN as calls to be timed beside torchvision's."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from turns import scheduled, teacher_pass

from jaxkd.config import merged
from jaxkd.detectors.base import Detector, Params
from jaxkd.distill import task_adaptive
from jaxkd.nets import fpn, resnet
from jaxkd.train import mesh, optimizer
from jaxkd.train.state import State
from jaxkd.train.step import Pair, initial_state, make_step
from jaxkd.types import Batch, Detections
from jaxkd.weights import tree
from jaxkd.weights.published import recognise

CLASSES = tuple(str(number) for number in range(80))
MOST_OBJECTS = 100  # truth boxes a picture, padded to; the default of data.loader


@dataclass
class Program:
    """A compiled call and the megabytes that XLA plans for it: arguments, results and what lies between."""

    call: Callable[[], Any]
    megabytes: float | None
    temporary: float | None


@dataclass(frozen=True)
class FrozenNorms(Pair):
    """A pair whose student's backbone trains no norm's scale and bias, as torchvision has it."""

    def trainable(self, path: tuple[str, ...]) -> bool:
        """Whether the leaf at `path` of State.params is to be trained."""
        return super().trainable(path) and ("backbone" not in path or path[-1] == "kernel")


def detector(name: str, *, depth: Any = 50, dtype: Any = "float32", tiny: bool = False) -> Detector:
    """A detector like torchvision's of this name; `tiny` gives one of its kind to try a program out with."""
    body = resnet.Config(depth=10, width=8) if tiny else resnet.Config(depth=depth)
    levels: dict[str, Any] = {} if name == "faster_rcnn" else {"first": 1, "extra": "conv_p5"}
    neck = fpn.Config(channels=16 if tiny else 256, **levels)
    small: dict[str, Any] = {}
    if tiny:
        small = (
            {"head": {"hidden": 16}, "rois": {"samples": 16}} if name == "faster_rcnn" else {"head": {"channels": 16}}
        )
    module = importlib.import_module(f"jaxkd.detectors.{name}")
    config = module.Config(backbone=body, neck=neck, dtype=dtype)
    return module.build(_with(config, merged(module.LIKE["torchvision"], small)), classes=CLASSES)


def _with(config: Any, changes: Mapping[str, Any]) -> Any:
    """The dataclass with other fields, part by part; `config.component` does so where ml_collections is installed."""
    fields = {
        name: _with(getattr(config, name), value) if isinstance(value, Mapping) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(config, **fields)


def params_of(found: Detector, theirs: Mapping[str, np.ndarray] | None) -> Params:
    """Torchvision's weights where there are some, else random ones whose features do not grow with every block."""
    if theirs is not None:
        published = recognise(theirs)
        assert published is not None
        params, _ = tree.match(jax.eval_shape(found.init, jax.random.key(0)), published.arrays)
        return jax.tree.map(jnp.asarray, params)
    params = found.init(jax.random.key(0))
    last = {name: leaf * 0.2 for name, leaf in tree.flatten(params).items() if name.endswith("bn3/scale")}
    return tree.match(params, last, allow_missing=("*",))[0]


def batch_of(images: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> Batch:
    """A batch of pictures that fill their canvas, on the first device."""
    count, objects = boxes.shape[:2]
    spare = ((0, 0), (0, MOST_OBJECTS - objects))
    batch = Batch(
        images=images,
        sizes=np.tile(np.array(images.shape[1:3], np.int32), (count, 1)),
        boxes=np.pad(boxes, (*spare, (0, 0))),
        labels=np.pad(labels, spare).astype(np.int32),
        valid=np.pad(np.ones((count, objects), bool), spare),
        crowd=np.zeros((count, MOST_OBJECTS), bool),
        ids=np.arange(count, dtype=np.int32),
        scales=np.ones((count, 2), np.float32),
        real=np.ones(count, bool),
    )
    return mesh.put_batch(batch, mesh.make_mesh(1))


def train(student: Detector, params: Params, batch: Batch, *, taught_by: tuple[Detector, Params] | None = None):
    """A step of SGD as training runs it, alone or taught by task adaptive distillation; the call returns its loss."""
    pair, teacher_params = _pair(student, taught_by)
    devices = mesh.make_mesh(1)
    state = mesh.put_replicated(initial_state(pair, params, jax.random.key(1)), devices)
    teacher_params = mesh.put_replicated(teacher_params, devices)
    values = scheduled(pair)
    step, plan = _compiled(make_step(pair, devices), state, teacher_params, values, batch)
    holder: list[State] = [jax.tree.map(jnp.copy, state)]  # the step gives its state away

    def once() -> float:
        holder[0], metrics = step(holder[0], teacher_params, values, batch)
        return float(metrics["loss"])

    return Program(once, *plan)


def teacher(student: Detector, taught_by: tuple[Detector, Params], batch: Batch) -> Program:
    """The teacher's part of a taught step."""
    pair, teacher_params = _pair(student, taught_by)
    look, plan = _compiled(jax.jit(lambda weights, one: teacher_pass(pair, weights, one)), teacher_params, batch)
    return Program(lambda: look(teacher_params, batch), *plan)


def infer(found: Detector, params: Params, batch: Batch) -> Program:
    """Detection; the call returns each picture's scores."""
    look, plan = _compiled(jax.jit(found.detect), params, batch)

    def once() -> list[np.ndarray]:
        out: Detections = jax.device_get(look(params, batch))
        return [scores[valid] for scores, valid in zip(out.scores, out.valid, strict=True)]

    return Program(once, *plan)


def of_function(function: Callable, *arguments: Any) -> Program:
    """Any function of arrays."""
    run, plan = _compiled(jax.jit(function), *arguments)
    return Program(lambda: run(*arguments), *plan)


def _pair(student: Detector, taught_by: tuple[Detector, Params] | None) -> tuple[Pair, Params]:
    methods = {"tar": task_adaptive.Config()} if taught_by else {}
    pair = FrozenNorms(
        student=student,
        teacher=taught_by[0] if taught_by else None,
        methods=methods,
        optimizer=optimizer.build(optimizer.Config()),
    )
    return pair, taught_by[1] if taught_by else {}


def _compiled(function: Any, *arguments: Any) -> tuple[Callable, tuple[float | None, float | None]]:
    """The program for these arguments, and the megabytes that it plans: all, and only what is temporary."""
    program = function.lower(*arguments).compile()
    plan = program.memory_analysis()
    if plan is None:
        return program, (None, None)
    given = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return program, ((given + plan.temp_size_in_bytes) / 1e6, plan.temp_size_in_bytes / 1e6)

"""Time of a training step alone and taught, and of the teacher's forward pass; what teaching costs beyond that.

    python benchmarks/step.py [--config=bccd] [--alone=alone] [--taught=tar] [--foundation] [--repeats=20]
        [--out=step.json]

Two arguments of a recipe are timed in turns within one run on one real batch; medians are shown. The
taught step should cost no more than 1.15 x (step alone + teacher's forward pass over the same pictures and regions).
With --foundation the teacher is a DINOv2-S of random weights, as for --taught=align.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import jax
from ml_collections import ConfigDict
from turns import alternated, medians, scheduled, teacher_pass

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.loading import build, foundation, initial, prepare
from jaxkd.nets import vit
from jaxkd.train import mesh, pairing
from jaxkd.train import step as steps


def main() -> None:
    """Prints the table and writes JSON where --out is given."""
    parser = argparse.ArgumentParser(description="Time of a training step alone and taught.")
    parser.add_argument("--config", default="bccd")
    parser.add_argument("--alone", default="alone")
    parser.add_argument("--taught", default="tar")
    parser.add_argument("--foundation", action="store_true")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    given = _foundation() if options.foundation else None
    result = measure(options.config, options.alone, options.taught, options.repeats, given)
    for name, value in result.items():
        print(f"{name:<34}{value if isinstance(value, str) else f'{value:10.4f}'}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


def measure(
    name: str, alone: str, taught: str, repeats: int, teacher: build.Loaded | None = None
) -> dict[str, float | str]:
    """Medians in seconds, and their ratio; `teacher` in place of the recipe's."""
    devices = mesh.make_mesh(1)
    runs = {"alone": _prepared(name, alone, devices), "taught": _prepared(name, taught, devices, teacher)}
    pair, _, teacher_params, batch = runs["taught"]
    forward = jax.jit(
        mesh.over_batch(lambda weights, one: teacher_pass(pair, weights, one), devices, replicated=1, gathered=True)
    )
    functions: dict[str, Callable[[], object]] = {"teacher_forward": lambda: forward(teacher_params, batch)}
    for label, (one, start, weights, pictures) in runs.items():
        functions[f"step_{label}"] = _stepper(steps.make_step(one, devices), start, weights, scheduled(one), pictures)
    seconds = medians(alternated(functions, rounds=repeats))
    bound = seconds["step_alone"] + seconds["teacher_forward"]
    return seconds | {
        "taught / (alone + teacher)": seconds["step_taught"] / bound,
        "taught / alone": seconds["step_taught"] / seconds["step_alone"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}, jax {jax.__version__}",
    }


def _foundation() -> build.Loaded:
    """A DINOv2-S of random weights."""
    backbone = foundation.FoundationBackbone(vit.Config())
    return build.Loaded(backbone, backbone.init(jax.random.key(0)), ConfigDict(), {}, {})


def _prepared(name: str, argument: str, devices, teacher: build.Loaded | None = None):
    recipe = configs.load_recipe(name, argument)
    config = configs.build(recipe.train)
    source = prepare.load_source(recipe.data.train)
    student = build.detector(recipe.student, source.classes)
    teacher = teacher or prepare.load_teacher(recipe)
    pair = pairing.make_pair(recipe, config, student, {"": teacher} if teacher else {})
    params, _ = initial.params(student, jax.random.key(0), "")
    state = mesh.put_replicated(steps.initial_state(pair, params, jax.random.key(1)), devices)
    loader_config = configs.build(recipe.data.loader)
    batches = loader.train_batches(source, loader_config, seed=0, steps=1, batch=config.batch)
    batch = mesh.put_batch(next(batches), devices)
    batches.close()
    return pair, state, mesh.put_replicated(teacher.params if teacher else {}, devices), batch


def _stepper(step, state, *others):
    def once():
        nonlocal state
        state, metrics = step(state, *others)
        return metrics

    return once


if __name__ == "__main__":
    main()

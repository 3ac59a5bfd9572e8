"""The students that `jaxkd distill` has by name: parameters, operations, and time of a picture through ONNX.

    python benchmarks/students.py [--names=pocket,tiny] [--sides=320,416] [--rounds=20] [--out=students.json]

Anchors follow of the blood cells that come with the package, the outputs are for COCO's 80 classes, and the weights are
random. Operations are those that XLA counts for a picture, of dense students without decoding and suppression. Times
are medians of one picture by all cores, decoding and suppression included, all students and sizes in turns. "retinanet"
is a MobileNetV2 with RetinaNet's full head, to compare with.
"""

import argparse
import functools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from turns import alternated, machine

from jaxkd import config as configs
from jaxkd import json_values
from jaxkd.class_lists import COCO
from jaxkd.config import component
from jaxkd.derive import learners, student
from jaxkd.derive.base import Notes
from jaxkd.detectors.dense import Dense
from jaxkd.export import base, folder, standalone
from jaxkd.loading import build, prepare
from jaxkd.types import Batch

RETINANET = "retinanet"
NAMES = (*(name for name in student.NAMES if name != "auto"), "auto", RETINANET)


def main() -> None:
    """Prints the table and writes JSON where --out is given."""
    parser = argparse.ArgumentParser(description="The students of jaxkd distill.")
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--sides", default="320,416")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sides = [int(side) for side in options.sides.split(",")]
    students = {name: loaded(name) for name in options.names.split(",")}
    rows: dict[str, dict[str, float]] = {name: {"parameters": parameters(one)} for name, one in students.items()}
    for name, one in students.items():
        rows[name] |= {f"gflops_{side}": gflops(one, side) for side in sides}
    for (name, side), seconds in timed(students, sides, rounds=options.rounds).items():
        rows[name][f"ms_{side}"] = 1e3 * seconds
    print(table(rows))
    print(f"\n{machine()}")
    if options.out:
        options.out.write_text(f"{json_values.dumps({'students': rows, 'machine': machine()}, indent=2)}\n")


def loaded(name: str) -> build.Loaded:
    """The student of this name with random weights."""
    if name == RETINANET:
        config = component("detectors.retinanet", backbone=component("nets.mobilenet"))
    else:
        data = configs.load_recipe("bccd", "alone").data
        scene = learners.Scene(prepare.load_source(data.train), {"buckets": ((320, 320),), "max_objects": 40})
        config = learners.student(scene, name, initial="", notes=Notes()).detector
    detector = build.detector(config, tuple(COCO.values()))
    return build.Loaded(detector, detector.init(jax.random.key(0)), config, scores={}, sizes={})


def parameters(one: build.Loaded) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(one.params))


def gflops(one: build.Loaded, side: int) -> float:
    """Operations for a picture, in 10^9, of a dense student without decoding and suppression."""
    detector: Any = one.detector

    def maps(params: Any, batch: Batch) -> Any:
        if not isinstance(detector, Dense):
            return detector.detect(params, batch)
        features = one.detector.features(params, batch)
        return detector.maps(params, features, batch)

    analysis = jax.jit(maps).lower(one.params, blank(side)).compile().cost_analysis() or {}
    return analysis.get("flops", float("nan")) / 1e9


def blank(side: int) -> Batch:
    """A batch of one picture without objects."""
    none = np.zeros((1, 1), bool)
    return Batch(
        images=np.zeros((1, side, side, 3), np.uint8),
        sizes=np.array([[side, side]], np.int32),
        boxes=np.zeros((1, 1, 4), np.float32),
        labels=np.zeros((1, 1), np.int32),
        valid=none,
        crowd=none,
        ids=np.zeros(1, np.int32),
        scales=np.ones((1, 2), np.float32),
        real=np.ones(1, bool),
    )


def timed(students: dict[str, build.Loaded], sides: list[int], *, rounds: int) -> dict[tuple[str, int], float]:
    """Median seconds of a picture through each student's ONNX file, all in turns."""
    images = {side: np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8) for side in sides}
    with tempfile.TemporaryDirectory() as spare:
        calls: dict[tuple[str, int], Callable[[], Any]] = {}
        for name, one in students.items():
            for side in sides:
                place = Path(spare) / f"{name}_{side}"
                with folder.replacing(place) as part:
                    folder.write(base.subject(one, size=(side, side)), "onnx", part)
                run = standalone.Model(place).run
                calls[name, side] = functools.partial(run, images[side], np.array([[side, side]], np.int32))
        taken = alternated({f"{name}_{side}": call for (name, side), call in calls.items()}, rounds=rounds)
        return {key: statistics.median(taken[f"{key[0]}_{key[1]}"]) for key in calls}


def table(rows: dict[str, dict[str, float]]) -> str:
    """The figures as Markdown."""
    columns = list(next(iter(rows.values())))
    lines = [f"| student | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, row in rows.items():
        lines.append(f"| `{name}` | {' | '.join(f'{row[column]:,.4g}' for column in columns)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

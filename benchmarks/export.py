"""A student in every format: what its file scores, how far its answers lie from the detector's, size and time.

    python benchmarks/export.py --workdir=runs/quickstart/taught [--formats=stablehlo,onnx,tflite,savedmodel,int8]
                                [--keep=FOLDER] [--repeats=20] [--out=export.json]

Everything is measured in one process on the run's validation pictures, on the canvas of most of them, APs through the
exports' own detect.py; times are medians, taken in turns, of one picture and of five through the same file. "int8" is
TFLite with convolutions and products of int8. With --keep the exports stay, each in a folder of its own in there.
"""

import argparse
import functools
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from turns import alternated, medians

from jaxkd import json_values
from jaxkd.cli.workdir import open_run
from jaxkd.data import loader
from jaxkd.export import base, check, folder, standalone
from jaxkd.loading import prepare

BATCHES = (1, 5)


def main() -> None:
    """Prints the table and writes JSON where --out is given."""
    parser = argparse.ArgumentParser(description="A student in every format.")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--formats", default="stablehlo,onnx,tflite,savedmodel,int8")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    run = open_run(options.workdir)
    source = prepare.load_source(run.recipe.data.val)
    size, _ = check.canvas(run.student, source)
    subject = base.subject(run.student, size=size)
    kinds = options.formats.split(",")
    checked = {}
    with tempfile.TemporaryDirectory() as spare:
        places = {kind: (options.keep or Path(spare)) / kind for kind in kinds}
        for kind, place in places.items():
            write(subject, kind, place, run.recipe)
            checked[kind] = check.check(subject, place, source, limit=0)
        times = timed(subject, source, places, options.repeats)
    print(table(checked, times))
    print(f"\n{platform.machine()}, jax {jax.__version__}, {checked[kinds[0]].pictures} pictures")
    if options.out:
        options.out.write_text(f"{json_values.dumps({'checked': checked, 'milliseconds': times}, indent=2)}\n")


def write(subject: base.Subject, kind: str, place: Path, recipe: Any) -> None:
    """Writes one format as `jaxkd export` does."""
    with folder.replacing(place) as part:
        if kind == "int8":
            pairs = check.calibration(subject, prepare.load_source(recipe.data.train), limit=100)
            folder.write(subject, "tflite", part, calibration=pairs)
        else:
            folder.write(subject, kind, part)


def timed(subject: base.Subject, source: Any, places: dict[str, Path], repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each, and of the detector as "detector", for each number of pictures."""
    config = check.loader_config(subject)
    function = jax.jit(subject.function)
    times: dict[str, dict[str, float]] = {}
    for count in BATCHES:
        batches = loader.eval_batches(source, config, batch=count, limit=count)
        batch = next(batches)
        batches.close()
        images, sizes = np.asarray(batch.images), np.asarray(batch.sizes)
        found = {kind: standalone.Model(place).run for kind, place in places.items()}
        runs: dict[str, Callable[[], Any]] = {"detector": functools.partial(function, images, sizes)}
        runs |= {kind: functools.partial(run, images, sizes) for kind, run in found.items()}
        for kind, seconds in medians(alternated(runs, rounds=repeats)).items():
            times.setdefault(kind, {})[str(count)] = 1e3 * seconds
    return times


def table(checked: dict[str, check.Check], times: dict[str, dict[str, float]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| format | AP | boxes differ by, pixels | scores by | MB | ms, 1 picture | ms, 5 pictures |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    before = next(iter(checked.values()))
    spans = [f"{times['detector'][str(count)]:.1f}" for count in BATCHES]
    lines.append(f"| the detector in Python | {100 * before.ap:.1f} | | | | {' | '.join(spans)} |")
    for kind, each in checked.items():
        spans = " | ".join(f"{times[kind][str(count)]:.1f}" for count in BATCHES)
        lines.append(
            f"| {kind} | {100 * each.ap_exported:.1f} | {each.boxes:.0e} | {each.scores:.0e} "
            f"| {each.megabytes:.2f} | {spans} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""A student in every format: what its file scores, how far its answers lie from the detector's, size and time.

    python benchmarks/export.py --workdir=runs/quickstart/taught [--formats=stablehlo,onnx,tflite,savedmodel,int8]
                                [--keep=exported] [--repeats=20] [--out=export.json]

Everything is measured in one process on the run's validation pictures; times are medians, taken in turns, of one
picture and of five through the same file. "int8" is TFLite with convolutions and products of int8.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from turns import alternated, medians

from jaxkd.cli.workdir import open_run
from jaxkd.data import loader
from jaxkd.export import base, check, standalone
from jaxkd.train import prepare

BATCHES = (1, 5)


def main() -> None:
    """Prints the table and writes JSON where --out is given."""
    parser = argparse.ArgumentParser(description="A student in every format.")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--formats", default="stablehlo,onnx,tflite,savedmodel,int8")
    parser.add_argument("--keep", type=Path, default=Path("exported"))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    run = open_run(options.workdir)
    subject = base.subject(run.student)
    source = prepare.load_source(run.recipe.data.val)
    kinds = options.formats.split(",")
    checked = {}
    for kind in kinds:
        folder = options.keep / kind
        write(subject, kind, folder, run.recipe)
        checked[kind] = check.check(subject, folder, source, limit=0)
    times = timed(subject, source, {kind: options.keep / kind for kind in kinds}, options.repeats)
    print(table(checked, times))
    print(f"\n{platform.machine()}, jax {jax.__version__}, {checked[kinds[0]].pictures} pictures")
    if options.out:
        found = {kind: dataclasses.asdict(each) for kind, each in checked.items()}
        options.out.write_text(json.dumps({"checked": found, "milliseconds": times}, indent=2) + "\n")


def write(subject: base.Subject, kind: str, folder: Path, recipe: Any) -> None:
    """Writes one format with its description."""
    name = "tflite" if kind == "int8" else kind
    module = importlib.import_module(f"jaxkd.export.{name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    more = {}
    if kind == "int8":
        more["calibration"] = check.calibration(subject, prepare.load_source(recipe.data.train), limit=100)
    module.write(subject, folder / module.FILE, **more)
    (folder / base.ABOUT).write_text(json.dumps(base.describe(subject, kind=name, file=module.FILE)))


def timed(subject: base.Subject, source: Any, folders: dict[str, Path], repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each, and of the detector as "detector", for each number of pictures."""
    about = base.describe(subject, kind="", file="")["picture"]
    config = check.feeding(subject, (about["short"],), about["long"])
    function = jax.jit(subject.function)
    times: dict[str, dict[str, float]] = {}
    for count in BATCHES:
        batches = loader.eval_batches(source, config, batch=count, limit=count)
        batch = next(batches)
        batches.close()
        images, sizes = np.asarray(batch.images), np.asarray(batch.sizes)
        found = {kind: standalone.Model(folder).run for kind, folder in folders.items()}
        runs: dict[str, Callable[[], Any]] = {"detector": functools.partial(function, images, sizes)}
        runs |= {kind: functools.partial(run, images, sizes) for kind, run in found.items()}
        for kind, seconds in medians(alternated(runs, rounds=repeats)).items():
            times.setdefault(kind, {})[str(count)] = 1e3 * seconds
    return times


def table(checked: dict[str, check.Checked], times: dict[str, dict[str, float]]) -> str:
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

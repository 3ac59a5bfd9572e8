"""`jaxkd predict --workdir=DIR PICTURE... --out=DIR`: what a detector finds in pictures, folders and videos."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxkd import words
from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError, DataError

if TYPE_CHECKING:
    from jaxkd.cli.predictions import CocoFile
    from jaxkd.data.files import Shot
    from jaxkd.predictor import Found

FILE = "predictions.json"
DRAWING = 2  # threads that draw, and pictures that wait for them


def define(values: flags.FlagValues) -> None:
    """The command's flags."""
    define_path("workdir", "", "Folder of the run, or weights alone.", values=values)
    define_path("out", "predictions", "Folder for the pictures and predictions.json.", values=values)
    flags.DEFINE_float("score", 0.5, "Least score of a box that is drawn.", flag_values=values)
    flags.DEFINE_bool("draw", True, "Draw what is found on each picture.", flag_values=values)
    flags.DEFINE_integer("every", 1, "Take every N-th frame of a video.", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("batch", 1, "Pictures of one shape at once.", flag_values=values, lower_bound=1)


def run(argv: Sequence[str]) -> int:
    """Pictures that cannot be read are named, counted and left out; DataError only where none can."""
    values, names = parse("predict", argv, define, positional="PICTURE|FOLDER|VIDEO...")
    if not names:
        raise ConfigError("Name the pictures to look at: jaxkd predict --workdir=DIR PICTURE... --out=DIR.")
    # Late, for jax is slow to load: --help and a wrong flag are answered without it.
    from jaxkd import letters
    from jaxkd.cli.predictions import CocoFile
    from jaxkd.cli.progress import Steps
    from jaxkd.cli.workdir import open_run
    from jaxkd.data import files
    from jaxkd.data.prefetch import in_order
    from jaxkd.predictor import Predictor

    detector, out = Predictor(open_run(values.workdir).student), Path(values.out)
    other: list[str] = []
    paths = list(files.listed(names, without=out, passed_over=other.append))
    if other:
        print(f"Passed over in the folders: {len(other)} pictures, the first: {other[0]}", file=sys.stderr)
    total = sum(files.count(path, every=values.every) for path in paths)
    boxes, faults = 0, []
    with CocoFile(out / FILE, classes=detector.classes) as file, Steps("pictures", total=total) as steps:

        def leave_out(error: DataError) -> None:
            print(f"Left out: {error}", file=sys.stderr)
            faults.append(error)
            steps.advance()

        found = detector.stream(paths, every=values.every, batch=values.batch, left_out=leave_out)
        for shown in in_order(_tasks(found, file, values), threads=DRAWING, depth=DRAWING):
            boxes += shown
            steps.advance()
    if not file.images:
        raise DataError(f"Nothing could be read of {words.counted(len(faults), 'picture')}; the first: {faults[0]}")
    where = f"drawn in {out}" if values.draw else f"listed in {out / FILE}"
    left = f" {len(faults)} could not be read and were left out." if faults else ""
    found, seen = words.counted(boxes, "box"), words.counted(len(file.images), "picture")
    print(f"{found} with a score of at least {values.score} on {seen}, {where}.{left}")
    if values.draw and (said := letters.legend(detector.classes)):
        print(said)
    return 0


def _tasks(found: "Iterator[Found]", file: "CocoFile", values: flags.FlagValues) -> Iterator[Callable[[], int]]:
    """Writes what is found in each picture, and gives what is left to do: to draw it, and to count its boxes."""
    for number, one in enumerate(found, start=1):
        rows = file.add(one)
        yield partial(_drawn if values.draw else _counted, one.shot, rows, file.categories, number, values)


def _counted(shot: "Shot", rows: list[dict], categories: list[dict], number: int, values: flags.FlagValues) -> int:
    """The number of boxes with a score that is high enough."""
    return sum(row["score"] >= values.score for row in rows)


def _drawn(shot: "Shot", rows: list[dict], categories: list[dict], number: int, values: flags.FlagValues) -> int:
    """The same, drawn."""
    # Late, as in `run`.
    from jaxkd import draw

    boxes = draw.from_results(rows, categories, least=values.score).get(number, [])
    frame = "" if shot.frame is None else f"_{shot.frame:06d}"
    file = Path(values.out) / f"{number:04d}_{Path(shot.file).stem}{frame}.png"
    draw.boxes_on(shot.image, boxes).save(file, compress_level=1)  # faster than the default, and a larger file
    return len(boxes)

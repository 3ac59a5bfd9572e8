"""`jaxkd predict --workdir=DIR PICTURE... --out=DIR`: detections in pictures, folders and videos."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxkd import phrases
from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError, DataError

if TYPE_CHECKING:
    from jaxkd.cli.predictions import CocoFile
    from jaxkd.data.files import Frame
    from jaxkd.predictor import FrameDetections

FILE = "predictions.json"
DRAWING = 2  # threads that draw, and most pictures waiting for them


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_path("workdir", "", "Folder of the run, or weights alone.", values=values)
    define_path("out", "predictions", "Folder for the pictures and predictions.json.", values=values)
    flags.DEFINE_float("score", 0.5, "Least score of a box that is drawn.", flag_values=values)
    flags.DEFINE_bool("draw", True, "Draw what is found on each picture.", flag_values=values)
    flags.DEFINE_integer("every", 1, "Take every N-th frame of a video.", flag_values=values, lower_bound=1)
    flags.DEFINE_integer("batch", 1, "Pictures of one shape at once.", flag_values=values, lower_bound=1)


def run(argv: Sequence[str]) -> int:
    """Writes the detections of the pictures, and draws them.

    Pictures that cannot be read are named, counted and left out. Raises DataError where none can be read.
    """
    values, names = parse("predict", argv, define, positional="PICTURE|FOLDER|VIDEO...")
    if not names:
        raise ConfigError("Name the pictures: jaxkd predict --workdir=DIR PICTURE... --out=DIR.")
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd import fonts
    from jaxkd.cli.predictions import CocoFile
    from jaxkd.cli.progress import Steps
    from jaxkd.cli.workdir import open_run
    from jaxkd.data import files
    from jaxkd.data.prefetch import in_order
    from jaxkd.predictor import Predictor

    detector, out = Predictor(open_run(values.workdir).student), Path(values.out)
    passed_over: list[str] = []
    paths = list(files.expand_folders(names, exclude=out, on_unsupported=passed_over.append))
    if passed_over:
        print(f"Passed over in the folders: {len(passed_over)} pictures, the first: {passed_over[0]}", file=sys.stderr)
    total = sum(files.count(path, every=values.every) for path in paths)
    boxes, faults = 0, []
    with CocoFile(out / FILE, classes=detector.classes) as file, Steps("pictures", total=total) as steps:

        def leave_out(error: DataError) -> None:
            print(f"Left out: {error}", file=sys.stderr)
            faults.append(error)
            steps.advance()

        predictions = detector.stream(paths, every=values.every, batch=values.batch, on_error=leave_out)
        for count in in_order(_tasks(predictions, file, values), threads=DRAWING, depth=DRAWING):
            boxes += count
            steps.advance()
    if not file.images:
        raise DataError(f"Nothing could be read of {phrases.counted(len(faults), 'picture')}; the first: {faults[0]}")
    place = f"drawn in {out}" if values.draw else f"listed in {out / FILE}"
    left_out_text = f" {len(faults)} could not be read and were left out." if faults else ""
    boxes_text, pictures_text = phrases.counted(boxes, "box"), phrases.counted(len(file.images), "picture")
    print(f"{boxes_text} with a score of at least {values.score} on {pictures_text}, {place}.{left_out_text}")
    if values.draw and (legend := fonts.legend(detector.classes)):
        print(legend)
    return 0


def _tasks(
    predictions: "Iterator[FrameDetections]", file: "CocoFile", values: flags.FlagValues
) -> Iterator[Callable[[], int]]:
    """Writes the detections of each picture, and yields the task that is left: to draw them, and to count them."""
    for number, prediction in enumerate(predictions, start=1):
        rows = file.add(prediction)
        yield partial(_draw if values.draw else _count, prediction.frame, rows, file.categories, number, values)


def _count(frame: "Frame", rows: list[dict], categories: list[dict], number: int, values: flags.FlagValues) -> int:
    """The number of boxes with a score of at least --score."""
    return sum(row["score"] >= values.score for row in rows)


def _draw(frame: "Frame", rows: list[dict], categories: list[dict], number: int, values: flags.FlagValues) -> int:
    """The same number, once the boxes are drawn."""
    # Late, as in `run`.
    from jaxkd import draw

    boxes = draw.from_results(rows, categories, least=values.score).get(number, [])
    suffix = "" if frame.number is None else f"_{frame.number:06d}"
    file = Path(values.out) / f"{number:04d}_{Path(frame.file).stem}{suffix}.png"
    draw.boxes_on(frame.image, boxes).save(file, compress_level=1)  # faster than the default, and a larger file
    return len(boxes)

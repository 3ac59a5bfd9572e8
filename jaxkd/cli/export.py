"""`jaxkd export --workdir=DIR --format=onnx --out=DIR`: a run's student as a file that runs without jaxkd."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from rich.console import Console
from rich.table import Table

from jaxkd.cli.flags import choice, define_path, parse
from jaxkd.errors import ConfigError, DataError, JaxkdError
from jaxkd.export import FORMATS

if TYPE_CHECKING:
    from jaxkd.data.base import Source
    from jaxkd.export.base import Subject
    from jaxkd.export.check import Checked

SPLITS = {"train": "training", "val": "validation"}


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    define_path("workdir", "", "A run, a folder of weights, or a published file.", values=values)
    flags.DEFINE_string("format", "", f"One of {', '.join(FORMATS)}.", flag_values=values)
    define_path("out", "exported", "Folder for the file, model.json and detect.py.", values=values)
    flags.DEFINE_string("size", "", "HEIGHTxWIDTH of the canvas; the detector's first bucket.", flag_values=values)
    flags.DEFINE_bool("int8", False, "TFLite with convolutions and products of int8.", flag_values=values)
    flags.DEFINE_integer("calibration", 100, "Training pictures to set int8's ranges by.", 1, flag_values=values)
    flags.DEFINE_integer("check", 200, "Validation pictures to score the file on; 0 for none.", 0, flag_values=values)


def run(argv: Sequence[str]) -> int:
    """Writes the folder once the file has been scored, and prints what the file costs and what it scores.

    Raises JaxkdError where a float32 file scores another AP than its detector; nothing is written then.
    """
    chosen, rest = choice(argv)
    values, _ = parse("export", rest, define, with_recipe=True)
    if values.format not in FORMATS:
        raise ConfigError(f"There is no format {values.format!r}; give --format=, one of {', '.join(FORMATS)}.")
    if values.int8 and values.format != "tflite":
        raise ConfigError(f"int8 is for --format=tflite, not for {values.format}.")
    if not values.out:
        raise ConfigError("--out is empty; give a folder for the file, model.json and detect.py.")
    size = _size(values.size)
    from jaxkd.cli.workdir import open_run
    from jaxkd.export import base, folder

    module = folder.module_of(values.format)
    base.require(values.format, extra=module.EXTRA, modules=module.NEEDS)
    out = Path(values.out)
    folder.owned(out)
    found = open_run(values.workdir)
    subject = base.subject(found.student, size=size)
    sources = _sources(chosen.recipe(found.recipe), subject, values)
    with folder.renewed(out) as part:
        checked = _export(subject, part, sources, values)
    print(f"{out} holds {module.FILE}, model.json and detect.py: python {out / 'detect.py'} PICTURE...")
    canvas = "{}x{}".format(*subject.size)
    if not size and (count := len(found.student.sizes["buckets"])) > 1:
        print(
            f"Its canvas is {canvas}, the first of the detector's {count} buckets; pictures that do not fit on it "
            "shrink, and --size=HEIGHTxWIDTH makes it another."
        )
    if checked:
        _show(checked, f"{values.format}{', int8' if values.int8 else ''}", canvas)
    return 0


def _sources(config: Any, subject: "Subject", values: flags.FlagValues) -> "dict[str, Source]":
    """What the file is calibrated and scored on, by the names of the splits.

    Raises JaxkdError where the data is not there, or is not for this detector.
    """
    from jaxkd.export import check
    from jaxkd.train import prepare

    needed = [*(["train"] if values.int8 else []), *(["val"] if values.check else [])]
    if needed and config is None:
        raise ConfigError(
            f"{values.workdir} is no run and names no data; give --config=RECIPE with its data"
            + ("." if values.int8 else ", or --check=0 to leave the file unscored.")
        )
    found = {}
    for split in needed:
        try:
            classes = subject.loaded.detector.classes
            found[split] = prepare.load_source(config.data[split], classes=classes, split=SPLITS[split])
        except (ConfigError, DataError) as error:
            hint = " Or give --check=0 to leave the file unscored." if split == "val" else ""
            raise type(error)(f"{error}{hint}") from error
    if "val" in found:
        check.require_objects(found["val"], limit=values.check)
    return found


def _export(subject: "Subject", part: Path, sources: "dict[str, Source]", values: flags.FlagValues) -> "Checked | None":
    """Writes the folder, and scores it where that is asked for."""
    from jaxkd.export import check, folder

    pairs = check.calibration(subject, sources["train"], limit=values.calibration) if values.int8 else ()
    about = folder.write(subject, values.format, part, calibration=pairs)
    if not values.check:
        return None
    checked = check.check(subject, part, sources["val"], limit=values.check)
    if not values.int8 and abs(checked.ap - checked.ap_exported) > check.ALLOWED:
        raise JaxkdError(
            f"The {values.format} file scores AP {100 * checked.ap_exported:.1f} and its detector "
            f"{100 * checked.ap:.1f} on {checked.pictures} pictures; it is not kept. Please report this."
        )
    folder.note(part, about | {"checked": checked})
    return checked


def _show(checked: "Checked", name: str, canvas: str) -> None:
    table = Table(title=f"On {checked.pictures} validation pictures")
    for column in ("", "AP", "ms/image", "MB"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row(f"detector at {canvas}", f"{100 * checked.ap:.1f}", f"{checked.milliseconds:.1f}", "")
    row = (f"{100 * checked.ap_exported:.1f}", f"{checked.milliseconds_exported:.1f}", f"{checked.megabytes:.2f}")
    table.add_row(name, *row)
    Console().print(table)
    print(
        f"Largest difference of a box {checked.boxes:.1e} pixels, of a score {checked.scores:.1e}; "
        f"{checked.lost} detections are in one of both only."
    )


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
    if not found:
        raise ConfigError(f"--size={text} is no size; give HEIGHTxWIDTH, such as 320x320.")
    return int(found[1]), int(found[2])

"""`jaxkd export --workdir=DIR --format=onnx --out=DIR`: a run's student as a file that runs without jaxkd."""

import dataclasses
import importlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from rich.console import Console
from rich.table import Table

from jaxkd.cli.flags import optional_recipe, parse
from jaxkd.errors import ConfigError, JaxkdError

if TYPE_CHECKING:
    from jaxkd.export.check import Checked

FORMATS = ("stablehlo", "onnx", "tflite", "savedmodel")


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string("workdir", "", "A run, a folder of weights, or a published file.", flag_values=values)
    flags.DEFINE_string("format", "", f"One of {', '.join(FORMATS)}.", flag_values=values)
    flags.DEFINE_string("out", "exported", "Folder for the file, model.json and detect.py.", flag_values=values)
    flags.DEFINE_string("size", "", "HEIGHTxWIDTH of the canvas; the detector's first bucket.", flag_values=values)
    flags.DEFINE_bool("int8", False, "TFLite with convolutions and products of int8.", flag_values=values)
    flags.DEFINE_integer("calibration", 100, "Training pictures to set int8's ranges by.", 1, flag_values=values)
    flags.DEFINE_integer("check", 200, "Validation pictures to score the file on; 0 for none.", 0, flag_values=values)


def run(argv: Sequence[str]) -> int:
    """Writes the folder once the file has been scored, and prints what the file costs and what it scores.

    Raises JaxkdError where a float32 file scores another AP than its detector; nothing is written then.
    """
    wants_help = "--help" in argv or "-h" in argv
    config, rest = (None, list(argv)) if wants_help else optional_recipe(argv)
    values, _ = parse("export", rest, define)
    if values.format not in FORMATS:
        raise ConfigError(f"There is no format {values.format!r}; give --format=, one of {', '.join(FORMATS)}.")
    if values.int8 and values.format != "tflite":
        raise ConfigError(f"int8 is for --format=tflite, not for {values.format}.")
    from jaxkd.cli.workdir import open_run
    from jaxkd.export import base

    module = importlib.import_module(f"jaxkd.export.{values.format}")
    base.require(values.format, extra=module.EXTRA, modules=module.NEEDS)
    out = Path(values.out)
    _refuse_other(out)
    found = open_run(values.workdir)
    config = config or found.recipe
    if config is None and (values.int8 or values.check):
        raise ConfigError(
            f"{values.workdir} is no run and names no data; give --config=RECIPE with its data"
            + ("." if values.int8 else ", or --check=0 to leave the file unscored.")
        )
    subject = base.subject(found.student, size=_size(values.size))
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        checked = _export(subject, module, part, config, values)
        if out.exists():
            shutil.rmtree(out)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"{out} holds {module.FILE}, model.json and detect.py: python {out / 'detect.py'} PICTURE...")
    if checked:
        _show(checked, f"{values.format}{', int8' if values.int8 else ''}")
    return 0


def _export(subject: Any, module: Any, folder: Path, config: Any, values: flags.FlagValues) -> "Checked | None":
    """Writes the folder, and scores it where that is asked for."""
    from jaxkd.data.base import Source
    from jaxkd.export import base, check, standalone
    from jaxkd.train import prepare

    def source(split: str) -> Source:
        found = prepare.load_source(config.data[split])
        prepare.check_classes(found.classes, subject.loaded.detector.classes, whose="the detector")
        return found

    options = {}
    if values.int8:
        options["calibration"] = check.calibration(subject, source("train"), limit=values.calibration)
    module.write(subject, folder / module.FILE, **options)
    about = base.describe(subject, kind=values.format, file=module.FILE)
    file = folder / base.ABOUT
    file.write_text(json.dumps(about, indent=2) + "\n")
    shutil.copy(standalone.__file__, folder / base.SCRIPT)
    if not values.check:
        return None
    checked = check.check(subject, folder, source("val"), limit=values.check)
    if not values.int8 and abs(checked.ap - checked.ap_exported) > check.ALLOWED:
        raise JaxkdError(
            f"The {values.format} file scores AP {100 * checked.ap_exported:.1f} and its detector "
            f"{100 * checked.ap:.1f} on {checked.pictures} pictures; it is not kept. Please report this."
        )
    file.write_text(json.dumps(about | {"checked": dataclasses.asdict(checked)}, indent=2) + "\n")
    return checked


def _show(checked: "Checked", name: str) -> None:
    table = Table(title=f"On {checked.pictures} validation pictures")
    for column in ("", "AP", "ms/image", "MB"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("detector", f"{100 * checked.ap:.1f}", f"{checked.milliseconds:.1f}", "")
    row = (f"{100 * checked.ap_exported:.1f}", f"{checked.milliseconds_exported:.1f}", f"{checked.megabytes:.2f}")
    table.add_row(name, *row)
    Console().print(table)
    print(
        f"Largest difference of a box {checked.boxes:.1e} pixels, of a score {checked.scores:.1e}; "
        f"{checked.lost} detections are in one of both only."
    )


def _refuse_other(out: Path) -> None:
    """Raises ConfigError where the folder holds something else than an earlier export."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "model.json").is_file()):
        raise ConfigError(f"{out} is there and no earlier export; give another --out.")


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise ConfigError(f"--size={text} is no size; give HEIGHTxWIDTH, such as 320x320.")
    return int(found[1]), int(found[2])

"""`jaxkd export --workdir=DIR --format=onnx --out=DIR`: a run's student as a file that runs without jaxkd."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from rich.console import Console
from rich.table import Table

from jaxkd import config as configs
from jaxkd.cli.flags import choice, define_path, parse
from jaxkd.errors import ConfigError, DataError, JaxkdError
from jaxkd.export import FORMATS, HALF

if TYPE_CHECKING:
    from jaxkd.data.base import Source
    from jaxkd.export.base import Subject
    from jaxkd.export.check import Check

TAILS = ("detections", "raw")
SPLITS = {"train": "training", "val": "validation"}


def define(values: flags.FlagValues) -> None:
    """Defines the flags beside --config."""
    define_path("workdir", "", "A run, a folder of weights, or a published file.", values=values)
    flags.DEFINE_string("format", "", f"One of {', '.join(FORMATS)}.", flag_values=values)
    define_path("out", "exported", "Folder for the file, model.json and detect.py.", values=values)
    flags.DEFINE_string(
        "size", "", "HEIGHTxWIDTH of the canvas; the bucket of most validation pictures.", flag_values=values
    )
    flags.DEFINE_string("tail", "detections", f"What the model ends with: {' or '.join(TAILS)}.", flag_values=values)
    flags.DEFINE_bool("int8", False, "TFLite with convolutions and products of int8; raw: all.", flag_values=values)
    flags.DEFINE_bool("half", False, "ONNX or TFLite with weights of float16, of half the size.", flag_values=values)
    flags.DEFINE_integer("calibration", 100, "Training pictures to set int8's ranges by.", 1, flag_values=values)
    flags.DEFINE_integer("check", 200, "Validation pictures to score the file on; 0 for none.", 0, flag_values=values)


def run(argv: Sequence[str]) -> int:
    """Writes the folder once the file has been scored, and prints its AP, time and size.

    Raises JaxkdError where the AP of a file differs from its detector's, but for int8; nothing is written then.
    """
    choices, rest = choice(argv)
    values, _ = parse("export", rest, define, with_recipe=True)
    if values.format not in FORMATS:
        raise ConfigError(f"There is no format {values.format!r}; give --format=, one of {', '.join(FORMATS)}.")
    if values.tail not in TAILS:
        raise ConfigError(f"There is no tail {values.tail!r}; give --tail=, one of {', '.join(TAILS)}.")
    if values.int8 and values.format != "tflite":
        raise ConfigError(f"int8 is for --format=tflite, not for {values.format}.")
    if values.half and values.int8:
        raise ConfigError("--half and --int8 are two types for the same weights; give one of them.")
    if values.half and values.format not in HALF:
        raise ConfigError(f"half is for --format={' or --format='.join(HALF)}, not for {values.format}.")
    if not values.out:
        raise ConfigError("--out is empty; give a folder for the file, model.json and detect.py.")
    size = _size(values.size)
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd.cli.workdir import open_run
    from jaxkd.export import base, folder, raw

    module = folder.module_of(values.format)
    base.require(values.format, extra=module.EXTRA, modules=module.NEEDS)
    out = Path(values.out)
    folder.earlier_files(out)
    opened = open_run(values.workdir)
    recipe, subject = choices.recipe(opened.recipe), base.subject(opened.student, size=size)
    if values.tail == "raw":
        subject = raw.subject(subject)
    sources = _sources(recipe, subject, values)
    subject, reason = _on_canvas(subject, recipe, sources, chosen=size is not None)
    with folder.replacing(out) as part:
        result = _export(subject, part, recipe, sources, values)
    print(f"{out} holds {module.FILE}, model.json and detect.py: python {out / 'detect.py'} PICTURE...")
    if reason:
        print(
            f"Its canvas is {_text(subject.size)}, {reason}; pictures that do not fit on it shrink, and "
            "--size=HEIGHTxWIDTH makes it another."
        )
    if values.int8 and "FULLY_CONNECTED" not in module.quantized(subject):
        print("Its convolutions are of int8, its products stay float32: they say where queries look.")
    if result:
        _show(result, subject, f"{values.format}{', int8' if values.int8 else ', half' if values.half else ''}")
    return 0


def _sources(config: Any, subject: "Subject", values: flags.FlagValues) -> "dict[str, Source]":
    """The sources that the file is calibrated and scored on, by split.

    Raises JaxkdError where the data is missing, or does not fit this detector.
    """
    # Late, as in `run`.
    from jaxkd.export import check
    from jaxkd.loading import prepare

    needed = [*(["train"] if values.int8 else []), *(["val"] if values.check else [])]
    if needed and config is None:
        raise ConfigError(
            f"{values.workdir} is no run and names no data; give --config=RECIPE with its data"
            + ("." if values.int8 else ", or --check=0 to leave the file unscored.")
        )
    sources = {}
    for split in needed:
        try:
            classes = subject.loaded.detector.classes
            sources[split] = prepare.load_source(config.data[split], classes=classes, split=SPLITS[split])
        except (ConfigError, DataError) as error:
            hint = " Or give --check=0 to leave the file unscored." if split == "val" else ""
            raise type(error)(f"{error}{hint}") from error
    if "val" in sources:
        check.require_objects(sources["val"], limit=values.check)
    return sources


def _on_canvas(subject: "Subject", recipe: Any, sources: "dict[str, Source]", *, chosen: bool) -> "tuple[Subject, str]":
    """The detector on the bucket of most validation pictures, and the reason, "" where there is no choice.

    With `chosen` the canvas stays. Without validation data it is the first bucket.
    """
    # Late, as in `run`.
    from jaxkd.export import check
    from jaxkd.loading import prepare

    buckets = subject.loaded.sizes.get("buckets") or ()
    if chosen or len(buckets) < 2:
        return subject, ""
    try:
        source = sources.get("val") or (recipe and prepare.load_source(recipe.data.val))
    except (ConfigError, DataError):
        source = None
    if not source:
        return subject, f"the first of the detector's {len(buckets)} buckets, for there is no validation data to go by"
    size, count = check.canvas(subject.loaded, source)
    reason = (
        f"the one of the detector's {len(buckets)} buckets that {count} of {len(source.records)} validation pictures"
    )
    return subject.on(size), f"{reason} are for"


def _export(
    subject: "Subject", part: Path, recipe: Any, sources: "dict[str, Source]", values: flags.FlagValues
) -> "Check | None":
    """Writes the folder and, with --check, scores it."""
    # Late, as in `run`.
    from jaxkd.export import check, folder
    from jaxkd.export.base import ROUNDED_TOLERANCE

    pairs = check.calibration(subject, sources["train"], limit=values.calibration) if values.int8 else ()
    description = folder.write(subject, values.format, part, calibration=pairs, half=values.half)
    if not values.check:
        return None
    like = configs.build(recipe.data.loader)
    result = check.check(subject, part, sources["val"], limit=values.check, like=like)
    tolerance = max(subject.tolerance, ROUNDED_TOLERANCE) if values.half else subject.tolerance
    if not values.int8 and abs(result.ap - result.ap_exported) > tolerance:
        raise JaxkdError(
            f"The {values.format} file scores AP {_percent(result.ap_exported)} and its detector "
            f"{_percent(result.ap)} on {result.pictures} pictures{_unequal(result)}; it is not kept. Please report "
            "this."
        )
    folder.write_description(part, description | {"checked": result})
    return result


def _show(result: "Check", subject: "Subject", name: str) -> None:
    """Prints the table of results, and notes on them."""
    buckets = list(subject.loaded.sizes.get("buckets") or ())
    table = Table(title=f"On {result.pictures} validation pictures")
    for column in ("", "AP", "ms/image", "MB"):
        table.add_column(column, justify="right" if column else "left")
    if result.ap_own is not None:
        buckets_text = f"its own {len(buckets)} buckets" if len(buckets) > 1 else f"its own {_text(buckets[0])}"
        table.add_row(f"detector in {buckets_text}", _percent(result.ap_own), "", "")
    sees_more = subject.own.loaded is not subject.loaded
    canvas = f"{_text(subject.size)}{', seeing all of it' if sees_more else ''}"
    table.add_row(f"detector at {canvas}", _percent(result.ap), f"{result.milliseconds:.1f}", "")
    row = (_percent(result.ap_exported), f"{result.milliseconds_exported:.1f}", f"{result.megabytes:.2f}")
    table.add_row(name, *row)
    Console().print(table)
    print(
        f"Largest difference of a box {result.boxes:.1e} pixels, of a score {result.scores:.1e}; "
        f"{result.lost} detections are in one of both only{_unequal(result)}."
    )
    if result.ap_own is None or (loss := result.ap_own - result.ap) <= subject.tolerance:
        return
    if sees_more:
        print(f"That the file sees the whole canvas, with the mean colour around a picture, costs {_percent(loss)} AP.")
    if result.shrunk or not sees_more:
        largest = [max(bucket[side] for bucket in buckets) for side in (0, 1)]
        print(
            f"The one canvas costs {_percent(loss)} AP: {result.shrunk} of the {result.pictures} pictures shrink to "
            f"fit on it. --size={_text(largest)} holds all of the detector's buckets, in more time a picture."
        )


def _unequal(result: "Check") -> str:
    """A clause on pictures of which detect.py makes other pixels than training does, "" where there are none."""
    if not result.unequal:
        return ""
    return f"; detect.py makes other pixels of {result.unequal} of them, the first is {result.first_unequal}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _text(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
    if not match:
        raise ConfigError(f"--size={text} is no size; give HEIGHTxWIDTH, such as 320x320.")
    return int(match[1]), int(match[2])

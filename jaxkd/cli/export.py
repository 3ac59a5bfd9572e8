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
    flags.DEFINE_string(
        "size", "", "HEIGHTxWIDTH of the canvas; the bucket of most validation pictures.", flag_values=values
    )
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
    # Late, for jax is slow to load: --help and a wrong flag are answered without it.
    from jaxkd.cli.workdir import open_run
    from jaxkd.export import base, folder

    module = folder.module_of(values.format)
    base.require(values.format, extra=module.EXTRA, modules=module.NEEDS)
    out = Path(values.out)
    folder.owned(out)
    found = open_run(values.workdir)
    recipe, subject = chosen.recipe(found.recipe), base.subject(found.student, size=size)
    sources = _sources(recipe, subject, values)
    subject, why = _on_canvas(subject, recipe, sources, chosen=size is not None)
    with folder.renewed(out) as part:
        checked = _export(subject, part, recipe, sources, values)
    print(f"{out} holds {module.FILE}, model.json and detect.py: python {out / 'detect.py'} PICTURE...")
    if why:
        print(
            f"Its canvas is {_text(subject.size)}, {why}; pictures that do not fit on it shrink, and "
            "--size=HEIGHTxWIDTH makes it another."
        )
    if checked:
        _show(checked, subject, f"{values.format}{', int8' if values.int8 else ''}")
    return 0


def _sources(config: Any, subject: "Subject", values: flags.FlagValues) -> "dict[str, Source]":
    """What the file is calibrated and scored on, by the names of the splits.

    Raises JaxkdError where the data is not there, or is not for this detector.
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


def _on_canvas(subject: "Subject", recipe: Any, sources: "dict[str, Source]", *, chosen: bool) -> "tuple[Subject, str]":
    """The detector on the bucket of most validation pictures, and why, "" where there is no choice.

    A canvas that was `chosen` stays. Data that is needed for nothing else and is not there leaves the first bucket.
    """
    # Late, as in `run`.
    from jaxkd.export import base, check
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
    why = f"the one of the detector's {len(buckets)} buckets that {count} of {len(source.records)} validation pictures"
    return base.subject(subject.loaded, size=size), f"{why} are for"


def _export(
    subject: "Subject", part: Path, recipe: Any, sources: "dict[str, Source]", values: flags.FlagValues
) -> "Checked | None":
    """Writes the folder, and scores it where that is asked for."""
    # Late, as in `run`.
    from jaxkd.export import check, folder

    pairs = check.calibration(subject, sources["train"], limit=values.calibration) if values.int8 else ()
    about = folder.write(subject, values.format, part, calibration=pairs)
    if not values.check:
        return None
    like = configs.build(recipe.data.loader)
    checked = check.check(subject, part, sources["val"], limit=values.check, like=like)
    if not values.int8 and abs(checked.ap - checked.ap_exported) > check.ALLOWED:
        raise JaxkdError(
            f"The {values.format} file scores AP {_percent(checked.ap_exported)} and its detector "
            f"{_percent(checked.ap)} on {checked.pictures} pictures{_unequal(checked)}; it is not kept. Please report "
            "this."
        )
    folder.note(part, about | {"checked": checked})
    return checked


def _show(checked: "Checked", subject: "Subject", name: str) -> None:
    """The table, and below it what has to be known of the numbers in it."""
    # Late, as in `run`.
    from jaxkd.export import check

    buckets = list(subject.loaded.sizes.get("buckets") or ())
    table = Table(title=f"On {checked.pictures} validation pictures")
    for column in ("", "AP", "ms/image", "MB"):
        table.add_column(column, justify="right" if column else "left")
    if checked.ap_own is not None:
        own = f"its own {len(buckets)} buckets" if len(buckets) > 1 else f"its own {_text(buckets[0])}"
        table.add_row(f"detector in {own}", _percent(checked.ap_own), "", "")
    table.add_row(f"detector at {_text(subject.size)}", _percent(checked.ap), f"{checked.milliseconds:.1f}", "")
    row = (_percent(checked.ap_exported), f"{checked.milliseconds_exported:.1f}", f"{checked.megabytes:.2f}")
    table.add_row(name, *row)
    Console().print(table)
    print(
        f"Largest difference of a box {checked.boxes:.1e} pixels, of a score {checked.scores:.1e}; "
        f"{checked.lost} detections are in one of both only{_unequal(checked)}."
    )
    if checked.ap_own is not None and (lost := checked.ap_own - checked.ap) > check.ALLOWED:
        whole = [max(bucket[side] for bucket in buckets) for side in (0, 1)]
        print(
            f"The one canvas costs {_percent(lost)} AP: {checked.shrunk} of the {checked.pictures} pictures shrink to "
            f"fit on it. --size={_text(whole)} holds all of the detector's buckets, in more time a picture."
        )


def _unequal(checked: "Checked") -> str:
    """Says where detect.py has made other pixels than training does."""
    if not checked.unequal:
        return ""
    return f"; detect.py makes other pixels of {checked.unequal} of them, the first is {checked.first_unequal}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _text(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
    if not found:
        raise ConfigError(f"--size={text} is no size; give HEIGHTxWIDTH, such as 320x320.")
    return int(found[1]), int(found[2])

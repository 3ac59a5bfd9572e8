"""`jaxkd convert FILE|FOLDER --out=DIR`: converts a published detector to a folder that every command takes."""

import math
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxkd import phrases, storage
from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_path("out", "", "Folder to write.", values=values)
    flags.DEFINE_list("classes", [], "Names of the classes in the file's order.", flag_values=values)
    flags.DEFINE_string("part", None, "Which detector, where there are several.", flag_values=values)
    flags.DEFINE_float(
        "eps", None, "Epsilon of the backbone's norms, if not the library's.", flag_values=values, lower_bound=0
    )
    flags.DEFINE_list(
        "anchors", [], "Side in pixels of each level's anchors, if not the library's.", flag_values=values
    )
    flags.DEFINE_list("ratios", [], "Height / width of the anchors, if not the library's.", flag_values=values)
    flags.DEFINE_bool("half", False, "Store half-precision numbers.", flag_values=values)


def run(argv: Sequence[str]) -> int:
    """Writes weights, description and the table of matched arrays, and prints what was and was not matched."""
    values, files = parse("convert", argv, define, positional="FILE|FOLDER")
    if len(files) != 1 or not values.out:
        raise ConfigError("Give one file or folder, and the folder to write: jaxkd convert FILE --out=DIR.")
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd.loading import build, hub, published
    from jaxkd.weights import assumptions, parts

    file, part = parts.split(files[0])
    sizes, ratios = _numbers("anchors", values.anchors), _numbers("ratios", values.ratios)
    given = assumptions.Overrides(eps=values.eps, anchor_sizes=sizes, anchor_ratios=ratios)
    part = part if values.part is None else values.part
    if hub.is_one(file):
        if part is not None or given != assumptions.Overrides():
            raise ConfigError(f"{file} is a folder of Hugging Face, which says all but classes; give no other flags.")
        loaded, report = hub.load_with_report(file, classes=values.classes)
    else:
        loaded, report = published.load(file, part=part, classes=values.classes, overrides=given)
    out, classes = Path(values.out), loaded.detector.classes
    build.save(
        out, loaded.params, config=loaded.config, classes=classes, scores={}, sizes=loaded.sizes, half=values.half
    )
    storage.write(out / "conversion.txt", f"{file.name}: {report}\n")
    print("\n".join(loaded.notes))
    print(f"{phrases.counted(len(classes), 'class')}: {phrases.some(classes, most=8)}")
    print(
        f"Written to {out}, what became of each array to conversion.txt there; teach with it by --config.teacher={out}."
    )
    return 0


def _numbers(flag: str, values: Sequence[str]) -> tuple[float, ...]:
    """The values of a flag as numbers above 0; ConfigError where one is not."""
    try:
        numbers = tuple(float(value) for value in values)
    except ValueError:
        numbers = (0.0,)
    if not all(0 < number < math.inf for number in numbers):
        raise ConfigError(f"--{flag} wants numbers above 0, such as --{flag}=0.5,1,2; got {','.join(values)}.")
    return numbers

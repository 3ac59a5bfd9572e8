"""`jaxkd convert FILE --out=DIR`: a published detector's file as a folder that every command takes."""

import math
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxkd import storage, words
from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    """The command's flags."""
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
    """Prints what was matched and what not, and writes weights, description and that table."""
    values, files = parse("convert", argv, define, positional="FILE")
    if len(files) != 1 or not values.out:
        raise ConfigError("Give one file and the folder to write: jaxkd convert FILE --out=DIR.")
    # Late, for jax is slow to load: --help and a wrong flag are answered without it.
    from jaxkd.loading import build, published
    from jaxkd.weights import assumptions, parts

    file, part = parts.split(files[0])
    sizes, ratios = _numbers("anchors", values.anchors), _numbers("ratios", values.ratios)
    given = assumptions.Overrides(eps=values.eps, anchor_sizes=sizes, anchor_ratios=ratios)
    part = part if values.part is None else values.part
    loaded, report = published.load(file, part=part, classes=values.classes, given=given)
    out, classes = Path(values.out), loaded.detector.classes
    build.save(out, loaded.params, config=loaded.config, classes=classes, scores={}, half=values.half)
    storage.write(out / "conversion.txt", f"{file.name}: {report}\n")
    print("\n".join(loaded.notes))
    print(f"{words.counted(len(classes), 'class')}: {words.some(classes, most=8)}")
    print(
        f"Written to {out}, what became of each array to conversion.txt there; teach with it by --config.teacher={out}."
    )
    return 0


def _numbers(flag: str, values: Sequence[str]) -> tuple[float, ...]:
    """The numbers above 0 of a flag; ConfigError where one is none."""
    try:
        numbers = tuple(float(value) for value in values)
    except ValueError:
        numbers = (0.0,)
    if not all(0 < number < math.inf for number in numbers):
        raise ConfigError(f"--{flag} wants numbers above 0, such as --{flag}=0.5,1,2; got {','.join(values)}.")
    return numbers

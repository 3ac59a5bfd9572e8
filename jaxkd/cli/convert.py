"""`jaxkd convert FILE --out=DIR`: a published detector's file as a folder that every command takes."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxkd import words
from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    """The command's flags."""
    define_path("out", "", "Folder to write.", values=values)
    flags.DEFINE_list("classes", [], "Names of the classes in the file's order.", flag_values=values)
    flags.DEFINE_float("eps", None, "Epsilon of the backbone's norms, if not the family's.", flag_values=values)
    flags.DEFINE_bool("half", False, "Store half-precision numbers.", flag_values=values)


def run(argv: Sequence[str]) -> int:
    """Prints what was matched and what not, and writes weights, description and that table."""
    values, files = parse("convert", argv, define, positional="FILE")
    if len(files) != 1 or not values.out:
        raise ConfigError("Give one file and the folder to write: jaxkd convert FILE --out=DIR.")
    from jaxkd.train import build, published

    loaded, report = published.load(files[0], classes=values.classes, eps=values.eps)
    out = Path(values.out)
    classes = loaded.detector.classes
    build.save(out, loaded.params, config=loaded.config, classes=classes, scores={}, half=values.half)
    (out / "conversion.txt").write_text(f"{Path(files[0]).name}: {report}\n")
    print(report)
    print(f"{words.counted(len(classes), 'class')}: {', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}")
    print(f"Written to {out}; teach with it by --config.teacher={out}.")
    return 0

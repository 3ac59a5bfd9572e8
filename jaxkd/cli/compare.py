"""`jaxkd compare DIR... --out=FOLDER`: what detectors find, cost and get wrong on the same pictures, as one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxkd import words
from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError
from jaxkd.paths import path_of

if TYPE_CHECKING:
    from jaxkd.comparison.records import Comparison, Entry

USAGE = "jaxkd compare DIR DIR... --out=FOLDER"


def define(values: flags.FlagValues) -> None:
    """The command's flags."""
    define_path("out", "comparison", "Folder for index.html, comparison.md and comparison.json.", values=values)
    flags.DEFINE_bool("teacher", True, "Show the teachers of taught runs too.", flag_values=values)
    flags.DEFINE_integer("resamples", 1000, "Times that the pictures are drawn.", flag_values=values, lower_bound=100)
    flags.DEFINE_integer("seed", 0, "Decides which pictures are drawn.", flag_values=values, lower_bound=0)
    flags.DEFINE_integer(
        "pictures",
        4,
        "Pictures that gained most, and that lost most.",
        flag_values=values,
        lower_bound=0,
        upper_bound=20,
    )
    flags.DEFINE_integer("batch", 8, "Pictures at once while scoring.", flag_values=values, lower_bound=1)


def run(argv: Sequence[str]) -> int:
    """Prints what each detector finds and costs; writes the page, the tables and all numbers."""
    values, places = parse("compare", argv, define, positional="DIR...")
    if len(places) < 2:
        raise ConfigError(f"Name two or more workdirs of runs, or folders of weights: {USAGE}.")
    # Late, for jax is slow to load: --help and a wrong flag are answered without it.
    from jaxkd.cli.workdir import check_folder
    from jaxkd.comparison import gather, page

    options = gather.Options(teacher=values.teacher, resamples=values.resamples, seed=values.seed, batch=values.batch)
    entries, out = _open(places), Path(values.out)
    source = gather.pictures_of(entries)
    check_folder(out)
    comparison = gather.gather(entries, source, options)
    _show(comparison)
    page.write(out, comparison, source, most=values.pictures)
    print(f"{', '.join(page.FILES)} are in {values.out}.")
    return 0


def _open(places: Sequence[str]) -> "list[Entry]":
    """The detector in each folder; raises ConfigError for one that holds none."""
    # Late, as in `run`.
    from jaxkd.cli.workdir import open_run
    from jaxkd.comparison import gather
    from jaxkd.comparison.records import Entry

    advice, found = "name workdirs of runs, or folders of weights", []
    for place in places:
        if not path_of(place).exists():
            raise ConfigError(f"There is no {place}; {advice}.")
        found.append(open_run(place, advice=advice))
    names = gather.names_of([str(run.folder) for run in found])
    return [
        Entry(name, place if run.recipe is None else str(run.folder), run.student, run.recipe)
        for name, place, run in zip(names, places, found, strict=True)
    ]


def _show(comparison: "Comparison") -> None:
    """Prints the table and what it means."""
    # Late, as in `run`.
    from jaxkd.cli import terminal
    from jaxkd.comparison import tables

    terminal.show(tables.headline(comparison), title=words.counted(len(comparison.images), "validation picture"))
    for remark in comparison.remarks:
        print(f"- {remark}")
    print(tables.verdict(comparison))

"""`jaxkd compare DIR... --out=FOLDER`: accuracy, cost and errors of detectors on the same pictures, as one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError
from jaxkd.paths import path_of

if TYPE_CHECKING:
    from jaxkd.comparison.records import Entry

USAGE = "jaxkd compare DIR DIR... --out=FOLDER"


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_path("out", "comparison", "Folder for index.html, comparison.md and comparison.json.", values=values)
    flags.DEFINE_bool("teacher", True, "Show the teachers of taught runs too.", flag_values=values)
    flags.DEFINE_integer("resamples", 1000, "Bootstrap resamples of the pictures.", flag_values=values, lower_bound=100)
    flags.DEFINE_integer("seed", 0, "Seed of the resampling.", flag_values=values, lower_bound=0)
    flags.DEFINE_integer(
        "pictures",
        4,
        "Pictures to show of the largest gains, and of the largest losses.",
        flag_values=values,
        lower_bound=0,
        upper_bound=20,
    )
    flags.DEFINE_integer("batch", 8, "Pictures per batch while scoring.", flag_values=values, lower_bound=1)


def run(argv: Sequence[str]) -> int:
    """Prints accuracy and cost of each detector; writes the page, the tables and all numbers."""
    values, places = parse("compare", argv, define, positional="DIR...")
    if len(places) < 2:
        raise ConfigError(f"Name two or more workdirs of runs, or folders of weights: {USAGE}.")
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd.cli import comparison_table
    from jaxkd.cli.workdir import check_folder
    from jaxkd.comparison import gather, page

    options = gather.Options(teacher=values.teacher, resamples=values.resamples, seed=values.seed, batch=values.batch)
    entries, out = _open(places), Path(values.out)
    source = gather.validation_source(entries)
    check_folder(out)
    comparison = gather.gather(entries, source, options)
    comparison_table.show(comparison)
    page.write(out, comparison, source, most=values.pictures)
    print(f"{', '.join(page.FILES)} are in {values.out}.")
    return 0


def _open(places: Sequence[str]) -> "list[Entry]":
    """The detector in each folder; ConfigError where a folder holds none."""
    # Late, as in `run`.
    from jaxkd.cli.workdir import open_run
    from jaxkd.comparison import gather
    from jaxkd.comparison.records import Entry

    advice, runs = "name workdirs of runs, or folders of weights", []
    for place in places:
        if not path_of(place).exists():
            raise ConfigError(f"There is no {place}; {advice}.")
        runs.append(open_run(place, advice=advice))
    names = gather.unique_names([str(run.folder) for run in runs])
    return [
        Entry(name, place if run.recipe is None else str(run.folder), run.student, run.recipe)
        for name, place, run in zip(names, places, runs, strict=True)
    ]

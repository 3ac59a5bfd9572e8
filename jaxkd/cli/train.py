"""`jaxkd train --config=FILE[:ARG] --workdir=DIR`: trains a detector, alone or taught, or goes on where it stopped."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxkd.cli.flags import parse, recipe
from jaxkd.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string("workdir", "", "Folder of the run; a run in it goes on.", flag_values=values)
    flags.DEFINE_bool("quiet", False, "Say nothing while training.", flag_values=values)


def run(argv: Sequence[str]) -> int:
    """The whole run; 0 when it is finished."""
    wants_help = "--help" in argv or "-h" in argv
    config, rest = (None, list(argv)) if wants_help else recipe(argv)
    values, _ = parse("train", rest, define)
    if not values.workdir:
        raise ConfigError("Say where the run lives: --workdir=DIR.")
    from jaxkd.train import loop, prepare

    finished = loop.run(config, Path(values.workdir), quiet=values.quiet)
    if not values.quiet:
        scores = finished.evaluation.scores
        for name, numbers in scores.per_class.items():
            print(f"{name:<20} AP {100 * numbers['AP']:5.1f}  AP50 {100 * numbers['AP50']:5.1f}")
        print(f"The best student (AP {100 * finished.best_ap:.1f}) is in {Path(values.workdir) / prepare.STUDENT}.")
    return 0

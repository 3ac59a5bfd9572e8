"""`jaxkd train --config=FILE[:ARG] --workdir=DIR`: trains a detector, alone or with a teacher, or resumes a run."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxkd.cli.flags import define_path, parse, recipe
from jaxkd.cluster import process_info, supervisor
from jaxkd.cluster.heartbeat import PATIENCE, Heartbeat
from jaxkd.errors import ConfigError, JaxkdError


def define(values: flags.FlagValues) -> None:
    """Defines the flags beside --config."""
    kinds = ", ".join(process_info.KINDS)
    define_path("workdir", "", "Folder of the run, on all its hosts; a run in it goes on.", values=values)
    flags.DEFINE_integer(
        "batch",
        0,
        "Pictures a step, of which learning rate and number of steps follow; 0 for the recipe's.",
        flag_values=values,
        lower_bound=0,
    )
    flags.DEFINE_bool("quiet", False, "Say nothing while training.", flag_values=values)
    flags.DEFINE_bool("tensorboard", False, "Show the run in TensorBoard: WORKDIR/tensorboard.", flag_values=values)
    flags.DEFINE_string("wandb", "", "[ENTITY/]PROJECT of Weights & Biases to show the run in.", flag_values=values)
    flags.DEFINE_string("cluster", "auto", f"What tells of the other processes: {kinds}.", flag_values=values)
    flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0; the next port is used too.", flag_values=values)
    flags.DEFINE_integer("processes", 0, "Number of processes of the run.", flag_values=values)
    flags.DEFINE_integer("process", -1, "Which of them this is, from 0.", flag_values=values)
    flags.DEFINE_float(
        "patience", PATIENCE, "Seconds in which all processes have to come.", flag_values=values, lower_bound=0
    )


def run(argv: Sequence[str]) -> int:
    """Trains the run, or this host's part of it; returns 0 when it is finished."""
    wants_help = "--help" in argv or "-h" in argv
    config, rest = (None, list(argv)) if wants_help else recipe(argv)
    values, _ = parse("train", rest, define, with_recipe=True)
    if not values.workdir:
        raise ConfigError("Say where the run lives: --workdir=DIR.")
    process = process_info.find(
        values.cluster,
        coordinator=values.coordinator,
        processes=values.processes,
        process=values.process,
        environment=os.environ,
    )
    if process is not None and not supervisor.is_supervised():
        command = [sys.executable, "-m", "jaxkd.cli.main", "train", *argv]
        return supervisor.supervise(Heartbeat(process, patience=values.patience), command)
    supervisor.guard()
    import jax  # late: slow to load, and neither --help nor the supervising process needs it

    from jaxkd.loading import build
    from jaxkd.train import hosts, loop, rescale, training

    workdir = Path(values.workdir)
    sinks = _sinks(values, workdir)
    if values.batch:
        rescale.rescale(config, values.batch)
    if process is not None:
        hosts.join(process)
    try:
        finished = loop.run(config, workdir, quiet=values.quiet, sinks=sinks)
    except jax.errors.JaxRuntimeError as error:
        if process is None:
            raise
        raise JaxkdError(f"Process {process.process} failed: {str(error).splitlines()[0]}.") from error
    if not values.quiet and hosts.is_first():
        scores = finished.evaluation.scores
        for name, numbers in scores.per_class.items():
            print(f"{name:<20} AP {100 * numbers['AP']:5.1f}  AP50 {100 * numbers['AP50']:5.1f}")
        student = "The last student, for there was nothing to score it on,"
        if finished.best_ap > training.UNSCORED:
            student = f"The best student (AP {100 * finished.best_ap:.1f})"
        print(f"{student} is in {workdir / build.STUDENT}.")
    return 0


def _sinks(values: flags.FlagValues, workdir: Path) -> list:
    """The sinks that the run is logged to; ConfigError where a package is missing."""
    # Late, as in `run`.
    from jaxkd.train.sinks.tensorboard import TensorBoard
    from jaxkd.train.sinks.wandb import WeightsAndBiases

    sinks: list = [TensorBoard(workdir / "tensorboard")] if values.tensorboard else []
    return [*sinks, WeightsAndBiases(values.wandb, workdir)] if values.wandb else sinks

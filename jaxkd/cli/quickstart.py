"""`jaxkd quickstart`: trains a student alone and with a teacher on the embedded blood cells, and compares both."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxkd import config as configs
from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError

RECIPE = "bccd"
METHODS = {"task_adaptive": "tar", "global_knowledge": "gkd", "both": "tar+gkd"}  # flag -> argument of the recipe
DETECTORS = {"faster_rcnn": "", "retinanet": "retinanet-"}


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_path("workdir", "runs/quickstart", "Folder for both runs and the report.", values=values)
    flags.DEFINE_integer("seed", 0, "Initial weights, order of data and sampling.", flag_values=values)
    flags.DEFINE_integer("steps", 0, "Steps of each run; 0 for the recipe's.", flag_values=values)
    flags.DEFINE_enum("method", "task_adaptive", list(METHODS), "What the teacher teaches by.", flag_values=values)
    flags.DEFINE_enum("detector", "faster_rcnn", list(DETECTORS), "What the student is.", flag_values=values)
    flags.DEFINE_bool("tensorboard", False, "Show both runs in TensorBoard.", flag_values=values)


def run(argv: Sequence[str]) -> int:
    """Trains both students, prints the table, and writes the page and pictures.png."""
    values, _ = parse("quickstart", argv, define)
    if values.steps < 0:
        raise ConfigError(f"--steps must be 0 or more, not {values.steps}.")
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd import experiment
    from jaxkd.cli import comparison_table
    from jaxkd.train.sinks.tensorboard import TensorBoard

    detector = DETECTORS[values.detector]
    arguments = {experiment.ALONE: "alone", experiment.TAUGHT: METHODS[values.method]}
    recipes = {name: _recipe(detector + argument, values) for name, argument in arguments.items()}
    both = experiment.Experiment(recipes, Path(values.workdir), seeds=(values.seed,))
    experiment.train(both, sinks_of=lambda folder: [TensorBoard(folder / "tensorboard")] if values.tensorboard else [])
    comparison_table.show(experiment.compare(both))
    taught = both.folder(experiment.TAUGHT)
    print(f"{both.page()} says where it gains and what it costs. To go on:")
    print(f"  jaxkd evaluate --workdir={taught}")
    print(f"  jaxkd export --workdir={taught} --format=stablehlo --out={both.workdir / 'exported'}")
    return 0


def _recipe(argument: str, values: flags.FlagValues) -> configs.Recipe:
    recipe = configs.load_recipe(RECIPE, argument)
    recipe.train.probe_every = 0  # the ratios of gradients are not shown
    if values.steps:
        recipe.train.steps = values.steps
    return recipe

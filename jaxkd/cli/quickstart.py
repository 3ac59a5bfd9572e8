"""`jaxkd quickstart`: trains a student alone and with a teacher on the embedded blood cells, and compares both."""

import time
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
    """Scores the teacher, trains both students, prints the table and writes report.json, report.md, pictures.png."""
    values, _ = parse("quickstart", argv, define)
    if values.steps < 0:
        raise ConfigError(f"--steps must be 0 or more, not {values.steps}.")
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd.cli import report
    from jaxkd.loading import build, prepare
    from jaxkd.train import evaluate, loop, mesh
    from jaxkd.train.sinks.tensorboard import TensorBoard

    start = time.monotonic()
    workdir = Path(values.workdir)
    arguments = {"alone": "alone", "taught": METHODS[values.method]}
    sinks = {name: [TensorBoard(workdir / name / "tensorboard")] if values.tensorboard else [] for name in arguments}
    recipes = {name: _recipe(DETECTORS[values.detector] + argument, values) for name, argument in arguments.items()}
    taught = recipes["taught"]
    source = prepare.load_source(taught.data.val)
    loader_config = configs.build(taught.data.loader)
    teacher = build.load(taught.teacher)
    devices = mesh.make_mesh()
    print("1/3 The teacher is scored on the validation pictures.", flush=True)
    evaluations = {
        "teacher": evaluate.evaluate_source(teacher.detector, teacher.params, source, loader_config, devices, batch=8)
    }
    detectors = {"teacher": teacher}
    finished = {}
    for number, (name, recipe) in enumerate(recipes.items(), start=2):
        print(f"{number}/3 The student learns {name}.", flush=True)
        finished[name] = loop.run(recipe, workdir / name, sinks=sinks[name])
        evaluations[name] = finished[name].evaluation
        detectors[name] = build.load(workdir / name / build.STUDENT)
    costs = report.costs_of(detectors, source, loader_config)
    rows = [report.Row(name, evaluations[name].scores, costs[name]) for name in ("teacher", *recipes)]
    summary = report.Summary(
        rows=rows,
        seed=values.seed,
        steps=taught.train.steps,
        seconds=time.monotonic() - start,
        wait_share=max(run.wait_share for run in finished.values()),
    )
    report.write(workdir, summary)
    pictures = {
        "alone": evaluations["alone"].results,
        "taught": evaluations["taught"].results,
        "teacher": evaluations["teacher"].results,
    }
    report.draw_comparison(workdir / "pictures.png", source, pictures)
    report.show(summary)
    print(f"report.md, report.json and pictures.png are in {workdir}. To see more, and to export the student:")
    print(f"  jaxkd compare {workdir / 'alone'} {workdir / 'taught'} --out={workdir / 'comparison'}")
    print(f"  jaxkd export --workdir={workdir / 'taught'} --format=stablehlo --out={workdir / 'exported'}")
    return 0


def _recipe(argument: str, values: flags.FlagValues) -> configs.Recipe:
    recipe = configs.load_recipe(RECIPE, argument)
    recipe.train.seed = values.seed
    recipe.train.teacher_check = recipe.train.probe_every = 0  # the teacher is scored already; ratios are not shown
    if values.steps:
        recipe.train.steps = values.steps
    return recipe

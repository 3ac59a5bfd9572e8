"""`jaxkd distill FOLDER`: from a folder of annotated pictures to a student that is taught, compared and exported."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from jaxkd import phrases
from jaxkd.cli.flags import define_path, parse
from jaxkd.errors import ConfigError

if TYPE_CHECKING:
    from jaxkd.distillation import Options, Plan, Result

CHOICES = {  # of flags, the default first
    "student": (("auto", "tiny", "small", "mobilenet", "r18"), "What the student is."),
    "size": (("balanced", "fast", "accurate"), "Size of the pictures."),
    "method": (("auto", "tar", "gkd", "tar+gkd", "mimic"), "What the teacher teaches by."),
    "augment": (("auto", "none", "light", "strong"), "How training pictures are varied."),
}
SETTINGS = (  # flags that are fields of `derive.recipes.Options`
    "student", "size", "method", "augment", "seed", "epochs", "initial", "teacher", "teacher_initial",
)  # fmt: skip
LONG = 4 * 3600  # seconds from which on a run at a terminal is confirmed


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_path("workdir", "", "Folder of all runs and the report; runs/NAME of FOLDER by default.", values=values)
    define_path("teacher", "", "A run, a folder of weights or a published file; empty to train one.", values=values)
    define_path("initial", "", "File of backbone weights that the student starts from.", values=values)
    define_path("teacher_initial", "", "The same for a teacher that is trained.", values=values)
    define_path("val", "", "Folder of validation pictures, in place of those of FOLDER.", values=values)
    for name, (choices, words) in CHOICES.items():
        flags.DEFINE_enum(name, choices[0], list(choices), words, flag_values=values)
    flags.DEFINE_string("format", "", "Layout of the data, where there are several.", flag_values=values)
    flags.DEFINE_float("minutes", 0, "Time for all runs; 0 for as long as the data ask for.", 0, flag_values=values)
    words = "Epochs of a student's run, of which a teacher has twice as many; 0 for as many as the data ask for."
    flags.DEFINE_integer("epochs", 0, words, 0, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Initial weights, order of data and sampling.", 0, flag_values=values)
    flags.DEFINE_integer("seeds", 1, "Seeds, from --seed on, of the student alone and taught.", 1, flag_values=values)
    flags.DEFINE_string("export", "stablehlo", "Format of the exported student; empty for none.", flag_values=values)
    flags.DEFINE_bool("explain", False, "Print the recipe as a Python file, and train nothing.", flag_values=values)
    flags.DEFINE_bool("anyway", False, "Go on with a weak teacher, or with very few epochs.", flag_values=values)
    flags.DEFINE_bool("yes", False, "Ask nothing before a long run.", flag_values=values)


def run(argv: Sequence[str]) -> int:
    """Runs everything, or goes on where it was stopped; returns 0."""
    values, places = parse("distill", argv, define, positional="FOLDER")
    if len(places) != 1:
        raise ConfigError("Name one folder of annotated pictures: jaxkd distill FOLDER.")
    folder = places[0]
    if not values.explain:
        print(f"Reading {folder}.", flush=True)
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd import distillation

    workdir = distillation.workdir_of(folder, values.workdir)
    if values.explain:
        print(distillation.explanation(folder, _options(values), workdir), end="")
        return 0
    plan = distillation.plan(folder, _options(values), workdir)
    _show_plan(plan)
    if sum(plan.seconds.values()) > LONG and not values.yes and sys.stdin.isatty():
        _confirm()
    result = distillation.distill(plan, anyway=values.anyway)
    _show_result(result)
    if values.export:
        from jaxkd.cli import export  # late, as above

        student = f"--workdir={plan.experiment.folder('taught')}"
        export.run([student, f"--format={values.export}", f"--out={workdir / 'exported'}"])
    _show_commands(plan)
    return 0


def _options(values: flags.FlagValues) -> "Options":
    from jaxkd import distillation  # late, as in `run`

    settings = {name: values[name].value for name in SETTINGS}
    others = {name: values[name].value for name in ("format", "val", "minutes", "seeds", "anyway")}
    return distillation.options(settings, **others)


def _show_plan(plan: "Plan") -> None:
    """Prints what the data are, what was assumed, what follows of them, and how long it takes."""
    from jaxkd.cli import derived_settings  # late, as in `run`
    from jaxkd.data import recognise

    counts = ", ".join(
        f"{phrases.counted(len(source.records), 'picture')} to {name}" for name, source in plan.data.sources.items()
    )
    classes = plan.data.sources["train"].classes
    title = recognise.TITLES[plan.data.format]
    print(f"{title}: {phrases.counted(len(classes), 'class')} ({phrases.some(classes)}), {counts}.")
    for sentence in plan.data.sentences:
        print(f"- {sentence}")
    if not plan.reasons:
        print(f"The recipe is {plan.file}, as an earlier start left it.")
        return
    derived_settings.show(plan.reasons)
    print(f"- All settings, each with its reason, are in {plan.file}.")
    for name, seconds in plan.seconds.items():
        print(f"  {name:<7}  {plan.steps(name)} steps, {phrases.duration(seconds)}")
    print(f"In all {phrases.duration(sum(plan.seconds.values()))}, beside other work longer.", flush=True)


def _confirm() -> None:
    """Asks whether to go on; ConfigError for no."""
    if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ConfigError("Nothing was trained; --minutes=M sets the time, and --yes asks nothing.")


def _show_result(result: "Result") -> None:
    """Prints the table, what the teacher gained and whether that is more than chance; that of the test split last."""
    from jaxkd.cli import comparison_table  # late, as in `run`

    comparison_table.show(result.comparison)
    if result.test:
        comparison_table.show(result.test)


def _show_commands(plan: "Plan") -> None:
    taught = plan.experiment.folder("taught")
    print(f"The page is {plan.experiment.workdir / 'comparison' / 'index.html'}. To go on:")
    print(f"  jaxkd predict --workdir={taught} PICTURE --out=found")
    print(f"  jaxkd explain --workdir={taught} PICTURE --out=explained")
    print(f"  jaxkd train --config={plan.file}:taught --workdir=runs/edited")

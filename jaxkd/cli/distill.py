"""`jaxkd distill FOLDER`: from a folder of annotated pictures to a student that is taught, compared and exported."""

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.cli.flags import announce, define_path, parse
from jaxkd.errors import ConfigError
from jaxkd.export import FORMATS

if TYPE_CHECKING:
    from jaxkd.distillation import Options, Plan, Result

STUDENTS = ("auto", "pocket", "tiny", "small", "medium", "mobilenet", "r18")  # that --student takes by name
# Of --method, beside auto; one or several.
METHODS = ("tar", "gkd", "mimic", "pkd", "cwd", "fgd", "mgd", "detections", "align", "shared_queries")
CHOICES = {  # of flags, the default first
    "size": (("balanced", "fast", "accurate"), "Size of the pictures."),
    "augment": (("auto", "none", "light", "strong"), "How training pictures are varied."),
}
SETTINGS = (  # flags that are fields of `derive.recipes.Options`
    "student", "size", "method", "augment", "seed", "epochs", "initial", "teacher", "teacher_initial",
    "unlabelled",
)  # fmt: skip
LONG = 4 * 3600  # seconds from which on a run at a terminal is confirmed


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    define_path("workdir", "", "Folder of all runs and the report; runs/NAME of FOLDER by default.", values=values)
    define_path(
        "teacher",
        "",
        "A run, weights of a detector or of a foundation backbone, or a file of detections; empty to train one.",
        values=values,
    )
    define_path("initial", "", "File of backbone weights that the student starts from.", values=values)
    define_path("teacher_initial", "", "The same for a teacher that is trained.", values=values)
    words = "Folder of pictures without labels, of which a third run of the student learns too."
    define_path("unlabelled", "", words, values=values)
    define_path("val", "", "Folder of validation pictures, in place of those of FOLDER.", values=values)
    words = (
        f"What the student is: {', '.join(STUDENTS)}; a recipe FILE[:ARG] whose student is taken as it is; or a run or "
        "weights of a detector, to go on from."
    )
    define_path("student", STUDENTS[0], words, values=values)
    words = f"What the teacher teaches by: auto, {', '.join(METHODS)}, or several as in tar+gkd."
    flags.DEFINE_string("method", "auto", words, flag_values=values)
    for name, (choices, words) in CHOICES.items():
        flags.DEFINE_enum(name, choices[0], list(choices), words, flag_values=values)
    flags.DEFINE_string("format", "", "Layout of the data, where there are several.", flag_values=values)
    words = "Names of the classes that are learned, in their order, separated by commas; all of the data by default."
    flags.DEFINE_list("classes", [], words, flag_values=values)
    flags.DEFINE_float("minutes", 0, "Time for all runs; 0 for as long as the data ask for.", 0, flag_values=values)
    words = "Epochs of a student's run, of which a teacher has twice as many; 0 for as many as the data ask for."
    flags.DEFINE_integer("epochs", 0, words, 0, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Initial weights, order of data and sampling.", 0, flag_values=values)
    flags.DEFINE_integer("seeds", 1, "Seeds, from --seed on, of the student alone and taught.", 1, flag_values=values)
    words = "Train the student alone too, without which no gain is measured."
    flags.DEFINE_bool("baseline", True, words, flag_values=values)
    formats = ["auto", "none", *FORMATS]
    words = "Format of the exported student; auto is onnx where its extra is installed, and else stablehlo."
    flags.DEFINE_enum("export", "auto", formats, words, flag_values=values)
    flags.DEFINE_bool("explain", False, "Print the recipe as a Python file, and train nothing.", flag_values=values)
    flags.DEFINE_bool("anyway", False, "Go on with a weak teacher, or with very few epochs.", flag_values=values)
    flags.DEFINE_bool("yes", False, "Ask nothing before a long run.", flag_values=values)


def run(argv: Sequence[str]) -> int:
    """Runs everything, or goes on where it was stopped; returns 0."""
    values, places = parse("distill", argv, define, positional="FOLDER")
    if len(places) != 1:
        raise ConfigError("Name one folder of annotated pictures: jaxkd distill FOLDER.")
    folder = places[0]
    with contextlib.suppress(ConfigError):  # no recipe's name, which is said where one is needed
        announce(configs.named(values.student)[0])
    if not values.explain:
        print(f"Reading {folder}.", flush=True)
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd import distillation

    workdir, options = distillation.workdir_of(folder, values.workdir), _options(folder, values)
    if values.explain:
        print(distillation.explanation(options, workdir, file="FILE"), end="")
        return 0
    format = _export_format(values.export)
    result = distillation.run(options, workdir, confirm=lambda plan: None if values.yes else confirm(plan))
    _show_result(result)
    taught = result.plan.experiment.folder(result.plan.experiment.students[-1])
    if format:
        from jaxkd.cli import export  # late, as above

        export.run([f"--workdir={taught}", f"--format={format}", f"--out={workdir / 'exported'}"])
    _show_commands(result)
    return 0


def _options(folder: str, values: flags.FlagValues) -> "Options":
    from jaxkd import distillation  # late, as in `run`

    settings = {name: values[name].value for name in SETTINGS}
    others = {name: values[name].value for name in ("format", "minutes", "seeds", "baseline", "anyway")}
    return distillation.options(folder, settings, val=values.val, classes=values.classes, **others)


def _export_format(name: str) -> str:
    """The format of the exported student, "" for none; raises ConfigError where it needs what is not installed."""
    from jaxkd.export import base, folder  # late, as in `run`

    if name == "auto":
        return "onnx" if base.installed(folder.module_of("onnx").NEEDS) else "stablehlo"
    if name == "none":
        return ""
    module = folder.module_of(name)
    base.require(name, extra=module.EXTRA, modules=module.NEEDS)
    return name


def confirm(plan: "Plan") -> None:
    """Asks at a terminal before a long run whether to go on; ConfigError for no."""
    if sum(plan.seconds().values()) <= LONG or not sys.stdin.isatty():
        return
    try:
        answer = input("Go on? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise ConfigError("Nothing was trained. --minutes=M sets the time, and --yes asks nothing.")


def _show_result(result: "Result") -> None:
    """Prints the table, what the teacher gained and whether that is more than chance; that of the test split last."""
    from jaxkd.cli import comparison_table  # late, as in `run`

    comparison_table.show(result.comparison)
    if result.test:
        comparison_table.show(result.test)


def _show_commands(result: "Result") -> None:
    experiment = result.plan.experiment
    pages = [experiment.page()] + ([experiment.page(test=True)] if result.test else [])
    taught = experiment.folder(experiment.students[-1])
    print(f"{phrases.listed([str(page) for page in pages])} say{'s' if len(pages) == 1 else ''} more. To go on:")
    print(f"  jaxkd predict --workdir={taught} PICTURE --out=found")
    print(f"  jaxkd explain --workdir={taught} PICTURE --out=explained")
    print(f"  jaxkd train --config={result.plan.file}:taught --workdir=runs/edited")

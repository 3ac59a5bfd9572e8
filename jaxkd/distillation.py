"""From a folder of annotated pictures to a student that is compared alone and taught: all that `jaxkd distill` does."""

import dataclasses
import inspect
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxkd import config as configs
from jaxkd import experiment, json_values, storage
from jaxkd.comparison.records import Comparison
from jaxkd.data import unlabelled
from jaxkd.data.base import check_distinct
from jaxkd.derive import duration, explain, learners, recipes, student
from jaxkd.derive.base import Choice
from jaxkd.errors import ConfigError, StorageError
from jaxkd.experiment import ALONE, STUDENTS, TAUGHT, TEACHER, UNLABELLED, Experiment
from jaxkd.loading import build, folder, prepare, stored_teacher
from jaxkd.paths import absolute, path_of
from jaxkd.planning import RECIPE, REPORTED_AT, Options, Plan
from jaxkd.train.memory import StepTooLargeError
from jaxkd.train.sinks.pace import Pace
from jaxkd.types import Traits

OPTIONS = "options.json"  # in the workdir: what recipe.py was derived from
SPLIT = "split.json"  # in the workdir: the division of data without a validation split
GIVEN_PATHS = ("teacher", "initial", "teacher_initial", "unlabelled")  # fields of the settings
BEFORE = "before-"  # in front of the names of these three, where they were made with other options
FREE = {"seeds", "baseline", "anyway", "platform", "devices"}  # options that may change while a workdir's runs go on
OF_TIME = {"seeds", "baseline"}  # those of them for all of whose runs the minutes are

Say = Callable[[str], None]


def options(
    data: str, settings: Mapping[str, Any], *, val: str = "", classes: Sequence[str] = (), **others: Any
) -> Options:
    """The options for a folder with these fields of `recipes.Options`, for the devices of this machine.

    Raises ConfigError for a name that there is not, and for a class that is listed twice.
    """
    if isinstance(classes, str):
        raise ConfigError(f"classes wants a list of names, got {classes!r}.")
    check_distinct(classes, of="classes")
    known = inspect.signature(recipes.Options).parameters
    for name in settings:
        if name not in known:
            raise ConfigError(f"There is no option {name!r}{configs.closest(name, set(known))}.")
    here = {"platform": jax.default_backend(), "devices": jax.device_count()}
    chosen = recipes.Options(**{**here, **settings})
    return Options(absolute(data), chosen, val=absolute(val), classes=tuple(classes), **others)


@dataclass(frozen=True)
class Result:
    """The trained students, held against each other."""

    plan: Plan
    comparison: Comparison
    test: Comparison | None  # on the test split, where the data have one


def workdir_of(data: str, workdir: str = "") -> Path:
    """The given workdir, or runs/NAME of the data's folder."""
    return Path(workdir or Path("runs") / Path(absolute(data)).name)


def run(
    options: Options, workdir: Path, *, say: Say = print, confirm: Callable[[Plan], None] = lambda plan: None
) -> Result:
    """From a folder to compared students: says what is going to be done, does it, or goes on with it.

    `confirm` is called before anything is trained, and may raise. Raises JaxkdError for what a user can put right.
    """
    whole = plan(options, workdir)
    for line in whole.lines():
        say(line)
    check_teacher(whole, say=say)
    whole = timed(whole, say=say)
    for line in whole.time_lines():
        say(line)
    confirm(whole)
    return distill(whole, say=say)


def plan(options: Options, workdir: Path) -> Plan:
    """The recipes for the data of a folder, derived or, where the workdir has some for these options, as they are.

    Raises:
      ConfigError: where the workdir has runs that were begun with other options.
      DataError: as `loading.folder.load`.
    """
    started, file = time.monotonic(), workdir / RECIPE
    begun = file.is_file() and any((workdir / name).exists() for name in (TEACHER, *STUDENTS))
    kept = file.is_file() and _is_kept(workdir, options, begun=begun)
    settings = options.settings
    if not kept:
        student.check(settings.student)
    data = _load(options, workdir)
    if settings.unlabelled:
        given = unlabelled.Config(images=absolute(settings.unlabelled))
        unlabelled.open_folder(given, like=data.sources["train"])  # raises where there is no picture
    derived = None if kept else derive(data, options, workdir)
    found = derived.recipes if derived else _reopened(file, settings)
    first = found[ALONE].train.seed
    seeds = range(first, first + options.seeds)
    return Plan(options, data, Experiment(found, workdir, seeds, options.baseline), derived, begun, started)


def timed(plan: Plan, *, say: Say = print) -> Plan:
    """The plan with the time that each run takes, of which a few steps are made, within the minutes that there are.

    Where a step needs too much memory, its batch is halved. Derived recipes are written into the workdir. A plan whose
    runs have been begun stays as it is. Raises StepTooLargeError where no batch is small enough.
    """
    if plan.begun:
        return plan
    plan = _fitting(plan, say=say)
    derived, workdir = plan.derived, plan.experiment.workdir
    if derived is None:
        return plan
    if plan.options.minutes:
        steps = _steps_in_minutes(plan)
        derived = derive(plan.data, plan.options, workdir, steps=steps, batch=plan.batch)
    storage.write(workdir / OPTIONS, _as_text(plan.options))  # first: without the recipes, all is derived anew
    storage.write(plan.file, explain.module(derived, file=str(plan.file)))
    return replace(plan, derived=derived, experiment=replace(plan.experiment, recipes=derived.recipes))


def _fitting(plan: Plan, *, say: Say) -> Plan:
    """The plan with its times and, where its recipes are derived, a batch whose steps fit into memory."""
    while True:
        try:
            return replace(plan, timings=experiment.timings(plan.experiment, say=say))
        except StepTooLargeError as error:
            batch, devices = error.batch // 2, plan.options.settings.devices
            if plan.derived is None or batch < devices:
                raise StepTooLargeError(
                    f"{error}; a smaller size or student, or train.accumulate in the recipe, needs less.",
                    batch=error.batch,
                ) from error
            choice = Choice(batch // devices * devices, f"a step of {error.batch} would need most of the memory")
            say(f"{error}, so a step takes {choice.value}.")
            derived = derive(plan.data, plan.options, plan.experiment.workdir, batch=choice)
            smaller = replace(plan.experiment, recipes=derived.recipes)
            plan = replace(plan, derived=derived, experiment=smaller, batch=choice)


def derive(
    data: folder.Data, options: Options, workdir: Path, *, steps: Choice | None = None, batch: Choice | None = None
) -> recipes.Derived:
    """The recipes that follow of the data, with so many steps of a student's run and pictures a step.

    None for as many as the data ask for.
    """
    settings = replace(options.settings, **{name: absolute(getattr(options.settings, name)) for name in GIVEN_PATHS})
    given = recipes.Given()
    if student.is_weights(settings.student):
        given = replace(given, student=_given_student(settings.student))
    if not settings.teacher:
        settings = replace(settings, teacher_folder=absolute(str(workdir / TEACHER / build.STUDENT)))
    elif stored_teacher.is_one(path_of(settings.teacher)):
        given = replace(given, teacher=Traits((), frozenset(["detections"])))
    else:
        loaded = prepare.load_network(settings.teacher)
        given = replace(given, teacher=loaded.detector.traits, teacher_view=_own_canvas(loaded.sizes))
    components = {name: data.components[name] for name in ("train", "val")}
    train, val = data.sources["train"], data.sources["val"]
    return recipes.derive(train, val, data=components, options=settings, given=given, steps=steps, batch=batch)


def _own_canvas(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a canvas for a teacher of such sizes: where it was trained on stretched pictures, its own."""
    if sizes.get("fit") != "stretch":
        return {}
    canvas = {"size": tuple(sizes["buckets"][0]), "fit": "stretch", "antialias": sizes.get("antialias", False)}
    return canvas | {"resample": "bilinear"}


def _given_student(weights: str) -> learners.Given:
    """The detector in a run, a folder or a file, with its absolute path; ConfigError where it cannot be trained."""
    location = path_of(weights)
    folder = build.folder_of(location)
    start = weights if folder == location else str(folder)
    loaded = prepare.load_detector(weights)
    build.student(loaded.config, loaded.detector.classes)
    return learners.Given(loaded.config, absolute(start))


def explanation(options: Options, workdir: Path, *, file: str = RECIPE) -> str:
    """The derived recipes as the text of a Python file of this name.

    Raises ConfigError for `minutes`, which only timed steps tell.
    """
    if options.minutes:
        raise ConfigError("How many steps fit into minutes is known once some were timed; with explain, give epochs.")
    student.check(options.settings.student)
    return explain.module(derive(_load(options, workdir), options, workdir), file=file)


def check_teacher(plan: Plan, *, say: Say = print) -> None:
    """Scores a given teacher before anything is trained, and says what it finds.

    Raises WeightsError where it is too weak to learn from, unless the options say `anyway`.
    """
    if TEACHER not in plan.experiment.recipes and not plan.begun:
        source, anyway = plan.data.sources["val"], plan.options.anyway
        experiment.check_teacher(plan.experiment.recipes[TAUGHT], source, anyway=anyway, say=say)


def distill(plan: Plan, *, say: Say = print) -> Result:
    """Runs all that a plan has and that is not done yet, compares it, and writes the pages.

    Raises what a run raises.
    """
    paces = {folder: _pace(plan, number, say=say) for number, (_, _, folder) in enumerate(plan.experiment.runs())}
    experiment.train(plan.experiment, say=say, sinks_of=lambda folder: [paces[folder]])
    comparison, test = experiment.compare(plan.experiment, say=say), plan.data.sources.get("test")
    return Result(plan, comparison, experiment.compare(plan.experiment, test=test, say=say) if test else None)


def _pace(plan: Plan, run: int, *, say: Say) -> Pace:
    """What tells of the speed of the run with this number, once a part of it is done."""
    name = [name for name, _, _ in plan.experiment.runs()][run]
    return Pace(math.ceil(REPORTED_AT * plan.steps(name)), partial(plan.pace, run), say=say)


def _load(options: Options, workdir: Path) -> folder.Data:
    return folder.load(
        options.folder,
        format=options.format,
        val=options.val,
        classes=options.classes,
        seed=options.settings.seed,
        split_file=workdir / SPLIT,
    )


def _steps_in_minutes(plan: Plan) -> Choice:
    """The steps of the student's runs with which everything ends within the minutes."""
    spent = time.monotonic() - plan.started
    return duration.steps_in(
        plan.options.minutes,
        lambda steps: spent + sum(plan.seconds(steps).values()),
        pictures=len(plan.data.sources["train"].records),
        batch=plan.experiment.recipes[ALONE].train.batch,
        anyway=plan.options.anyway,
    )


def _reopened(file: Path, settings: recipes.Options) -> dict[str, configs.Recipe]:
    """The recipes of a workdir's recipe.py that these options ask for."""
    teacher = () if settings.teacher else (TEACHER,)
    unlabelled = (UNLABELLED,) if settings.unlabelled else ()
    return {name: configs.load_recipe(file, name) for name in (*teacher, ALONE, TAUGHT, *unlabelled)}


def _as_text(options: Options) -> str:
    return json_values.dumps(dataclasses.asdict(options), indent=1) + "\n"


def _flat(text: str) -> dict[str, Any]:
    """The options in a text of `_as_text`, those of the settings among them."""
    values = json.loads(text)
    return values.pop("settings", {}) | values


def _is_kept(workdir: Path, options: Options, *, begun: bool) -> bool:
    """Whether the recipe of a workdir was derived from these options.

    Where it was not and no run has been begun, it and what belongs to it are renamed; else ConfigError.
    """
    file = workdir / OPTIONS
    try:
        before = _flat(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{file} does not say what {RECIPE} was derived from ({error}); give another --workdir."
        ) from error
    now = _flat(_as_text(options))
    before = _flat(_as_text(Options(""))) | before  # a field that there was not had its default
    free = FREE if begun or not options.minutes else FREE - OF_TIME
    for name in now:
        if name not in free and before.get(name) != now[name]:
            if begun:
                raise ConfigError(
                    f"{workdir} was begun with {name}={before.get(name)!r}, not {now[name]!r}; give the same, or "
                    "another --workdir."
                )
            for made in filter(Path.exists, (workdir / RECIPE, workdir / SPLIT, file)):
                made.replace(workdir / f"{BEFORE}{made.name}")
            return False
    return True

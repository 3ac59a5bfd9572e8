"""From a folder of annotated pictures to a student that is compared alone and taught: all that `jaxkd distill` does."""

import dataclasses
import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from jaxkd import config as configs
from jaxkd import experiment, json_values, phrases, storage
from jaxkd.comparison.records import Comparison
from jaxkd.data import recognise, unlabelled
from jaxkd.data.base import check_distinct
from jaxkd.derive import duration, explain, learners, recipes, schedule, screen, student
from jaxkd.derive.base import Choice, Reason
from jaxkd.errors import ConfigError, StorageError
from jaxkd.experiment import ALONE, STUDENTS, TAUGHT, TEACHER, UNLABELLED, Experiment
from jaxkd.loading import build, folder, prepare, stored_teacher
from jaxkd.paths import absolute, path_of
from jaxkd.types import Traits

RECIPE = "recipe.py"  # in the workdir: the derived recipes, which may be edited before anything is trained
OPTIONS = "options.json"  # in the workdir: what recipe.py was derived from
SPLIT = "split.json"  # in the workdir: the division of data without a validation split
REPORT = "report"  # the name of what follows the runs, in a plan's times
GIVEN_PATHS = ("teacher", "initial", "teacher_initial", "unlabelled")  # fields of the settings
BEFORE = "before-"  # in front of the names of these three, where they were made with other options
FREE = {"seeds", "baseline", "anyway", "platform", "devices"}  # options that may change while a workdir's runs go on
OF_TIME = {"seeds", "baseline"}  # those of them for all of whose runs the minutes are

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What can be chosen; everything else follows from the data. Raises ConfigError for what excludes each other."""

    folder: str
    """Folder of annotated pictures."""
    settings: recipes.Options = field(default_factory=recipes.Options)
    """Student, picture size, method, teacher, start and seed."""
    format: str = ""
    """Layout of the data; "" for the one that is found."""
    val: str = ""
    """Folder of validation pictures; "" for the split that the data have, or one that is made."""
    classes: tuple[str, ...] = ()
    """Classes that are learned, in this order; () for all that the data have."""
    minutes: float = 0.0
    """Time for all runs; 0 for as long as the data ask for."""
    seeds: int = 1
    """Runs of the student, alone and taught, each."""
    baseline: bool = True
    """Whether the student is trained alone too, without which no gain is measured."""
    anyway: bool = False
    """Go on with a weak teacher, or with very few epochs."""

    def __post_init__(self):
        if self.minutes < 0 or self.seeds < 1:
            raise ConfigError(f"minutes={self.minutes:g} and seeds={self.seeds} have to be 0 or more, and 1 or more.")
        if self.minutes and self.settings.epochs:
            raise ConfigError("Both minutes and epochs say how long runs are; give one of them.")
        if self.settings.teacher and self.settings.teacher_initial:
            raise ConfigError("teacher_initial is for a teacher that is trained, and one is given; leave one out.")


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
class Plan:
    """What is going to be run, and why."""

    options: Options
    data: folder.Data
    experiment: Experiment
    derived: recipes.Derived | None  # None where the recipe of an earlier start is taken as it is
    begun: bool  # whether a run has been begun
    started: float  # of the clock `time.monotonic`, when the data began to be read
    timings: Mapping[str, duration.Timing] = field(default_factory=dict)  # by run, once they are measured

    @property
    def file(self) -> Path:
        """The file with the recipes."""
        return self.experiment.workdir / RECIPE

    def lines(self) -> Iterator[str]:
        """What the data are, what was assumed, what follows of them and what to consider, for a screen."""
        sources = self.data.sources
        counts = ", ".join(
            f"{phrases.counted(len(source.records), 'picture')} to {name}" for name, source in sources.items()
        )
        classes = sources["train"].classes
        title = recognise.TITLES[self.data.format]
        yield f"{title}: {phrases.counted(len(classes), 'class')} ({phrases.some(classes)}), {counts}."
        loader_config = configs.build(self.experiment.recipes[ALONE].data.loader)
        for sentence in (*self.data.sentences, *folder.remarks(self.data, loader_config)):
            yield f"- {sentence}"
        if self.derived is None:
            yield f"The recipe is {self.file}, as an earlier start left it."
        else:
            yield from screen.lines(self._known_reasons)
            yield f"- All settings, each with its reason, are going to be in {self.file}."

    def time_lines(self) -> Iterator[str]:
        """How long everything takes, for a screen; nothing where nothing was timed."""
        seconds = self.seconds()
        for name, duration_of in seconds.items():
            steps = f"{self.steps(name)} steps, " if name != REPORT else ""
            yield f"  {name:<7}  {steps}{phrases.duration(duration_of)}"
        if seconds:
            yield f"In all {phrases.duration(sum(seconds.values()))}, and longer beside other work on this machine."

    @property
    def _known_reasons(self) -> Sequence[Reason]:
        """Those of the derived settings; with `minutes`, the length is known once steps were timed."""
        assert self.derived
        of_length = ("train.epochs", "train.steps") if self.options.minutes and not self.timings else ()
        return [reason for reason in self.derived.reasons if not reason.setting.endswith(of_length)]

    def steps(self, name: str) -> int:
        """The steps of a run."""
        return schedule.length(self.experiment.recipes[name].train, len(self.data.sources["train"].records))

    def seconds(self, steps: int = 0) -> dict[str, float]:
        """The time of each kind of run, all seeds together, and of the report; empty where nothing was timed.

        `steps` are those of a student's run, 0 for those of its recipe.
        """
        if not self.timings:
            return {}
        steps = steps or self.steps(ALONE)
        return {**{name: runs.seconds(steps, **self._scored) for name, runs in self._runs()}, REPORT: self._report()}

    @property
    def _scored(self) -> dict[str, int]:
        """The pictures of an evaluation, and the batch."""
        return {"pictures": len(self.data.sources["val"].records), "batch": self.experiment.recipes[ALONE].train.batch}

    def _runs(self) -> Iterator[tuple[str, duration.Runs]]:
        for name, timing in self.timings.items():
            is_teacher = name == TEACHER
            number = 1 if is_teacher else len(self.experiment.seeds)
            yield name, duration.Runs(timing, number, schedule.TEACHER_LENGTH if is_teacher else 1)

    def _report(self) -> float:
        """Seconds of comparing on each split, and of the export."""
        seconds = duration.EXPORTED
        for name in ("val", "test"):
            if source := self.data.sources.get(name):
                for _, runs in self._runs():
                    detect = runs.evaluation(len(source.records), batch=self._scored["batch"])
                    seconds += runs.number * detect + duration.COMPARED
        return seconds


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

    Derived recipes are written into the workdir. A plan whose runs have been begun stays as it is.
    """
    if plan.begun:
        return plan
    plan = replace(plan, timings=experiment.timings(plan.experiment, say=say))
    derived, workdir = plan.derived, plan.experiment.workdir
    if derived is None:
        return plan
    if plan.options.minutes:
        derived = derive(plan.data, plan.options, workdir, steps=_steps_in_minutes(plan))
    storage.write(workdir / OPTIONS, _as_text(plan.options))  # first: without the recipes, all is derived anew
    storage.write(plan.file, explain.module(derived, file=str(plan.file)))
    return replace(plan, derived=derived, experiment=replace(plan.experiment, recipes=derived.recipes))


def derive(data: folder.Data, options: Options, workdir: Path, *, steps: Choice | None = None) -> recipes.Derived:
    """The recipes that follow of the data, with so many steps of a student's run, or as many as the data ask for."""
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
    return recipes.derive(train, val, data=components, options=settings, given=given, steps=steps)


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
    experiment.train(plan.experiment, say=say)
    comparison, test = experiment.compare(plan.experiment, say=say), plan.data.sources.get("test")
    return Result(plan, comparison, experiment.compare(plan.experiment, test=test, say=say) if test else None)


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

"""From a folder of annotated pictures to a student that is compared alone and taught: all that `jaxkd distill` does."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from jaxkd import config as configs
from jaxkd import experiment, json_values, phrases, storage
from jaxkd.comparison.records import Comparison
from jaxkd.data import recognise, split, survey
from jaxkd.data.base import Source
from jaxkd.derive import explain, recipes, schedule
from jaxkd.derive.base import Choice, Reason
from jaxkd.errors import ConfigError, DataError, StorageError
from jaxkd.experiment import ALONE, TAUGHT, TEACHER, Experiment, Trial
from jaxkd.loading import build, prepare
from jaxkd.paths import absolute

RECIPE = "recipe.py"  # in the workdir: the derived recipes, which may be edited before anything is trained
OPTIONS = "options.json"  # in the workdir: what recipe.py was derived from
SPLIT = "split.json"  # in the workdir: the division of data without a validation split

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What can be chosen; everything else follows from the data."""

    settings: recipes.Options = field(default_factory=recipes.Options)
    """Student, picture size, method, teacher, start and seed."""
    format: str = ""
    """Layout of the data; "" for the one that is found."""
    val: str = ""
    """Folder of validation pictures; "" for the split that the data have, or one that is made."""
    minutes: float = 0.0
    """Time for all runs; 0 for as long as the data ask for."""
    seeds: int = 1
    """Runs of the student, alone and taught, each."""
    anyway: bool = False
    """Go on with a weak teacher, or with very few epochs."""

    def __post_init__(self):
        if self.minutes < 0 or self.seeds < 1:
            raise ConfigError(f"minutes={self.minutes:g} and seeds={self.seeds} have to be 0 or more, and 1 or more.")


def options(settings: Mapping[str, Any], **others: Any) -> Options:
    """The options with these fields of `recipes.Options`, for the devices of this machine."""
    here = {"platform": jax.default_backend(), "devices": jax.device_count()}
    return Options(recipes.Options(**{**here, **settings}), **others)


@dataclass(frozen=True)
class Data:
    """The data of a folder, recognised and loaded."""

    format: str
    components: Mapping[str, configs.Recipe]  # "train" and "val", and "test" where there is one
    sources: Mapping[str, Source]  # "train" and "val", and "test" where there is one with objects
    sentences: tuple[str, ...]  # what was assumed, passed over or decided


@dataclass(frozen=True)
class Plan:
    """What is going to be run, and why."""

    data: Data
    experiment: Experiment
    reasons: tuple[Reason, ...]  # () where the recipe of an earlier start is taken as it is
    trials: Mapping[str, Trial]  # by run; empty where nothing was timed

    @property
    def file(self) -> Path:
        """The file with the recipes."""
        return self.experiment.workdir / RECIPE

    def steps(self, name: str) -> int:
        """The steps of a run."""
        return steps_of(self.experiment.recipes[name], len(self.data.sources["train"].records))

    @property
    def seconds(self) -> dict[str, float]:
        """The time that each run is going to take, by its name; all seeds together."""
        out = {}
        for name, trial in self.trials.items():
            times = 1 if name == TEACHER else len(self.experiment.seeds)
            out[name] = times * (trial.starting + self.steps(name) * trial.step / (1 - schedule.EVALUATION_SHARE))
        return out


@dataclass(frozen=True)
class Result:
    """The trained students, held against each other."""

    plan: Plan
    comparison: Comparison
    test: Comparison | None  # on the test split, where the data have one


def workdir_of(folder: str, workdir: str = "") -> Path:
    """The given workdir, or runs/NAME of the data's folder."""
    return Path(workdir or Path("runs") / Path(folder).absolute().name)


def steps_of(recipe: configs.Recipe, pictures: int) -> int:
    """The steps of a recipe on so many training pictures."""
    if recipe.train.epochs:
        return schedule.steps_of(recipe.train.epochs, pictures, batch=recipe.train.batch)
    return recipe.train.steps


def load(folder: str, options: Options, workdir: Path) -> Data:
    """The data of a folder; where it has no validation split, one is made and kept in the workdir.

    Raises:
      DataError: where no layout is recognised, or the data cannot be trained on.
    """
    found = recognise.recognise(Path(folder).absolute(), format=options.format)
    components, sentences = dict(found.splits), list(found.assumptions)
    if "train" not in components:
        raise DataError(
            f"{folder} has {phrases.listed(list(components))} and no training pictures; give a folder with both."
        )
    if options.val:
        other = recognise.recognise(Path(options.val).absolute(), format=options.format).splits
        components["val"] = other.get("val") or next(iter(other.values()))
    if "val" in components:
        sources = prepare.load_sources({name: components[name] for name in ("train", "val")}, warn=False)
        loaded = list(sources.values())
    else:
        file, whole = workdir / SPLIT, components["train"]
        loaded = [prepare.load_source(whole, warn=False)]
        division = split.load_or_plan(file, loaded[0], seed=options.settings.seed)
        sentences += division.sentences()
        sources: dict[str, Source] = {part: split.part_of(loaded[0], division, part=part) for part in split.PARTS}
        for part in split.PARTS:
            components[part] = configs.component("data.split", source=whole, file=str(file.absolute()), part=part)
    if "test" in components:
        train = sources["train"]
        test = prepare.load_source(
            components["test"], classes=train.classes, whose="the training data", split="test", warn=False
        )
        if any((~record.crowd).any() for record in test.records):
            sources = {**sources, "test": test}
            loaded.append(test)
        else:
            sentences.append("The test split has no object, so nothing is compared on it.")
    for source in loaded:
        sentences += [f"{source.repairs.title}: {sentence}" for sentence in source.repairs.sentences()]
    survey.refuse_unreadable({name: survey.sample(source, limit=8) for name, source in sources.items()})
    return Data(found.format, components, sources, tuple(sentences))


def plan(folder: str, options: Options, workdir: Path, *, say: Say = print) -> Plan:
    """The recipes for the data of a folder, derived or, where the workdir has some already, as they are there.

    A few steps of each derived run are made, to know how long it takes and to keep `options.minutes`; then the recipes
    are written into the workdir.

    Raises:
      ConfigError: where the workdir was begun with other options.
      DataError: as `load`.
    """
    data = load(folder, options, workdir)
    seeds = range(options.settings.seed, options.settings.seed + options.seeds)
    begun = Plan(data, Experiment({}, workdir, seeds), (), {})
    if begun.file.is_file():
        _check_options(workdir, folder, options)
        trained = not options.settings.teacher
        return replace(begun, experiment=replace(begun.experiment, recipes=_reopened(begun.file, trained=trained)))
    derived = derive(data, options, workdir)
    timings = experiment.trials(_of(begun, derived, {}).experiment, say=say)
    if options.minutes:
        derived = recipes.with_steps(derived, _steps_within(derived, timings, options))
    storage.write(workdir / OPTIONS, _as_text(folder, options))  # first: without the recipes, all is derived anew
    storage.write(begun.file, explain.module(derived, file=str(begun.file)))
    return _of(begun, derived, timings)


def derive(data: Data, options: Options, workdir: Path) -> recipes.Derived:
    """The recipes that follow of the data."""
    given = {name: absolute(getattr(options.settings, name)) for name in ("teacher", "initial", "teacher_initial")}
    settings = replace(options.settings, **given)
    if not settings.teacher:
        settings = replace(settings, teacher_folder=absolute(str(workdir / TEACHER / build.STUDENT)))
    elif "box_predictions" not in prepare.load_detector(settings.teacher).detector.traits.capabilities:
        settings = replace(settings, two_stage=False)
    components = {name: data.components[name] for name in ("train", "val")}
    return recipes.derive(data.sources["train"], data.sources["val"], data=components, options=settings)


def explanation(folder: str, options: Options, workdir: Path) -> str:
    """The derived recipes as the text of a Python file."""
    return explain.module(derive(load(folder, options, workdir), options, workdir))


def _of(begun: Plan, derived: recipes.Derived, timings: Mapping[str, Trial]) -> Plan:
    with_recipes = replace(begun.experiment, recipes=derived.recipes)
    return replace(begun, experiment=with_recipes, reasons=derived.reasons, trials=timings)


def distill(plan: Plan, *, anyway: bool = False, say: Say = print) -> Result:
    """Runs all that a plan has and that is not done yet, compares it, and writes the page.

    Raises:
      WeightsError: where a given teacher is too weak to learn from, and not `anyway`.
      JaxkdError: what a run raises.
    """
    taught = plan.experiment.recipes[TAUGHT]
    if TEACHER not in plan.experiment.recipes:
        experiment.check_teacher(taught, plan.data.sources["val"], anyway=anyway, say=say)
    experiment.train(plan.experiment, say=say)
    comparison, test = experiment.compare(plan.experiment, say=say), plan.data.sources.get("test")
    return Result(plan, comparison, experiment.compare(plan.experiment, test=test, say=say) if test else None)


def _steps_within(derived: recipes.Derived, timings: Mapping[str, Trial], options: Options) -> Choice:
    """The steps of the student's runs with which all runs end within the minutes."""
    each = {name: trial.step for name, trial in timings.items()}
    measured = schedule.Measured(
        taught_step=each[TAUGHT] * options.seeds,
        alone_step=each[ALONE] * options.seeds,
        teacher_step=each.get(TEACHER, 0.0),
        rest=2 * sum(trial.starting for trial in timings.values()),
    )
    pictures, batch = derived.pictures["train"], derived.recipes[ALONE].train.batch
    return schedule.steps_in(options.minutes, measured, pictures=pictures, batch=batch, anyway=options.anyway)


def _reopened(file: Path, *, trained: bool) -> dict[str, configs.Recipe]:
    """The recipes of a workdir's recipe.py, with the teacher's where one is `trained` here."""
    names = (TEACHER, ALONE, TAUGHT) if trained else (ALONE, TAUGHT)
    return {name: configs.load_recipe(file, name) for name in names}


def _as_text(folder: str, options: Options) -> str:
    chosen = dataclasses.asdict(options) | {"folder": str(Path(folder).absolute())}
    return json_values.dumps(chosen, indent=1) + "\n"


def _check_options(workdir: Path, folder: str, options: Options) -> None:
    """Raises ConfigError where the recipe of a workdir was derived from other options or data."""
    file = workdir / OPTIONS
    try:
        begun = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{file} does not say what {RECIPE} was derived from ({error}); give another --workdir."
        ) from error
    now = json.loads(_as_text(folder, options))
    free = ("seeds", "anyway", "platform", "devices")
    flat = [values.pop("settings", {}) | values for values in (begun, now)]
    for name in flat[1]:
        if name not in free and flat[0].get(name) != flat[1][name]:
            raise ConfigError(
                f"{workdir} was begun with {name}={flat[0].get(name)!r}, not {flat[1][name]!r}; give the same, or "
                "another --workdir."
            )

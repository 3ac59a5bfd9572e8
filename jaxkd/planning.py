"""What `jaxkd distill` is asked for, what it is going to run, and how long that takes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.data import recognise
from jaxkd.derive import duration, recipes, schedule, screen
from jaxkd.derive.base import Choice, Reason
from jaxkd.errors import ConfigError
from jaxkd.experiment import ALONE, TEACHER, Experiment
from jaxkd.loading import folder

RECIPE = "recipe.py"  # in the workdir: the derived recipes, which may be edited before anything is trained
REPORT = "report"  # the name of what follows the runs, in a plan's times
REPORTED_AT = 0.2  # of a run's steps, where its speed is held against the one that was timed


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
    batch: Choice | None = None  # where memory decides it

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

    def pace(self, run: int, step_seconds: float) -> str:
        """What a step of the run with this number, a fifth of which is done, says of the time that is left.

        Empty where nothing was timed. Later runs are taken to be slower or faster by the same factor.
        """
        runs = [name for name, _, _ in self.experiment.runs()]
        name = runs[run]
        if name not in self.timings:
            return ""
        timed = self.timings[name].step
        left = {name: (1 - REPORTED_AT) * self._steps_seconds(name)}
        for later in runs[run + 1 :]:
            left[later] = left.get(later, 0.0) + self._steps_seconds(later)
        expected, ratio = sum(left.values()), step_seconds / timed
        return (
            f"A step takes {1000 * step_seconds:.0f} ms, {1000 * timed:.0f} ms were timed: the steps that are left "
            f"take {phrases.duration(ratio * expected)}, {phrases.duration(expected)} were expected."
        )

    def _steps_seconds(self, name: str) -> float:
        return self.steps(name) * self.timings[name].step

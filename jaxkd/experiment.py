"""Alone against taught: trains a teacher where there is none, and one student both ways, and compares the results."""

import dataclasses
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.comparison import gather, page, side_by_side
from jaxkd.comparison.records import Comparison, Entry
from jaxkd.data.base import Source, Subset, evenly_spaced
from jaxkd.derive.duration import Timing
from jaxkd.errors import WeightsError
from jaxkd.evaluation.coco import Scores
from jaxkd.loading import build, prepare, stored_teacher
from jaxkd.train import evaluate, log, loop, mesh
from jaxkd.train.sinks.base import Sink
from jaxkd.train.training import LEAST_SHARE, RunResult

TEACHER, ALONE, TAUGHT, UNLABELLED = "teacher", "alone", "taught", "unlabelled"
STUDENTS = (ALONE, TAUGHT, UNLABELLED)  # the last one learns of pictures without labels too
COMPARISON, TEST = "comparison", "comparison_test"  # in the workdir: the folders of the pages
PICTURES_OF_PAGE = 4  # with the largest gains, and as many with the largest losses
PICTURES = "pictures.png"  # in the workdir: truth and detections on some validation pictures
TIMED_STEPS = 8  # of a run that is only timed
TIMED_PICTURES = 16  # that it is scored on
CHECKED = 64  # validation pictures that a given teacher is scored on before anything is trained
LEAST_AP50 = 0.2  # of a teacher that is worth learning from

NO_BASELINE = "The student alone was not trained, so what it gains by its teacher is not measured; --baseline adds it."

WHAT = {
    TEACHER: "The teacher is trained",
    ALONE: "The student learns alone",
    TAUGHT: "The student learns taught",
    UNLABELLED: "The student learns taught, of pictures without labels too",
}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Experiment:
    """The recipes of one student alone and taught, and of its teacher where that is trained first.

    Attributes:
      recipes: by name: "alone", "taught", "unlabelled" where there are pictures without labels, and "teacher" where
        there is one to train.
      workdir: every run has a folder of its own in it.
      seeds: of the student's runs; the teacher has the seed of its recipe.
      baseline: whether the student alone is among the runs.
    """

    recipes: Mapping[str, configs.Recipe]
    workdir: Path
    seeds: Sequence[int] = (0,)
    baseline: bool = True

    @property
    def students(self) -> tuple[str, ...]:
        """The names of the student's recipes that are trained, in their order."""
        return tuple(name for name in STUDENTS if name in self.recipes and (self.baseline or name != ALONE))

    def folder(self, name: str, seed: int | None = None) -> Path:
        """The workdir of a run: NAME, and NAME-SEED for every seed but the first."""
        first = seed is None or seed == self.seeds[0]
        return self.workdir / (name if first else f"{name}-{seed}")

    def page(self, *, test: bool = False) -> Path:
        """The page of the comparison on validation pictures, or on those of the test split."""
        return self.workdir / (TEST if test else COMPARISON) / "index.html"

    def runs(self) -> Iterator[tuple[str, configs.Recipe, Path]]:
        """Name, recipe and workdir of every run, in their order."""
        if TEACHER in self.recipes:
            yield TEACHER, self.recipes[TEACHER], self.folder(TEACHER)
        for seed in self.seeds:
            for name in self.students:
                recipe = self.recipes[name].copy_and_resolve_references()
                recipe.train.seed = seed
                if name != ALONE and TEACHER in self.recipes:
                    recipe.teacher = str(self.folder(TEACHER) / build.STUDENT)
                yield name, recipe, self.folder(name, seed)

    def entries(self, seed: int) -> tuple[Entry, ...]:
        """A seed's students, for a comparison."""
        suffix = "" if seed == self.seeds[0] else f", seed {seed}"
        return tuple(_entry(f"{name}{suffix}", self.folder(name, seed)) for name in self.students)


def train(
    experiment: Experiment, *, say: Say = print, sinks_of: Callable[[Path], Sequence[Sink]] = lambda folder: ()
) -> dict[Path, RunResult]:
    """Runs what is still to be run; returns the result of each run by its workdir.

    A run that was stopped goes on. Raises what `loop.run` raises.
    """
    runs = list(experiment.runs())
    results: dict[Path, RunResult] = {}
    for number, (name, recipe, folder) in enumerate(runs, start=1):
        what = WHAT[name]
        seed = f" (seed {recipe.train.seed})" if len(experiment.seeds) > 1 and name != TEACHER else ""
        say(f"{number}/{len(runs)} {what}{seed}.")
        results[folder] = loop.run(recipe, folder, sinks=sinks_of(folder))
    return results


def compare(experiment: Experiment, *, test: Source | None = None, say: Say = print) -> Comparison:
    """Scores and times the students and the teacher on all validation pictures; writes the page and PICTURES.

    With `test`, on these pictures of a test split instead, which have decided nothing; writes a page of its own.
    """
    entries, repeats = _entries(experiment)
    source = test or gather.validation_source(entries)
    options = gather.Options(split="test" if test else "validation", stepwise=True)
    comparison = gather.gather(entries, source, options, repeats=repeats, say=say)
    if not experiment.baseline:
        comparison = dataclasses.replace(comparison, remarks=(*comparison.remarks, NO_BASELINE))
    page.write(experiment.page(test=bool(test)).parent, comparison, source, most=PICTURES_OF_PAGE)
    if not test:
        side_by_side.write(experiment.workdir / PICTURES, comparison, source)
    return comparison


def _entries(experiment: Experiment) -> tuple[tuple[Entry, ...], list[tuple[Entry, ...]]]:
    """The students of the first seed, and those of the others."""
    first, *others = (experiment.entries(seed) for seed in experiment.seeds)
    return first, others


def timings(experiment: Experiment, *, say: Say = print) -> dict[str, Timing]:
    """The time of each kind of run: a few steps of each in a folder that is removed again.

    What is compiled for them is kept where compiled programs are kept, so that the runs do not compile it again.
    Raises StepTooLargeError, before it is made, for a step that needs too much of the memory.
    """
    scratch = experiment.workdir / "trial"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        found = {}
        for name, recipe, folder in _short_runs(experiment, scratch):
            say(f"Compiling and timing {name}.")
            found[name] = _timing(recipe, folder)
        return found
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _short_runs(experiment: Experiment, scratch: Path) -> Iterator[tuple[str, configs.Recipe, Path]]:
    short = dataclasses.replace(experiment, workdir=scratch, seeds=experiment.seeds[:1])
    for name, recipe, folder in short.runs():
        recipe = recipe.copy_and_resolve_references()
        recipe.train.update(
            steps=TIMED_STEPS, epochs=0, report_every=1, evaluate_every=0, evaluate_limit=TIMED_PICTURES,
            checkpoint_every=0, probe_every=0, teacher_check=0,
        )  # fmt: skip
        yield name, recipe, folder


def _timing(recipe: configs.Recipe, folder: Path) -> Timing:
    began = time.monotonic()
    result = loop.run(recipe, folder, quiet=True, check_memory=True)
    starting = time.monotonic() - began - result.seconds
    steps = [line["step_seconds"] for line in log.read(folder) if "step_seconds" in line]
    return Timing(starting, step=statistics.median(steps[1:]))  # the first one waits for the first pictures


def check_teacher(recipe: configs.Recipe, source: Source, *, anyway: bool, say: Say = print) -> Scores | None:
    """Scores the teacher of a recipe on some validation pictures, before anything is trained; says what was found.

    None where it knows none of the classes, or gives no detections. Raises WeightsError where it is too weak to learn
    from, unless `anyway`.
    """
    teacher = prepare.load_teacher(recipe, source)
    assert teacher is not None
    matched, _ = stored_teacher.with_detections(teacher, {"val": source}, limit=recipe.data.loader.max_objects)
    source = matched["val"]
    if teacher.stored and not stored_teacher.covers(source):
        say("The teacher's file has detections on few validation pictures, so it is not scored.")
        return None
    columns, note = prepare.class_columns(teacher.detector.classes, source.classes)
    if note:
        say(note)
    if "detections" not in teacher.detector.traits.capabilities or (note and not columns):
        return None
    detector = evaluate.RelabelledDetector(teacher.detector, columns) if columns else teacher.detector
    config = configs.build(recipe.data.loader)
    chosen = Subset(source, evenly_spaced(len(source.records), CHECKED))
    evaluation = evaluate.evaluate_source(
        detector, teacher.params, chosen, config, mesh.make_mesh(1), batch=8, teacher=True
    )
    scores = evaluation.scores
    ap, ap50 = scores.summary["AP"], scores.summary["AP50"]
    expected_ap = 0.0 if columns else teacher.scores.get("AP", 0.0)
    pictures = phrases.counted(evaluation.pictures, "validation picture")
    elsewhere = f"; AP {100 * expected_ap:.1f} where it was trained" if expected_ap else ""
    say(f"The teacher scores AP {100 * ap:.1f}, AP50 {100 * ap50:.1f} on {pictures}{elsewhere}.")
    if (ap50 < LEAST_AP50 or ap < LEAST_SHARE * expected_ap) and not anyway:
        raise WeightsError(
            f"The teacher's AP is {100 * ap:.1f}, its AP50 {100 * ap50:.1f} on {pictures}{elsewhere}, so there is "
            "little to learn from it; check its classes and picture sizes, or give --anyway."
        )
    return scores


def _entry(name: str, folder: Path) -> Entry:
    recipe = configs.parse((folder / build.RECIPE).read_text(encoding="utf-8"))
    return Entry(name, str(folder), build.load(folder / build.STUDENT), recipe)

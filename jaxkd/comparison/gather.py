"""Detectors from runs and folders: held to one set of pictures, scored, timed, and put into records."""

import dataclasses
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from jaxkd import config as configs
from jaxkd import words
from jaxkd.comparison import costs, curves, tables
from jaxkd.comparison.records import BATCHES, SCORE, Compared, Comparison, Entry, Gains, Role
from jaxkd.data.base import PictureError, Record, Source, digest
from jaxkd.errors import ConfigError, DataError, JaxkdError
from jaxkd.evaluation import bootstrap, errors, matches
from jaxkd.evaluation.run import Evaluation
from jaxkd.loading import build, prepare
from jaxkd.paths import path_of
from jaxkd.train import evaluate, mesh


@dataclasses.dataclass(frozen=True)
class Options:
    """How detectors are compared."""

    teacher: bool = True  # show the teachers of runs that are not among the entries too
    resamples: int = 1000
    seed: int = 0
    batch: int = 8  # pictures at once while scoring


@dataclasses.dataclass(frozen=True)
class _Ready:
    """A detector that fits the pictures."""

    entry: Entry
    role: Role
    subject: costs.Subject


@dataclasses.dataclass(frozen=True)
class _Scored:
    """What a detector found, and what that is worth."""

    evaluation: Evaluation
    matches: matches.Matches
    resampled: bootstrap.Resampled


def names_of(places: Sequence[str]) -> list[str]:
    """A name for each folder: the end of its path, as long as it takes to tell them and the columns of tables apart."""
    parts = [Path(place.replace("assets:", "assets/")).expanduser().absolute().parts for place in places]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)) and tables.told_apart(list(dict.fromkeys(names))):
            break
    else:
        names = ["/".join(part) for part in parts]
    return [
        name if name not in names[:place] else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]


def pictures_of(entries: Sequence[Entry]) -> Source:
    """The validation pictures of the first run, which have to be those of all runs.

    Raises ConfigError where there is no run, where the data of two runs differ, or where a detector is for other
    classes.
    """
    runs = [entry for entry in entries if entry.recipe is not None]
    if not runs:
        raise ConfigError(
            "None of these folders is the workdir of a run, whose validation pictures could be looked at; name one."
        )
    first, *others = runs
    data = first.recipe.data.val
    source = _validation(first, data)
    for other in others:
        theirs = other.recipe.data.val
        if theirs.to_dict() != data.to_dict() and (what := _difference(source, _validation(other, theirs))):
            raise ConfigError(
                f"{first.name} and {other.name} have other validation data: in that of {other.name} {what}; "
                "compare runs whose validation data are the same."
            )
    for entry in entries:
        if entry.loaded.detector.classes != source.classes:
            what = _classes(source.classes, entry.loaded.detector.classes)
            raise ConfigError(
                f"{entry.name} is for other classes than the validation data of {first.name}: {what}; compare "
                "detectors of the same classes in the same order."
            )
    return source


def _validation(entry: Entry, data: configs.Recipe) -> Source:
    """The data with the classes of the entry's detector, to which it is brought by their names."""
    return prepare.load_source(data, classes=entry.loaded.detector.classes, whose=entry.name)


def gather(
    entries: Sequence[Entry], source: Source, options: Options, *, say: Callable[[str], None] = print
) -> Comparison:
    """All that is to be known of detectors on the pictures that `pictures_of` gave for them.

    Raises DataError where there is no object on them.
    """
    teachers, remarks = _teachers(entries, source) if options.teacher else ([], [])
    remarks += _unlike(entries)
    ready = [_ready(entry, entries) for entry in entries] + teachers
    scored = _scored(ready, source, options, say)
    say("The time that each takes is measured.")
    subjects = {one.entry.name: one.subject for one in ready}
    times = {batch: costs.costs_of(subjects, source, batch=batch) for batch in BATCHES}
    detectors = []
    for place, (one, found) in enumerate(zip(ready, scored, strict=True)):
        compared = _compared(one, found, scored[0] if place else None, source)
        compared = dataclasses.replace(compared, costs={batch: times[batch][compared.name] for batch in BATCHES})
        if compared.curves and 0 < (last := curves.last_step(compared.curves)) < compared.curves.steps:
            remarks.append(
                f"{compared.name} has come to step {last} of {compared.curves.steps}; its best student so far is shown."
            )
        detectors.append(compared)
    ranked = scored[0].matches.ranked
    objects = {size: [int(one.objects.sum()) for one in of_classes] for size, of_classes in ranked.items()}
    names = scored[0].matches.classes
    absent = [name for name, number in zip(names, objects["all"], strict=True) if not number]
    if absent:
        remarks.append(
            f"The pictures have no object of {words.some(absent)}, whose AP is not known; AP is the mean over the "
            "other classes."
        )
    return Comparison(
        detectors=tuple(detectors),
        focus=_focus(detectors[: len(entries)]),
        images=scored[0].matches.images,
        objects=dict(zip(names, objects["all"], strict=True)),
        sizes={size: sum(objects[size]) for size in matches.SIZES.values()},
        resamples=options.resamples,
        seed=options.seed,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
        remarks=tuple(remarks),
    )


def _difference(source: Source, other: Source) -> str:
    """In what the other data differ from the source, as the end of a sentence; empty where they do not."""
    if digest(source) == digest(other):
        return ""
    if source.classes != other.classes:
        return f"the classes are others: {_classes(source.classes, other.classes)}"
    if len(source.records) != len(other.records):
        return f"the number of pictures is {len(other.records)}, not {len(source.records)}"

    def about(record: Record) -> tuple:
        return record.image_id, record.file, record.height, record.width

    for mine, theirs in zip(source.records, other.records, strict=True):
        if about(mine) != about(theirs):
            return "picture {} is {} ({}x{}), not {} ({}x{})".format(
                *(mine.index + 1, theirs.file, theirs.width, theirs.height, mine.file, mine.width, mine.height)
            )
        if len(mine.boxes) != len(theirs.boxes):
            return f"{mine.file} has {words.counted(len(theirs.boxes), 'object')}, not {len(mine.boxes)}"
        if any((getattr(mine, name) != getattr(theirs, name)).any() for name in ("boxes", "labels", "crowd")):
            return f"the objects of {mine.file} have other places or classes"
    return "the categories have other numbers"


def _classes(wanted: Sequence[str], given: Sequence[str]) -> str:
    lacking, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    said = [f"{verb} {words.some(names)}" for verb, names in (("lacking", lacking), ("with", extra)) if names]
    return " and ".join(said) or "in another order"


def _ready(entry: Entry, entries: Sequence[Entry]) -> _Ready:
    role: Role = "weights" if entry.recipe is None else "taught" if entry.recipe.distill else "alone"
    if any(_where(entry.place) == _where(other.recipe.teacher) for other in _taught(entries)):
        role = "teacher"
    recipe = entry.recipe or next(other.recipe for other in entries if other.recipe)
    feeding = configs.build(recipe.data.loader)
    if entry.recipe is None:
        feeding = prepare.own_sizes(entry.loaded, feeding)
    return _Ready(entry, role, costs.Subject(entry.loaded.detector, entry.loaded.params, feeding))


def _teachers(entries: Sequence[Entry], source: Source) -> tuple[list[_Ready], list[str]]:
    """The teachers of runs that are not among the entries, and a sentence on each that is not, or not wholly, shown."""
    there = {_where(entry.place) for entry in entries}
    names, pupils, found, remarks = [entry.name for entry in entries], {}, [], []
    for pupil in _taught(entries):
        if (place := _where(pupil.recipe.teacher)) not in there:
            pupils.setdefault(place, pupil)
    for pupil in pupils.values():
        try:
            loaded = prepare.load_teacher(pupil.recipe)
        except JaxkdError as error:
            remarks.append(f"The teacher of {pupil.name} is not shown: {error}")
            continue
        assert loaded is not None
        columns, said = prepare.shared_classes(loaded.detector.classes, source.classes)
        if said and not columns:
            remarks.append(f"The teacher of {pupil.name} is not shown: it knows none of the classes by name.")
            continue
        name = "teacher" if len(pupils) == 1 else f"teacher of {pupil.name}"
        if not tables.told_apart([*names, name]):
            name = f"{name} ({pupil.recipe.teacher})"
        names.append(name)
        if any(column < 0 for column in columns):
            remarks.append(f"{said.replace('The teacher', f'The {name}', 1)} Its AP counts these as never found.")
        feeding = prepare.own_sizes(loaded, configs.build(pupil.recipe.data.loader))
        finder = evaluate.RelabelledDetector(loaded.detector, columns) if columns else loaded.detector
        subject = costs.Subject(finder, loaded.params, feeding)
        found.append(_Ready(Entry(name, pupil.recipe.teacher, loaded), "teacher", subject))
    return found, remarks


def _unlike(entries: Sequence[Entry]) -> list[str]:
    """A sentence on each run that learned from other data, or for another number of pictures, than the first run."""
    runs, remarks = [entry for entry in entries if entry.recipe is not None], []
    first = runs[0]
    data, seen = first.recipe.data.train.to_dict(), _seen(first)
    for other in runs[1:]:
        theirs = other.recipe.data.train.to_dict()
        fields = [name for name in (*data, *theirs) if data.get(name) != theirs.get(name)]
        if fields:
            field, was, is_ = fields[0], data.get(fields[0]), theirs.get(fields[0])
            remarks.append(
                f"{other.name} names other training data than {first.name} ({field} is {is_!r}, not {was!r}), so a "
                "difference may be due to the data."
            )
        if _seen(other) != seen:
            remarks.append(f"{other.name} trains for {_seen(other)}, and {first.name} for {seen}.")
    return remarks


def _seen(entry: Entry) -> str:
    """How long a run trains, as its recipe has it."""
    train = entry.recipe.train
    return f"{words.counted(train.steps, 'step')} of {words.counted(train.batch, 'picture')}"


def _taught(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.recipe and entry.recipe.distill and entry.recipe.teacher]


def _where(place: str) -> Path:
    """The folder or file of weights that a place stands for."""
    path = path_of(place)
    return (path / build.STUDENT if (path / build.RECIPE).is_file() else path).resolve()


def _scored(ready: Sequence[_Ready], source: Source, options: Options, say: Callable[[str], None]) -> list[_Scored]:
    """What each detector finds, resampled jointly."""
    truth, devices, evaluations = source.annotations(), mesh.make_mesh(), []
    for one in ready:
        say(f"{one.entry.name} looks at {words.counted(len(source.records), 'validation picture')}.")
        detector, params, feeding = one.subject.detector, one.subject.params, one.subject.feeding
        evaluations.append(evaluate.evaluate_source(detector, params, source, feeding, devices, batch=options.batch))
    only = _readable(source, evaluations)
    if not any(item["image_id"] in only for item in truth["annotations"]):
        raise DataError("None of the validation pictures has an object, so there is nothing to compare.")
    counts = bootstrap.draws(len(only), resamples=options.resamples, seed=options.seed)
    scored = []
    for evaluation in evaluations:
        found = matches.match(truth, evaluation.results, only=only)
        scored.append(_Scored(evaluation, found, bootstrap.resampled(found, counts)))
    return scored


def _readable(source: Source, evaluations: Sequence[Evaluation]) -> set[int]:
    """The ids of the pictures that were looked at."""
    if all(evaluation.pictures == len(source.records) for evaluation in evaluations):
        return {record.image_id for record in source.records}
    readable = set()
    for record in source.records:
        try:
            source.read(record.index)
        except PictureError:
            continue
        readable.add(record.image_id)
    return readable


def _compared(one: _Ready, found: _Scored, first: _Scored | None, source: Source) -> Compared:
    """A detector's record, its costs still to be put in."""
    truth, results, only = source.annotations(), found.evaluation.results, set(found.matches.images)
    recipe, feeding = one.entry.recipe, one.subject.feeding
    return Compared(
        name=one.entry.name,
        place=one.entry.place,
        role=one.role,
        methods=tuple(recipe.distill.keys()) if recipe else (),
        sizes=f"{feeding.short[0]} to {feeding.long}",
        scores=found.evaluation.scores,
        voc=found.evaluation.voc,
        costs={},
        errors=errors.analyse(truth, results, only=only),
        sure=errors.analyse(truth, results, only=only, least=SCORE),
        confusion=errors.confusion(truth, results, only=only, score=SCORE),
        quality=matches.quality(found.matches, least=SCORE),
        gains=Gains(*bootstrap.intervals(found.resampled, first.resampled)) if first else None,
        curves=curves.read(Path(one.entry.place), steps=recipe.train.steps) if recipe else None,
        results=results,
    )


def _focus(detectors: Sequence[Compared]) -> str:
    """The last one that was taught, or else the last; never the first."""
    others = detectors[1:] or detectors
    taught = [one.name for one in others if one.role == "taught"]
    return taught[-1] if taught else others[-1].name

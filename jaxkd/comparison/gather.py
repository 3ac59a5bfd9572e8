"""Scores and times detectors of runs and folders on one set of pictures, and gathers the results in records."""

import dataclasses
import math
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.comparison import costs, curves, tables
from jaxkd.comparison.records import BATCHES, SCORE, ComparedDetector, Comparison, Entry, Gains, Role
from jaxkd.data.base import PictureError, Record, Source, digest
from jaxkd.errors import ConfigError, DataError, JaxkdError
from jaxkd.evaluation import bootstrap, errors, matches, seeds
from jaxkd.evaluation.run import Evaluation
from jaxkd.loading import build, prepare
from jaxkd.paths import path_of
from jaxkd.train import evaluate, mesh


@dataclasses.dataclass(frozen=True)
class Options:
    """How detectors are compared."""

    teacher: bool = True  # also show the teachers of runs, where they are not among the entries
    resamples: int = 1000
    seed: int = 0
    batch: int = 8  # pictures per batch while scoring
    split: str = "validation"  # what the pictures are called
    stepwise: bool = False  # whether each entry adds something to the one before it, so that these gains are said too


@dataclasses.dataclass(frozen=True)
class _Participant:
    """A detector with its role and the settings of its loader."""

    entry: Entry
    role: Role
    subject: costs.Subject


@dataclasses.dataclass(frozen=True)
class _Scored:
    """The scores of a detector, its matched detections, and its resampled AP."""

    evaluation: Evaluation
    matches: matches.Matches
    resampled: bootstrap.Resampled


def unique_names(places: Sequence[str]) -> list[str]:
    """A name for each folder: the shortest end of its path with which names and titles of columns are unique."""
    parts = [Path(place.replace("assets:", "assets/")).expanduser().absolute().parts for place in places]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)) and tables.are_distinct(list(dict.fromkeys(names))):
            break
    else:
        names = ["/".join(part) for part in parts]
    return [
        name if name not in names[:index] else f"{name} ({names[: index + 1].count(name)})"
        for index, name in enumerate(names)
    ]


def validation_source(entries: Sequence[Entry]) -> Source:
    """The validation data of the first run, which all other runs must share.

    Raises ConfigError where there is no run, where the data of two runs differ, or where a detector has other
    classes.
    """
    runs = [entry for entry in entries if entry.recipe is not None]
    if not runs:
        raise ConfigError(
            "None of these folders is the workdir of a run, whose validation pictures could be used; name one."
        )
    first, *others = runs
    data = first.recipe.data.val
    source = _validation(first, data)
    for other in others:
        other_data = other.recipe.data.val
        if other_data.to_dict() != data.to_dict() and (
            difference := _difference(source, _validation(other, other_data))
        ):
            raise ConfigError(
                f"{first.name} and {other.name} have other validation data: in that of {other.name} {difference}; "
                "compare runs whose validation data are the same."
            )
    for entry in entries:
        if entry.loaded.detector.classes != source.classes:
            difference = _class_difference(source.classes, entry.loaded.detector.classes)
            raise ConfigError(
                f"{entry.name} is for other classes than the validation data of {first.name}: {difference}; compare "
                "detectors of the same classes in the same order."
            )
    return source


def _validation(entry: Entry, data: configs.Recipe) -> Source:
    """The data, with its classes matched by name to those of the entry's detector."""
    return prepare.load_source(data, classes=entry.loaded.detector.classes, whose=entry.name)


def gather(
    entries: Sequence[Entry],
    source: Source,
    options: Options,
    *,
    repeats: Sequence[Sequence[Entry]] = (),
    say: Callable[[str], None] = print,
) -> Comparison:
    """The comparison of the detectors on the pictures of `validation_source`.

    Args:
      entries: the detectors; the first is the reference.
      source: the pictures.
      options: how they are compared.
      repeats: the same detectors again, each time as another seed has trained them.
      say: takes each message on the progress.

    Raises DataError where the pictures have no object.
    """
    teachers, remarks = _teachers(entries, source) if options.teacher else ([], [])
    remarks += _training_differences(entries)
    participants = [_participant(entry, entries) for entry in entries] + teachers
    others = [_participant(entry, entries) for again in repeats for entry in again]
    scored = _scored([*participants, *others], source, options, say)
    scored, repeated = scored[: len(participants)], scored[len(participants) :]
    say("The time that each takes is measured.")
    subjects = {participant.entry.name: participant.subject for participant in participants}
    times = {batch: costs.costs_of(subjects, source, batch=batch) for batch in BATCHES}
    detectors = []
    for index, (participant, results) in enumerate(zip(participants, scored, strict=True)):
        compared = _compared(participant, results, scored[0] if index else None, source)
        compared = dataclasses.replace(compared, costs={batch: times[batch][compared.name] for batch in BATCHES})
        if compared.curves and 0 < (last_step := curves.last_step(compared.curves)) < compared.curves.steps:
            remarks.append(
                f"{compared.name} has come to step {last_step} of {compared.curves.steps}; its best student so far is "
                "shown."
            )
        detectors.append(compared)
    ranked = scored[0].matches.ranked
    objects = {size: [int(each.objects.sum()) for each in of_classes] for size, of_classes in ranked.items()}
    names = scored[0].matches.classes
    absent = [name for name, number in zip(names, objects["all"], strict=True) if not number]
    if absent:
        remarks.append(
            f"The pictures have no object of {phrases.some(absent)}, whose AP is not known; AP is the mean over the "
            "other classes."
        )
    focus = _focus(detectors[: len(entries)])
    focused = next(index for index, detector in enumerate(detectors) if detector.name == focus)
    of_seeds = _of_seeds(scored, repeated, count=len(entries))
    if options.stepwise and len(entries) > 2:
        remarks.append(_stepwise([entry.name for entry in entries], of_seeds))
    return Comparison(
        detectors=tuple(detectors),
        focus=focus,
        images=scored[0].matches.images,
        objects=dict(zip(names, objects["all"], strict=True)),
        sizes={size: sum(objects[size]) for size in matches.SIZES.values()},
        resamples=options.resamples,
        seed=options.seed,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
        split=options.split,
        remarks=tuple(remarks),
        over_seeds=_over_seeds(of_seeds, focused) if repeated and focused else None,
    )


def _of_seeds(scored: Sequence[_Scored], repeated: Sequence[_Scored], *, count: int) -> list[Sequence[_Scored]]:
    """The results of the entries, seed by seed."""
    return [scored[:count], *(repeated[start : start + count] for start in range(0, len(repeated), count))]


def _over_seeds(of_seeds: Sequence[Sequence[_Scored]], detector: int, reference: int = 0) -> seeds.OverSeeds:
    """The gain of one detector over another, over several seeds."""
    gains = [
        of_seed[detector].resampled.summary["AP"] - of_seed[reference].resampled.summary["AP"] for of_seed in of_seeds
    ]
    return seeds.over_seeds(np.stack(gains), few="AP" in of_seeds[0][0].resampled.few)


def _stepwise(names: Sequence[str], of_seeds: Sequence[Sequence[_Scored]]) -> str:
    """A sentence on the gain of each detector over the one before it."""
    clauses = []
    for index in range(1, len(names)):
        if len(of_seeds) > 1:
            gain = _over_seeds(of_seeds, index, index - 1).mean
        else:
            resampled = [of_seeds[0][place].resampled for place in (index, index - 1)]
            gain = bootstrap.intervals(*resampled)[0]["AP"]
        within = f" [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]" if not math.isnan(gain.low) else ""
        clauses.append(f"{100 * gain.difference:+.1f} AP{within} from {names[index - 1]} to {names[index]}")
    seeds_of = f" (mean of {len(of_seeds)} seeds)" if len(of_seeds) > 1 else ""
    return f"Step by step{seeds_of}: {phrases.listed(clauses)}."


def _difference(source: Source, other: Source) -> str:
    """The first difference of the other data to the source, as the end of a sentence; empty where there is none."""
    if digest(source) == digest(other):
        return ""
    if source.classes != other.classes:
        return f"the classes are others: {_class_difference(source.classes, other.classes)}"
    if len(source.records) != len(other.records):
        return f"the number of pictures is {len(other.records)}, not {len(source.records)}"

    def identity(picture: Record) -> tuple:
        return picture.image_id, picture.file, picture.height, picture.width

    for record, other_record in zip(source.records, other.records, strict=True):
        if identity(record) != identity(other_record):
            return "picture {} is {} ({}x{}), not {} ({}x{})".format(
                *(
                    record.index + 1,
                    other_record.file,
                    other_record.width,
                    other_record.height,
                    record.file,
                    record.width,
                    record.height,
                )
            )
        if len(record.boxes) != len(other_record.boxes):
            return f"{record.file} has {phrases.counted(len(other_record.boxes), 'object')}, not {len(record.boxes)}"
        if any((getattr(record, name) != getattr(other_record, name)).any() for name in ("boxes", "labels", "crowd")):
            return f"the objects of {record.file} have other places or classes"
    return "the categories have other numbers"


def _class_difference(expected: Sequence[str], given: Sequence[str]) -> str:
    missing, extra = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    clauses = [f"{verb} {phrases.some(names)}" for verb, names in (("lacking", missing), ("with", extra)) if names]
    return " and ".join(clauses) or "in another order"


def _participant(entry: Entry, entries: Sequence[Entry]) -> _Participant:
    role: Role = "weights" if entry.recipe is None else "taught" if configs.methods_in(entry.recipe) else "alone"
    taught_by = {path for other in _taught_entries(entries) for path in _teacher_recipes(other)}
    if _weights_path(entry.folder) in taught_by:
        role = "teacher"
    recipe = entry.recipe or next(other.recipe for other in entries if other.recipe)
    loader_config = configs.build(recipe.data.loader)
    if entry.recipe is None:
        loader_config = prepare.with_training_sizes(entry.loaded, loader_config)
    return _Participant(entry, role, costs.Subject(entry.loaded.detector, entry.loaded.params, loader_config))


def _teachers(entries: Sequence[Entry], source: Source) -> tuple[list[_Participant], list[str]]:
    """The teachers of runs that are not among the entries, and a sentence on each that cannot be shown in full."""
    entry_paths = {_weights_path(entry.folder) for entry in entries}
    names, teachers, remarks = [entry.name for entry in entries], [], []
    others: dict[Path, tuple[Entry, configs.Recipe]] = {}
    for student in _taught_entries(entries):
        for path, recipe in _teacher_recipes(student).items():
            if path not in entry_paths:
                others.setdefault(path, (student, recipe))
    for student, recipe in others.values():
        try:
            loaded = prepare.load_teacher(recipe, source)
        except JaxkdError as error:
            remarks.append(f"The teacher of {student.name} is not shown: {error}")
            continue
        assert loaded is not None
        if loaded.stored:
            remarks.append(f"The teacher of {student.name} is not shown: it is a file of detections.")
            continue
        if "detections" not in loaded.detector.traits.capabilities:
            remarks.append(f"The teacher of {student.name} is not shown: it gives no detections.")
            continue
        columns, notice = prepare.class_columns(loaded.detector.classes, source.classes)
        if notice and not columns:
            remarks.append(f"The teacher of {student.name} is not shown: it knows none of the classes by name.")
            continue
        name = "teacher" if len(others) == 1 else f"teacher of {student.name}"
        if not tables.are_distinct([*names, name]):
            name = f"{name} ({recipe.teacher})"
        names.append(name)
        if any(column < 0 for column in columns):
            remarks.append(f"{notice.replace('The teacher', f'The {name}', 1)} Its AP counts these as never found.")
        loader_config = prepare.with_training_sizes(loaded, configs.build(student.recipe.data.loader))
        detector = evaluate.RelabelledDetector(loaded.detector, columns) if columns else loaded.detector
        subject = costs.Subject(detector, loaded.params, loader_config)
        teachers.append(_Participant(Entry(name, recipe.teacher, loaded), "teacher", subject))
    return teachers, remarks


def _training_differences(entries: Sequence[Entry]) -> list[str]:
    """A sentence on each run that trained on other data, or for another number of pictures, than the first run."""
    runs, remarks = [entry for entry in entries if entry.recipe is not None], []
    first = runs[0]
    data, length = first.recipe.data.train.to_dict(), _training_length(first)
    for other in runs[1:]:
        other_data = other.recipe.data.train.to_dict()
        fields = [name for name in (*data, *other_data) if data.get(name) != other_data.get(name)]
        if fields:
            field, value, other_value = fields[0], data.get(fields[0]), other_data.get(fields[0])
            remarks.append(
                f"{other.name} names other training data than {first.name} ({field} is {other_value!r}, not "
                f"{value!r}), so a difference may be due to the data."
            )
        if ("unlabelled" in other.recipe.data) != ("unlabelled" in first.recipe.data):
            which = other if "unlabelled" in other.recipe.data else first
            remarks.append(f"{which.name} has learnt of pictures without labels too (data.unlabelled).")
        if _training_length(other) != length:
            remarks.append(f"{other.name} trains for {_training_length(other)}, and {first.name} for {length}.")
    return remarks


def _training_length(entry: Entry) -> str:
    """The length of a run's training, from its recipe."""
    train = entry.recipe.train
    return f"{phrases.counted(train.steps, 'step')} of {phrases.counted(train.batch, 'picture')}"


def _taught_entries(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.recipe and _teacher_recipes(entry)]


def _teacher_recipes(entry: Entry) -> dict[Path, configs.Recipe]:
    """The recipes of one teacher each that a run learnt of, by the teacher's folder or file."""
    recipes = configs.of_each_teacher(entry.recipe).values()
    return {_weights_path(recipe.teacher): recipe for recipe in recipes if recipe.distill and recipe.teacher}


def _weights_path(place: str) -> Path:
    """The folder or file of weights that a workdir or path stands for."""
    return build.folder_of(path_of(place)).resolve()


def _scored(
    participants: Sequence[_Participant], source: Source, options: Options, say: Callable[[str], None]
) -> list[_Scored]:
    """The results of each detector, all resampled with the same draws."""
    truth, devices, evaluations = source.annotations(), mesh.make_mesh(), []
    for participant in participants:
        pictures = phrases.counted(len(source.records), f"{options.split} picture")
        say(f"{participant.entry.name} is scored on {pictures}.")
        detector, params, loader_config = (
            participant.subject.detector,
            participant.subject.params,
            participant.subject.loader_config,
        )
        evaluations.append(
            evaluate.evaluate_source(detector, params, source, loader_config, devices, batch=options.batch)
        )
    only = _readable(source, evaluations)
    if not any(item["image_id"] in only for item in truth["annotations"]):
        raise DataError(f"None of the {options.split} pictures has an object, so there is nothing to compare.")
    counts = bootstrap.draws(len(only), resamples=options.resamples, seed=options.seed)
    scored = []
    for evaluation in evaluations:
        matched = matches.match(truth, evaluation.results, only=only)
        scored.append(_Scored(evaluation, matched, bootstrap.resampled(matched, counts)))
    return scored


def _readable(source: Source, evaluations: Sequence[Evaluation]) -> set[int]:
    """The ids of the pictures that could be read."""
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


def _compared(participant: _Participant, scored: _Scored, first: _Scored | None, source: Source) -> ComparedDetector:
    """A detector's record, still without its costs."""
    truth, results, only = source.annotations(), scored.evaluation.results, set(scored.matches.images)
    recipe, loader_config = participant.entry.recipe, participant.subject.loader_config
    return ComparedDetector(
        name=participant.entry.name,
        folder=participant.entry.folder,
        role=participant.role,
        methods=configs.methods_in(recipe) if recipe else (),
        sizes=f"{loader_config.short[0]} to {loader_config.long}",
        scores=scored.evaluation.scores,
        voc=scored.evaluation.voc,
        costs={},
        errors=errors.analyse(truth, results, only=only),
        confident_errors=errors.analyse(truth, results, only=only, least=SCORE),
        confusion=errors.confusion(truth, results, only=only, score=SCORE),
        quality=matches.quality(scored.matches, least=SCORE),
        gains=Gains(*bootstrap.intervals(scored.resampled, first.resampled)) if first else None,
        curves=curves.read(Path(participant.entry.folder), steps=recipe.train.steps) if recipe else None,
        results=results,
    )


def _focus(detectors: Sequence[ComparedDetector]) -> str:
    """The name of the last taught detector, or else of the last; never the first of several."""
    others = detectors[1:] or detectors
    taught = [detector.name for detector in others if detector.role == "taught"]
    return taught[-1] if taught else others[-1].name

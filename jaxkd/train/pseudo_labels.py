"""Pseudo-labels of a run's pictures without labels: what its teacher is sure of, asked once, before the first step."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.data import loader, near_duplicates, unlabelled
from jaxkd.data.base import Source, Subset
from jaxkd.data.unlabelled import PseudoLabelled, PseudoLabels
from jaxkd.errors import DataError, StoppedError
from jaxkd.evaluation import certainty, matches
from jaxkd.evaluation.certainty import Certainty
from jaxkd.loading import build, prepare, stored_teacher
from jaxkd.train import evaluate, hosts
from jaxkd.train.step import Pair
from jaxkd.train.stop import Stop

UNLABELLED, OF_UNLABELLED = "unlabelled", "pictures without labels"  # in the recipe's data, and among a run's facts
FILE = "unlabelled.json"  # in the workdir: the pseudo-labels, so that a run that goes on has the same
BATCH = 16  # pictures that the teacher sees at once

Say = Callable[[str], None]


class Teaching(NamedTuple):
    """Who teaches in a run, on what, and when it has to stop."""

    teachers: Mapping[str, build.Loaded]
    pair: Pair
    loader_config: loader.Config
    devices: Mesh
    say: Say
    stop: Stop


def pseudo_labelled(
    recipe: configs.Recipe,
    sources: Mapping[str, Source],
    teaching: Teaching,
    *,
    facts: Mapping[str, str],
    workdir: Path,
) -> Source | None:
    """The recipe's pictures without labels, with pseudo-labels of a teacher; None where there are none to learn from.

    They are made once, and kept in the workdir. Left out are near copies of validation pictures, and pictures of which
    the teacher knows nothing for sure. Without a teacher that gives detections of all of the data's classes, nothing in
    the pictures counts but their feature maps.

    Raises DataError where the folder has no picture, or nothing is left of it, and StoppedError after a signal.
    """
    if UNLABELLED not in recipe.data:
        return None
    if not teaching.pair.all_methods:
        teaching.say("There is no teacher to teach, so data.unlabelled has no effect.")
        return None
    config: unlabelled.Config = configs.build(recipe.data.unlabelled)
    source = prepare.load_unlabelled(recipe.data, sources["train"])
    key = _key(recipe, config, facts)
    labels = unlabelled.load_labels(workdir / FILE, key=key)
    if labels is None:
        labels = _labels(source, config, sources, teaching)
        if hosts.is_first():
            unlabelled.save(workdir / FILE, labels, key=key)
    if not labels:
        raise DataError(f"Of the {len(source.records)} pictures without labels in {config.images} none can be used.")
    return PseudoLabelled(source, labels)


def _key(recipe: configs.Recipe, config: unlabelled.Config, facts: Mapping[str, str]) -> str:
    """All that decides pseudo-labels, as text; a folder may move."""
    of_run = {name: facts[name] for name in ("teacher", "classes", "validation data", OF_UNLABELLED)}
    fields = {name: value for name, value in dataclasses.asdict(config).items() if name != "images"}
    loader_fields = {name: recipe.data.loader[name] for name in (*build.SIZES, "max_objects")}
    views = [recipe.data.loader.teacher_view.to_dict()]
    views += [one["view"].to_dict() for one in recipe.get("teachers", {}).values() if "view" in one]
    return json.dumps([of_run, fields, loader_fields, *views, recipe.student.get("dtype")], sort_keys=True)


def _labels(
    source: Source, config: unlabelled.Config, sources: Mapping[str, Source], teaching: Teaching
) -> dict[str, PseudoLabels]:
    """The pseudo-labels of each picture by file, without those that are left out."""
    val, say = sources["val"], teaching.say
    copies = near_duplicates.like_any(near_duplicates.thumbnails(source), near_duplicates.thumbnails(val))
    if copies.any():
        say(f"Near copies of validation pictures, left out: {int(copies.sum())} of the pictures without labels.")
    kept: Source = Subset(source, np.flatnonzero(~copies))
    name = next(_labelling_teachers(teaching, val), None)
    if kept.records and name is not None and teaching.teachers[name].stored:
        kept = _with_rows(kept, teaching.teachers[name], sources, teaching)
    if not kept.records:
        return {}
    if name is None:
        say(
            "No teacher gives detections of all classes that can be held against the validation pictures, so pictures "
            "without labels teach features alone."
        )
        return {record.file: unlabelled.uncertain(record) for record in kept.records}
    on_val, results = _detections((val, kept), name, teaching)
    measured = matches.match(val.annotations(), on_val)
    classes = certainty.of_classes(measured, precision=config.precision, possible=config.possible)
    unknown = [name for name, known in zip(kept.classes, classes, strict=True) if not np.isfinite(known.possible)]
    if unknown:
        say(f"Never sure is the teacher of {phrases.some(unknown)}, background in pictures without labels.")
    labels = _of_results(results, kept, classes)
    say(_summary(labels, kept, classes))
    return {
        record.file: labels[record.file]
        for record in kept.records
        if unlabelled.leaves_something(record, labels[record.file])
    }


def _with_rows(source: Source, teacher: build.Loaded, sources: Mapping[str, Source], teaching: Teaching) -> Source:
    """The pictures of which a file of detections says something; another may have objects that it does not know."""
    limit = teaching.loader_config.max_objects
    matched, sentences = stored_teacher.with_detections(teacher, {**sources, UNLABELLED: source}, limit=limit)
    for sentence in sentences:
        if UNLABELLED in sentence:
            teaching.say(sentence.replace(f"to {UNLABELLED}", "without labels, left out"))
    source = matched[UNLABELLED]
    has_rows = [bool(record.teacher_boxes and len(record.teacher_boxes.boxes)) for record in source.records]
    return Subset(source, np.flatnonzero(has_rows))


def _detections(sources: Sequence[Source], name: str, teaching: Teaching) -> list[list[dict[str, Any]]]:
    """The detections of the teacher of this name in the pictures of each source, with the student's classes."""
    teacher, lesson = teaching.teachers[name], teaching.pair.lessons[name]
    loader_config = teaching.loader_config.for_teacher(name)
    detector = evaluate.as_student(teacher.detector, lesson.teacher_columns, own_canvas=lesson.own_canvas)
    vote, stop = hosts.Vote(teaching.devices), teaching.stop

    def detections(source: Source) -> list[dict[str, Any]]:
        settings = {"batch": BATCH, "stopped": lambda: vote.cast(bool(stop.signal))}
        return evaluate.detect_source(detector, teacher.params, source, loader_config, teaching.devices, **settings)

    try:
        return [detections(source) for source in sources]
    except evaluate.Interrupted:
        raise StoppedError(f"Stopped by {stop.signal or 'another process'} before the first step.") from None


def _labelling_teachers(teaching: Teaching, val: Source) -> Iterator[str]:
    """The names of teachers that know all classes, and whose detections can be held against the validation pictures."""
    if not any((~record.crowd).any() for record in val.records):
        return
    for name, teacher in teaching.teachers.items():
        lesson = teaching.pair.lessons[name]
        columns, classes = lesson.teacher_columns, teacher.detector.classes
        knows_all = min(columns) >= 0 if columns else classes == lesson.student.classes
        covered = not teacher.stored or stored_teacher.covers(val)
        if knows_all and covered and "detections" in teacher.detector.traits.capabilities:
            yield name


def _of_results(
    results: Sequence[dict[str, Any]], source: Source, classes: Sequence[Certainty]
) -> dict[str, PseudoLabels]:
    """The pseudo-labels that follow of detections, by file."""
    label_of = {number: label for label, number in enumerate(source.category_ids)}
    rows_of: dict[int, list[tuple[list[float], int, float]]] = {record.image_id: [] for record in source.records}
    for row in results:
        label, score = label_of[row["category_id"]], float(row["score"])
        known, (x, y, width, height) = classes[label], row["bbox"]
        if score >= known.possible:
            weight = float(known.weight(np.array([score]))[0]) if score >= known.sure else 0.0
            rows_of[row["image_id"]].append(([x, y, x + width, y + height], label, round(weight, 4)))
    files = {record.image_id: record.file for record in source.records}
    return {
        files[number]: PseudoLabels(
            boxes=[box for box, _, _ in rows],
            labels=[label for _, label, _ in rows],
            weights=[weight for _, _, weight in rows],
        )
        for number, rows in rows_of.items()
    }


def _summary(labels: Mapping[str, PseudoLabels], source: Source, classes: Sequence[Certainty]) -> str:
    weights = [weight for one in labels.values() for weight in one.weights]
    objects, doubtful = sum(weight > 0 for weight in weights), sum(weight == 0 for weight in weights)
    left = sum(not unlabelled.leaves_something(record, labels[record.file]) for record in source.records)
    scores = [known.sure for known in classes if np.isfinite(known.sure)]
    since = f", from scores of {min(scores):.2f} to {max(scores):.2f} on" if scores else ""
    sentence = (
        f"On {phrases.counted(len(labels), 'picture')} without labels the teacher is sure of "
        f"{phrases.counted(objects, 'object')}{since}; {phrases.counted(doubtful, 'region')} are doubtful."
    )
    return f"{sentence} {phrases.counted(left, 'picture')} with nothing sure are left out." if left else sentence

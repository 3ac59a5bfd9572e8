"""Pictures without labels in a run: what its teacher tells of them, once, before the first step."""

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
from jaxkd.data.unlabelled import Found, Told
from jaxkd.errors import DataError
from jaxkd.evaluation import certainty, matches
from jaxkd.evaluation.certainty import Certainty
from jaxkd.loading import build, prepare, stored_teacher
from jaxkd.train import evaluate, hosts
from jaxkd.train.lesson import Lesson
from jaxkd.train.step import Pair

UNLABELLED, OF_UNLABELLED = "unlabelled", "pictures without labels"  # in the recipe's data, and among a run's facts
FILE = "unlabelled.json"  # in the workdir: what the teacher tells, so that a run that goes on learns the same
BATCH = 16  # pictures that the teacher sees at once

Say = Callable[[str], None]


class Teaching(NamedTuple):
    """Who teaches in a run, on what."""

    teachers: Mapping[str, build.Loaded]
    pair: Pair
    loader_config: loader.Config
    devices: Mesh


def told(
    recipe: configs.Recipe,
    sources: Mapping[str, Source],
    teaching: Teaching,
    *,
    facts: Mapping[str, str],
    workdir: Path,
    say: Say,
) -> Source | None:
    """The recipe's pictures without labels, with what a teacher tells of them; None where there are none to learn from.

    It is told once, and kept in the workdir. Near copies of validation pictures are left out, and so are pictures of
    which the teacher knows nothing for sure. Without a teacher that gives detections of the data's classes, nothing in
    them counts but their feature maps.

    Raises DataError where the folder has no picture, or nothing is left of it.
    """
    if UNLABELLED not in recipe.data:
        return None
    if not teaching.pair.all_methods:
        say("There is no teacher to teach, so data.unlabelled has no effect.")
        return None
    config: unlabelled.Config = configs.build(recipe.data.unlabelled)
    source = prepare.load_unlabelled(recipe.data, sources["train"])
    known = {name: facts[name] for name in ("teacher", "classes", "validation data", OF_UNLABELLED)}
    key = json.dumps([known, dataclasses.asdict(config)], sort_keys=True)
    found = unlabelled.load_told(workdir / FILE, key=key)
    if found is None:
        found = _ask(source, config, sources["val"], teaching, say)
        if hosts.is_first():
            unlabelled.save(workdir / FILE, found, key=key)
    if not found:
        raise DataError(f"Of the {len(source.records)} pictures without labels in {config.images} none can be used.")
    return Told(source, found)


def _ask(source: Source, config: unlabelled.Config, val: Source, teaching: Teaching, say: Say) -> dict[str, Found]:
    """What a teacher tells of the pictures, by file, without those that are left out."""
    copies = near_duplicates.like_any(near_duplicates.thumbnails(source), near_duplicates.thumbnails(val))
    kept: Source = Subset(source, np.flatnonzero(~copies))
    if copies.any():
        say(f"Near copies of validation pictures, left out: {int(copies.sum())} of the pictures without labels.")
    teller = next(_tellers(teaching, val), None)
    if not kept.records:
        return {}
    if teller is None:
        say("No teacher gives detections that are known to be right, so pictures without labels teach features alone.")
        return {record.file: unlabelled.uncertain(record) for record in kept.records}
    loaded, lesson = teller
    limit = teaching.loader_config.max_objects
    kept = stored_teacher.with_detections(loaded, {UNLABELLED: kept}, limit=limit)[0][UNLABELLED]
    detector = evaluate.as_student(loaded.detector, lesson.teacher_columns, own_canvas=lesson.own_canvas)

    def detections(of: Source) -> list[dict[str, Any]]:
        settings = teaching.loader_config, teaching.devices
        return evaluate.detect_source(detector, loaded.params, of, *settings, batch=BATCH)

    scored = matches.match(val.annotations(), detections(val))
    classes = certainty.of_classes(scored, precision=config.precision, possible=config.possible)
    found = _found(detections(kept), kept, classes)
    say(_summary(found, kept, classes))
    return {
        record.file: found[record.file]
        for record in kept.records
        if unlabelled.leaves_something(record, found[record.file])
    }


def _tellers(teaching: Teaching, val: Source) -> Iterator[tuple[build.Loaded, Lesson]]:
    """The teachers whose detections of the data's classes can be held against the validation pictures."""
    if not any((~record.crowd).any() for record in val.records):
        return
    for name, loaded in teaching.teachers.items():
        lesson = teaching.pair.lessons[name]
        shared = lesson.teacher_columns or loaded.detector.classes == lesson.student.classes
        covered = not loaded.stored or stored_teacher.covers(val)
        if shared and covered and "detections" in loaded.detector.traits.capabilities:
            yield loaded, lesson


def _found(results: Sequence[dict[str, Any]], source: Source, classes: Sequence[Certainty]) -> dict[str, Found]:
    """What the detections on pictures without labels count, by file."""
    label_of = {number: label for label, number in enumerate(source.category_ids)}
    files = {record.image_id: record.file for record in source.records}
    found: dict[str, Found] = {record.file: Found([], [], []) for record in source.records}
    for row in results:
        label, score = label_of[row["category_id"]], float(row["score"])
        known, (x, y, width, height) = classes[label], row["bbox"]
        if score < known.possible:
            continue
        one = found[files[row["image_id"]]]
        weight = float(known.weight(np.array([score]))[0]) if score >= known.sure else 0.0
        found[files[row["image_id"]]] = Found(
            [*one.boxes, [x, y, x + width, y + height]], [*one.labels, label], [*one.weights, round(weight, 4)]
        )
    return found


def _summary(found: Mapping[str, Found], source: Source, classes: Sequence[Certainty]) -> str:
    weights = [weight for one in found.values() for weight in one.weights]
    objects, doubtful = sum(weight > 0 for weight in weights), sum(weight == 0 for weight in weights)
    left = sum(not unlabelled.leaves_something(record, found[record.file]) for record in source.records)
    scores = [known.sure for known in classes if np.isfinite(known.sure)]
    since = f", from scores of {min(scores):.2f} to {max(scores):.2f} on" if scores else ""
    sentence = (
        f"On {phrases.counted(len(found), 'picture')} without labels the teacher is sure of "
        f"{phrases.counted(objects, 'object')}{since}; {phrases.counted(doubtful, 'region')} are doubtful."
    )
    return f"{sentence} {phrases.counted(left, 'picture')} with nothing sure are left out." if left else sentence

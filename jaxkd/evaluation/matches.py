"""COCO's matching of detections to objects, in the order of scores; the input of the bootstrap."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from jaxkd.evaluation import coco

# The size of objects, by area in pixels of the original picture, of each of COCO's AP.
SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
GROUPS = ("all", *SIZES.values())  # in pycocotools' order


@dataclass(frozen=True)
class Ranked:
    """The detections of one class, best first. Those neither true nor false positive are ignored."""

    pictures: Int64[np.ndarray, "d"]  # the row of each detection's picture
    scores: Float[np.ndarray, "d"]
    true_positive: Bool[np.ndarray, "t d"]  # at each IoU threshold, 0.5 to 0.95
    false_positive: Bool[np.ndarray, "t d"]
    objects: Int64[np.ndarray, "n"]  # number in each picture


@dataclass(frozen=True)
class Matches:
    """The detections of a detector matched to the truth."""

    images: tuple[int, ...]  # the id of each row
    classes: tuple[str, ...]
    ranked: Mapping[str, Sequence[Ranked]]  # for each of GROUPS, one for each class


def match(truth: dict, detections: Sequence[dict], *, only: Collection[int] | None = None) -> Matches:
    """The matches of pycocotools, picture by picture; arguments and errors are those of `coco.score`."""
    evaluation = coco.run_cocoeval(truth, detections, only=only)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    image_ids = tuple(int(image) for image in evaluation.params.imgIds)
    rows = {image: row for row, image in enumerate(image_ids)}
    thresholds, records = len(evaluation.params.iouThrs), iter(evaluation.evalImgs)
    ranked = {size: [] for size in GROUPS}
    for _ in evaluation.params.catIds:
        for size in GROUPS:
            ranked[size].append(_ranked([next(records) for _ in image_ids], rows, thresholds))
    return Matches(image_ids, tuple(names[number] for number in evaluation.params.catIds), ranked)


def quality(matches: Matches, *, least: float = 0.5) -> Float64[np.ndarray, "n"]:
    """The quality of each picture, 0 to 1: F1 of the detections with a score of `least` or more.

    F1 is 2 TP / (2 TP + FP + FN), of all classes together, here averaged over the IoU thresholds 0.5 to 0.95; it is 1
    for a picture without objects and detections.
    """
    true_positives, false_positives, objects = 0, 0, 0
    for ranked in matches.ranked["all"]:
        confident = ranked.scores >= least
        true_positives = true_positives + _per_picture(ranked.true_positive & confident, ranked)
        false_positives = false_positives + _per_picture(ranked.false_positive & confident, ranked)
        objects = objects + ranked.objects
    total = np.asarray(true_positives + false_positives + objects, np.float64)  # objects are TP + FN
    return np.divide(2.0 * np.asarray(true_positives), total, out=np.ones_like(total), where=total > 0).mean(0)


def _per_picture(selected: np.ndarray, ranked: Ranked) -> np.ndarray:
    """The number of the selected detections [t d] in each picture [t n]."""
    return np.stack([np.bincount(ranked.pictures[row], minlength=len(ranked.objects)) for row in selected])


def _ranked(records: Sequence[Any], rows: Mapping[int, int], thresholds: int) -> Ranked:
    """One class and size, from the records of pycocotools, one for each picture."""
    present = [record for record in records if record is not None]
    objects = np.zeros(len(rows), np.int64)
    for record in present:
        objects[rows[record["image_id"]]] = np.count_nonzero(np.asarray(record["gtIgnore"]) == 0)
    scores = np.concatenate([np.zeros(0), *(record["dtScores"] for record in present)])
    pictures = np.repeat(
        [rows[record["image_id"]] for record in present], [len(record["dtScores"]) for record in present]
    )
    empty = np.zeros((thresholds, 0), bool)
    matched = np.concatenate([empty, *(record["dtMatches"] > 0 for record in present)], axis=1)
    ignored = np.concatenate([empty, *(record["dtIgnore"] for record in present)], axis=1).astype(bool)
    order = np.argsort(-scores, kind="mergesort")  # as pycocotools breaks ties
    return Ranked(
        pictures=pictures.astype(np.int64)[order],
        scores=scores[order],
        true_positive=(matched & ~ignored)[:, order],
        false_positive=(~matched & ~ignored)[:, order],
        objects=objects,
    )

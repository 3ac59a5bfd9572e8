"""What COCO's matching makes of each detection, in the order of scores: the ground for resampling pictures."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from jaxkd.evaluation import coco

# Of objects, by their area in pixels of the original picture; by the name of their AP among COCO's numbers.
SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
GROUPS = ("all", *SIZES.values())  # in pycocotools' order


@dataclass(frozen=True)
class Ranked:
    """The detections of one class, best first. Those that are neither right nor wrong count for nothing."""

    pictures: Int64[np.ndarray, "d"]  # the row of each detection's picture
    scores: Float[np.ndarray, "d"]
    right: Bool[np.ndarray, "t d"]  # at each overlap, 0.5 to 0.95
    wrong: Bool[np.ndarray, "t d"]
    objects: Int64[np.ndarray, "n"]  # to be found in each picture


@dataclass(frozen=True)
class Matches:
    """What a detector found in some pictures, held against the truth."""

    images: tuple[int, ...]  # the id of each row
    classes: tuple[str, ...]
    ranked: Mapping[str, Sequence[Ranked]]  # for each of GROUPS, one a class


def match(truth: dict, detections: Sequence[dict], *, only: Collection[int] | None = None) -> Matches:
    """What pycocotools makes of detections, picture by picture; arguments and errors are those of `coco.score`."""
    evaluation = coco.evaluated(truth, detections, only=only)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    numbers = tuple(int(image) for image in evaluation.params.imgIds)
    rows = {image: row for row, image in enumerate(numbers)}
    overlaps, found = len(evaluation.params.iouThrs), iter(evaluation.evalImgs)
    ranked = {size: [] for size in GROUPS}
    for _ in evaluation.params.catIds:
        for size in GROUPS:
            ranked[size].append(_ranked([next(found) for _ in numbers], rows, overlaps))
    return Matches(numbers, tuple(names[number] for number in evaluation.params.catIds), ranked)


def quality(matches: Matches, *, least: float = 0.5) -> Float64[np.ndarray, "n"]:
    """How well each picture is done, 0 to 1: F1 of the detections with a score of `least` or more.

    F1 is 2 right / (2 right + wrong + not found), of all classes together, and here its mean over the overlaps 0.5 to
    0.95; 1 for a picture without an object in which nothing was found.
    """
    right, wrong, objects = 0, 0, 0
    for one in matches.ranked["all"]:
        sure = one.scores >= least
        right = right + _per_picture(one.right & sure, one)
        wrong = wrong + _per_picture(one.wrong & sure, one)
        objects = objects + one.objects
    total = np.asarray(right + wrong + objects, np.float64)  # an object is right or not found
    return np.divide(2.0 * np.asarray(right), total, out=np.ones_like(total), where=total > 0).mean(0)


def _per_picture(chosen: np.ndarray, ranked: Ranked) -> np.ndarray:
    """How many of the chosen detections [t d] are in each picture [t n]."""
    return np.stack([np.bincount(ranked.pictures[row], minlength=len(ranked.objects)) for row in chosen])


def _ranked(found: Sequence[Any], rows: Mapping[int, int], overlaps: int) -> Ranked:
    """pycocotools' records of one class and size, a picture each, in one order."""
    there = [one for one in found if one is not None]
    objects = np.zeros(len(rows), np.int64)
    for one in there:
        objects[rows[one["image_id"]]] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
    scores = np.concatenate([np.zeros(0), *(one["dtScores"] for one in there)])
    pictures = np.repeat([rows[one["image_id"]] for one in there], [len(one["dtScores"]) for one in there])
    blank = np.zeros((overlaps, 0), bool)
    matched = np.concatenate([blank, *(one["dtMatches"] > 0 for one in there)], axis=1)
    ignored = np.concatenate([blank, *(one["dtIgnore"] for one in there)], axis=1).astype(bool)
    order = np.argsort(-scores, kind="mergesort")  # as pycocotools breaks ties
    return Ranked(
        pictures=pictures.astype(np.int64)[order],
        scores=scores[order],
        right=(matched & ~ignored)[:, order],
        wrong=(~matched & ~ignored)[:, order],
        objects=objects,
    )

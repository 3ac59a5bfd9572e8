"""Pascal VOC evaluation: average precision at one IoU threshold, by the rule of 2007 or that of 2010 and later."""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool

from jaxkd.errors import ConfigError
from jaxkd.evaluation.coco import check_detections
from jaxkd.evaluation.overlap import overlaps

Rule = Literal["11point", "area"]
# The kit of 2007 loops over 0:0.1:1 in double precision, where the steps 3, 6 and 7 are rounded to just above 0.3, 0.6
# and 0.7. (A vector 0:0.1:1 in MATLAB is computed from both ends, and has 0.6 and 0.7; a loop makes no vector.)
RECALLS = tuple(0.1 * step for step in range(11))


@dataclasses.dataclass(frozen=True)
class Scores:
    """Values from 0 to 1; nan where there is no object."""

    mean: float  # over the classes with an object
    per_class: dict[str, float]  # AP by the name of the class
    rule: Rule
    iou: float  # least IoU of a true positive


def score(
    truth: dict, detections: Sequence[dict], *, rule: Rule, iou: float = 0.5, only: Collection[int] | None = None
) -> Scores:
    """The average precision of detections, as Pascal VOC's development kits define it.

    By descending score (equal ones in the order given), a detection is assigned to the object of its class of highest
    IoU, assigned before or not. Below `iou` it is a false positive. A detection of a difficult object is ignored; of
    the detections of another object the first is the true positive, and all later ones are false positives.

    IoU is of half-open boxes. The kits count pixels from 1, ends included, and add 1 to each side; that gives the same
    number.

    Args:
      truth: a COCO dict of images, categories and annotations; those with a true "difficult" or "iscrowd" are
        ignored.
      detections: COCO results: image_id, category_id, bbox (x, y, width, height) and score.
      rule: "11point" (2007) or "area" (2010 and later), see `average_precision`.
      iou: the least IoU of a true positive.
      only: ids of the images to score; all if None.

    Raises:
      ConfigError: for an unknown rule, or an `iou` that is not above 0 and at most 1.
      DataError: for a detection of an image or category that is not in the truth, or with a number not finite.
    """
    if rule not in get_args(Rule) or not 0 < iou <= 1:
        raise ConfigError(
            f"VOC's AP by the rule {rule!r} at overlap {iou} is not defined; give one of {get_args(Rule)} and (0, 1]."
        )
    images = {image["id"] for image in truth["images"] if only is None or image["id"] in only}
    check_detections(detections, truth, images)
    objects_by_class, detections_by_class = _by_class(truth["annotations"], images), _by_class(detections, images)
    per_class = {}
    for category in truth["categories"]:
        class_objects = objects_by_class[category["id"]]
        difficult = np.array([bool(item.get("difficult") or item.get("iscrowd")) for item in class_objects], bool)
        true_positive = _true_positives(class_objects, difficult, detections_by_class[category["id"]], iou)
        per_class[category["name"]] = average_precision(true_positive, objects=int((~difficult).sum()), rule=rule)
    defined = [value for value in per_class.values() if not np.isnan(value)]
    return Scores(mean=float(np.mean(defined)) if defined else float("nan"), per_class=per_class, rule=rule, iou=iou)


def average_precision(true_positive: Bool[np.ndarray, "n"], *, objects: int, rule: Rule) -> float:
    """The average precision of detections, best first; nan if there are no objects.

    Precision at a recall is the highest at this recall or above, and 0 beyond the last. "11point" is its mean at
    RECALLS, compared as in the kit: 3 true positives of 10 objects do not reach RECALLS[3], nor do 6 or 7 reach
    RECALLS[6] or RECALLS[7]. "area" is the area under the curve.
    """
    if not objects:
        return float("nan")
    true_positives = np.cumsum(true_positive)
    precision = true_positives / np.arange(1, len(true_positive) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "area":
        return float(envelope[true_positive].sum() / objects)
    reached = [envelope[true_positives / objects >= recall] for recall in RECALLS]
    return float(sum(precisions[0] for precisions in reached if len(precisions)) / 11)


def _by_class(items: Sequence[dict], images: set[int]) -> dict[int, list[dict]]:
    by_class = defaultdict(list)
    for item in items:
        if item["image_id"] in images:
            by_class[item["category_id"]].append(item)
    return by_class


def _true_positives(objects: list[dict], difficult: np.ndarray, detections: list[dict], iou: float) -> np.ndarray:
    """Whether each detection that is not ignored is a true positive, best first."""
    order = np.argsort([-item["score"] for item in detections], kind="stable")
    best_objects = _best_objects(objects, detections, iou)[order]
    best_objects = best_objects[(best_objects < 0) | ~np.append(difficult, False)[best_objects]]
    claimed, first = np.unique(best_objects, return_index=True)
    true_positive = np.zeros(len(best_objects), bool)
    true_positive[first[claimed >= 0]] = True
    return true_positive


def _best_objects(objects: list[dict], detections: list[dict], iou: float) -> np.ndarray:
    """The index of the object of highest IoU of each detection, and -1 where that is less than `iou`."""
    object_rows = defaultdict(list)
    for index, item in enumerate(objects):
        object_rows[item["image_id"]].append(index)
    detection_rows = defaultdict(list)
    for row, item in enumerate(detections):
        detection_rows[item["image_id"]].append(row)
    best_objects = np.full(len(detections), -1)
    boxes, truth = _boxes(detections), _boxes(objects)
    for image in detection_rows.keys() & object_rows.keys():
        iou_matrix = overlaps(boxes[detection_rows[image]], truth[object_rows[image]])
        best = iou_matrix.argmax(1)
        best_objects[detection_rows[image]] = np.where(iou_matrix.max(1) >= iou, np.array(object_rows[image])[best], -1)
    return best_objects


def _boxes(items: list[dict]) -> np.ndarray:
    return np.array([item["bbox"] for item in items], np.float64).reshape(-1, 4)

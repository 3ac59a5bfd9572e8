"""Pascal VOC's numbers: average precision at one overlap, by the rule of 2007 or by that of 2010 and later."""

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
# The kit of 2007 runs a loop over 0:0.1:1, in double precision: the steps 3, 6 and 7 come out a rounding above 0.3, 0.6
# and 0.7. (A vector 0:0.1:1 of MATLAB's is counted from both ends, and so has 0.6 and 0.7; a loop makes no vector.)
RECALLS = tuple(0.1 * step for step in range(11))


@dataclasses.dataclass(frozen=True)
class Scores:
    """Shares from 0 to 1; nan where there is no object to find."""

    mean: float  # over the classes that have an object to find
    per_class: dict[str, float]  # AP by the name of the class
    rule: Rule
    iou: float  # the least overlap that finds an object


def score(
    truth: dict, detections: Sequence[dict], *, rule: Rule, iou: float = 0.5, only: Collection[int] | None = None
) -> Scores:
    """The average precision of detections, as Pascal VOC's development kits define it.

    In falling order of their scores (equal ones in the order given), a detection claims the object of its class that it
    overlaps most, claimed before or not. An overlap below `iou` is wrong; otherwise a difficult object makes the
    detection count for nothing, and another is found by its first claim, while all later ones are wrong.

    Overlaps are of half-open boxes. The kits count pixels from 1, ends included, and add 1 to each side; that is the
    same number.

    Args:
      truth: a COCO dict of images, categories and annotations; those with a true "difficult" or "iscrowd" need not be
        found.
      detections: COCO results: image_id, category_id, bbox (x, y, width, height) and score.
      rule: "11point" (2007) or "area" (2010 and later), see `average_precision`.
      iou: the least overlap that finds an object.
      only: ids of the images to score; all if None.

    Raises:
      ConfigError: for an unknown rule, or an overlap that is not above 0 and at most 1.
      DataError: for a detection of an image or category that the truth does not know, or with a number not finite.
    """
    if rule not in get_args(Rule) or not 0 < iou <= 1:
        raise ConfigError(
            f"VOC's AP by the rule {rule!r} at overlap {iou} is not defined; give one of {get_args(Rule)} and (0, 1]."
        )
    images = {image["id"] for image in truth["images"] if only is None or image["id"] in only}
    check_detections(detections, truth, images)
    objects, found = _by_class(truth["annotations"], images), _by_class(detections, images)
    per_class = {}
    for category in truth["categories"]:
        mine = objects[category["id"]]
        difficult = np.array([bool(item.get("difficult") or item.get("iscrowd")) for item in mine], bool)
        right = _right(mine, difficult, found[category["id"]], iou)
        per_class[category["name"]] = average_precision(right, objects=int((~difficult).sum()), rule=rule)
    known = [value for value in per_class.values() if not np.isnan(value)]
    return Scores(mean=float(np.mean(known)) if known else float("nan"), per_class=per_class, rule=rule, iou=iou)


def average_precision(right: Bool[np.ndarray, "n"], *, objects: int, rule: Rule) -> float:
    """The average precision of detections, best first, that are right or wrong; nan if there are no objects to find.

    Precision at a recall is the best that is reached at this recall or a higher one, and 0 beyond the last. "11point"
    is its mean at RECALLS, compared as the kit does: 3 of 10 found objects do not reach the fourth of them, nor 6 or 7
    of 10 the next ones. "area" is the area under it.
    """
    if not objects:
        return float("nan")
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "area":
        return float(best[right].sum() / objects)
    reached = [best[hits / objects >= recall] for recall in RECALLS]
    return float(sum(values[0] for values in reached if len(values)) / 11)


def _by_class(items: Sequence[dict], images: set[int]) -> dict[int, list[dict]]:
    found = defaultdict(list)
    for item in items:
        if item["image_id"] in images:
            found[item["category_id"]].append(item)
    return found


def _right(objects: list[dict], difficult: np.ndarray, found: list[dict], iou: float) -> np.ndarray:
    """Whether each detection that counts is right, best first."""
    order = np.argsort([-item["score"] for item in found], kind="stable")
    claims = _claims(objects, found, iou)[order]
    claims = claims[(claims < 0) | ~np.append(difficult, False)[claims]]
    claimed, first = np.unique(claims, return_index=True)
    right = np.zeros(len(claims), bool)
    right[first[claimed >= 0]] = True
    return right


def _claims(objects: list[dict], found: list[dict], iou: float) -> np.ndarray:
    """The object that each detection overlaps most, and -1 where that is less than `iou`."""
    places = defaultdict(list)
    for place, item in enumerate(objects):
        places[item["image_id"]].append(place)
    rows = defaultdict(list)
    for row, item in enumerate(found):
        rows[item["image_id"]].append(row)
    claims = np.full(len(found), -1)
    boxes, truth = _boxes(found), _boxes(objects)
    for image in rows.keys() & places.keys():
        shared = overlaps(boxes[rows[image]], truth[places[image]])
        best = shared.argmax(1)
        claims[rows[image]] = np.where(shared.max(1) >= iou, np.array(places[image])[best], -1)
    return claims


def _boxes(items: list[dict]) -> np.ndarray:
    return np.array([item["bbox"] for item in items], np.float64).reshape(-1, 4)

"""Error analysis of detections: kinds of error, their cost in AP50, and the confusion of classes.

The kinds are those of Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors"
(arXiv 2008.08115), sections 2.2 and 2.3. Numbers may differ from those of its program, tidecv:

* A detection that fits several kinds gets the first that fits: in jaxkd duplicate, classification, localisation, both,
  background; in tidecv localisation, classification, duplicate, background, both. So a detection on an object of
  another class, and near one of its own class, is a classification error in jaxkd and a localisation error in tidecv;
  one on a matched object of its class and on one of another class is a duplicate in jaxkd and a classification error
  in tidecv.
* jaxkd takes the 100 best detections of each class on a picture, as for COCO's AP; tidecv the 100 best of all classes.
* In jaxkd an ignored object that is no crowd matches one detection, by IoU; in tidecv all detections of its class that
  lie in it by more than a half of their area.
* Where all objects of a class are missed, correcting that makes its AP 1 in jaxkd; in tidecv it makes it 0, or leaves
  the class out where it has no detections.
* jaxkd corrects each kind of error as if it were the only one: of the detections of one object, by an error of this
  kind or correct, the best becomes the true positive. In tidecv an object has one best error among all kinds, and none
  once it is matched: correcting classes changes nothing for a classification error beside a better localisation error,
  nor for any error on a matched object, however high its score.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from jaxkd.evaluation.bootstrap import averages
from jaxkd.evaluation.coco import check_detections
from jaxkd.evaluation.matches import Ranked
from jaxkd.evaluation.overlap import overlaps

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
FOREGROUND_IOU = 0.5  # from which on a detection is on an object
BACKGROUND_IOU = 0.1  # from which on a detection is near an object
MAX_DETECTIONS = 100  # of a class on a picture, as in COCO
CORRECT, IGNORED = -1, -2  # kinds of a detection that is no error; others are indices of KINDS
NO_OBJECT = -1  # target of a detection without one


@dataclass(frozen=True)
class Errors:
    """The errors of a detector by kind."""

    ap50: float  # AP at IoU 0.5, nan where there is no object
    counts: dict[str, int]
    costs: dict[str, float]  # gain of AP50 if all errors of a kind, and no others, were corrected


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix of classes."""

    classes: tuple[str, ...]
    counts: Int64[np.ndarray, "n n"]  # [truth, detection] by class; the last of both is none
    score: float  # least score of the detections


@dataclass(frozen=True)
class _Classified:
    """All detections and all objects of all pictures, without crowds and ignored objects."""

    pictures: np.ndarray  # [d] row of the picture
    labels: np.ndarray  # [d]
    scores: np.ndarray  # [d]
    error_kinds: np.ndarray  # [d] index of KINDS, CORRECT or IGNORED
    targets: np.ndarray  # [d] index of the object matched, or matched if the error were corrected; or NO_OBJECT
    objects: np.ndarray  # [g] labels
    object_pictures: np.ndarray  # [g] row of the picture
    size: tuple[int, int]  # number of classes and of pictures


@dataclass(frozen=True)
class _Scored:
    """The detections and objects of `_Classified` that enter AP50."""

    keep: np.ndarray  # [d]
    labels: np.ndarray  # [d]
    true_positive: np.ndarray  # [d]
    present: np.ndarray  # [g] objects that count


@dataclass(frozen=True)
class _Picture:
    """One picture: detections, best first, and truth; boxes are (x, y, width, height)."""

    boxes: np.ndarray  # [d 4]
    labels: np.ndarray  # [d]
    scores: np.ndarray  # [d]
    truth: np.ndarray  # [g 4]
    truth_labels: np.ndarray  # [g]
    real: np.ndarray  # [g] False for crowds and ignored objects
    crowd: np.ndarray  # [g]


def analyse(
    truth: dict, detections: Sequence[dict], *, least: float = 0.0, only: Collection[int] | None = None
) -> Errors:
    """The errors among the detections with a score of `least` or more.

    Detections are matched to objects as in COCO's AP50. The kind of an unmatched one is the first of these that fits:

    * duplicate: on an object of its class (IoU of 0.5 or more) that a better detection has matched;
    * classification: on an object of another class;
    * localisation: near an object of its class (IoU of 0.1 or more);
    * both: near an object of another class;
    * background: near no object.

    An object is missed where no detection matches it, and none is a classification or localisation error of it.

    A correction gives a detection the class or box of the object; of two detections of one object, only the better
    stays. To correct the other kinds, the detections are removed, and missed objects are not counted.

    Args:
      truth: a COCO dict of images, categories and annotations.
      detections: COCO results.
      least: the least score of the detections.
      only: ids of the images to evaluate; all if None.

    Raises:
      DataError: for a detection of an image or category that is not in the truth, or with a number not finite.
    """
    classified = _classify(_pictures(truth, detections, only=only, least=least), classes=len(truth["categories"]))
    before = _ap50(classified, _uncorrected(classified))
    counts = {kind: int((classified.error_kinds == index).sum()) for index, kind in enumerate(KINDS)}
    return Errors(
        ap50=before,
        counts=counts | {"missed": int(_missed(classified).sum())},
        costs={kind: _ap50(classified, _corrected(classified, kind)) - before for kind in KINDS},
    )


def confusion(
    truth: dict, detections: Sequence[dict], *, score: float = 0.5, only: Collection[int] | None = None
) -> Confusion:
    """The confusion matrix of the detections with a score of `score` or more.

    By descending score, a detection is matched to the unmatched object of any class of highest IoU, if that is 0.5 or
    more. An unmatched detection on a crowd or an ignored object is left out.

    The arguments and errors are those of `analyse`.
    """
    size = len(truth["categories"])
    counts = np.zeros((size + 1, size + 1), np.int64)
    for picture in _pictures(truth, detections, only=only, least=score):
        iou, free = _overlaps(picture), picture.real.copy()
        for row, label in enumerate(picture.labels):
            # Of objects with equal IoU, that of the same class.
            ranking = np.where(free, iou[row], -1.0) + 1e-9 * (picture.truth_labels == label)
            best = int(ranking.argmax()) if len(ranking) else NO_OBJECT
            if best != NO_OBJECT and ranking[best] >= FOREGROUND_IOU:
                free[best] = False
                counts[picture.truth_labels[best], label] += 1
            elif not (~picture.real & (iou[row] >= FOREGROUND_IOU)).any():
                counts[size, label] += 1
        counts[:, size] += np.bincount(picture.truth_labels[free], minlength=size + 1)
    return Confusion(tuple(category["name"] for category in truth["categories"]), counts, score)


def _images(truth: dict, only: Collection[int] | None) -> list[int]:
    return [image["id"] for image in truth["images"] if only is None or image["id"] in only]


def _pictures(truth: dict, detections: Sequence[dict], *, only: Collection[int] | None, least: float) -> list[_Picture]:
    """The pictures in the order of their ids, as in pycocotools."""
    images = _images(truth, only)
    check_detections(detections, truth, set(images))
    label_of = {category["id"]: label for label, category in enumerate(truth["categories"])}
    objects_of, detections_of = defaultdict(list), defaultdict(list)
    for item in truth["annotations"]:
        objects_of[item["image_id"]].append(item)
    for item in detections:
        if item["score"] >= least:
            detections_of[item["image_id"]].append(item)
    return [_picture(detections_of[image], objects_of[image], label_of) for image in sorted(images)]


def _picture(detections: list[dict], objects: list[dict], label_of: dict[int, int]) -> _Picture:
    detections = sorted(detections, key=lambda item: -item["score"])
    labels = np.array([label_of[item["category_id"]] for item in detections], np.int64)
    class_rank = np.zeros(len(detections), np.int64)  # within the class
    for label in np.unique(labels):
        class_rank[labels == label] = np.arange((labels == label).sum())
    kept = [row for row, rank in enumerate(class_rank) if rank < MAX_DETECTIONS]
    crowd = np.array([bool(item.get("iscrowd")) for item in objects], bool)
    return _Picture(
        boxes=np.array([detections[row]["bbox"] for row in kept], np.float64).reshape(-1, 4),
        labels=labels[kept],
        scores=np.array([detections[row]["score"] for row in kept], np.float64),
        truth=np.array([item["bbox"] for item in objects], np.float64).reshape(-1, 4),
        truth_labels=np.array([label_of[item["category_id"]] for item in objects], np.int64),
        real=~(crowd | np.array([bool(item.get("ignore")) for item in objects], bool)),
        crowd=crowd,
    )


def _overlaps(picture: _Picture) -> Float64[np.ndarray, "d g"]:
    return overlaps(picture.boxes, picture.truth, crowd=picture.crowd)


def _match(picture: _Picture, iou: np.ndarray) -> np.ndarray:
    """The object that each detection matches by COCO's rule, [d]: the free one of its class of highest IoU.

    Crowds and ignored objects are matched only where no other object is; a crowd by any number of detections.
    """
    matched = np.full(len(picture.labels), NO_OBJECT)
    eligible = (iou >= FOREGROUND_IOU) & (picture.labels[:, None] == picture.truth_labels)
    free = np.ones(len(picture.truth_labels), bool)
    for row in np.flatnonzero(eligible.any(1)):
        for group in (picture.real, ~picture.real):
            candidates = eligible[row] & free & group
            if candidates.any():
                # The last of equal ones, as in pycocotools.
                best = len(candidates) - 1 - int(np.where(candidates, iou[row], -1.0)[::-1].argmax())
                matched[row], free[best] = best, picture.crowd[best]
                break
    return matched


def _error_kinds(picture: _Picture) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each detection of a picture, and the index of its target object."""
    iou = _overlaps(picture)
    matched = _match(picture, iou)
    same_class = picture.labels[:, None] == picture.truth_labels
    object_iou = np.where(picture.real, iou, -1.0)
    padding = np.full((len(picture.labels), 1), -1.0)  # a picture may have no object
    same_class_iou, other_class_iou = (
        np.concatenate([np.where(mask, object_iou, -1.0), padding], 1) for mask in (same_class, ~same_class)
    )
    best_same, best_other = same_class_iou.max(1), other_class_iou.max(1)
    correct = np.append(picture.real, False)[matched]
    error_kinds = np.select(
        [
            correct,
            matched != NO_OBJECT,
            best_same >= FOREGROUND_IOU,
            best_other >= FOREGROUND_IOU,
            best_same >= BACKGROUND_IOU,
            best_other >= BACKGROUND_IOU,
        ],
        [CORRECT, IGNORED, *(KINDS.index(kind) for kind in ("duplicate", "classification", "localisation", "both"))],
        default=KINDS.index("background"),
    )
    targets = np.select(
        [
            error_kinds == CORRECT,
            error_kinds == KINDS.index("classification"),
            error_kinds == KINDS.index("localisation"),
        ],
        [matched, other_class_iou.argmax(1), same_class_iou.argmax(1)],
        default=NO_OBJECT,
    )
    return error_kinds, targets


def _classify(pictures: Sequence[_Picture], *, classes: int) -> _Classified:
    error_kinds, targets, object_count = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for picture in pictures:
        picture_kinds, picture_targets = _error_kinds(picture)
        numbers = np.append(object_count + np.cumsum(picture.real) - 1, NO_OBJECT)  # of objects in all pictures
        error_kinds.append(picture_kinds)
        targets.append(numbers[picture_targets])
        object_count += int(picture.real.sum())
    empty = np.zeros(0, np.int64)
    return _Classified(
        pictures=np.repeat(np.arange(len(pictures)), [len(picture.labels) for picture in pictures]),
        labels=np.concatenate([empty, *(picture.labels for picture in pictures)]),
        scores=np.concatenate([np.zeros(0), *(picture.scores for picture in pictures)]),
        error_kinds=np.concatenate(error_kinds),
        targets=np.concatenate(targets),
        objects=np.concatenate([empty, *(picture.truth_labels[picture.real] for picture in pictures)]),
        object_pictures=np.repeat(np.arange(len(pictures)), [int(picture.real.sum()) for picture in pictures]),
        size=(classes, len(pictures)),
    )


def _missed(classified: _Classified) -> np.ndarray:
    """Whether each object is the target of no detection, [g]."""
    missed = np.ones(len(classified.objects), bool)
    missed[classified.targets[classified.targets != NO_OBJECT]] = False
    return missed


def _uncorrected(classified: _Classified) -> _Scored:
    return _Scored(
        keep=classified.error_kinds != IGNORED,
        labels=classified.labels,
        true_positive=classified.error_kinds == CORRECT,
        present=np.ones(len(classified.objects), bool),
    )


def _corrected(classified: _Classified, kind: str) -> _Scored:
    """The detections with the errors of one kind corrected."""
    scored, errors = _uncorrected(classified), classified.error_kinds == KINDS.index(kind)
    if kind == "missed":
        return replace(scored, present=~_missed(classified))
    if kind not in ("classification", "localisation"):
        return replace(scored, keep=scored.keep & ~errors)
    with_target = scored.true_positive | errors
    best = _best_per_object(classified, with_target)
    labels = classified.labels.copy()
    labels[errors] = classified.objects[classified.targets[errors]]
    return replace(scored, keep=scored.keep & (best | ~with_target), labels=labels, true_positive=best)


def _best_per_object(classified: _Classified, selected: np.ndarray) -> np.ndarray:
    """Whether each detection is the best of the selected ones with the same target; [d]."""
    rows = np.flatnonzero(selected)
    rows = rows[np.argsort(-classified.scores[rows], kind="stable")]
    _, first = np.unique(classified.targets[rows], return_index=True)
    best = np.zeros(len(selected), bool)
    best[rows[first]] = True
    return best


def _ap50(classified: _Classified, scored: _Scored) -> float:
    """The mean AP50 over classes with objects, 1 for one whose objects are all removed; nan without such classes."""
    classes, pictures = classified.size
    values = []
    for label in range(classes):
        rows = np.flatnonzero(scored.keep & (scored.labels == label))
        rows = rows[np.argsort(-classified.scores[rows], kind="stable")]
        true_positive = scored.true_positive[rows]
        ranked = Ranked(
            pictures=classified.pictures[rows],
            scores=classified.scores[rows],
            true_positive=true_positive[None],
            false_positive=~true_positive[None],
            objects=np.bincount(
                classified.object_pictures[scored.present & (classified.objects == label)], minlength=pictures
            ),
        )
        all_removed = not ranked.objects.any() and (classified.objects == label).any()
        values.append(1.0 if all_removed else float(averages(ranked, np.ones((1, pictures), np.int64))[0, 0]))
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")

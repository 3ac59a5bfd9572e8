"""What is wrong with a detector's answers: kinds of error, what each of them costs, and the classes it mixes up.

The kinds are those of Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors"
(arXiv 2008.08115), sections 2.2 and 2.3. Numbers may differ from those of its program, tidecv:

* A box that fits several kinds is of the first that fits: here of duplicate, classification, localisation, both,
  background; there of localisation, classification, duplicate, background, both. So a box in the place of an object of
  another class, and near one of its own, is of the wrong class here and badly placed there; one in the places of a
  found object of its class and of one of another class is a duplicate here and of the wrong class there.
* Here the 100 best detections of each class on a picture count, as for COCO's AP; there the 100 best of all classes.
* Here an ignored object that is no crowd takes one detection, by their plain overlap; there all detections of its
  class that lie in it by more than a half of themselves.
* Where all objects of a class are missed, mending that makes its AP 1 here; there 0, or it leaves the class out where
  nothing of it was found.
* Here each kind of error is mended as if it were the only one: of the detections that mean one object, by an error of
  this kind or rightly, the best becomes the right one. There an object has one best error, shared by all kinds, and
  none once it is found: of a worse error of class, beside a better one of place, mending classes makes nothing right,
  and neither does an error about a found object, however high its score.
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
OVERLAP = 0.5  # from which on a box is in its place
NEAR = 0.1  # below which a box has nothing to do with an object
MOST = 100  # detections of a class on a picture, the best, as COCO counts them
RIGHT, NEITHER = -1, -2  # of a detection that is no error; others are places in KINDS
NOBODY = -1  # where no object is meant


@dataclass(frozen=True)
class Errors:
    """The errors of a detector, by their kind."""

    ap50: float  # at overlap 0.5, nan where there is no object
    counts: dict[str, int]
    costs: dict[str, float]  # what AP50 would gain if all errors of a kind were mended, and nothing else


@dataclass(frozen=True)
class Confusion:
    """Which class is taken for which."""

    classes: tuple[str, ...]
    counts: Int64[np.ndarray, "n n"]  # [truth, found] by class; the last of both is none
    score: float  # least score of what counts as found


@dataclass(frozen=True)
class _Judged:
    """Every detection of all pictures, and every object that can be found."""

    pictures: np.ndarray  # [d] row of the picture
    labels: np.ndarray  # [d]
    scores: np.ndarray  # [d]
    verdicts: np.ndarray  # [d] place in KINDS, RIGHT or NEITHER
    meant: np.ndarray  # [d] place of the object that is found, or would be if the error were mended; NOBODY
    objects: np.ndarray  # [g] their labels
    owners: np.ndarray  # [g] row of their picture
    size: tuple[int, int]  # how many classes, how many pictures


@dataclass(frozen=True)
class _Answers:
    """The detections of `_Judged` as they count for AP50."""

    keep: np.ndarray  # [d]
    labels: np.ndarray  # [d]
    right: np.ndarray  # [d]
    there: np.ndarray  # [g] objects that are to be found


@dataclass(frozen=True)
class _Picture:
    """One picture: detections, best first, and truth; boxes are (x, y, width, height)."""

    boxes: np.ndarray  # [d 4]
    labels: np.ndarray  # [d]
    scores: np.ndarray  # [d]
    truth: np.ndarray  # [g 4]
    kinds: np.ndarray  # [g] their labels
    real: np.ndarray  # [g] that are to be found; crowds and ignored ones are not
    crowd: np.ndarray  # [g]


def analyse(
    truth: dict, detections: Sequence[dict], *, least: float = 0.0, only: Collection[int] | None = None
) -> Errors:
    """The errors among the detections with a score of `least` or more.

    Detections claim objects as in COCO's AP50. One that claims none is wrong, and is, the first of these that fits:

    * duplicate: in the place of an object of its class, which a better one has claimed (overlap 0.5 or more);
    * classification: in the place of an object of another class;
    * localisation: near an object of its class (overlap 0.1 or more);
    * both: near an object of another class;
    * background: near nothing.

    An object is missed where no detection claims it and none errs about it in class or place alone.

    A class that is mended becomes that of the object, a place that of the object; where that makes two detections of
    one object, only the better stays. Errors of the other kinds are taken away, missed objects no longer counted.

    Args:
      truth: a COCO dict of images, categories and annotations.
      detections: COCO results.
      least: score from which on they count.
      only: ids of the images to look at; all if None.

    Raises:
      DataError: for a detection of an image or category that the truth does not know, or with a number not finite.
    """
    judged = _judge(_pictures(truth, detections, only=only, least=least), classes=len(truth["categories"]))
    before = _ap50(judged, _as_found(judged))
    counts = {kind: int((judged.verdicts == place).sum()) for place, kind in enumerate(KINDS)}
    return Errors(
        ap50=before,
        counts=counts | {"missed": int(_missed(judged).sum())},
        costs={kind: _ap50(judged, _mended(judged, kind)) - before for kind in KINDS},
    )


def confusion(
    truth: dict, detections: Sequence[dict], *, score: float = 0.5, only: Collection[int] | None = None
) -> Confusion:
    """How often each class is taken for each, by the detections with a score of `score` or more.

    In falling order of their scores, a detection claims the object of any class that it overlaps most, if by 0.5 or
    more and not claimed before. A detection left over in the place of a crowd or an ignored object counts for nothing.

    The arguments and errors are those of `analyse`.
    """
    size = len(truth["categories"])
    counts = np.zeros((size + 1, size + 1), np.int64)
    for one in _pictures(truth, detections, only=only, least=score):
        shared, free = _overlaps(one), one.real.copy()
        for row, label in enumerate(one.labels):
            # Of objects in one place, that of its own class.
            rank = np.where(free, shared[row], -1.0) + 1e-9 * (one.kinds == label)
            best = int(rank.argmax()) if len(rank) else NOBODY
            if best != NOBODY and rank[best] >= OVERLAP:
                free[best] = False
                counts[one.kinds[best], label] += 1
            elif not (~one.real & (shared[row] >= OVERLAP)).any():
                counts[size, label] += 1
        counts[:, size] += np.bincount(one.kinds[free], minlength=size + 1)
    return Confusion(tuple(category["name"] for category in truth["categories"]), counts, score)


def _images(truth: dict, only: Collection[int] | None) -> list[int]:
    return [image["id"] for image in truth["images"] if only is None or image["id"] in only]


def _pictures(truth: dict, detections: Sequence[dict], *, only: Collection[int] | None, least: float) -> list[_Picture]:
    """The pictures in the order of their ids, as pycocotools takes them."""
    images = _images(truth, only)
    check_detections(detections, truth, set(images))
    place = {category["id"]: label for label, category in enumerate(truth["categories"])}
    objects, found = defaultdict(list), defaultdict(list)
    for item in truth["annotations"]:
        objects[item["image_id"]].append(item)
    for item in detections:
        if item["score"] >= least:
            found[item["image_id"]].append(item)
    return [_picture(found[image], objects[image], place) for image in sorted(images)]


def _picture(found: list[dict], objects: list[dict], place: dict[int, int]) -> _Picture:
    found = sorted(found, key=lambda item: -item["score"])
    labels = np.array([place[item["category_id"]] for item in found], np.int64)
    rank = np.zeros(len(found), np.int64)  # among the detections of its class
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    kept = [row for row, number in enumerate(rank) if number < MOST]
    crowd = np.array([bool(item.get("iscrowd")) for item in objects], bool)
    return _Picture(
        boxes=np.array([found[row]["bbox"] for row in kept], np.float64).reshape(-1, 4),
        labels=labels[kept],
        scores=np.array([found[row]["score"] for row in kept], np.float64),
        truth=np.array([item["bbox"] for item in objects], np.float64).reshape(-1, 4),
        kinds=np.array([place[item["category_id"]] for item in objects], np.int64),
        real=~(crowd | np.array([bool(item.get("ignore")) for item in objects], bool)),
        crowd=crowd,
    )


def _overlaps(one: _Picture) -> Float64[np.ndarray, "d g"]:
    return overlaps(one.boxes, one.truth, crowd=one.crowd)


def _claims(one: _Picture, shared: np.ndarray) -> np.ndarray:
    """The object that each detection claims by COCO's rule, [d]: the free one of its class that it overlaps most.

    What need not be found is claimed only where nothing else is; a crowd by any number of detections.
    """
    claims = np.full(len(one.labels), NOBODY)
    able = (shared >= OVERLAP) & (one.labels[:, None] == one.kinds)
    free = np.ones(len(one.kinds), bool)
    for row in np.flatnonzero(able.any(1)):
        for group in (one.real, ~one.real):
            open_ = able[row] & free & group
            if open_.any():
                # The last of equals, as pycocotools takes it.
                best = len(open_) - 1 - int(np.where(open_, shared[row], -1.0)[::-1].argmax())
                claims[row], free[best] = best, one.crowd[best]
                break
    return claims


def _verdicts(one: _Picture) -> tuple[np.ndarray, np.ndarray]:
    """What each detection of a picture is, and the place of the object that it means."""
    shared = _overlaps(one)
    claims = _claims(one, shared)
    same = one.labels[:, None] == one.kinds
    near = np.where(one.real, shared, -1.0)
    pad = np.full((len(one.labels), 1), -1.0)  # a picture may have no object
    own, other = (np.concatenate([np.where(mask, near, -1.0), pad], 1) for mask in (same, ~same))
    of_class, of_other = own.max(1), other.max(1)
    claimed = np.append(one.real, False)[claims]
    verdicts = np.select(
        [claimed, claims != NOBODY, of_class >= OVERLAP, of_other >= OVERLAP, of_class >= NEAR, of_other >= NEAR],
        [RIGHT, NEITHER, *(KINDS.index(kind) for kind in ("duplicate", "classification", "localisation", "both"))],
        default=KINDS.index("background"),
    )
    meant = np.select(
        [verdicts == RIGHT, verdicts == KINDS.index("classification"), verdicts == KINDS.index("localisation")],
        [claims, other.argmax(1), own.argmax(1)],
        default=NOBODY,
    )
    return verdicts, meant


def _judge(pictures: Sequence[_Picture], *, classes: int) -> _Judged:
    verdicts, meant, before = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for one in pictures:
        verdict, mine = _verdicts(one)
        number = np.append(before + np.cumsum(one.real) - 1, NOBODY)  # of an object among all that are real
        verdicts.append(verdict)
        meant.append(number[mine])
        before += int(one.real.sum())
    blank = np.zeros(0, np.int64)
    return _Judged(
        pictures=np.repeat(np.arange(len(pictures)), [len(one.labels) for one in pictures]),
        labels=np.concatenate([blank, *(one.labels for one in pictures)]),
        scores=np.concatenate([np.zeros(0), *(one.scores for one in pictures)]),
        verdicts=np.concatenate(verdicts),
        meant=np.concatenate(meant),
        objects=np.concatenate([blank, *(one.kinds[one.real] for one in pictures)]),
        owners=np.repeat(np.arange(len(pictures)), [int(one.real.sum()) for one in pictures]),
        size=(classes, len(pictures)),
    )


def _missed(judged: _Judged) -> np.ndarray:
    """The objects that no detection means, [g]."""
    missed = np.ones(len(judged.objects), bool)
    missed[judged.meant[judged.meant != NOBODY]] = False
    return missed


def _as_found(judged: _Judged) -> _Answers:
    return _Answers(
        keep=judged.verdicts != NEITHER,
        labels=judged.labels,
        right=judged.verdicts == RIGHT,
        there=np.ones(len(judged.objects), bool),
    )


def _mended(judged: _Judged, kind: str) -> _Answers:
    """The detections with the errors of one kind mended."""
    found, wrong = _as_found(judged), judged.verdicts == KINDS.index(kind)
    if kind == "missed":
        return replace(found, there=~_missed(judged))
    if kind not in ("classification", "localisation"):
        return replace(found, keep=found.keep & ~wrong)
    meaning = found.right | wrong
    best = _best_of_each(judged, meaning)
    labels = judged.labels.copy()
    labels[wrong] = judged.objects[judged.meant[wrong]]
    return replace(found, keep=found.keep & (best | ~meaning), labels=labels, right=best)


def _best_of_each(judged: _Judged, chosen: np.ndarray) -> np.ndarray:
    """Of the chosen detections that mean the same object, the best; [d]."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(-judged.scores[rows], kind="stable")]
    _, places = np.unique(judged.meant[rows], return_index=True)
    best = np.zeros(len(chosen), bool)
    best[rows[places]] = True
    return best


def _ap50(judged: _Judged, answers: _Answers) -> float:
    """The mean over the classes that have an object, 1 for one whose objects are all taken away; nan where none has."""
    classes, pictures = judged.size
    values = []
    for label in range(classes):
        rows = np.flatnonzero(answers.keep & (answers.labels == label))
        rows = rows[np.argsort(-judged.scores[rows], kind="stable")]
        right = answers.right[rows]
        ranked = Ranked(
            pictures=judged.pictures[rows],
            scores=judged.scores[rows],
            right=right[None],
            wrong=~right[None],
            objects=np.bincount(judged.owners[answers.there & (judged.objects == label)], minlength=pictures),
        )
        gone = not ranked.objects.any() and (judged.objects == label).any()
        values.append(1.0 if gone else float(averages(ranked, np.ones((1, pictures), np.int64))[0, 0]))
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")

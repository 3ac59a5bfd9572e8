"""COCO's numbers: from detections on padded pictures to result records, and from those to average precision."""

import contextlib
import dataclasses
import io
import math
from collections.abc import Collection, Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from flax import struct
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jaxkd.errors import DataError
from jaxkd.types import Batch, Detections

SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
NUMBERS = (int, float, np.integer, np.floating)
LARGEST = 1e30  # of a number; NaN is not below it, nor is an integer that no float holds
FIELDS = ("image_id", "category_id", "bbox", "score")


@runtime_checkable
class Originals(Protocol):
    """What is needed of a data source: its records (image_id, height, width) and its own category ids."""

    records: Sequence[Any]
    category_ids: tuple[int, ...]


class Rows(struct.PyTreeNode):
    """What of a batch says which pictures its rows are; as in `Batch`."""

    ids: Any  # [b]
    scales: Any  # [b 2]
    real: Any  # [b]


@dataclasses.dataclass(frozen=True)
class Scores:
    """Shares from 0 to 1; nan where there is no object to find."""

    summary: dict[str, float]  # COCO's twelve numbers, named as in SUMMARY
    per_class: dict[str, dict[str, float]]  # "AP" and "AP50" by the name of the class


def score(truth: dict, detections: Sequence[dict], *, only: Collection[int] | None = None) -> Scores:
    """COCO's box scores of detections, as pycocotools computes them.

    Args:
      truth: a COCO dict of images, categories and annotations. An annotation with a true "ignore" is no object to
        find, and a detection that matches it, at its plain overlap, is neither right nor wrong.
      detections: COCO results: image_id, category_id, bbox (x, y, width, height) and score.
      only: ids of the images to score; all if None.

    Raises:
      DataError: for a detection of an image or category that the truth does not know, or with a number not finite.
    """
    evaluation = evaluated(truth, detections, only=only)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    summary = {name: _share(value) for name, value in zip(SUMMARY, evaluation.stats, strict=True)}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # threshold, recall, class; of any size, most detections
    names = {category["id"]: category["name"] for category in truth["categories"]}
    per_class = {
        names[number]: {"AP": _mean(precision[:, :, place]), "AP50": _mean(precision[0, :, place])}
        for place, number in enumerate(evaluation.params.catIds)
    }
    return Scores(summary=summary, per_class=per_class)


def evaluated(truth: dict, detections: Sequence[dict], *, only: Collection[int] | None = None) -> COCOeval:
    """What pycocotools makes of detections, picture by picture; arguments and errors are those of `score`."""
    images = [image for image in truth["images"] if only is None or image["id"] in only]
    check_detections(detections, truth, {image["id"] for image in images})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _indexed(truth, images, truth["annotations"]), _indexed(truth, images, detections), iouType="bbox"
        )
        evaluation.evaluate()
    return evaluation


def to_results(detections: Detections, batch: Batch | Rows, source: Originals) -> list[dict]:
    """COCO result records of a batch: boxes in pixels of the original pictures, ids those of the source's annotations.

    Rows that only fill the batch give none, nor do detections that are not valid.
    """
    keep = np.asarray(detections.valid) & np.asarray(batch.real)[:, None]
    rows, places = np.nonzero(keep)
    records = [source.records[index] for index in np.asarray(batch.ids)[rows]]
    limits = np.array([(record.width, record.height) for record in records], np.float64).reshape(-1, 2)
    factors = np.asarray(batch.scales, np.float64)[rows][:, [1, 0]]
    corners = np.asarray(detections.boxes, np.float64)[rows, places]
    low = np.clip(corners[:, :2] / factors, 0, limits)
    high = np.clip(corners[:, 2:] / factors, 0, limits)
    labels = np.asarray(detections.labels)[rows, places].tolist()
    scores = np.asarray(detections.scores)[rows, places].tolist()
    return [
        {"image_id": record.image_id, "category_id": source.category_ids[label], "bbox": box, "score": value}
        for record, label, box, value in zip(
            records, labels, np.concatenate([low, high - low], -1).tolist(), scores, strict=True
        )
    ]


def check_detections(detections: Sequence[dict], truth: dict, images: set) -> None:
    """Raises DataError for a detection not of these images and the truth's categories, or with a number not finite."""
    categories = {category["id"] for category in truth["categories"]}
    for place, found in enumerate(detections):
        missing = [field for field in FIELDS if field not in found]
        if missing:
            raise DataError(f"Detection {place} has no {missing[0]}; a COCO result has {', '.join(FIELDS)}.")
        if not isinstance(found["image_id"], Hashable) or found["image_id"] not in images:
            where = "among those looked at" if _is_of(found["image_id"], truth) else "in the truth"
            raise DataError(f"Detection {place} is of image {found['image_id']!r}, which is not {where}.")
        if not isinstance(found["category_id"], Hashable) or found["category_id"] not in categories:
            raise DataError(f"Detection {place} is of category {found['category_id']!r}, which is not in the truth.")
        numbers = [*found["bbox"], found["score"]] if isinstance(found["bbox"], (list, tuple)) else []
        if len(numbers) != 5 or not all(isinstance(x, NUMBERS) and -LARGEST < x < LARGEST for x in numbers):
            raise DataError(
                f"Detection {place}, of image {found['image_id']!r}, has bbox {found['bbox']} and score "
                f"{found['score']}; all of them have to be finite numbers."
            )


def _indexed(truth: dict, images: list[dict], boxes: Sequence[dict]) -> COCO:
    """What pycocotools evaluates, with ids from 1 on: it would take an object with the id 0 for no object."""
    wanted = {image["id"] for image in images}
    annotations = [
        {
            **box,
            "id": number,
            "area": _area(box),
            "iscrowd": box.get("iscrowd", 0),
        }
        for number, box in enumerate((box for box in boxes if box["image_id"] in wanted), start=1)
    ]
    indexed = COCO()
    dataset: Any = {"images": images, "categories": truth["categories"], "annotations": annotations}
    indexed.dataset = dataset
    indexed.createIndex()
    return indexed


def _is_of(image_id: Any, truth: dict) -> bool:
    return any(image["id"] == image_id for image in truth["images"])


def _area(box: dict) -> float:
    if box.get("ignore"):
        return math.inf  # pycocotools overwrites the flag, but ignores what is of no size that it looks at
    return float(box["area"] if box.get("area") is not None else box["bbox"][2] * box["bbox"][3])


def _share(value: float) -> float:
    return float("nan") if value < 0 else float(value)


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else float("nan")

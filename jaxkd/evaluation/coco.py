"""COCO evaluation: result records from detections on padded pictures, and average precision from these records."""

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
LARGEST = 1e30  # magnitude of a number; excludes NaN, infinity and integers beyond float
FIELDS = ("image_id", "category_id", "bbox", "score")


@runtime_checkable
class PictureSource(Protocol):
    """The needed parts of a data source: records (image_id, height, width) and original category ids."""

    records: Sequence[Any]
    category_ids: tuple[int, ...]


class Rows(struct.PyTreeNode):
    """The fields of a `Batch` that identify its pictures."""

    ids: Any  # [b]
    scales: Any  # [b 2]
    real: Any  # [b]


@dataclasses.dataclass(frozen=True)
class Scores:
    """Values from 0 to 1; nan where there is no object."""

    summary: dict[str, float]  # COCO's twelve numbers, named as in SUMMARY
    per_class: dict[str, dict[str, float]]  # "AP" and "AP50" by the name of the class


def score(truth: dict, detections: Sequence[dict], *, only: Collection[int] | None = None) -> Scores:
    """COCO's box scores of detections, as pycocotools computes them.

    Args:
      truth: a COCO dict of images, categories and annotations. An annotation with a true "ignore" is no object,
        and a detection that matches it, by IoU, is neither a true nor a false positive.
      detections: COCO results: image_id, category_id, bbox (x, y, width, height) and score.
      only: ids of the images to score; all if None.

    Raises:
      DataError: for a detection of an image or category that is not in the truth, or with a number not finite.
    """
    evaluation = run_cocoeval(truth, detections, only=only)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    summary = {name: _share(value) for name, value in zip(SUMMARY, evaluation.stats, strict=True)}
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # threshold, recall, class; all sizes, 100 detections
    names = {category["id"]: category["name"] for category in truth["categories"]}
    per_class = {
        names[category_id]: {"AP": _mean(precision[:, :, index]), "AP50": _mean(precision[0, :, index])}
        for index, category_id in enumerate(evaluation.params.catIds)
    }
    return Scores(summary=summary, per_class=per_class)


def run_cocoeval(truth: dict, detections: Sequence[dict], *, only: Collection[int] | None = None) -> COCOeval:
    """The evaluation of pycocotools before it is accumulated; arguments and errors are those of `score`."""
    images = [image for image in truth["images"] if only is None or image["id"] in only]
    check_detections(detections, truth, {image["id"] for image in images})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _indexed(truth, images, truth["annotations"]), _indexed(truth, images, detections), iouType="bbox"
        )
        evaluation.evaluate()
    return evaluation


def to_results(detections: Detections, batch: Batch | Rows, source: PictureSource) -> list[dict]:
    """COCO result records of a batch: boxes in pixels of the original pictures, ids those of the source's annotations.

    Padding rows of the batch and invalid detections are left out.
    """
    keep = np.asarray(detections.valid) & np.asarray(batch.real)[:, None]
    rows, columns = np.nonzero(keep)
    records = [source.records[index] for index in np.asarray(batch.ids)[rows]]
    limits = np.array([(record.width, record.height) for record in records], np.float64).reshape(-1, 2)
    factors = np.asarray(batch.scales, np.float64)[rows][:, [1, 0]]
    corners = np.asarray(detections.boxes, np.float64)[rows, columns]
    low = np.clip(corners[:, :2] / factors, 0, limits)
    high = np.clip(corners[:, 2:] / factors, 0, limits)
    labels = np.asarray(detections.labels)[rows, columns].tolist()
    scores = np.asarray(detections.scores)[rows, columns].tolist()
    return [
        {"image_id": record.image_id, "category_id": source.category_ids[label], "bbox": box, "score": value}
        for record, label, box, value in zip(
            records, labels, np.concatenate([low, high - low], -1).tolist(), scores, strict=True
        )
    ]


def check_detections(detections: Sequence[dict], truth: dict, images: set) -> None:
    """Raises DataError for a detection of another image or category, or with a number that is not finite."""
    categories = {category["id"] for category in truth["categories"]}
    for index, detection in enumerate(detections):
        missing = [field for field in FIELDS if field not in detection]
        if missing:
            raise DataError(f"Detection {index} has no {missing[0]}; a COCO result has {', '.join(FIELDS)}.")
        if not isinstance(detection["image_id"], Hashable) or detection["image_id"] not in images:
            where = "among those evaluated" if _has_image(detection["image_id"], truth) else "in the truth"
            raise DataError(f"Detection {index} is of image {detection['image_id']!r}, which is not {where}.")
        if not isinstance(detection["category_id"], Hashable) or detection["category_id"] not in categories:
            raise DataError(
                f"Detection {index} is of category {detection['category_id']!r}, which is not in the truth."
            )
        numbers = [*detection["bbox"], detection["score"]] if isinstance(detection["bbox"], (list, tuple)) else []
        if len(numbers) != 5 or not all(isinstance(x, NUMBERS) and -LARGEST < x < LARGEST for x in numbers):
            raise DataError(
                f"Detection {index}, of image {detection['image_id']!r}, has bbox {detection['bbox']} and score "
                f"{detection['score']}; all of them have to be finite numbers."
            )


def _indexed(truth: dict, images: list[dict], boxes: Sequence[dict]) -> COCO:
    """The COCO object that pycocotools evaluates, with ids from 1 on: it treats the id 0 as no object."""
    image_ids = {image["id"] for image in images}
    annotations = [
        {
            **box,
            "id": number,
            "area": _area(box),
            "iscrowd": box.get("iscrowd", 0),
        }
        for number, box in enumerate((box for box in boxes if box["image_id"] in image_ids), start=1)
    ]
    coco = COCO()
    dataset: Any = {"images": images, "categories": truth["categories"], "annotations": annotations}
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _has_image(image_id: Any, truth: dict) -> bool:
    return any(image["id"] == image_id for image in truth["images"])


def _area(box: dict) -> float:
    if box.get("ignore"):
        return math.inf  # pycocotools overwrites the flag, but ignores objects outside all size ranges
    return float(box["area"] if box.get("area") is not None else box["bbox"][2] * box["bbox"][3])


def _share(value: float) -> float:
    return float("nan") if value < 0 else float(value)


def _mean(precision: np.ndarray) -> float:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else float("nan")

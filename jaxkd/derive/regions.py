"""How many anchors, proposals, regions and detections a two-stage detector takes of a picture, by its size."""

import math

from jaxkd.derive.base import Choice, rounded_up

MEASURED = 144 * 192  # pixels of the blood cells' pictures, for which these numbers are enough
ANCHORS, PROPOSALS, REGIONS = 64, 128, 64
MOST_ANCHORS, MOST_PROPOSALS, MOST_REGIONS = 256, 1000, 512  # as for COCO
DETECTIONS = 100  # of a picture that COCO's AP counts
CANDIDATES = 4 * DETECTIONS
STEP = 32  # to which the numbers are rounded up


def counts(pixels: int, *, max_objects: int) -> dict[str, Choice]:
    """The fields "rpn", "rois" and "postprocess" of a Faster R-CNN for pictures of so many pixels."""
    factor = max(math.sqrt(pixels / MEASURED), 1.0)
    proposals = min(rounded_up(max(factor * PROPOSALS, 2 * max_objects), STEP), MOST_PROPOSALS)
    rpn = {
        "samples": min(rounded_up(factor * ANCHORS, STEP), MOST_ANCHORS),
        "pre_nms_train": 2 * proposals,
        "pre_nms_test": 2 * proposals,
        "post_nms_train": proposals,
        "post_nms_test": proposals,
    }
    rois = {"samples": min(rounded_up(max(factor * REGIONS, max_objects), STEP), MOST_REGIONS)}
    detections = {"candidates": CANDIDATES, "max_detections": DETECTIONS}
    return {
        "rpn": Choice(rpn, f"{ANCHORS} and {PROPOSALS} are enough at 144x192; more by the root of the pixels"),
        "rois": Choice(rois, f"{REGIONS} are enough at 144x192; more by the root of the pixels"),
        "postprocess": Choice(detections, f"four times the {DETECTIONS} detections that COCO's AP counts"),
    }

"""The losses of torchvision's FCOS in numpy, from the records of `torchvision_reference` and the truth, for tests."""

import numpy as np
from torchvision_reference import FCOS_SIZES, sigmoid

RADIUS = 1.5  # from a truth's centre to its positive points, in strides
ALPHA, GAMMA = 0.25, 2.0


def truth_of_points(anchors, boxes):
    """The index of the truth of each point, over all levels one after another; -1 for background.

    `anchors` (H*W, 4) are those of each level, whose centres are the points, and `boxes` (G, 4) the truths.
    """
    found = []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for level, (anchor, (size,)) in enumerate(zip(anchors, FCOS_SIZES, strict=True)):
        point = ((anchor[:, :2] + anchor[:, 2:]) / 2)[:, None]
        sides = np.concatenate([point - boxes[None, :, :2], boxes[None, :, 2:] - point], axis=2)
        from_centre = np.abs(point - (boxes[:, :2] + boxes[:, 2:]) / 2).max(axis=2)
        low, high = (4 * size if level else 0), (8 * size if level < len(anchors) - 1 else np.inf)
        farthest = sides.max(axis=2)
        fits = (sides.min(axis=2) > 0) & (from_centre < RADIUS * size) & (low < farthest) & (farthest < high)
        smallest = np.where(fits, area, np.inf).argmin(axis=1) if len(boxes) else -1
        found.append(np.where(fits.any(axis=1), smallest, -1))
    return np.concatenate(found)


def focal(logits, wanted):
    """The focal loss of each logit whose target is 1 or 0."""
    chance = sigmoid(logits)
    positive = ALPHA * (1 - chance) ** GAMMA * np.logaddexp(0, -logits)
    return np.where(wanted, positive, (1 - ALPHA) * chance**GAMMA * np.logaddexp(0, logits))


def generalized_iou(first, second):
    """The generalised IoU of boxes (N, 4) with those of the same row (Rezatofighi et al. 2019)."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    hull = np.prod(np.maximum(first[:, 2:], second[:, 2:]) - np.minimum(first[:, :2], second[:, :2]), axis=1)
    inter = np.prod(np.maximum(high - low, 0), axis=1)
    union = sum(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)) - inter
    return inter / union - (hull - union) / hull


def fcos_losses(records, truths):
    """The three losses of a batch: each record with its truth, boxes (G, 4) and labels (G,) that count class 0.

    All are sums over the batch, divided by its positive points.
    """
    total, positives = np.zeros(3), 0
    for record, (boxes, labels) in zip(records, truths, strict=True):
        anchors, logits, deltas, quality = (
            np.concatenate(levels) for levels in (record.anchors, record.logits, record.deltas, record.quality)
        )
        truth = truth_of_points(record.anchors, boxes)
        (rows,) = np.nonzero(truth >= 0)
        wanted = np.zeros(logits.shape, bool)
        wanted[rows, labels[truth[rows]]] = True
        stride, point = anchors[rows, 2:] - anchors[rows, :2], (anchors[rows, 2:] + anchors[rows, :2]) / 2
        predicted = np.concatenate(
            [point - deltas[rows, :2] * stride, point + deltas[rows, 2:] * stride],
            axis=1,
        )
        target = boxes[truth[rows]]
        before, behind = point - target[:, :2], target[:, 2:] - point  # to the left and top, to the right and bottom
        centred = np.sqrt(np.prod(np.minimum(before, behind) / np.maximum(before, behind), axis=1))
        chance = quality[rows, 0]
        total += (
            focal(logits, wanted).sum(),
            (1 - generalized_iou(predicted, target)).sum(),
            (centred * np.logaddexp(0, -chance) + (1 - centred) * np.logaddexp(0, chance)).sum(),
        )
        positives += len(rows)
    return dict(zip(("class", "box", "centerness"), total / max(positives, 1), strict=True))

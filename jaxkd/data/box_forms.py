"""The forms in which four numbers are a box, and which of them a data set has, judged by its pictures."""

import numpy as np
from jaxtyping import Float

# The forms in words, the one that COCO has first.
FORMS = {
    "xywh": "[x, y, width, height] in pixels",
    "corners": "[x0, y0, x1, y1] in pixels",
    "xywh_shares": "[x, y, width, height] in shares of the picture",
    "corners_shares": "[x0, y0, x1, y1] in shares of the picture",
}
GREATEST_SHARE = 1.5  # no number of a box in shares exceeds it; boxes in pixels do, but for tiny pictures
TOLERANCE = 0.01  # of a side, and a pixel at least, by which a box may leave its picture


def corners(
    numbers: Float[np.ndarray, "n 4"], form: str, *, heights: np.ndarray, widths: np.ndarray
) -> Float[np.ndarray, "n 4"]:
    """Boxes in one of the FORMS as (x0, y0, x1, y1) in pixels; heights and widths [n] are those of their pictures."""
    boxes = np.array(numbers, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if form.startswith("xywh"):
            boxes[:, 2:] += boxes[:, :2]
        if form.endswith("shares"):
            boxes *= np.stack([widths, heights, widths, heights], -1)
    return boxes


def misfits(numbers: Float[np.ndarray, "n 4"], *, heights: np.ndarray, widths: np.ndarray) -> dict[str, int]:
    """How many boxes leave their picture or have no area, in each form that the size of the numbers admits.

    Numbers that are not finite count in none.
    """
    finite = np.isfinite(numbers).all(-1)
    numbers, limits = numbers[finite], np.stack([widths, heights], -1)[finite]
    in_shares = len(numbers) > 0 and numbers.max() <= GREATEST_SHARE and limits.max() > 2
    counts = {}
    for form in FORMS:
        if form.endswith("shares") == in_shares:
            boxes = corners(numbers, form, heights=limits[:, 1], widths=limits[:, 0])
            slack = np.maximum(1.0, TOLERANCE * limits)
            leaves = (boxes[:, :2] < -slack).any(-1) | (boxes[:, 2:] > limits + slack).any(-1)
            counts[form] = int((leaves | (boxes[:, 2:] <= boxes[:, :2]).any(-1)).sum())
    return counts


def fitting(counts: dict[str, int]) -> str:
    """The form with the fewest misfits; of equal ones the first in FORMS."""
    return min(counts, key=lambda form: (counts[form], list(FORMS).index(form)))

"""Rectangles of a picture's mean colour that hide parts of it (DeVries & Taylor 2017, Cutout)."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float

from jaxkd.data.crops import intersections
from jaxkd.data.labelled import Labelled, areas
from jaxkd.data.transforms import Sample

MOST = 3  # rectangles on one picture
LEAST_AREA, MOST_AREA = 0.02, 0.15  # of a rectangle, as a share of the picture's
FLATTEST = 2.0  # the longer side of a rectangle over the shorter, for a square picture
HIDDEN = 0.4  # share of an object that all of them may cover together
NUMBERS = 1 + 4 * MOST  # random numbers of `cutout`


def cutout(picture: Labelled, numbers: Float[np.ndarray, "13"]) -> Labelled:
    """The picture with up to three filled rectangles; a rectangle that would hide too much of an object is left out.

    `numbers` are random ones in [0, 1): how many, then area, ratio and place of each. Boxes stay as they are.
    """
    height, width = picture.size
    objects = picture.sample.boxes[~picture.crowd]
    covered, before = np.zeros(len(objects), np.float32), areas(objects)
    image, colour = picture.sample.image.copy(), cv2.mean(picture.sample.image)[:3]
    count = 1 + int(numbers[0] * MOST)
    for area, ratio, down, right in numbers[1:].reshape(MOST, 4)[:count]:
        side = np.sqrt(LEAST_AREA + (MOST_AREA - LEAST_AREA) * area)
        stretch = np.sqrt(FLATTEST) ** (2 * ratio - 1)
        rows, columns = max(1, int(height * side * stretch)), max(1, int(width * side / stretch))
        top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        box = np.array([left, top, left + columns, top + rows], np.float32)
        after = covered + intersections(box, objects)
        if (after <= HIDDEN * before).all():
            covered = after
            image[top : top + rows, left : left + columns] = np.rint(colour).astype(np.uint8)
    return dataclasses.replace(picture, sample=Sample(image, picture.sample.boxes))

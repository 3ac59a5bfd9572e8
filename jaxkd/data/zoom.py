"""Pictures that lie small on a larger canvas (Liu et al. 2016, SSD, section 3.6)."""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float

from jaxkd.data.labelled import Labelled
from jaxkd.data.transforms import Sample

MOST = 4.0  # sides of the canvas in sides of the picture
NUMBERS = 3  # random numbers of `zoomed_out`


def zoomed_out(picture: Labelled, numbers: Float[np.ndarray, "3"]) -> tuple[Labelled, tuple[float, float]]:
    """The picture shrunk onto a canvas of its own size and mean colour, and the (y, x) factors of its sides.

    `numbers` are random ones in [0, 1): how much, and where the picture lies, downwards and to the right.
    """
    (height, width), (by_scale, down, right) = picture.size, numbers.tolist()
    scale = 1 + (MOST - 1) * by_scale
    rows, columns = (max(1, int(side / scale + 0.5)) for side in (height, width))
    top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
    small = picture.resized(rows, columns, antialias=True)
    image = np.empty_like(picture.sample.image)
    image[:] = np.rint(cv2.mean(small.sample.image)[:3]).astype(np.uint8)
    image[top : top + rows, left : left + columns] = small.sample.image
    moved = small.moved(right=left, down=top)
    result = dataclasses.replace(moved, sample=Sample(image, moved.sample.boxes))
    return result, (rows / height, columns / width)

"""Four pictures as one (Bochkovskiy et al. 2020, YOLOv4, section 3.4)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxkd.data.crops import Window, crop, framed
from jaxkd.data.labelled import Labelled, joined
from jaxkd.data.transforms import Sample

FIRST_CUT, LAST_CUT = 0.3, 0.7  # place of the cuts as a share of the canvas
SMALLEST = 0.4  # least scale of a picture; 1 is its working size
NUMBERS = 2 + 4 * 3  # random numbers of `mosaic`


def mosaic(
    pictures: Sequence[Labelled],
    numbers: Float[np.ndarray, "14"],
    *,
    working: Sequence[tuple[float, float]],
    canvas: tuple[int, int],
    detail: float = 1.0,
) -> tuple[Labelled, tuple[float, float]]:
    """Four pictures that fill the quadrants of a canvas, and the (y, x) factors of the first.

    Each is scaled by .4 to 1, or by more where it would not fill its quadrant; what reaches beyond is cut off.

    Args:
      pictures: four of them: top left, top right, bottom left, bottom right.
      numbers: random numbers in [0, 1): the two cuts, then scale and corner of each picture.
      working: height and width of each picture at scale 1.
      canvas: height and width of the result.
      detail: as in `labelled.cut`.
    """
    shares = FIRST_CUT + (LAST_CUT - FIRST_CUT) * numbers[:2]
    middle = [int(side * share + 0.5) for side, share in zip(canvas, shares, strict=True)]
    image = np.zeros((*canvas, 3), np.uint8)
    boxes, labels, crowd, weights, teacher_boxes, factors = [], [], [], [], [], []
    for place, (picture, size, draws) in enumerate(
        zip(pictures, working, numbers[2:].reshape(4, 3).tolist(), strict=True)
    ):
        row, column = divmod(place, 2)
        top, left = row * middle[0], column * middle[1]
        frame = (canvas[0] - top if row else middle[0], canvas[1] - left if column else middle[1])
        scale = max(SMALLEST + (1 - SMALLEST) * draws[0], frame[0] / size[0], frame[1] / size[1])
        scaled = (max(size[0] * scale, float(frame[0])), max(size[1] * scale, float(frame[1])))
        window, _ = framed(Window(0, 0, *picture.size), scaled=scaled, frame=frame, corner=draws[1:])
        part = crop(picture, window, size=frame, detail=detail)
        image[top : top + frame[0], left : left + frame[1]] = part.sample.image
        part = part.moved(right=left, down=top)
        boxes.append(part.sample.boxes)
        teacher_boxes.append(part.teacher_boxes)
        labels.append(part.labels)
        crowd.append(part.crowd)
        weights.append(part.weights)
        factors.append((frame[0] / window.height, frame[1] / window.width))
    sample = Sample(image, np.concatenate(boxes))
    columns = map(np.concatenate, (labels, crowd, weights))
    whole = Labelled(sample, *columns, teacher_boxes=joined(teacher_boxes))
    return whole, factors[0]

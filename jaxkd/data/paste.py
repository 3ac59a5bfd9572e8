"""Objects of other pictures, pasted as boxes where they hide nothing (Ghiasi et al. 2021, Simple Copy-Paste)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32

from jaxkd.data.base import Record
from jaxkd.data.crops import Window, crop, intersections
from jaxkd.data.labelled import Labelled, areas, joined
from jaxkd.data.transforms import Sample

MOST = 3  # objects that are pasted on one picture
TRIES = 10  # places that are drawn for each
HIDDEN = 0.1  # share of any box that a pasted one may cover
SMALLEST, LARGEST = 0.7, 1.3  # scale of a pasted object; 1 is its working size
FEATHER = 2  # pixels at its edges over which it is blended
SHORTEST = 2 * FEATHER + 1  # pixels of a side below which nothing is pasted
DRAW_NUMBERS = 3  # random numbers that choose an object: class, picture, object
PLACE_NUMBERS = 1 + 2 * TRIES  # random numbers of `paste`


class Donors:
    """The objects of a source, of which a class is drawn the more often the fewer pictures have it."""

    def __init__(self, records: Sequence[Record]):
        present = [np.unique(record.labels[~record.crowd]) for record in records]
        owners = np.repeat(np.arange(len(records)), [len(one) for one in present])
        labels = np.concatenate(present)
        self._labels, counts = np.unique(labels, return_counts=True)
        self._pictures = [owners[labels == label] for label in self._labels]
        self._shares = np.cumsum(1 / counts) / np.sum(1 / counts)

    def choose(self, by_class: float, by_picture: float) -> tuple[int, int]:
        """A class, and the index of a picture that has an object of it, by two numbers in [0, 1)."""
        place = min(int(np.searchsorted(self._shares, by_class, side="right")), len(self._shares) - 1)
        pictures = self._pictures[place]
        return int(self._labels[place]), int(pictures[int(by_picture * len(pictures))])


def cut_out(
    donor: Labelled, label: int, by_object: float, *, scale: tuple[float, float], detail: float = 1.0
) -> Labelled | None:
    """An object of this class, as a picture of its own with what else lies in its box; None where there is none.

    It is chosen by a number in [0, 1). `scale` is the (y, x) factor to pixels of the picture that it is pasted on, and
    `detail` is as in `labelled.cut`.
    """
    members = np.flatnonzero((donor.labels == label) & ~donor.crowd)
    if not len(members):
        return None
    x0, y0, x1, y1 = donor.sample.boxes[members[int(by_object * len(members))]]
    height, width = donor.size
    left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
    window = Window(top, left, min(height, int(np.ceil(y1))) - top, min(width, int(np.ceil(x1))) - left)
    size = (int(window.height * scale[0] + 0.5), int(window.width * scale[1] + 0.5))
    return crop(donor, window, size=size, detail=detail) if min(size) >= SHORTEST else None


def paste(picture: Labelled, patch: Labelled, places: Float[np.ndarray, "tries 2"]) -> Labelled:
    """The picture with the patch at the first place where it covers less than .1 of every box; as it is if none.

    `places` are numbers in [0, 1), downwards and to the right.
    """
    (height, width), (rows, columns) = picture.size, patch.size
    if rows > height or columns > width:
        return picture
    before = areas(picture.sample.boxes)
    for down, right in places:
        top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        box = np.array([left, top, left + columns, top + rows], np.float32)
        if (intersections(box, picture.sample.boxes) < HIDDEN * before).all():
            return _joined(picture, patch, top, left)
    return picture


def _joined(picture: Labelled, patch: Labelled, top: int, left: int) -> Labelled:
    rows, columns = patch.size
    image = picture.sample.image.copy()
    below = image[top : top + rows, left : left + columns].astype(np.float32)
    alpha = (_ramp(rows)[:, None] * _ramp(columns))[..., None]
    blended = below + alpha * (patch.sample.image - below)
    image[top : top + rows, left : left + columns] = (blended + 0.5).astype(np.uint8)
    moved = patch.moved(right=left, down=top)
    return Labelled(
        Sample(image, np.concatenate([picture.sample.boxes, moved.sample.boxes])),
        np.concatenate([picture.labels, patch.labels]),
        np.concatenate([picture.crowd, patch.crowd]),
        np.concatenate([picture.weights, patch.weights]),
        teacher_boxes=joined([picture.teacher_boxes, moved.teacher_boxes]),
    )


def _ramp(length: int) -> Float32[np.ndarray, "n"]:
    """Weights of a patch along one side: they rise over the first pixels and fall over the last."""
    edge = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1))
    return np.minimum(edge / (FEATHER + 1), 1).astype(np.float32)

"""Parts of a picture at another size: scale jitter, and windows that overlap an object."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from jaxkd.data.labelled import Labelled, areas, cut
from jaxkd.data.transforms import Sample

TRIES = 20  # windows that are drawn until one is taken
OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # IoU of window and object, of which one is drawn
SHORTEST = 0.3  # side of a window as a share of the picture's
LOWEST, TALLEST = 0.5, 2.0  # height of a window over its width
NUMBERS = 1 + 4 * TRIES  # random numbers of `overlapping`


class Window(NamedTuple):
    """A part of a picture, in its pixels."""

    top: int
    left: int
    height: int
    width: int


def crop(picture: Labelled, window: Window, *, size: tuple[int, int], detail: float = 1.0) -> Labelled:
    """The window of a picture, resized to `size` (height, width), with its boxes cut by the rule of `labelled.cut`.

    Boxes are scaled by the true factor of each side. Where nothing changes, the pixels are not copied.
    """
    top, left, height, width = window
    view = picture.sample.image[top : top + height, left : left + width]
    moved = picture.moved(right=-left, down=-top)
    part = dataclasses.replace(moved, sample=Sample(view, moved.sample.boxes))
    return cut(part.resized(*size), detail=detail)


def framed(
    region: Window, *, scaled: tuple[float, float], frame: tuple[int, int], corner: Sequence[float]
) -> tuple[Window, tuple[int, int]]:
    """The part of a region that fits into a frame, and its height and width there.

    Args:
      region: a part of a picture.
      scaled: height and width of the whole region at its new scale.
      frame: height and width that there is room for.
      corner: two numbers in [0, 1) that place the part, downwards and to the right, where it is smaller.
    """
    axes = zip(region[:2], region[2:], scaled, frame, corner, strict=True)
    (top, height, rows), (left, width, columns) = (_axis(*axis) for axis in axes)
    return Window(top, left, height, width), (rows, columns)


def _axis(start: int, side: int, scaled: float, room: int, position: float) -> tuple[int, int, int]:
    """Of one axis: start and length of the part in pixels of the picture, and its length in the frame."""
    visible = min(scaled, room)
    length = min(max(1, int(side * visible / scaled + 0.5)), side)
    return start + int(position * (side - length + 1)), length, min(max(1, int(visible + 0.5)), room)


def overlapping(size: tuple[int, int], objects: Float32[np.ndarray, "n 4"], numbers: Float[np.ndarray, "81"]) -> Window:
    """A window that overlaps an object and holds the centre of one; the whole picture after 20 tries (Liu et al. 2016,
    SSD, section 2.2).

    Args:
      size: height and width of the picture.
      objects: boxes of its objects, without crowds.
      numbers: random numbers in [0, 1): the least IoU of window and object, then for each try height, width and place.
    """
    overlap = OVERLAPS[int(numbers[0] * len(OVERLAPS))]
    shares, places = numbers[1:].reshape(TRIES, 2, 2).swapaxes(0, 1)
    sides = np.maximum((np.array(size) * (SHORTEST + (1 - SHORTEST) * shares)).astype(int), 1)
    starts = (places * (np.array(size) - sides + 1)).astype(int)
    boxes = np.concatenate([starts, starts + sides], -1)[:, [1, 0, 3, 2]].astype(np.float32)
    ratios = sides[:, 0] / sides[:, 1]
    centres = (objects[:, :2] + objects[:, 2:]) / 2
    holds = ((centres > boxes[:, None, :2]) & (centres < boxes[:, None, 2:])).all(-1).any(-1)
    close = (_iou(boxes, objects) >= overlap).any(-1)
    taken = np.flatnonzero(holds & close & (ratios >= LOWEST) & (ratios <= TALLEST))
    if not len(taken):
        return Window(0, 0, *size)
    (top, left), (height, width) = starts[taken[0]].tolist(), sides[taken[0]].tolist()
    return Window(top, left, height, width)


def _iou(boxes: Float32[np.ndarray, "m 4"], others: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, "m n"]:
    """The intersection over union of each box with each of others."""
    common = intersections(boxes[:, None], others)
    union = areas(boxes)[:, None] + areas(others) - common
    return common / np.maximum(union, np.finfo(np.float32).tiny)


def intersections(
    boxes: Float32[np.ndarray, "*m 4"], others: Float32[np.ndarray, "n 4"]
) -> Float32[np.ndarray, "*m_or_n"]:
    """The area that boxes have in common with others: one with each, or an array [m 1 4] each with each [m n]."""
    low, high = np.maximum(boxes[..., :2], others[:, :2]), np.minimum(boxes[..., 2:], others[:, 2:])
    return np.clip(high - low, 0, None).prod(-1)

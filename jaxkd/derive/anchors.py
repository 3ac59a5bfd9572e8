"""Anchor sizes found by a search for those that fit the objects, and the scales that follow of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int32

from jaxkd.data import loader, survey
from jaxkd.data.base import Record, evenly_spaced
from jaxkd.derive.base import Choice, boxes_of_objects
from jaxkd.detectors import parts

RATIOS = (0.5, 1.0, 2.0)
MOST = 1200  # objects that the search looks at
STEPS, PER_OCTAVE = 25, 6  # finest sizes that are tried: from the finest stride on, each 2^(1/6) times the one before
SCALES = (3.0, 4.0, 5.0, 6.0, 8.0)  # sides in strides of square anchors that are tried
CELLS = 2  # of the finest level of a dense detector, across an object
USELESS, GOOD = 0.4, 0.8  # IoU of an object's best anchor from which it counts, and from which it counts fully
CANONICAL_STRIDE = 16
CANONICAL = 28.0  # a box of this many finest anchors over finest strides is pooled from stride 16; COCO: 28 * 32 / 4


@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects of a source as a detector sees them, in resized pictures; crowds are left out."""

    boxes: Float[np.ndarray, "n 4"]
    labels: Int32[np.ndarray, "n"]
    extents: Float[np.ndarray, "n 2"]  # height and width of the object's picture

    def taken(self, index: Sequence[int] | Bool[np.ndarray, "n"]) -> "Objects":
        """Some of the objects."""
        return Objects(self.boxes[index], self.labels[index], self.extents[index])


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where a detector's anchors are: every cell of every level has each size in each ratio."""

    strides: tuple[int, ...]
    sizes: tuple[tuple[float, ...], ...]  # of each level
    ratios: tuple[float, ...] = RATIOS
    offset: float = 0.0  # where in its cell an anchor is centred


def objects_in(records: Sequence[Record], loader_config: loader.Config) -> Objects:
    """All objects of the records in the sizes of the loader; DataError where there is none."""
    boxes = boxes_of_objects(records)
    kept = [~record.crowd for record in records]
    owners = np.repeat(np.arange(len(records)), [int(keep.sum()) for keep in kept])
    factors = survey.factors(records, loader_config, short=max(loader_config.short))
    sides = np.array([(record.height, record.width) for record in records])
    return Objects(
        boxes=boxes * factors[owners],
        labels=np.concatenate([record.labels[keep] for record, keep in zip(records, kept, strict=True)]),
        extents=(sides * factors[:, 1::-1])[owners],
    )


def best_ious(objects: Objects, grid: Grid) -> Float[np.ndarray, "n"]:
    """The IoU of each object with its best anchor.

    Of all anchors of one size and ratio the best is the nearest both in x and in y, as boxes overlap in x and y apart;
    so each object is compared with one anchor a size and ratio, not with those of all cells.
    """
    best = np.zeros(len(objects.boxes))
    for stride, sizes in zip(grid.strides, grid.sizes, strict=True):
        height_factor = np.sqrt(np.array(grid.ratios))[:, None]
        heights, widths = (height_factor * np.array(sizes)).ravel(), (1 / height_factor * np.array(sizes)).ravel()
        overlap = np.ones((len(best), len(heights)))
        for axis, sides in ((0, widths), (1, heights)):
            low, high = objects.boxes[:, axis], objects.boxes[:, axis + 2]
            cells = np.ceil(np.round(objects.extents[:, 1 - axis], 3) / stride)
            centre = (low + high) / 2
            cell = np.clip(np.round(centre / stride - grid.offset), 0, cells - 1)
            distance = np.abs(centre - (cell + grid.offset) * stride)[:, None]
            side = (high - low)[:, None]
            overlap *= np.clip(np.minimum(np.minimum(side, sides), (side + sides) / 2 - distance), 0, None)
        areas = (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(-1)[:, None]
        best = np.maximum(best, (overlap / (areas + heights * widths - overlap)).max(1))
    return best


def recall(objects: Objects, grid: Grid, *, iou: float) -> float:
    """The share of objects that have an anchor of this IoU: the best recall possible of proposals at the anchors."""
    return float((best_ious(objects, grid) >= iou).mean()) if len(objects.boxes) else 1.0


def ladder(objects: Objects, *, strides: Sequence[int], octaves: int) -> Choice:
    """The size of each level's (smallest) anchors, each twice the one before, that fit the objects best.

    Each class counts with the root of its number of objects, so that a rare class of other sizes is not lost to a
    frequent one.
    """
    sample = objects.taken(evenly_spaced(len(objects.boxes), MOST))
    grids = [
        _grid(round(strides[0] * 2 ** (step / PER_OCTAVE), 2), strides=strides, octaves=octaves)
        for step in range(STEPS)
    ]
    scores = [_fit(sample, grid) for grid in grids]
    grid = grids[int(np.argmax(scores))]
    return Choice(tuple(level[0] for level in grid.sizes), fit_in_words(objects, grid))


def square(objects: Objects, *, strides: Sequence[int]) -> Choice:
    """The side in strides of every level's anchors, squares in the middle of cells, that fits the objects best.

    Scored as a ladder's.
    """
    sample = objects.taken(evenly_spaced(len(objects.boxes), MOST))
    scale = max(SCALES, key=lambda scale: _fit(sample, square_grid(scale, strides=strides)))
    return Choice(scale, f"strides; {fit_in_words(objects, square_grid(scale, strides=strides))}")


def first_level(objects: Objects, *, strides: Sequence[int]) -> Choice:
    """The first of these strides with which half of the objects of every class have CELLS cells a side, or else 0."""
    sides = np.sqrt((objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(-1))
    least = min(float(np.median(sides[objects.labels == label])) for label in np.unique(objects.labels))
    index = max((place for place, stride in enumerate(strides) if least >= CELLS * stride), default=0)
    return Choice(
        index, f"half of the objects of one class are narrower than {least:.0f} px, and {CELLS} cells are wanted"
    )


def square_grid(scale: float, *, strides: Sequence[int]) -> Grid:
    """The grid of one square a cell, of so many strides."""
    return Grid(tuple(strides), tuple((scale * stride,) for stride in strides), ratios=(1.0,), offset=0.5)


def fit_in_words(objects: Objects, grid: Grid) -> str:
    """How many of the objects have an anchor that fits."""
    fitted = [round(100 * recall(objects, grid, iou=iou)) for iou in (0.5, 0.7)]
    return f"{fitted[0]} % of training objects have an anchor of IoU .5, {fitted[1]} % one of .7"


def canonical_scale(finest: float, *, stride: int) -> float:
    """Side in pixels of the square box that region pooling, and TAR with it, puts on the level of stride 16.

    It is to the finest anchors, of the level of this stride, as in the recipes for COCO: 224 to 32 at a stride of 4.
    """
    return round(CANONICAL * finest / stride, 1)


def scale_on_finest(scale: float, *, stride: int) -> float:
    """GKD's side in pixels: that of the box on the finest level, of this stride, where `scale` is on stride 16."""
    return round(scale * stride / CANONICAL_STRIDE, 1)


def grid_in(config: parts.Anchors, *, strides: Sequence[int]) -> Grid:
    """The grid of a detector's anchors, on levels of these strides."""
    return Grid(tuple(strides), config.of_levels(), config.ratios, config.offset)


def grid_of(sizes: Sequence[float], *, strides: Sequence[int], octaves: int) -> Grid:
    """The grid of these sizes, with the octaves that each level has of its own."""
    factors = [2 ** (step / octaves) for step in range(octaves)]
    return Grid(tuple(strides), tuple(tuple(size * factor for factor in factors) for size in sizes))


def _grid(finest: float, *, strides: Sequence[int], octaves: int) -> Grid:
    return grid_of([finest * 2.0**level for level in range(len(strides))], strides=strides, octaves=octaves)


def _fit(objects: Objects, grid: Grid) -> float:
    """How well the anchors fit: the mean over each class of what its objects count, times the root of their number."""
    counted = np.clip((best_ious(objects, grid) - USELESS) / (GOOD - USELESS), 0, 1)
    numbers = np.bincount(objects.labels)
    totals = np.bincount(objects.labels, counted)
    present = numbers > 0
    return float((totals[present] / np.sqrt(numbers[present])).sum())

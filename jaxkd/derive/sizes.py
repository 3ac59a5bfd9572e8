"""Sizes of pictures and of batches: working size, buckets and the most objects of a picture."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxkd import phrases
from jaxkd.data import transforms
from jaxkd.data.base import Record
from jaxkd.derive.base import Choice, boxes_of_objects, rounded_up

STEP = 32  # the coarsest stride of the backbones, in pixels
LEAST_SHORT = 96  # pixels of a resized picture's short side
USUAL_SHORT = 160  # pixels of it where pictures have so many, however large the objects are
SAVED = 0.06  # share of padding that is worth the compilation of one more bucket
OBJECTS = (20, 300)  # least and greatest max_objects
SPARE = 1.2  # times the boxes that 99.5 % of pictures do not exceed

Bucket = tuple[int, int]  # height and width in pixels


def working_size(records: Sequence[Record], *, wanted: int | float, pixels: int) -> Choice:
    """The short and the long side in pixels, multiples of 32, to which pictures are resized.

    Args:
      records: of the training pictures.
      wanted: side in pixels that nine of ten objects are to have after the resize.
      pixels: the most of a resized picture, up to rounding.

    Raises DataError where there is no object.
    """
    boxes = boxes_of_objects(records)
    narrow = float(np.percentile(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(-1)), 10))
    short = float(np.median([min(record.height, record.width) for record in records]))
    long = float(np.median([max(record.height, record.width) for record in records]))
    for_objects, for_pixels = max(wanted / narrow, USUAL_SHORT / short), math.sqrt(pixels / (short * long))
    factor = min(1.0, for_objects, for_pixels)
    resized_short = max(STEP * round(factor * short / STEP), LEAST_SHORT)
    resized_long = rounded_up(long * resized_short / short, STEP)
    words = (
        f"10 % of objects are narrower than {narrow:.0f} px, {narrow * resized_short / short:.0f} px after the resize; "
        f"{wanted:g} wanted"
    )
    if for_pixels < min(1.0, for_objects):
        words += f", which would be more than {math.isqrt(pixels)}x{math.isqrt(pixels)} pixels"
    elif for_objects > 1.0:
        words += f", but pictures of {short:.0f}x{long:.0f} are not enlarged"
    elif factor > wanted / narrow:
        words += f", on a short side of {USUAL_SHORT} px at least"
    return Choice((resized_short, resized_long), words)


def buckets(records: Sequence[Record], *, short: int, long: int) -> Choice:
    """The canvases (height, width) that hold all pictures, resized to these sides, smallest first.

    One more canvas is taken where it saves 6 points of padding.
    """
    packings = best_packings(records, short=short, long=long)
    taken = packings[0]
    for more in packings[1:]:
        if taken.padding - more.padding >= SAVED * (len(more.buckets) - len(taken.buckets)):
            taken = more
    words = f"{100 * taken.padding:.0f} % of the canvas is padding"
    if taken is not packings[0]:
        words += f", with one canvas {100 * packings[0].padding:.0f} %"
    elif len(packings) > 1:
        words += f", with two canvases {100 * packings[1].padding:.0f} %"
    return Choice(taken.buckets, words)


def max_objects(records: Sequence[Record]) -> Choice:
    """The number of boxes, crowds included, that training keeps of a picture."""
    crowded = float(np.percentile([len(record.boxes) for record in records], 99.5))
    number = min(max(rounded_up(SPARE * crowded, 10), OBJECTS[0]), OBJECTS[1])
    return Choice(number, f"99.5 % of pictures have at most {phrases.counted(math.ceil(crowded), 'box')}")


class Packing(NamedTuple):
    """Canvases that hold all pictures, smallest first, and the share of them that is padding."""

    buckets: tuple[Bucket, ...]
    padding: float


def best_packings(records: Sequence[Record], *, short: int, long: int) -> list[Packing]:
    """The one, two and three canvases with the least padding for pictures resized to these sides, by full search."""
    pixels, counts = 0, Counter()
    for size, count in Counter((record.height, record.width) for record in records).items():
        height, width = transforms.target_size(*size, short=short, long=long)
        pixels += count * height * width
        counts[rounded_up(height, STEP), rounded_up(width, STEP)] += count
    search = _Search.of(counts)
    packings = []
    for area, found in (search.one(), search.two(), search.three()):
        if len(found) > len(packings):
            packings.append(Packing(tuple(sorted(found, key=lambda size: (math.prod(size), size))), 1 - pixels / area))
    return packings


@dataclasses.dataclass(frozen=True)
class _Search:
    """The search for canvases: the smallest of several takes all that it holds, and the last is as large as the rest.

    Each search gives the pixels of all canvases and the canvases, fewer where no more are needed.
    """

    sizes: Int[np.ndarray, "n 2"]  # distinct sizes of pictures
    counts: Int[np.ndarray, "n"]
    candidates: Int[np.ndarray, "c 2"]
    holds: Bool[np.ndarray, "c n"]

    @classmethod
    def of(cls, counts: Counter[Bucket]) -> "_Search":
        sizes = np.array(list(counts))
        pairs = {(height, width) for height in sizes[:, 0].tolist() for width in sizes[:, 1].tolist()}
        candidates = np.array(sorted(pairs))
        holds = np.all(sizes[None] <= candidates[:, None], axis=-1)
        return cls(sizes, np.array(list(counts.values())), candidates, holds)

    def one(self) -> tuple[float, list[Bucket]]:
        height, width = self.sizes.max(0).tolist()
        return float(self.counts.sum() * height * width), [(height, width)]

    def two(self, of: Bool[np.ndarray, "n"] | None = None) -> tuple[float, list[Bucket]]:
        taken = self.holds if of is None else self.holds & of
        rest = ~taken if of is None else ~taken & of
        hulls = np.where(rest[..., None], self.sizes, 0).max(1)
        areas = self._pixels(taken, self.candidates) + self._pixels(rest, hulls)
        best = int(areas.argmin())
        parts = ((taken[best], self.candidates[best]), (rest[best], hulls[best]))
        return float(areas[best]), [tuple(canvas.tolist()) for held, canvas in parts if held.any()]

    def three(self) -> tuple[float, list[Bucket]]:
        found = []
        pixels = self._pixels(self.holds, self.candidates)
        for area, taken, candidate in zip(pixels.tolist(), self.holds, self.candidates, strict=True):
            rest, others = self.two(~taken)
            found.append((area + rest, [tuple(candidate.tolist()), *others]))
        return min(found, key=lambda one: one[0])

    def _pixels(self, held: Bool[np.ndarray, "c n"], canvas: Int[np.ndarray, "c 2"]) -> Float[np.ndarray, "c"]:
        """The pixels of so many canvases of each size."""
        return (held @ self.counts) * canvas.prod(-1, dtype=float)

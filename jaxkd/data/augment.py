"""Augmentation of training pictures: its settings, its random numbers, and the order of its transforms."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxkd.data import crops, cutout, mosaic, paste, zoom
from jaxkd.data.base import Record
from jaxkd.data.canvas import Sizes
from jaxkd.data.colour import adjust
from jaxkd.data.crops import Window
from jaxkd.data.labelled import Labelled, largest
from jaxkd.data.rows import ResizedPicture
from jaxkd.errors import ConfigError
from jaxkd.ranges import NonNegative, Positive, Share

# Random numbers of each transform for one picture. All are drawn, in this order, whatever is switched on, so that a
# setting leaves the numbers of the others as they are. A new transform goes to the end.
NUMBERS = {
    "mosaic": 1 + 3 + mosaic.NUMBERS,
    "crop": 1 + crops.NUMBERS,
    "scale": 3,
    "paste": 2 + paste.MOST * (paste.DRAW_NUMBERS + paste.PLACE_NUMBERS),
    "colour": 2 * 4,
    "cutout": 1 + cutout.NUMBERS,
    "zoom_out": 1 + zoom.NUMBERS,
}
CLOSING_SCALE = (0.8, 1.2)  # range of scales at the end of a run
ONLY_WITH = {
    "brightness": ("colour", True),
    "contrast": ("colour", True),
    "saturation": ("colour", True),
    "hue": ("colour", True),
}
Numbers = Mapping[str, Float[np.ndarray, "n"]]


@dataclasses.dataclass(frozen=True)
class Config:
    """What training changes of a picture beyond its flip; all is off by default. Evaluation changes nothing.

    Student and teacher see the same pixels and boxes. Of an object that is cut, what is left stays an object, becomes
    a crowd or is left out, by one rule (`labelled.cut`).
    """

    scale: tuple[Positive, Positive] = (1.0, 1.0)
    """Least and greatest scale of a picture, whose short side is `short` at 1; what leaves the canvas is cut off."""
    log_scale: bool = False
    """Draw the scale evenly in its logarithm, so that halving is as likely as doubling."""
    crop: Share = 0.0
    """Share of pictures that are cropped to a window which overlaps an object (SSD)."""
    mosaic: Share = 0.0
    """Share of pictures that become a quarter of a mosaic with three others, in place of `scale` and `crop`."""
    paste: Share = 0.0
    """Share of pictures on which up to three objects of other pictures are pasted, mostly of rare classes."""
    colour: Share = 0.0
    """Share of pictures of which brightness is changed; of contrast, saturation and hue likewise, each on its own."""
    brightness: NonNegative = 32.0
    """Most that is added or taken away, in levels of 255."""
    contrast: tuple[NonNegative, NonNegative] = (0.6, 1.4)
    """Least and greatest factor of contrast."""
    saturation: tuple[NonNegative, NonNegative] = (0.5, 1.4)
    """Least and greatest factor of saturation."""
    hue: NonNegative = 0.0
    """Most that hues turn to either side, in degrees."""
    cutout: Share = 0.0
    """Share of pictures on which up to three rectangles are filled with the mean colour."""
    zoom_out: Share = 0.0
    """Share of pictures that shrink, to a quarter of their sides at least, in place of `scale` and `crop`."""
    close_share: Share = 0.1
    """Last share of a run's steps: without mosaic, paste, cutout and zoom-out, with scales from .8 to 1.2 at most."""

    @property
    def moves(self) -> bool:
        """Whether a part of a picture may lie elsewhere than in the resized one."""
        return self.scale != (1.0, 1.0) or self.crop > 0 or self.mosaic > 0 or self.zoom_out > 0

    @property
    def on(self) -> bool:
        """Whether anything is changed."""
        return self.moves or self.paste > 0 or self.colour > 0 or self.cutout > 0

    def check(self) -> None:
        """Raises ConfigError where a least value is above its greatest one."""
        for name in ("scale", "contrast", "saturation"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigError(f"data.loader.augment.{name} is {(low, high)}; give the least and then the greatest.")

    def at(self, step: int, *, steps: int) -> "Config":
        """The settings of a step, counted from 0, of a run of so many steps."""
        if step < steps - round(self.close_share * steps):
            return self
        low, high = (min(max(scale, CLOSING_SCALE[0]), CLOSING_SCALE[1]) for scale in self.scale)
        return dataclasses.replace(self, scale=(low, high), mosaic=0.0, paste=0.0, cutout=0.0, zoom_out=0.0)


def draw(rng: np.random.Generator) -> dict[str, Float[np.ndarray, "n"]]:
    """The random numbers in [0, 1) of each transform for one picture, by the names in NUMBERS."""
    return {name: rng.random(count) for name, count in NUMBERS.items()}


@dataclasses.dataclass(frozen=True)
class Request:
    """One picture of a batch: which one, where it goes and what is changed."""

    index: int  # of the record
    bucket: int
    short: int
    mirrored: bool
    config: Config  # the settings of its step
    numbers: Numbers


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """A picture while it is changed, in at least as many pixels as any canvas takes."""

    picture: Labelled
    size: tuple[int, int]  # height and width on the student's canvas
    detail: float  # pixels of the picture in a side of one pixel of the student's canvas
    teachers: Mapping[str, tuple[int, int]]  # height and width on the canvas of each teacher that has its own
    factors: tuple[float, float]  # (y, x) from original pixels of the (first) picture to the student's canvas


class Augmenter:
    """Makes augmented pictures of a source.

    The order is: mosaic, or zoom-out, or crop and scale; then paste, flip, colour and cutout. All happens once, at
    the resolution of the largest canvas, and the result is resized to each, so that teachers and student see the same
    picture.
    """

    def __init__(
        self, records: Sequence[Record], sizes: Sizes, read: Callable[[int], tuple[int, Labelled]], labelled: int = 0
    ):
        """`read` gives the picture of a record, or a stand-in for it, and its index.

        The first `labelled` records are annotated ones, or all for 0: a mosaic joins pictures of one kind, and pasted
        objects are annotated.
        """
        self._records, self._sizes, self._read = records, sizes, read
        self._labelled = labelled or len(records)

    @functools.cached_property
    def _donors(self) -> paste.Donors:
        """The objects that may be pasted; late, for they are counted over all records."""
        return paste.Donors(self._records[: self._labelled])

    def __call__(self, request: Request) -> tuple[int, ResizedPicture]:
        """The index of the (first) picture and what became of it."""
        config, numbers = request.config, request.numbers
        index, first = self._read(request.index)
        if numbers["mosaic"][0] < config.mosaic:
            drawn = self._mosaic(first, request)
        elif numbers["zoom_out"][0] < config.zoom_out:
            drawn = self._zoomed_out(first, request)
        else:
            drawn = self._window(first, request)
        picture = drawn.picture
        if numbers["paste"][0] < config.paste:
            picture = self._pasted(picture, request, drawn.detail)
        if request.mirrored:
            picture = picture.flipped()
        picture = _coloured(picture, config, numbers["colour"])
        if numbers["cutout"][0] < config.cutout:
            picture = cutout.cutout(picture, numbers["cutout"][1:])
        return index, self._finished(picture, drawn)

    def _window(self, picture: Labelled, request: Request) -> _Drawn:
        """A window of one picture at a scale."""
        config, numbers = request.config, request.numbers
        window = Window(0, 0, *picture.size)
        if numbers["crop"][0] < config.crop:
            objects = picture.sample.boxes[~picture.crowd]
            window = crops.overlapping(picture.size, objects, numbers["crop"][1:])
        by_scale, *corner = numbers["scale"].tolist()
        scale = _between(config.scale, by_scale, log=config.log_scale)
        return self._framed(picture, request, window=window, scale=scale, corner=corner)

    def _zoomed_out(self, picture: Labelled, request: Request) -> _Drawn:
        """One picture, small on the canvas that it would fill."""
        window = Window(0, 0, *picture.size)
        whole = self._framed(picture, request, window=window, scale=1.0, corner=(0.0, 0.0))
        small, factors = zoom.zoomed_out(whole.picture, request.numbers["zoom_out"][1:])
        factors = (whole.factors[0] * factors[0], whole.factors[1] * factors[1])
        return dataclasses.replace(whole, picture=small, factors=factors)

    def _framed(
        self, picture: Labelled, request: Request, *, window: Window, scale: float, corner: Sequence[float]
    ) -> _Drawn:
        """A window of one picture at a scale, cut where it leaves the canvas."""
        sizes = self._sizes
        working = sizes.working_size(window.height, window.width, bucket=request.bucket, short=request.short)
        window, size = crops.framed(
            window,
            scaled=(working[0] * scale, working[1] * scale),
            frame=sizes.buckets[request.bucket],
            corner=corner,
        )
        teachers = self._teacher_sizes(window.height, window.width)
        detail = _detail(size, teachers, most=max(window.height / size[0], window.width / size[1]))
        return _Drawn(
            picture=crops.crop(picture, window, size=_times(size, detail), detail=detail),
            size=size,
            detail=detail,
            teachers=teachers,
            factors=(size[0] / window.height, size[1] / window.width),
        )

    def _mosaic(self, first: Labelled, request: Request) -> _Drawn:
        """Four pictures on the whole canvas, of which three are drawn from all that are labelled as the first is."""
        numbers = request.numbers["mosaic"][1:]
        start, end = (0, self._labelled) if request.index < self._labelled else (self._labelled, len(self._records))
        others = [self._read(start + int(number * (end - start)))[1] for number in numbers[:3]]
        pictures = [first, *others]
        canvas = self._sizes.buckets[request.bucket]
        teachers = self._teacher_sizes(*canvas)
        detail = _detail(canvas, teachers)
        composed, factors = mosaic.mosaic(
            pictures,
            numbers[3:],
            working=[_scaled(self._working(picture, request), detail) for picture in pictures],
            canvas=_times(canvas, detail),
            detail=detail,
        )
        factors = (factors[0] / detail, factors[1] / detail)
        return _Drawn(picture=composed, size=canvas, detail=detail, teachers=teachers, factors=factors)

    def _pasted(self, picture: Labelled, request: Request, detail: float) -> Labelled:
        """The picture with one to three objects of others, where there is room for them."""
        numbers = request.numbers["paste"][1:]
        count = 1 + int(numbers[0] * paste.MOST)
        for draws in numbers[1:].reshape(paste.MOST, -1)[:count]:
            by_class, by_picture, by_object, by_scale, *places = draws.tolist()
            label, index = self._donors.choose(by_class, by_picture)
            donor = self._read(index)[1]
            working = self._working(donor, request)
            factor = detail * _between((paste.SMALLEST, paste.LARGEST), by_scale)
            scale = (factor * working[0] / donor.size[0], factor * working[1] / donor.size[1])
            patch = paste.cut_out(donor, label, by_object, scale=scale, detail=detail)
            if patch is not None:
                picture = paste.paste(picture, patch, np.reshape(places, (-1, 2)))
        return picture

    def _finished(self, picture: Labelled, drawn: _Drawn) -> ResizedPicture:
        """The picture on all canvases, with its largest boxes."""
        views, image = self._sizes.views, picture.sample.image
        teachers = {name: views[name].resized(image, size) for name, size in drawn.teachers.items()}
        picture = picture.resized(*drawn.size, antialias=self._sizes.antialias)
        picture = picture.selected(largest(picture.sample.boxes, self._sizes.max_objects))
        return ResizedPicture(
            sample=picture.sample,
            labels=picture.labels,
            crowd=picture.crowd,
            weights=picture.weights,
            scales=np.array(drawn.factors, np.float32),
            teachers=teachers,
            teacher_boxes=picture.teacher_boxes,
        )

    def _working(self, picture: Labelled, request: Request) -> tuple[int, int]:
        return self._sizes.working_size(*picture.size, bucket=request.bucket, short=request.short)

    def _teacher_sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        return {name: view.fitted(height, width) for name, view in self._sizes.views.items()}


def _coloured(picture: Labelled, config: Config, numbers: Float[np.ndarray, "8"]) -> Labelled:
    """The picture in other colours; each change has a number that decides whether it is made, and one for how much."""
    amounts = {
        "brightness": (-config.brightness, config.brightness),
        "contrast": config.contrast,
        "saturation": config.saturation,
        "hue": (-config.hue, config.hue),
    }
    changes: dict[str, Any] = {
        name: _between(limits, how_much)
        for (name, limits), (whether, how_much) in zip(amounts.items(), numbers.reshape(4, 2).tolist(), strict=True)
        if whether < config.colour
    }
    image = adjust(picture.sample.image, **changes)
    return dataclasses.replace(picture, sample=dataclasses.replace(picture.sample, image=image))


def _between(limits: tuple[float, float], number: float, *, log: bool = False) -> float:
    """The place between two limits that a number in [0, 1) stands for."""
    low, high = limits
    return low * (high / low) ** number if log else low + (high - low) * number


def _detail(size: tuple[int, int], teachers: Mapping[str, tuple[int, int]], *, most: float = np.inf) -> float:
    """By which factor a picture is drawn larger than on the student's canvas, for the teachers'; not beyond `most`."""
    largest = max((max(rows / size[0], columns / size[1]) for rows, columns in teachers.values()), default=1.0)
    return max(1.0, min(largest, most))


def _scaled(size: tuple[int, int], factor: float) -> tuple[float, float]:
    return size[0] * factor, size[1] * factor


def _times(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)

"""The canvases of student and teacher: their sizes, and where a picture lies on them."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Int32, UInt8

from jaxkd.config import view_field
from jaxkd.data import transforms
from jaxkd.data.base import Record, Source
from jaxkd.data.labelled import of_record
from jaxkd.data.rows import Canvas, ResizedPicture
from jaxkd.errors import ConfigError, DataError
from jaxkd.ranges import Count, Natural

Size = tuple[Count, Count]  # height and width in pixels


@dataclasses.dataclass(frozen=True)
class View:
    """The teacher's own canvas, on which it sees every picture; its pixel normalisation is in its own Config."""

    size: tuple[Natural, Natural] = (0, 0)
    """Height and width of the canvas in pixels; (0, 0) for none: the teacher sees the student's canvas."""
    fit: Literal["keep", "stretch"] = "keep"
    """A picture keeps the ratio of its sides and is padded ("keep"), or fills the canvas ("stretch")."""
    resample: Literal["none", "bilinear"] = "none"
    """How the teacher's feature maps come to the student's grid: by "bilinear" interpolation, or not at all ("none"),
    which is refused where a picture lies elsewhere on the two canvases and a method uses feature maps."""
    antialias: bool = False
    """Whether a picture that shrinks is smoothed, as Pillow does it and the processors of Hugging Face."""

    @property
    def on(self) -> bool:
        """Whether there is such a canvas."""
        return self.size != (0, 0)

    def check(self, *, name: str = "") -> None:
        """Raises ConfigError where it has one side alone; `name` is the teacher's, as `view_field` takes it."""
        if self.on and not all(self.size):
            raise ConfigError(
                f"{view_field(name)}.size is {self.size}; give a height and a width in pixels, or (0, 0) where the "
                "teacher sees the student's canvas."
            )

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture of this size on the canvas."""
        if self.fit == "stretch":
            return self.size
        return transforms.contained_size(height, width, canvas=self.size)

    def resized(self, image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
        """A picture with this height and width, smoothed as the canvas has it."""
        return transforms.resize_image(image, height=size[0], width=size[1], antialias=self.antialias)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of pictures and canvases; the defaults are those of the COCO recipes, 800 and 1333."""

    buckets: tuple[Size, ...] = ((800, 1344), (1344, 800))
    """Height and width of the canvas of a batch; the step compiles once for each."""
    short: tuple[Count, ...] = (800,)
    """Short side of a picture in pixels; of several, training draws one a picture and evaluation takes the first."""
    long: Count = 1333
    """Greatest long side of a picture in pixels."""
    fit: Literal["keep", "stretch"] = "keep"
    """A picture keeps the ratio of its sides and is padded ("keep"), or fills its bucket ("stretch")."""
    bucket_by: Literal["shape", "step"] = "shape"
    """What decides the bucket of a picture: its "shape"; or the "step", for which training draws one of the buckets,
    while evaluation takes the first: pictures that are stretched are then seen at several sizes."""
    antialias: bool = False
    """Whether a picture that shrinks is smoothed, as Pillow does it and the processors of Hugging Face."""
    max_objects: Count = 100
    """Most ground truth boxes of a picture; of more, the largest are kept."""
    teacher_view: View = dataclasses.field(default_factory=View)
    """The canvas of `config.teacher` where it differs; each of `config.teachers` has the field `view`."""

    @property
    def views(self) -> Mapping[str, View]:
        """The canvases of the teachers that have one of their own, by the teacher's name; "" is `config.teacher`."""
        return {"": self.teacher_view} if self.teacher_view.on else {}

    def check(self) -> None:
        """Raises ConfigError where there is no size, or half of one."""
        if not self.buckets or not self.short:
            raise ConfigError("data.loader needs at least one of buckets and one of short, and one of them is empty.")
        if self.bucket_by == "step" and self.fit != "stretch":
            raise ConfigError(
                'data.loader.bucket_by="step" is for pictures that are stretched, and data.loader.fit is '
                f'{self.fit!r}; set it to "stretch", or bucket_by to "shape".'
            )
        for name, view in self.views.items():
            view.check(name=name)

    def working_size(self, height: int, width: int, *, bucket: int, short: int) -> tuple[int, int]:
        """Height and width of a picture of this size on the canvas of its bucket."""
        if self.fit == "stretch":
            return self.buckets[bucket]
        target = transforms.target_size(height, width, short=short, long=self.long)
        return transforms.fit_size(*target, bucket=self.buckets[bucket])

    def bucket_of(self, height: int, width: int, *, short: int) -> int:
        """The bucket of a picture of this size; the first where steps decide."""
        if self.bucket_by == "step":
            return 0
        target = transforms.target_size(height, width, short=short, long=self.long)
        return transforms.choose_bucket(*target, self.buckets)

    def canvas(self, bucket: int) -> Canvas:
        """What the rows of a bucket are padded to."""
        return Canvas(self.buckets[bucket], self.max_objects, {name: view.size for name, view in self.views.items()})


def buckets_of(source: Source, sizes: Sizes, *, short: int) -> Int32[np.ndarray, "n"]:
    """The bucket of every record, by its annotated size; raises DataError for a source without pictures."""
    if not source.records:
        raise DataError("The source has no pictures; check its paths.")
    bucket_of = {
        size: sizes.bucket_of(*size, short=short)
        for size in {(record.height, record.width) for record in source.records}
    }
    return np.array([bucket_of[record.height, record.width] for record in source.records], np.int32)


def resized(
    image: UInt8[np.ndarray, "h w 3"], record: Record, sizes: Sizes, *, bucket: int, short: int
) -> ResizedPicture:
    """A picture and its ground truth, resized to fit its bucket, and for the canvases of teachers."""
    height, width = sizes.working_size(*image.shape[:2], bucket=bucket, short=short)
    picture = of_record(record, image).resized(height, width, antialias=sizes.antialias)
    return ResizedPicture(
        sample=picture.sample,
        labels=picture.labels,
        crowd=picture.crowd,
        weights=picture.weights,
        teacher_boxes=picture.teacher_boxes,
        scales=np.array([height / image.shape[0], width / image.shape[1]], np.float32),
        teachers={name: view.resized(image, view.fitted(*image.shape[:2])) for name, view in sizes.views.items()},
    )


def first_unlike(source: Source, sizes: Sizes) -> str:
    """The first picture that lies elsewhere on the teacher's own canvas than on the student's, as half a sentence.

    It is "" where there is none, or no such canvas.
    """
    view, known = sizes.teacher_view, set()
    if not view.on:
        return ""
    for record, bucket in zip(source.records, buckets_of(source, sizes, short=max(sizes.short)), strict=True):
        size, bucket = (record.height, record.width), int(bucket)
        if size in known:
            continue
        known.add(size)
        for short in sizes.short:
            student, teacher = sizes.working_size(*size, bucket=bucket, short=short), view.fitted(*size)
            if (student, sizes.buckets[bucket]) != (teacher, view.size):
                sides = [f"{rows}x{columns}" for rows, columns in (student, sizes.buckets[bucket], teacher, view.size)]
                return (
                    f"{record.file} is {sides[0]} (height x width) on a canvas of {sides[1]} for the student, and "
                    f"{sides[2]} on {sides[3]} for the teacher"
                )
    return ""

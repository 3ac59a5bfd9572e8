"""A teacher on its own canvas: its feature maps and detections as the student's canvas has them."""

from collections.abc import Sequence
from functools import partial

import jax
from jax import Array
from jaxtyping import Float

from jaxkd.config import view_field
from jaxkd.errors import ConfigError
from jaxkd.ops.resample import resample
from jaxkd.types import Batch, Detections, Features, Traits

REMEDY = "set {}.resample to 'bilinear', or take a method that uses no feature maps"  # with the canvas's field


def on_student_grid(features: Features, traits: Traits, batch: Batch, *, bilinear: bool) -> Features:
    """The teacher's feature maps, at the cells that the student's canvas has at the same strides.

    Raises ConfigError where these are other cells, and they are not to be interpolated.
    """
    if batch.teacher is None:
        return features
    level = partial(_level, batch=batch, bilinear=bilinear)

    def levels(maps: Sequence[Array], strides: Sequence[int]) -> tuple[Array, ...]:
        return tuple(level(one, stride=stride) for one, stride in zip(maps, strides, strict=True))

    return Features(
        backbone=levels(features.backbone, traits.backbone_strides), neck=levels(features.neck, traits.strides)
    )


def _level(level: Float[Array, "b _ _ c"], *, batch: Batch, stride: int, bilinear: bool) -> Float[Array, "b _ _ c"]:
    view = batch.teacher
    assert view is not None
    height, width = (-(-side // stride) for side in batch.images.shape[1:3])
    if bilinear:
        one = partial(resample, shape=(height, width), stride=stride)
        return jax.vmap(lambda level, scale, size, new: one(level, scale=scale, size=size, new_size=new))(
            level, view.scales, view.sizes, batch.sizes
        )
    if level.shape[1:3] != (height, width):
        raise ConfigError(
            f"The teacher's map of stride {stride} has {level.shape[1]}x{level.shape[2]} cells on its own canvas, the "
            f"student's {height}x{width}; {REMEDY.format(view_field(''))}."
        )
    return level


def to_student(detections: Detections, batch: Batch) -> Detections:
    """The detections with boxes in pixels of the student's canvas, of a teacher that saw its own."""
    return detections if batch.teacher is None else detections.replace(boxes=batch.teacher.to_student(detections.boxes))

"""Teachers that give less than a detector: feature maps alone, or detections alone."""

from dataclasses import dataclass

import jax
from jax import numpy as jnp

from jaxkd.types import Detections, Features, Traits

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class FeatureMaps:
    """The mean colour of each cell, in so many channels: an encoder without a head."""

    classes: tuple[str, ...]
    width: int = 6

    @property
    def traits(self):
        widths = (self.width,) * len(STRIDES)
        return Traits(
            classes=self.classes,
            capabilities=frozenset({"features"}),
            strides=STRIDES,
            channels=widths,
            backbone_strides=STRIDES,
            backbone_channels=widths,
            background=None,
        )

    def init(self, key):
        return {"mix": jax.random.normal(key, (3, self.width))}

    def features(self, params, batch):
        levels = tuple(mean_colour(batch.images, stride) @ params["mix"] for stride in STRIDES)
        return Features(backbone=levels, neck=levels)


def mean_colour(images, stride):
    """The mean colour in 0..1 of each cell [b h w 3], black beyond the canvas."""
    images = jnp.pad(images, ((0, 0), *((0, -side % stride) for side in images.shape[1:3]), (0, 0)))
    b, height, width, _ = images.shape
    cells = images.astype(jnp.float32).reshape(b, height // stride, stride, width // stride, stride, 3)
    return cells.mean((2, 4)) / 255


@dataclass(frozen=True)
class FinalDetections:
    """Says the truth with a score, as a detector behind a service would: neither maps nor predictions."""

    classes: tuple[str, ...]

    @property
    def traits(self):
        return Traits(self.classes, frozenset({"detections"}))

    def init(self, key):
        del key
        return {"score": jnp.full((), 0.9)}

    def detect(self, params, batch):
        scores = jnp.where(batch.valid, params["score"], 0.0)
        return Detections(boxes=batch.boxes, scores=scores, labels=batch.labels, valid=batch.valid)

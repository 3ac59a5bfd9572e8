"""What detectors with queries have in common: feature extractor, a decoder, and detections without suppression.

They are read from files and give feature maps and detections; they are not trained here.
"""

import abc
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import flax.linen as nn
import jax
from jax import numpy as jnp
from jaxtyping import Array, Key

from jaxkd.detectors import parts
from jaxkd.detectors.base import Params
from jaxkd.detectors.feature_extractor import FeatureExtractor, apply
from jaxkd.errors import ConfigError
from jaxkd.nets.query_decoder import best_pairs
from jaxkd.ops import boxes as box_ops
from jaxkd.ranges import Count, Share
from jaxkd.types import Batch, Detections, Features, Traits

DECODER_KEY = 2  # of a detector's initial parameters; backbone and neck have 0 and 1


@dataclass(frozen=True)
class Postprocess:
    """From predictions to detections."""

    score_threshold: Share = 0.0
    """Score above which a box is a detection."""
    max_detections: Count = 300
    """Most detections of a picture."""


@dataclass(frozen=True)
class Common:
    """What the Configs of detectors with queries share."""

    postprocess: Postprocess = field(default_factory=Postprocess)
    """From predictions to detections."""
    pixels: parts.Pixels = field(default_factory=lambda: parts.Pixels(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)))
    """Normalisation of the pictures; by default to 0..1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which backbone and neck compute; the decoder and all parameters are float32."""


@dataclass(frozen=True)
class QueryDetector(abc.ABC):
    """A `detectors.base.Teacher` with the capabilities "features" and "detections".

    The nets see the whole canvas, also where a picture does not fill it, and boxes are shares of its sides.
    """

    config: Any
    classes: tuple[str, ...]

    @property
    @abc.abstractmethod
    def decoder(self) -> nn.Module:
        """From the neck's levels to `nets.query_decoder.Outputs`."""

    @functools.cached_property
    def traits(self) -> Traits:
        """The constants that methods may need."""
        extractor = self.feature_extractor
        return Traits(
            classes=self.classes,
            capabilities=frozenset({"features", "detections"}),
            strides=extractor.strides,
            channels=extractor.channels,
            backbone_strides=extractor.backbone_strides,
            backbone_channels=extractor.backbone_channels,
        )

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, float32."""
        return _init(self, key)

    def features(self, params: Params, batch: Batch) -> Features:
        """Feature maps of the batch's canvases, which are normalised first."""
        return self.feature_extractor.features(params, batch)

    def detect(self, params: Params, batch: Batch) -> Detections:
        """The pairs of a query and a class with the greatest scores, clipped to the picture; nothing is suppressed."""
        outputs = apply(self.decoder, params["decoder"], self.features(params, batch).neck)
        height, width = batch.images.shape[1:3]
        centres, half = outputs.boxes[..., :2], jnp.maximum(outputs.boxes[..., 2:], 0.0) / 2
        corners = jnp.concatenate((centres - half, centres + half), -1) * jnp.asarray([width, height] * 2, jnp.float32)
        boxes = jax.vmap(box_ops.clip)(corners, batch.sizes)
        inside = box_ops.area(boxes) > 0
        logits = jnp.where(inside[..., None], outputs.logits, -jnp.inf)  # the score is 0 then
        settings = self.config.postprocess
        boxes, scores, labels = best_pairs(outputs._replace(logits=logits, boxes=boxes), limit=settings.max_detections)
        valid = scores > settings.score_threshold
        return Detections(
            boxes=jnp.where(valid[..., None], boxes, 0.0),
            scores=jnp.where(valid, scores, 0.0),
            labels=labels,
            valid=valid,
        )

    @functools.cached_property
    def feature_extractor(self) -> FeatureExtractor:
        """Backbone and neck."""
        config = self.config
        return FeatureExtractor(
            backbone=config.backbone,
            neck=config.neck,
            dtype=config.dtype,
            remat="none",
            frozen_stages=-1,
            pixel_mean=config.pixels.mean,
            pixel_std=config.pixels.std,
            padding="canvas",
        )

    def check_decoder(self) -> None:
        """Raises ConfigError where the decoder's heads or points do not fit."""
        decoder, levels = self.config.decoder, len(self.feature_extractor.strides)
        if decoder.width % decoder.heads:
            raise ConfigError(
                f"The decoder's width {decoder.width} is no multiple of its {decoder.heads} heads; take one that is."
            )
        if len(decoder.points) != levels:
            raise ConfigError(
                f"decoder.points is {decoder.points}, and the neck has {levels} levels; give one number for each."
            )


@functools.partial(jax.jit, static_argnums=0)
def _init(detector: QueryDetector, key: Key[Array, ""]) -> Params:
    """Random parameters; equal detectors share the compiled program."""
    extractor = detector.feature_extractor
    params, side = extractor.init(key), 2 * max(extractor.strides)
    levels: Sequence[Array] = [
        jnp.zeros((1, side // stride, side // stride, channels))
        for stride, channels in zip(extractor.strides, extractor.channels, strict=True)
    ]
    decoder = detector.decoder.init(jax.random.fold_in(key, DECODER_KEY), tuple(levels))
    return params | {"decoder": decoder["params"]}

"""What detectors on a feature pyramid have in common: the feature extractor, and the start of their parameters."""

import abc
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxkd.detectors.base import Moments, Params
from jaxkd.detectors.feature_extractor import FeatureExtractor
from jaxkd.errors import ConfigError
from jaxkd.ops.anchors import Anchors, pyramid_anchors, respace
from jaxkd.types import Batch, BoxCode, Capability, Features, Traits


@dataclass(frozen=True)
class PyramidDetector(abc.ABC):
    """A feature extractor; a detector adds its heads, targets, losses and detections."""

    config: Any
    classes: tuple[str, ...]

    @abc.abstractmethod
    def init_heads(self, key: Key[Array, ""]) -> Params:
        """Random parameters of all that follows the feature extractor."""

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, float32."""
        return _init(self, key)

    def trainable(self, path: tuple[str, ...]) -> bool:
        """Whether the leaf at `path` is to be trained; frozen stages and stored statistics are not."""
        return self.feature_extractor.trainable(path)

    def features(self, params: Params, batch: Batch) -> Features:
        """Feature maps of the batch's pictures, which are normalised first."""
        return self.feature_extractor.features(params, batch)

    def training_features(self, params: Params, batch: Batch) -> tuple[Features, Moments]:
        """As `features`, with batch norms that take the statistics of the batch; and what these have seen."""
        return self.feature_extractor.training_features(params, batch)

    def common_traits(
        self, *capabilities: Capability, box_code: BoxCode, background: int | None, anchors: tuple | None
    ) -> Traits:
        """The constants that methods may need; `capabilities` are those beside features and detections."""
        extractor = self.feature_extractor
        return Traits(
            classes=self.classes,
            capabilities=frozenset({"features", "detections", *capabilities}),
            strides=extractor.strides,
            channels=extractor.channels,
            backbone_strides=extractor.backbone_strides,
            backbone_channels=extractor.backbone_channels,
            box_code=box_code,
            background=background,
            anchors=anchors,
        )

    def extents(self, batch: Batch) -> Int[Array, "*b 2"]:
        """Height and width in pixels of each picture, with its padding where the nets see that."""
        return self.feature_extractor.extents(batch)

    def spaced_anchors(
        self,
        features: Features,
        batch: Batch,
        *,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float],
        offset: float,
        rounded: bool = False,
    ) -> Anchors:
        """Anchors of every level with the step of `config.compat`, a `parts.Spacing`; see `ops.anchors`."""
        compat, strides = self.config.compat, self.feature_extractor.strides
        shapes = [level.shape[1:3] for level in features.neck]
        if compat.anchor_step == "canvas" and compat.padding == "masked":
            canvas_height, canvas_width = batch.images.shape[1:3]
            strides = [(canvas_height // height, canvas_width // width) for height, width in shapes]
        anchors = pyramid_anchors(shapes, strides=strides, sizes=sizes, ratios=ratios, offset=offset, rounded=rounded)
        if compat.anchor_step == "stride" or compat.padding == "masked":
            return anchors
        extents, step = self.extents(batch)[:, None], jnp.asarray(strides, jnp.int32)[:, None]
        return respace(anchors, extents // -(-extents // step), strides=strides, offset=offset)

    def check_one_width(self) -> None:
        """Raises ConfigError where the neck's levels, which share the heads, have several widths."""
        channels = self.feature_extractor.channels
        if len(set(channels)) > 1:
            raise ConfigError(
                f"The neck's levels are {channels} wide; the heads are shared by all levels and want one width."
            )

    @functools.cached_property
    def feature_extractor(self) -> FeatureExtractor:
        """Backbone and neck."""
        config = self.config
        return FeatureExtractor(
            backbone=config.backbone,
            neck=config.neck,
            dtype=config.dtype,
            remat=config.remat,
            frozen_stages=config.frozen_stages,
            pixel_mean=config.pixels.mean,
            pixel_std=config.pixels.std,
            padding=config.compat.padding,
        )


@functools.partial(jax.jit, static_argnums=0)
def _init(detector: PyramidDetector, key: Key[Array, ""]) -> Params:
    """Random parameters; equal detectors share the compiled program."""
    return detector.feature_extractor.init(key) | detector.init_heads(key)


def truth_weights(batch: Batch, truth: Int[Array, "r"], positive: Bool[Array, "r"]) -> Float[Array, "r"] | None:
    """What each region of one picture counts: the weight of its truth where positive, else 1; None without weights."""
    return None if batch.weights is None else jnp.where(positive, batch.weights[truth], 1.0)

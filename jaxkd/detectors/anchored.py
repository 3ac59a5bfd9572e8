"""What detectors with anchors on a feature pyramid have in common before their heads differ."""

import abc
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Int, Key

from jaxkd.detectors.base import Params
from jaxkd.detectors.feature_extractor import FeatureExtractor
from jaxkd.errors import ConfigError
from jaxkd.ops.anchors import Anchors, inside, pyramid_anchors, spaced
from jaxkd.ops.match import Matches, match
from jaxkd.ranges import Positive, Range
from jaxkd.types import Batch, Features, Traits

Code = tuple[Positive, Positive, Positive, Positive]  # weights of a box code, for dx, dy, dw and dh
Stages = Annotated[int, Range(-1)]  # of a backbone: -1 none, 0 the stem, 1 the stem and the first, ...
# Caffe's weights, with which detectron2 begins, want pictures whose mean alone is taken off.
CAFFE_PIXELS = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (1.0, 1.0, 1.0)}


@dataclass(frozen=True)
class AnchorBased(abc.ABC):
    """A feature extractor with anchors on every level; a detector adds `init_heads` and all that follows."""

    config: Any
    classes: tuple[str, ...]

    @abc.abstractmethod
    def init_heads(self, key: Key[Array, ""]) -> Params:
        """Random parameters of all that follows the feature extractor."""

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, float32."""
        return jax.jit(lambda key: self._feature_extractor.init(key) | self.init_heads(key))(key)

    def trainable(self, path: tuple[str, ...]) -> bool:
        """Whether the leaf at `path` is to be trained; frozen stages and stored statistics are not."""
        return self._feature_extractor.trainable(path)

    def features(self, params: Params, batch: Batch) -> Features:
        """Feature maps of the batch's pictures, normalised as this detector wants them."""
        return self._feature_extractor.features(params, batch)

    def common_traits(self, *, background: int | None, anchors: tuple | None) -> Traits:
        """The constants that methods may need; see `Traits` for the arguments."""
        extractor = self._feature_extractor
        return Traits(
            classes=self.classes,
            strides=extractor.strides,
            channels=(self.config.neck.channels,) * len(extractor.strides),
            backbone_strides=extractor.backbone_strides,
            backbone_channels=extractor.backbone_channels,
            box_weights=self.config.box_weights,
            background=background,
            anchors=anchors,
        )

    def check(self, *thresholds: tuple[str, str]) -> None:
        """Raises ConfigError where the anchors do not fit the pyramid's levels, or thresholds are out of order.

        Each pair of `thresholds` names the IoU under which a box is background, and that from which it is an object.
        """
        sizes, levels = len(self.config.anchor_sizes), len(self._feature_extractor.strides)
        if sizes != levels:
            raise ConfigError(f"anchor_sizes has {sizes} entries, the pyramid {levels} levels; give one size a level.")
        if not self.config.anchor_ratios:
            raise ConfigError("anchor_ratios is empty; give a ratio at least.")
        for low, high in thresholds:
            least, most = getattr(self.config, low), getattr(self.config, high)
            if least > most:
                raise ConfigError(f"{low}={least} is above {high}={most}; a box would be background and an object.")

    def anchors(self, features: Features, batch: Batch, *, sizes: Sequence[Sequence[float]]) -> Anchors:
        """The anchors of every level, of these sizes each."""
        config, strides = self.config, self._feature_extractor.strides
        shapes = [level.shape[1:3] for level in features.neck]
        if config.anchor_step == "canvas" and config.padding == "masked":
            tall, wide = batch.images.shape[1:3]
            strides = [(tall // height, wide // width) for height, width in shapes]
        anchors = pyramid_anchors(
            shapes,
            strides=strides,
            sizes=sizes,
            ratios=config.anchor_ratios,
            offset=config.anchor_offset,
            rounded=config.anchor_rounded,
        )
        if config.anchor_step == "stride" or config.padding == "masked":
            return anchors
        extents, each = self.extents(batch)[:, None], jnp.asarray(strides, jnp.int32)[:, None]
        return spaced(anchors, extents // -(-extents // each), strides=strides, offset=config.anchor_offset)

    def extents(self, batch: Batch) -> Int[Array, "*b 2"]:
        """Height and width in pixels of what the nets see of each picture."""
        return self._feature_extractor.extents(batch)

    def match_anchors(
        self, anchors: Anchors, batch: Batch, *, positive: float, negative: float
    ) -> tuple[Matches, Bool[Array, "a"]]:
        """The matches of one picture's anchors with its truth, and which anchors have their cell inside the picture.

        `anchors` and `batch` are without their leading axes.
        """
        within = inside(anchors, self.extents(batch))
        matches = match(
            jnp.where(within[:, None], anchors.boxes, 0.0),  # an anchor in the padding is no truth's best
            batch.boxes,
            valid=batch.valid,
            crowd=batch.crowd,
            positive=positive,
            negative=negative,
            low_quality=True,
        )
        return matches, within

    @functools.cached_property
    def _feature_extractor(self) -> FeatureExtractor:
        config = self.config
        return FeatureExtractor(
            backbone=config.backbone,
            neck=config.neck,
            dtype=config.dtype,
            remat=config.remat,
            frozen_stages=config.frozen_stages,
            pixel_mean=config.pixel_mean,
            pixel_std=config.pixel_std,
            padding=config.padding,
        )

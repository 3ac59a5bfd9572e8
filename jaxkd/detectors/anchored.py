"""What detectors with anchors on a feature pyramid have in common: features, anchors and their matches."""

import abc
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from jaxkd.detectors.base import Params
from jaxkd.detectors.feature_extractor import FeatureExtractor
from jaxkd.errors import ConfigError
from jaxkd.ops.anchors import Anchors, inside, pyramid_anchors, respace
from jaxkd.ops.match import Matches, match
from jaxkd.types import Batch, BoxCode, Capability, Features, Traits


@dataclass(frozen=True)
class AnchorBased(abc.ABC):
    """A feature extractor with anchors on every level; a detector adds its heads, targets, losses and detections."""

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
        return self._feature_extractor.trainable(path)

    def features(self, params: Params, batch: Batch) -> Features:
        """Feature maps of the batch's pictures, which are normalised first."""
        return self._feature_extractor.features(params, batch)

    def common_traits(self, *, predictions: Capability, background: int | None, anchors: tuple | None) -> Traits:
        """The constants that methods may need; `predictions` is what it can predict for, for the rest see `Traits`."""
        extractor = self._feature_extractor
        return Traits(
            classes=self.classes,
            capabilities=frozenset({"features", predictions, "detections"}),
            strides=extractor.strides,
            channels=extractor.channels,
            backbone_strides=extractor.backbone_strides,
            backbone_channels=extractor.backbone_channels,
            box_code=BoxCode(weights=self.config.head.box_weights),
            background=background,
            anchors=anchors,
        )

    def check(self, *thresholds: tuple[str, str]) -> None:
        """Raises ConfigError where the anchors or heads do not fit the neck's levels, or thresholds are out of order.

        Each pair of `thresholds` names two fields: the IoU below which a box is background, and that from which it is
        an object.
        """
        sizes, levels = len(self.config.anchors.sizes), len(self._feature_extractor.strides)
        if sizes != levels:
            raise ConfigError(f"anchors.sizes has {sizes} entries, the pyramid {levels} levels; give one size a level.")
        if len(set(self._feature_extractor.channels)) > 1:
            raise ConfigError(
                f"The neck's levels are {self._feature_extractor.channels} wide; the heads are shared by all levels "
                "and want one width."
            )
        if not self.config.anchors.ratios:
            raise ConfigError("anchors.ratios is empty; give a ratio at least.")
        for negative, positive in thresholds:
            low, high = attrgetter(negative, positive)(self.config)
            if low > high:
                raise ConfigError(
                    f"{negative}={low} is above {positive}={high}; a box would be background and an object."
                )

    @property
    def neck_channels(self) -> int:
        """Width of the neck's levels, one for all; see `check`."""
        return self._feature_extractor.channels[0]

    def anchors(self, features: Features, batch: Batch, *, sizes: Sequence[Sequence[float]]) -> Anchors:
        """The anchors of every level, of these sizes each."""
        config, compat, strides = self.config.anchors, self.config.compat, self._feature_extractor.strides
        shapes = [level.shape[1:3] for level in features.neck]
        if compat.anchor_step == "canvas" and compat.padding == "masked":
            canvas_height, canvas_width = batch.images.shape[1:3]
            strides = [(canvas_height // height, canvas_width // width) for height, width in shapes]
        anchors = pyramid_anchors(
            shapes,
            strides=strides,
            sizes=sizes,
            ratios=config.ratios,
            offset=config.offset,
            rounded=compat.anchor_rounded,
        )
        if compat.anchor_step == "stride" or compat.padding == "masked":
            return anchors
        extents, step = self.extents(batch)[:, None], jnp.asarray(strides, jnp.int32)[:, None]
        return respace(anchors, extents // -(-extents // step), strides=strides, offset=config.offset)

    def extents(self, batch: Batch) -> Int[Array, "*b 2"]:
        """Height and width in pixels of each picture, with its padding where the nets see that."""
        return self._feature_extractor.extents(batch)

    def match_anchors(
        self, anchors: Anchors, batch: Batch, *, positive: float, negative: float
    ) -> tuple[Matches, Bool[Array, "a"]]:
        """The matches of one picture's anchors with its truth, and a mask of the anchors within its extent.

        `anchors` and `batch` are without their leading axes.
        """
        within = inside(anchors, self.extents(batch))
        matches = match(
            jnp.where(within[:, None], anchors.boxes, 0.0),  # an anchor in the padding is no truth's best match
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
            pixel_mean=config.pixels.mean,
            pixel_std=config.pixels.std,
            padding=config.compat.padding,
        )


@functools.partial(jax.jit, static_argnums=0)
def _init(detector: AnchorBased, key: Key[Array, ""]) -> Params:
    """Random parameters; equal detectors share the compiled program."""
    return detector._feature_extractor.init(key) | detector.init_heads(key)


def truth_weights(batch: Batch, truth: Int[Array, "r"], positive: Bool[Array, "r"]) -> Float[Array, "r"] | None:
    """What each region of one picture counts: the weight of its truth where positive, else 1; None without weights."""
    return None if batch.weights is None else jnp.where(positive, batch.weights[truth], 1.0)

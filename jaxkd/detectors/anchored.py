"""What detectors with anchors on a feature pyramid have in common before their heads differ."""

import abc
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Key

from jaxkd.detectors.base import Params
from jaxkd.detectors.trunk import Trunk
from jaxkd.errors import ConfigError
from jaxkd.ops.anchors import Anchors, inside, pyramid_anchors
from jaxkd.ops.match import Matches, match
from jaxkd.types import Batch, Features, Traits

# Caffe's weights, with which detectron2 begins, want pictures whose mean alone is taken off.
CAFFE_PIXELS = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (1.0, 1.0, 1.0)}


@dataclass(frozen=True)
class Anchored(abc.ABC):
    """A trunk with anchors on every level; a detector adds `init_heads` and what comes after the features."""

    config: Any
    classes: tuple[str, ...]

    @abc.abstractmethod
    def init_heads(self, key: Key[Array, ""]) -> Params:
        """Random parameters of all that follows the trunk."""

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, float32."""
        return jax.jit(lambda key: self._trunk.init(key) | self.init_heads(key))(key)

    def trainable(self, path: tuple[str, ...]) -> bool:
        """Whether the leaf at `path` is to be trained; frozen stages and stored statistics are not."""
        return self._trunk.trainable(path)

    def features(self, params: Params, batch: Batch) -> Features:
        """Feature maps of the batch's pictures, normalised as this detector wants them."""
        return self._trunk.features(params, batch)

    def common_traits(self, *, background: int | None, anchors: tuple | None) -> Traits:
        """The constants that methods may need; see `Traits` for the arguments."""
        trunk = self._trunk
        return Traits(
            classes=self.classes,
            strides=trunk.strides,
            channels=(self.config.neck.channels,) * len(trunk.strides),
            backbone_strides=trunk.backbone_strides,
            backbone_channels=trunk.backbone_channels,
            box_weights=self.config.box_weights,
            background=background,
            anchors=anchors,
        )

    def check(self, counts: Sequence[str]) -> None:
        """Raises ConfigError where one of these fields is below 1, or the anchors do not fit the pyramid's levels."""
        for name in counts:
            if getattr(self.config, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self.config, name)}.")
        sizes, levels = len(self.config.anchor_sizes), len(self._trunk.strides)
        if sizes != levels:
            raise ConfigError(f"anchor_sizes has {sizes} entries, the pyramid {levels} levels; give one size a level.")

    def anchors(self, features: Features, batch: Batch, *, sizes: Sequence[Sequence[float]]) -> Anchors:
        """The anchors of every level, of these sizes each."""
        shapes = [level.shape[1:3] for level in features.neck]
        strides = self._trunk.strides
        if self.config.anchor_step == "canvas":
            tall, wide = batch.images.shape[1:3]
            strides = [(tall // height, wide // width) for height, width in shapes]
        return pyramid_anchors(
            shapes,
            strides=strides,
            sizes=sizes,
            ratios=self.config.anchor_ratios,
            offset=self.config.anchor_offset,
            rounded=self.config.anchor_rounded,
        )

    def matched(
        self, anchors: Anchors, batch: Batch, *, positive: float, negative: float
    ) -> tuple[Matches, Bool[Array, "a"]]:
        """The anchors against the truth of one picture, and which begin in it; `batch` without its leading axis."""
        here = inside(anchors, batch.sizes)
        matches = match(
            jnp.where(here[:, None], anchors.boxes, 0.0),  # an anchor in the padding is no truth's best
            batch.boxes,
            valid=batch.valid,
            crowd=batch.crowd,
            positive=positive,
            negative=negative,
            low_quality=True,
        )
        return matches, here

    @functools.cached_property
    def _trunk(self) -> Trunk:
        config = self.config
        return Trunk(
            backbone=config.backbone,
            neck=config.neck,
            dtype=config.dtype,
            remat=config.remat,
            frozen_stages=config.frozen_stages,
            pixel_mean=config.pixel_mean,
            pixel_std=config.pixel_std,
        )

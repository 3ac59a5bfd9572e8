"""Backbone and feature pyramid: the first step of every detector."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int, Key

from jaxkd.config import module_of
from jaxkd.detectors.base import Moments, Params
from jaxkd.nets import norm as norms
from jaxkd.nets.remat import Remat
from jaxkd.types import Batch, Features

Padding = Literal["masked", "seen", "canvas"]
PADDING_MULTIPLE = 32  # pixels to multiples of which torchvision, detectron2 and mmdetection pad pictures


@dataclass(frozen=True)
class FeatureExtractor:
    """Pictures to feature maps, as functions of the parameters under `backbone` and `neck`.

    Attributes:
      backbone: a component of `nets` that gives levels.
      neck: a component of `nets` that makes the levels that heads see from those of the backbone.
      dtype: what both compute in; their parameters are float32.
      remat: what of the backbone's blocks is kept for the gradient; see `nets.remat`.
      frozen_stages: backbone stages that are not trained: -1 none, 0 the stem, 1 the stem and the first, ...
      pixel_mean, pixel_std: of RGB values in 0..255.
      padding: what the nets see beyond a picture's edge. "masked": nothing, as if every map ended with the picture.
        "seen": zeros, the mean colour, up to the next multiple of 32 pixels, which biases and norms make other numbers
        of, and nothing beyond. In both cases the size of the canvas that the picture lies on does not matter; for
        "seen" its sides have to be multiples of 32. "canvas": zeros on the whole canvas, as where pictures are
        letterboxed into one size; the canvas then matters.
    """

    backbone: Any
    neck: Any
    dtype: str
    remat: Remat
    frozen_stages: int
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    padding: Padding = "masked"

    @property
    def backbone_strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each level of the backbone."""
        return module_of(self.backbone).strides(self.backbone)

    @property
    def backbone_channels(self) -> tuple[int, ...]:
        """Width of each level of the backbone."""
        return module_of(self.backbone).channels(self.backbone)

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each level of the neck."""
        return module_of(self.neck).strides(self.neck, self.backbone_strides)

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of each level of the neck."""
        return module_of(self.neck).channels(self.neck, self.backbone_channels)

    def init(self, key: Key[Array, ""]) -> Params:
        """Random parameters, float32."""
        side = 2 * max(self.strides)
        extents, picture = jnp.full((1, 2), side, jnp.int32), jnp.zeros((1, side, side, 3))
        backbone = self._backbone.init(jax.random.fold_in(key, 0), picture, extents)
        levels = self._backbone.apply(backbone, picture, extents)
        neck = self._neck.init(jax.random.fold_in(key, 1), levels, extents)
        return {"backbone": backbone["params"], "neck": neck["params"]}

    def trainable(self, path: tuple[str, ...]) -> bool:
        """Whether the leaf at `path` is to be trained; frozen stages and stored statistics are not."""
        if path[-1] in ("mean", "var"):
            return False
        if path[0] != "backbone":
            return True
        return module_of(self.backbone).stage_of(path[1:]) > self.frozen_stages

    def features(self, params: Params, batch: Batch) -> Features:
        """Feature maps of the batch's pictures, zero outside their extents."""
        images, extents = self._normalised(batch), self.extents(batch)
        backbone = apply(self._backbone, params["backbone"], images, extents)
        return Features(backbone=backbone, neck=apply(self._neck, params["neck"], backbone, extents))

    def training_features(self, params: Params, batch: Batch) -> tuple[Features, Moments]:
        """As `features`, with batch norms that take the statistics of the batch; and the sums that these have seen.

        Norms of frozen stages keep their stored statistics. `nets.norm.running` takes the sums, under "backbone" and
        "neck".
        """
        images, extents, moments = self._normalised(batch), self.extents(batch), {}

        def applied(module: nn.Module, name: str, *inputs: Any) -> Any:
            out, moments[name] = apply_in_training(
                module, params[name], *inputs, extents, is_trained=lambda path: self.trainable((name, *path))
            )
            return out

        backbone = applied(self._backbone, "backbone", images)
        neck = applied(self._neck, "neck", backbone)
        return Features(backbone=backbone, neck=neck, training=True), moments

    def _normalised(self, batch: Batch) -> Float[Array, "b h w 3"]:
        """The pictures with the mean subtracted and divided by the standard deviation, zero outside of them."""
        mean, std = (jnp.asarray(value, jnp.float32) for value in (self.pixel_mean, self.pixel_std))
        return (batch.images.astype(jnp.float32) - mean) / std * _inside_picture(batch)

    def extents(self, batch: Batch) -> Int[Array, "*b 2"]:
        """Height and width in pixels of each picture, with its padding where the nets see that."""
        if self.padding == "masked":
            return batch.sizes
        if self.padding == "canvas":
            return jnp.full_like(batch.sizes, jnp.asarray(batch.images.shape[-3:-1]))
        return -(-batch.sizes // PADDING_MULTIPLE) * PADDING_MULTIPLE

    @functools.cached_property
    def _backbone(self) -> nn.Module:
        return module_of(self.backbone).build(self.backbone, dtype=self.dtype, remat=self.remat)

    @functools.cached_property
    def _neck(self) -> nn.Module:
        return module_of(self.neck).build(
            self.neck,
            backbone_strides=self.backbone_strides,
            backbone_channels=self.backbone_channels,
            dtype=self.dtype,
        )


def apply(module: nn.Module, params: Params, *inputs: Any, method: str = "__call__") -> Any:
    """The outputs of the module, or of a method of it, for these inputs."""
    return module.apply({"params": params}, *inputs, method=method)


def apply_in_training(
    module: nn.Module,
    params: Params,
    *inputs: Any,
    is_trained: Callable[[tuple[str, ...]], bool] = lambda path: True,
    method: str = "__call__",
) -> tuple[Any, Moments]:
    """The outputs where batch norms take the statistics of the batch, and what these norms have seen.

    `is_trained` says of the path of a norm's scale whether the norm does so, or keeps its stored statistics.
    """
    variables = {"params": params, norms.TRAINING: norms.training(params, is_trained)}
    out, seen = module.apply(variables, *inputs, mutable=[norms.MOMENTS], method=method)
    return out, dict(seen).get(norms.MOMENTS, {})


def _inside_picture(batch: Batch) -> Float[Array, "b h w 1"]:
    rows, columns = (jnp.arange(side) for side in batch.images.shape[1:3])
    mask = (rows < batch.sizes[:, :1])[:, :, None] & (columns < batch.sizes[:, 1:])[:, None, :]
    return mask[..., None].astype(jnp.float32)

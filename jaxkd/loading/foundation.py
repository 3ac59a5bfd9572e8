"""A teacher that is a foundation backbone: it knows no classes and no boxes, and gives feature maps."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxkd.detectors.base import Params
from jaxkd.detectors.feature_extractor import apply
from jaxkd.errors import WeightsError
from jaxkd.loading import build
from jaxkd.nets import vit
from jaxkd.nets.norm import valid_cells
from jaxkd.types import Batch, Features, Traits
from jaxkd.weights import tree
from jaxkd.weights import vit as vit_weights
from jaxkd.weights.parts import few

FILES = ("model.safetensors", "pytorch_model.bin")  # of weights in a folder of Hugging Face
STRIDES = (8, 16, 32)  # pixels of the student's canvas that a patch can stand for
PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's RGB values in 0..255


@dataclass(frozen=True)
class FoundationBackbone:
    """A `detectors.base.Teacher` with the capability "features" alone.

    It sees every picture resized such that a patch covers a cell of the student's map, so that the two grids agree
    whatever the augmentation: for a stride of 32 and patches of 14 pixels, at 14/32 of the student's size. There is a
    map for each of STRIDES; XLA drops the forward passes of those that no method uses.
    """

    config: vit.Config
    classes: tuple[str, ...] = ()

    @property
    def traits(self) -> Traits:
        """Strides and widths of its maps, which are those of a backbone and of a neck at once."""
        widths = (self.config.width,) * len(STRIDES)
        return Traits(
            self.classes,
            frozenset({"features"}),
            strides=STRIDES,
            channels=widths,
            backbone_strides=STRIDES,
            backbone_channels=widths,
        )

    def init(self, key: Any) -> Params:
        """Random parameters, float32."""
        side = self.config.patch
        return dict(self._net.init(key, jnp.zeros((1, side, side, 3)), jnp.full((1, 2), side))["params"])

    def features(self, params: Params, batch: Batch) -> Features:
        """A map for each of STRIDES, zero outside the pictures."""
        maps = tuple(self._map(params, batch, stride) for stride in STRIDES)
        return Features(backbone=maps, neck=maps)

    def _map(self, params: Params, batch: Batch, stride: int) -> Float[Array, "b h w c"]:
        patch = self.config.patch
        images = resized(batch, stride=stride, patch=patch)
        sizes = -(-batch.sizes // stride) * patch
        return apply(self._net, params, images, sizes)

    @functools.cached_property
    def _net(self) -> vit.VisionTransformer:
        return vit.VisionTransformer(self.config)


def resized(batch: Batch, *, stride: int, patch: int) -> Float[Array, "b H W 3"]:
    """The normalised pictures, of whose pixels `stride` become `patch`; the mean colour outside of them.

    The canvas is filled up to whole cells. What lies outside a picture takes no part in the interpolation, so that the
    size of its canvas does not matter.
    """
    height, width = batch.images.shape[1:3]
    inside = valid_cells(batch.sizes, stride=1, shape=(height, width))
    mean, std = (jnp.asarray(value, jnp.float32) for value in (PIXEL_MEAN, PIXEL_STD))
    pictures = (batch.images.astype(jnp.float32) - mean) / std * inside
    more = [(0, 0), (0, -height % stride), (0, -width % stride), (0, 0)]
    pictures, inside = jnp.pad(pictures, more), jnp.pad(inside, more)

    def shrunk(maps: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        count, rows, columns, channels = maps.shape
        shape = (count, rows // stride * patch, columns // stride * patch, channels)
        return jax.image.resize(maps, shape, "linear", antialias=True)

    weight = shrunk(inside)
    return jnp.where(weight > 0, shrunk(pictures) / jnp.where(weight > 0, weight, 1.0), 0.0)


def is_one(path: Path) -> bool:
    """Whether a path is that of a foundation backbone's weights, or of a folder of Hugging Face with such weights."""
    return vit_weights.is_vit(file_of(path))


def file_of(path: Path) -> Path:
    """The file of weights in a folder of Hugging Face; any other path unchanged.

    Raises WeightsError where the weights are in several files.
    """
    if any((path / f"{name}.index.json").is_file() for name in FILES):
        raise WeightsError(f"The weights in {path} are in several files; save the model in one, and give that.")
    return next((file for name in FILES if (file := path / name).is_file()), path)


def load(path: Path) -> build.Loaded:
    """The teacher in a file of a foundation backbone, with every leaf matched; WeightsError where it does not fit."""
    weights = vit_weights.load(file_of(path))
    teacher = FoundationBackbone(vit.Config(**weights.fields))
    params, _ = tree.match(jax.eval_shape(teacher.init, jax.random.key(0)), weights.arrays)
    note = f"A vision transformer of {weights.fields['depth']} blocks of width {weights.fields['width']}."
    unused = f"Not used: {few(weights.unused)}." if weights.unused else ""
    params = jax.tree.map(jnp.asarray, params)
    notes = tuple(filter(None, (note, unused)))
    return build.Loaded(teacher, params, ConfigDict(), {}, {}, notes=notes)

"""Prediction heads: of a level (region proposals, or classes and boxes in one stage) and of a region."""

import functools
import math

import flax.linen as nn
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from jaxkd.nets.conv import HE_FAN_OUT, conv
from jaxkd.nets.norm import GroupNorm, norm

SMALL = nn.initializers.normal(0.01)


class RPNHead(nn.Module):
    """Objectness and deltas of each anchor (Ren et al. 2015, section 3.1); one head for all levels (Lin et al. 2017).

    Attributes:
      channels: width of the 3x3 convolutions.
      anchors: anchors per cell.
      depth: number of 3x3 convolutions.
      dtype: what the head computes in, up to its last layer; its parameters are float32.
    """

    channels: int = 256
    anchors: int = 3
    depth: int = 1
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, level: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]
    ) -> tuple[Float[Array, "b h w a"], Float[Array, "b h w a 4"]]:
        """Logits and deltas of one level, in float32; `valid` is 1 inside the pictures, and outside nothing counts."""
        x, valid = level, valid.astype(self.dtype)
        for index in range(self.depth):
            name = "conv" if index == 0 else f"conv_{index}"
            x = nn.relu(conv(self.channels, 3, bias=True, dtype=self.dtype, init=SMALL, name=name)(x)) * valid
        logits = conv(self.anchors, 1, bias=True, dtype="float32", init=SMALL, name="logits")(x)
        deltas = conv(self.anchors * 4, 1, bias=True, dtype="float32", init=SMALL, name="deltas")(x)
        return logits, deltas.reshape(*logits.shape, 4)


class DenseHead(nn.Module):
    """Class logits and deltas of each anchor through two towers of convolutions (Lin et al. 2017, RetinaNet).

    Attributes:
      channels: width of the towers.
      depth: 3x3 convolutions in each.
      anchors: anchors per cell.
      classes: logits of an anchor.
      prior: probability of every class before training, so that background anchors do not dominate the first steps.
      norm: "group" puts a group norm after each convolution of the towers, in place of its bias.
      groups: number of groups of "group" norm.
      dtype: what the towers compute in; the parameters are float32.
    """

    channels: int
    depth: int
    anchors: int
    classes: int
    prior: float = 0.01
    norm: str = "none"
    groups: int = 32
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, level: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"]
    ) -> tuple[Float[Array, "b h w a k"], Float[Array, "b h w a 4"]]:
        """Logits and deltas of one level, in float32; `valid` is 1 inside the pictures, and outside nothing counts."""
        last = functools.partial(conv, size=3, bias=True, dtype="float32", init=SMALL)
        prior = nn.initializers.constant(-math.log((1 - self.prior) / self.prior))
        logits = last(self.anchors * self.classes, bias_init=prior, name="logits")(self._tower(level, valid, "class"))
        deltas = last(self.anchors * 4, name="deltas")(self._tower(level, valid, "box"))
        place = level.shape[:3]
        return logits.reshape(*place, self.anchors, self.classes), deltas.reshape(*place, self.anchors, 4)

    def _tower(self, x: Float[Array, "b h w c"], valid: Float[Array, "b h w 1"], name: str) -> Float[Array, "b h w d"]:
        plain = self.norm == "none"
        valid = valid.astype(self.dtype)
        for index in range(self.depth):
            init = SMALL if plain else HE_FAN_OUT
            x = conv(self.channels, 3, bias=plain, dtype=self.dtype, init=init, name=f"{name}_{index}")(x)
            if not plain:
                x = GroupNorm(self.groups, self.dtype, name=f"{name}_{index}_norm")(x, valid)
            x = nn.relu(x) * valid
        return x


class BoxHead(nn.Module):
    """Class logits and deltas of pooled regions through convolutions and dense layers (Lin et al. 2017, section 4.2).

    Attributes:
      classes: number of logits, background included.
      boxes: boxes per region: the number of classes, or 1 if all classes share one.
      convs: 3x3 convolutions, as wide as the pyramid, before the dense layers; each has a norm in place of a bias.
      dense: number of dense layers, called fc6, fc7, ...
      hidden: width of the dense layers.
      norm: of the convolutions, "frozen_batch" or "group".
      groups: number of groups of "group" norm.
      dtype: what the head computes in, up to its last layer; its parameters are float32.
    """

    classes: int
    boxes: int
    convs: int = 0
    dense: int = 2
    hidden: int = 1024
    norm: str = "group"
    groups: int = 32
    dtype: str = "float32"

    @nn.compact
    def __call__(self, pooled: Float[Array, "n r r c"]) -> tuple[Float[Array, "n k"], Float[Array, "n m 4"]]:
        """Logits [n k] and deltas [n m 4] in float32; a grid is flattened in the order r, r, c."""
        x, everywhere = pooled, jnp.ones((*pooled.shape[:3], 1), self.dtype)
        for index in range(self.convs):
            x = conv(pooled.shape[-1], 3, dtype=self.dtype, name=f"conv_{index}")(x)
            options = {"groups": self.groups, "dtype": self.dtype, "name": f"conv_{index}_norm"}
            x = nn.relu(norm(self.norm, **options)(x, everywhere))
        x = x.reshape(x.shape[0], -1)
        he = nn.initializers.he_normal()
        for index in range(self.dense):
            x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, kernel_init=he, name=f"fc{6 + index}")(x))
        x = x.astype(jnp.float32)
        logits = nn.Dense(self.classes, kernel_init=SMALL, name="logits")(x)
        deltas = nn.Dense(self.boxes * 4, kernel_init=nn.initializers.normal(0.001), name="deltas")(x)
        return logits, deltas.reshape(-1, self.boxes, 4)

"""Prediction heads of a two-stage detector: of a level (region proposals) and of a region."""

import flax.linen as nn
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from jaxkd.nets.conv import conv
from jaxkd.nets.norm import norm

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

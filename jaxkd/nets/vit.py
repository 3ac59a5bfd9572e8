"""Vision transformers of foundation models (DINOv2, DINOv3): from pictures to one map of patches.

Sources: Dosovitskiy et al. 2021 (ViT), Oquab et al. 2023 (DINOv2), Darcet et al. 2023 (registers), Simeoni et al. 2025
(DINOv3: rotary positions). Only the forward pass is here: such a net is a frozen teacher.
"""

import functools
from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from jaxkd.nets.norm import valid_cells
from jaxkd.ranges import Count, Natural, NonNegative

PLAIN_CUBIC, SMOOTH_CUBIC = -0.75, -0.5  # coefficient of the cubic kernel without and with antialiasing, as in torch


@dataclass(frozen=True)
class Config:
    """Sizes of the net, and how it tells positions apart."""

    width: Count = 384
    """Width of a token."""
    depth: Count = 12
    """Blocks."""
    heads: Count = 6
    """Heads of the attention."""
    hidden: Count = 1536
    """Width inside a block's two dense layers."""
    patch: Count = 14
    """Pixels of a patch's side."""
    registers: Natural = 0
    """Tokens beside the class token that belong to no patch."""
    positions: Literal["table", "rotary"] = "table"
    """A learned table that is added to the tokens, or rotations of queries and keys by the patch's place."""
    table: Natural = 37
    """Rows and columns of the table."""
    resize: Literal["plain", "offset", "antialias"] = "plain"
    """How the table becomes that of other sizes: by bicubic interpolation, with a tenth of a cell more on each side as
    in the authors' DINOv2 ("offset"), or with a wider kernel where it shrinks ("antialias", nets with registers)."""
    base: NonNegative = 100.0
    """The longest period of the rotations."""
    eps: NonNegative = 1e-6
    """Added to the variance in norms."""


class VisionTransformer(nn.Module):
    """Pictures to the normalised tokens of their patches."""

    config: Config

    @nn.compact
    def __call__(self, images: Float[Array, "b H W 3"], sizes: Int[Array, "b 2"]) -> Float[Array, "b h w c"]:
        """A token a patch; what lies outside of a picture's patches takes no part in its attention.

        Args:
          images: normalised pictures, whose sides are multiples of the patch's.
          sizes: height and width of each picture in pixels; a patch that begins inside counts.
        """
        config = self.config
        x = nn.Conv(config.width, (config.patch,) * 2, strides=config.patch, padding="VALID", name="patch")(images)
        batch, height, width, channels = x.shape
        cells = -(-sizes // config.patch)
        inside = valid_cells(sizes, stride=config.patch, shape=(height, width))[..., 0] > 0
        first = self.param("class_token", nn.initializers.zeros, (1, channels))
        if config.positions == "table":
            table = self.param("positions", nn.initializers.normal(0.02), (1 + config.table**2, channels))
            x, first = x + resized_table(table[1:], cells, shape=(height, width), config=config), first + table[:1]
        x = x.reshape(batch, height * width, channels)
        if config.registers:
            registers = self.param("register_tokens", nn.initializers.zeros, (config.registers, channels))
            first = jnp.concatenate([first, registers])
        x = jnp.concatenate([jnp.broadcast_to(first, (batch, *first.shape)), x], 1)
        seen = jnp.concatenate([jnp.ones((batch, len(first)), bool), inside.reshape(batch, -1)], 1)
        rotations = None
        if config.positions == "rotary":
            rotations = rotary_angles(cells, shape=(height, width), size=channels // config.heads, base=config.base)
        for index in range(config.depth):
            x = Block(config, name=f"block_{index}")(x, seen, rotations)
        x = nn.LayerNorm(config.eps, name="norm")(x[:, len(first) :])
        return x.reshape(batch, height, width, channels) * inside[..., None]


class Block(nn.Module):
    """Attention and two dense layers, each behind a norm and in front of a learned factor."""

    config: Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], seen: Array, rotations: Float[Array, "b p d"] | None
    ) -> Float[Array, "b n c"]:
        """The tokens after this block; those outside of `seen` [b n] are not attended to."""
        config = self.config

        def factor(name: str) -> Array:
            return self.param(name, nn.initializers.ones, (config.width,))

        attended = Attention(config, name="attention")(nn.LayerNorm(config.eps, name="norm1")(x), seen, rotations)
        x = x + factor("scale1") * attended
        hidden = nn.Dense(config.hidden, name="up")(nn.LayerNorm(config.eps, name="norm2")(x))
        return x + factor("scale2") * nn.Dense(config.width, name="down")(nn.gelu(hidden, approximate=False))


class Attention(nn.Module):
    """Attention of several heads among the tokens of a picture."""

    config: Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], seen: Array, rotations: Float[Array, "b p d"] | None
    ) -> Float[Array, "b n c"]:
        """What each token gathers from those that are `seen` [b n]."""
        batch, tokens, channels = x.shape
        heads = (batch, tokens, self.config.heads, channels // self.config.heads)
        query, key, value = (nn.Dense(channels, name=name)(x).reshape(heads) for name in ("query", "key", "value"))
        if rotations is not None:
            query, key = rotated(query, rotations), rotated(key, rotations)
        out = jax.nn.dot_product_attention(query, key, value, mask=seen[:, None, None, :])
        return nn.Dense(channels, name="out")(out.reshape(batch, tokens, channels))


def rotary_angles(
    cells: Int[Array, "b 2"], *, shape: tuple[int, int], size: int, base: float
) -> Float[Array, "b p size"]:
    """The angles of each patch for a head of this size: of its row, then of its column, and both once more.

    A patch's centre lies between -1 and 1 from one edge of the picture to the other.
    """
    frequencies = 2 * np.pi / base ** np.arange(0, 1, 4 / size, dtype=np.float32)
    rows, columns = (
        2 * (jnp.arange(side) + 0.5) / cells[:, axis, None] - 1 for axis, side in enumerate(shape)
    )  # [b h], [b w]
    grid = (len(cells), *shape, len(frequencies))
    by_row = jnp.broadcast_to((rows[..., None] * frequencies)[:, :, None], grid)
    by_column = jnp.broadcast_to((columns[..., None] * frequencies)[:, None], grid)
    angles = jnp.concatenate([by_row, by_column] * 2, -1)
    return angles.reshape(len(cells), -1, size)


def rotated(x: Float[Array, "b n k d"], angles: Float[Array, "b p d"]) -> Float[Array, "b n k d"]:
    """The queries or keys with those of patches, the last ones, turned by their angles."""
    first, patches = x[:, : -angles.shape[1]], x[:, -angles.shape[1] :]
    low, high = jnp.split(patches, 2, -1)
    turned = patches * jnp.cos(angles)[:, :, None] + jnp.concatenate([-high, low], -1) * jnp.sin(angles)[:, :, None]
    return jnp.concatenate([first, turned], 1)


def resized_table(
    table: Float[Array, "s c"], cells: Int[Array, "b 2"], *, shape: tuple[int, int], config: Config
) -> Float[Array, "b h w c"]:
    """The table of positions for pictures of so many rows and columns of patches, on a canvas of `shape` patches.

    A picture of the table's own size gets the table as it is.
    """
    side = config.table
    table = table.reshape(side, side, -1)
    same = (cells == side).all(-1)
    offset = jnp.where(same, 0.0, 0.1) if config.resize == "offset" else jnp.zeros(len(cells))
    weights = functools.partial(bicubic_weights, side=side, antialias=config.resize == "antialias")
    rows, columns = (
        jax.vmap(functools.partial(weights, length=length))(cells[:, axis] + offset)
        for axis, length in enumerate(shape)
    )
    return jnp.einsum("bhy,bwx,yxc->bhwc", rows, columns, table)


def bicubic_weights(cells: Float[Array, ""], *, length: int, side: int, antialias: bool) -> Float[Array, "length side"]:
    """What each of `length` positions takes from `side` values, where `cells` positions span all of them.

    Without antialiasing a value beyond the ends is that at the end; with it, such values do not count.
    """
    ratio = side / cells
    centers = (jnp.arange(length) + 0.5) * ratio - 0.5
    if antialias:
        ratio = jnp.maximum(ratio, 1.0)
        weights = _cubic((jnp.arange(side) - centers[:, None]) / ratio, SMOOTH_CUBIC)
        total = weights.sum(-1, keepdims=True)  # 0 for positions beyond the picture
        return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1.0), 0.0)
    weights = jnp.zeros((length, side))
    for tap in range(-1, 3):
        index = jnp.floor(centers) + tap
        chosen = jnp.clip(index, 0, side - 1)[:, None] == jnp.arange(side)
        weights += chosen * _cubic(centers - index, PLAIN_CUBIC)[:, None]
    return weights


def _cubic(distance: Float[Array, "*n"], a: float) -> Float[Array, "*n"]:
    """The kernel of cubic convolution (Keys 1981) with the coefficient `a`."""
    x = jnp.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return jnp.where(x <= 1, near, jnp.where(x < 2, far, 0.0))

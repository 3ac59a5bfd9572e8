"""Values of feature maps at places between cells, and their weighted sums: deformable attention.

Sources: Zhu et al. 2021, Deformable DETR (arXiv 2010.04159), equation 3; the nearest cell instead of bilinear values as
in RT-DETRv2 (Lv et al. 2024, arXiv 2407.17140).
"""

from collections.abc import Callable, Sequence

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

Sample = Callable[[Float[Array, "h w c"], Float[Array, "n 2"]], Float[Array, "n c"]]


def bilinear(level: Float[Array, "h w c"], places: Float[Array, "n 2"]) -> Float[Array, "n c"]:
    """The values of a map at places (x, y), in shares of its sides, by bilinear interpolation of the cells' centres.

    Cells beyond the map's edges count 0.
    """
    height, width, _ = level.shape
    points = places * jnp.asarray((width, height), places.dtype) - 0.5
    first = jnp.floor(points)
    share = points - first
    cells, total = level.reshape(height * width, -1), jnp.zeros((len(places), level.shape[-1]), level.dtype)
    for right in (0, 1):
        for below in (0, 1):
            x, y = first[:, 0] + right, first[:, 1] + below
            weight = (share[:, 0] if right else 1 - share[:, 0]) * (share[:, 1] if below else 1 - share[:, 1])
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            total += jnp.where(inside, weight, 0.0)[:, None] * cells[_index(x, y, height=height, width=width)]
    return total


def nearest(level: Float[Array, "h w c"], places: Float[Array, "n 2"]) -> Float[Array, "n c"]:
    """The values of a map at places (x, y), in shares of its sides, of one cell each.

    On a side of n cells it is the cell with the index p n + 1/2 without its fraction, and that at the edge beyond it.
    """
    height, width, _ = level.shape
    x, y = jnp.trunc(places * jnp.asarray((width, height), places.dtype) + 0.5).T
    return level.reshape(height * width, -1)[_index(x, y, height=height, width=width)]


def attend(
    levels: Sequence[Float[Array, "_ _ k d"]],
    places: Float[Array, "q k p 2"],
    weights: Float[Array, "q k p"],
    *,
    points: Sequence[int],
    sample: Sample = bilinear,
) -> Float[Array, "q k d"]:
    """What each query gathers by each head k from the levels: the weighted sum of their values at its places.

    Args:
      levels: the maps, with the channels of each head.
      places: (x, y) in shares of a map's sides, level by level.
      weights: one of each place.
      points: places of a query and head on each level, of which there are p in all.
      sample: `bilinear` or `nearest`.
    """
    queries, heads = places.shape[:2]
    total, start = jnp.zeros((queries, heads, levels[0].shape[-1]), levels[0].dtype), 0
    for level, count in zip(levels, points, strict=True):
        part = slice(start, start + count)
        flat = places[:, :, part].swapaxes(0, 1).reshape(heads, queries * count, 2)
        values = jax.vmap(sample, in_axes=(2, 0))(level, flat).reshape(heads, queries, count, -1)
        total += jnp.einsum("kqpd,qkp->qkd", values, weights[:, :, part])
        start += count
    return total


def _index(x: Float[Array, "n"], y: Float[Array, "n"], *, height: int, width: int) -> Array:
    """Row-major indices of cells, those beyond an edge at it."""
    rows, columns = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
    return rows.astype(jnp.int32) * width + columns.astype(jnp.int32)

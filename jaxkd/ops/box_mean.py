"""The mean feature of the map cells under each box, without interpolation."""

from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Num


def box_mean(
    level: Float[Array, "h w c"], boxes: Float[Array, "n 4"], *, scale: Num[Array, "2"] | float
) -> Float[Array, "n c"]:
    """The mean of each box's cells, from the cell of its first corner to the cell of its last, both included.

    Rows floor(y0 s) to floor(y1 s) and columns floor(x0 s) to floor(x1 s), clamped to the map; a box outside gets the
    nearest cells. Computed at least in float32; gradients flow into the level, not into the boxes.

    Args:
      level: the map of one picture.
      boxes: in pixels.
      scale: cells a pixel, 1 / stride or the true ratio (map side / picture side) of (y, x).

    Source: Tang et al. 2022, GKD.
    """
    features = level.astype(jnp.promote_types(level.dtype, jnp.float32))
    rows, columns = (mask.astype(features.dtype) for mask in cell_range(boxes, shape=level.shape[:2], scale=scale))
    area = rows.sum(-1) * columns.sum(-1)
    row_sums = jnp.einsum("nh,hwc->nwc", rows, features, precision=lax.Precision.HIGHEST)
    return jnp.einsum("nw,nwc->nc", columns, row_sums, precision=lax.Precision.HIGHEST) / area[:, None]


def cell_range(
    boxes: Float[Array, "n 4"], *, shape: tuple[int, ...], scale: Num[Array, "2"] | float
) -> tuple[Bool[Array, "n h"], Bool[Array, "n w"]]:
    """Masks of the rows and the columns of a map of `shape` (height, width) that `box_mean` averages for each box."""
    scale = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), (2,))
    boxes = lax.stop_gradient(boxes.astype(jnp.float32))

    def inside(low: Float[Array, "n"], high: Float[Array, "n"], side: int) -> Bool[Array, "n {side}"]:
        first = jnp.clip(jnp.floor(low), 0, side - 1)[:, None]
        last = jnp.clip(jnp.floor(high), 0, side - 1)[:, None]
        cells = jnp.arange(side)
        return (cells >= first) & (cells <= jnp.maximum(last, first))

    rows = inside(boxes[:, 1] * scale[0], boxes[:, 3] * scale[0], shape[0])
    columns = inside(boxes[:, 0] * scale[1], boxes[:, 2] * scale[1], shape[1])
    return rows, columns

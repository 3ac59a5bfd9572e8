"""A feature map of one canvas on the grid of another canvas that shows the same picture."""

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Num


def resample(
    level: Float[Array, "h w c"],
    shape: tuple[int, int],
    *,
    stride: int,
    scale: Float[Array, "2"],
    size: Num[Array, "2"],
    new_size: Num[Array, "2"],
) -> Float[Array, "{shape[0]} {shape[1]} c"]:
    """The map at the cell centres of a grid of `shape` on the other canvas, bilinear, computed in float32.

    A picture's place y on the other canvas is y * scale on that of the map. Cells outside of the picture are not read,
    and are 0 in what comes out: a place near the edge gets the value of the last cell that holds a part of the picture.

    Args:
      level: the map.
      shape: height and width of the new grid in cells.
      stride: pixels of a cell, of both grids, each of its canvas.
      scale: (y, x) factors from pixels of the other canvas to those of the map's.
      size: height and width of the picture on the map's canvas.
      new_size: and on the other one.
    """
    rows, columns = (
        _weights(shape[axis], level.shape[axis], stride, scale[axis], (size[axis], new_size[axis])) for axis in (0, 1)
    )
    values = level.astype(jnp.float32)
    out = jnp.einsum("ih,jw,hwc->ijc", rows, columns, values, precision=jax.lax.Precision.HIGHEST)
    return out.astype(level.dtype)


def _weights(
    count: int, cells: int, stride: int, scale: Float[Array, ""], sizes: tuple[Num[Array, ""], Num[Array, ""]]
) -> Float[Array, "{count} {cells}"]:
    """The weight of each old cell in each new one, along one axis; `sizes` are the picture's, old and new."""
    new = jnp.arange(count, dtype=jnp.float32)
    last = jnp.ceil(sizes[0] / stride) - 1.0  # the last cell that holds a part of the picture
    place = jnp.clip((new + 0.5) * scale - 0.5, 0.0, jnp.maximum(last, 0.0))  # in old cells
    weights = jnp.maximum(1.0 - jnp.abs(place[:, None] - jnp.arange(cells)), 0.0)
    return jnp.where((new * stride < sizes[1])[:, None], weights, 0.0)

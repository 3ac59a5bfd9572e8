"""What every formulation of RoIAlign has to know of a region: its level, and where its samples lie."""

from collections.abc import Sequence
from typing import NamedTuple

from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from jaxkd.ops.masks import box_level


class RegionMaps(NamedTuple):
    """Regions of all images in one row, n = b * r, each measured in the cells of the level that it reads."""

    level: Int[Array, " n"]
    x: Float[Array, "n 2"]  # start and size along the rows
    y: Float[Array, "n 2"]  # start and size along the columns
    height: Int[Array, " n"]  # cells of the map that hold the picture
    width: Int[Array, " n"]
    pitch: Int[Array, " n"]  # cells of a row of the map
    offset: Int[Array, " n"]  # of the map's first cell, where all levels of all images lie in one row


def check_sizes(pyramid: Sequence[Array], strides: Sequence[int], **sizes: int) -> None:
    """Raises ValueError if there is not one stride a level, or one of the named sizes is not positive."""
    if len(strides) != len(pyramid):
        raise ValueError(
            f"RoIAlign was given {len(strides)} strides for {len(pyramid)} levels of a pyramid; give one for each."
        )
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"RoIAlign was given {name}={size}; it must be at least 1.")


def region_maps(
    shapes: Sequence[tuple[int, int]],
    boxes: Float[Array, "b r 4"],
    strides: Sequence[int],
    extents: Int[Array, "b 2"] | None,
    *,
    aligned: bool,
    canonical_scale: float,
    canonical_level: int,
    first_level: int,
) -> RegionMaps:
    """The level of each box, its place there and the extent of that map; constants to gradients.

    Args:
        shapes: height and width in cells of each level.
        boxes: (x0, y0, x1, y1) in pixels.
        strides: pixels a cell of each level.
        extents: height and width in pixels of each picture; the whole map where None.
        aligned, canonical_scale, canonical_level, first_level: as in `roi_align.roi_align_batch`.
    """
    b, r, _ = boxes.shape
    boxes = lax.stop_gradient(boxes).astype(jnp.float32)
    level = box_level(
        boxes,
        levels=len(shapes),
        first=first_level,
        canonical_scale=canonical_scale,
        canonical_level=canonical_level,
        epsilon=1e-6,
    )
    level = jnp.clip(level, 0, len(shapes) - 1)  # also of boxes that are not numbers
    cells = jnp.array(shapes, jnp.int32)  # [l 2]
    stride = jnp.array(strides, jnp.int32)
    image = jnp.arange(b, dtype=jnp.int32)[:, None]
    used = cells[level]
    if extents is not None:
        pixels = extents.astype(jnp.int32)[:, None, :]
        used = jnp.clip(-(-pixels // stride[level][..., None]), 1, used)
    corners = boxes / stride[level][..., None] - (0.5 if aligned else 0.0)
    start, size = corners[..., :2], corners[..., 2:] - corners[..., :2]
    if not aligned:
        size = jnp.maximum(size, 1.0)
    area = cells[:, 0] * cells[:, 1]
    before = jnp.cumsum(area) - area  # cells of all finer levels of one image
    maps = RegionMaps(
        level=level,
        x=jnp.stack([start[..., 0], size[..., 0]], -1),
        y=jnp.stack([start[..., 1], size[..., 1]], -1),
        height=used[..., 0],
        width=used[..., 1],
        pitch=cells[level, 1],
        offset=before[level] * b + image * area[level],
    )
    return RegionMaps(*(x.reshape(b * r, *x.shape[2:]) for x in maps))


def samples(
    span: Float[Array, "2"], cells: Int[Array, ""], *, resolution: int, most: int, adaptive: bool
) -> tuple[Float[Array, "{resolution} {most}"], Float[Array, "{resolution} {most}"]]:
    """Where along an axis the samples of each bin lie, in cells within the map, and their shares in its mean.

    A sample that does not count lies at 0 and has no share.

    Args:
        span: start and size of the region in cells.
        cells: of the map along this axis.
        resolution: bins.
        most: samples a bin.
        adaptive: only as many of them as a bin has cells.
    """
    start, size = span
    count = jnp.clip(jnp.ceil(size / resolution), 1, most) if adaptive else jnp.float32(most)
    number = jnp.arange(most, dtype=jnp.float32)
    place = jnp.arange(resolution, dtype=jnp.float32)[:, None] + (number + 0.5) / count
    place = start + place * (size / resolution)
    counts = (place >= -1) & (place <= cells) & (number < count)
    return jnp.where(counts, jnp.clip(place, 0, cells - 1), 0.0), counts / count

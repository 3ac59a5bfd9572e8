"""Parts that all formulations of RoIAlign share: pooling options, the level of a region, and its sample positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from jaxkd.ops.masks import box_level


def check_strides(pyramid: Sequence[Array], strides: Sequence[int]) -> None:
    """Raises ValueError if there is not one stride for each level."""
    if len(strides) != len(pyramid):
        raise ValueError(
            f"RoIAlign was given {len(strides)} strides for {len(pyramid)} levels of a pyramid; give one for each."
        )


def check_sizes(**sizes: int) -> None:
    """Raises ValueError if one of the named sizes is not positive."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"RoIAlign was given {name}={size}; it must be at least 1.")


@dataclass(frozen=True)
class Pooling:
    """How regions are pooled; hashable, so that it may be a static argument of `jax.jit`.

    Attributes:
        resolution: bins along each side.
        sampling_ratio: samples along each side of a bin.
        adaptive: as many samples as a bin has cells along that side, at most `sampling_ratio`: the sampling ratio of 0
            of detectron2 and mmdetection, with a limit. A limit of 6 is reached by sides of 43 cells.
        aligned: whether coordinates are shifted by half a cell, and boxes may have any size. False is the older rule,
            for weights that were trained by it: no shift, and boxes of at least one cell.
        canonical_scale: side in pixels of the square box that is pooled from `canonical_level`.
        canonical_level: the number of that level.
        first_level: the number of the finest level, 2 for P2.
        chunk: number of boxes pooled at a time.

    Raises:
        ValueError: if `resolution`, `sampling_ratio` or `chunk` is below 1.
    """

    resolution: int = 7
    sampling_ratio: int = 2
    adaptive: bool = False
    aligned: bool = True
    canonical_scale: float = 224.0
    canonical_level: int = 4
    first_level: int = 2
    chunk: int = 16

    def __post_init__(self):
        check_sizes(resolution=self.resolution, sampling_ratio=self.sampling_ratio, chunk=self.chunk)


DEFAULT = Pooling()


class RegionMaps(NamedTuple):
    """Regions of all images along one axis, n = b * r, each in cells of its level."""

    level: Int[Array, " n"]
    x: Float[Array, "n 2"]  # start and size along the rows
    y: Float[Array, "n 2"]  # start and size along the columns
    height: Int[Array, " n"]  # cells of the map that hold the picture
    width: Int[Array, " n"]
    pitch: Int[Array, " n"]  # row length of the map, in cells
    offset: Int[Array, " n"]  # index of the map's first cell in the flat array of all levels of all images


def region_maps(
    shapes: Sequence[tuple[int, int]],
    boxes: Float[Array, "b r 4"],
    *,
    strides: Sequence[int],
    extents: Int[Array, "b 2"] | None,
    pooling: Pooling,
) -> RegionMaps:
    """The level of each box, its position there and the extent of that map; without gradients.

    Args:
        shapes: height and width in cells of each level.
        boxes: (x0, y0, x1, y1) in pixels.
        strides: pixels per cell of each level.
        extents: height and width in pixels of each picture; the whole map where None.
        pooling: only `aligned` and the assignment of levels are used.
    """
    b, r, _ = boxes.shape
    boxes = lax.stop_gradient(boxes).astype(jnp.float32)
    level = box_level(
        boxes,
        levels=len(shapes),
        first=pooling.first_level,
        canonical_scale=pooling.canonical_scale,
        canonical_level=pooling.canonical_level,
        epsilon=1e-6,
    )
    level = jnp.clip(level, 0, len(shapes) - 1)  # also of boxes with NaN
    cells = jnp.array(shapes, jnp.int32)  # [l 2]
    stride = jnp.array(strides, jnp.int32)
    image = jnp.arange(b, dtype=jnp.int32)[:, None]
    extent = cells[level]
    if extents is not None:
        pixels = extents.astype(jnp.int32)[:, None, :]
        extent = jnp.clip(-(-pixels // stride[level][..., None]), 1, extent)
    corners = boxes / stride[level][..., None] - (0.5 if pooling.aligned else 0.0)
    start, size = corners[..., :2], corners[..., 2:] - corners[..., :2]
    if not pooling.aligned:
        size = jnp.maximum(size, 1.0)
    area = cells[:, 0] * cells[:, 1]
    level_offset = jnp.cumsum(area) - area  # cells of all finer levels of one image
    maps = RegionMaps(
        level=level,
        x=jnp.stack([start[..., 0], size[..., 0]], -1),
        y=jnp.stack([start[..., 1], size[..., 1]], -1),
        height=extent[..., 0],
        width=extent[..., 1],
        pitch=cells[level, 1],
        offset=level_offset[level] * b + image * area[level],
    )
    return RegionMaps(*(x.reshape(b * r, *x.shape[2:]) for x in maps))


def samples(
    span: Float[Array, "2"], cells: Int[Array, ""], *, pooling: Pooling
) -> tuple[
    Float[Array, "{pooling.resolution} {pooling.sampling_ratio}"],
    Float[Array, "{pooling.resolution} {pooling.sampling_ratio}"],
]:
    """The positions along an axis of the samples of each bin, in cells within the map, and their shares in its mean.

    An unused sample has position 0 and share 0.

    Args:
        span: start and size of the region in cells.
        cells: number of cells of the map along this axis.
        pooling: only `resolution`, `sampling_ratio` and `adaptive` are used.
    """
    start, size = span
    resolution, max_count = pooling.resolution, pooling.sampling_ratio
    count = jnp.clip(jnp.ceil(size / resolution), 1, max_count) if pooling.adaptive else jnp.float32(max_count)
    sample = jnp.arange(max_count, dtype=jnp.float32)
    position = jnp.arange(resolution, dtype=jnp.float32)[:, None] + (sample + 0.5) / count
    position = start + position * (size / resolution)
    inside = (position >= -1) & (position <= cells) & (sample < count)
    return jnp.where(inside, jnp.clip(position, 0, cells - 1), 0.0), inside / count

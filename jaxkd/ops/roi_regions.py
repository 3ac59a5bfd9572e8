"""What every formulation of RoIAlign has to know: how to pool, the level of a region, and where its samples lie."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from jaxkd.ops.masks import box_level


def check_strides(pyramid: Sequence[Array], strides: Sequence[int]) -> None:
    """Raises ValueError if there is not one stride a level."""
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
        adaptive: as many samples as a bin has cells along that side, at most `sampling_ratio`; what detectron2 and
            mmdetection call a sampling ratio of 0, but for the limit. With 6 it is reached by sides of 43 cells.
        aligned: whether the centre of a cell lies half a cell in, and boxes may be as small as they like. False is the
            older rule of weights that were trained without it: no shift, and boxes of at least one cell.
        canonical_scale: side in pixels of the square box that reads `canonical_level`.
        canonical_level: the number of that level.
        first_level: the number of the finest level, 2 for P2.
        chunk: boxes worked on at a time.

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
    """Regions of all images in one row, n = b * r, each measured in the cells of the level that it reads."""

    level: Int[Array, " n"]
    x: Float[Array, "n 2"]  # start and size along the rows
    y: Float[Array, "n 2"]  # start and size along the columns
    height: Int[Array, " n"]  # cells of the map that hold the picture
    width: Int[Array, " n"]
    pitch: Int[Array, " n"]  # cells of a row of the map
    offset: Int[Array, " n"]  # of the map's first cell, where all levels of all images lie in one row


def region_maps(
    shapes: Sequence[tuple[int, int]],
    boxes: Float[Array, "b r 4"],
    *,
    strides: Sequence[int],
    extents: Int[Array, "b 2"] | None,
    pooling: Pooling,
) -> RegionMaps:
    """The level of each box, its place there and the extent of that map; constants to gradients.

    Args:
        shapes: height and width in cells of each level.
        boxes: (x0, y0, x1, y1) in pixels.
        strides: pixels a cell of each level.
        extents: height and width in pixels of each picture; the whole map where None.
        pooling: of which this needs `aligned` and the rule for levels.
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
    level = jnp.clip(level, 0, len(shapes) - 1)  # also of boxes that are not numbers
    cells = jnp.array(shapes, jnp.int32)  # [l 2]
    stride = jnp.array(strides, jnp.int32)
    image = jnp.arange(b, dtype=jnp.int32)[:, None]
    used = cells[level]
    if extents is not None:
        pixels = extents.astype(jnp.int32)[:, None, :]
        used = jnp.clip(-(-pixels // stride[level][..., None]), 1, used)
    corners = boxes / stride[level][..., None] - (0.5 if pooling.aligned else 0.0)
    start, size = corners[..., :2], corners[..., 2:] - corners[..., :2]
    if not pooling.aligned:
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
    span: Float[Array, "2"], cells: Int[Array, ""], *, pooling: Pooling
) -> tuple[
    Float[Array, "{pooling.resolution} {pooling.sampling_ratio}"],
    Float[Array, "{pooling.resolution} {pooling.sampling_ratio}"],
]:
    """Where along an axis the samples of each bin lie, in cells within the map, and their shares in its mean.

    A sample that does not count lies at 0 and has no share.

    Args:
        span: start and size of the region in cells.
        cells: of the map along this axis.
        pooling: of which this needs `resolution`, `sampling_ratio` and `adaptive`.
    """
    start, size = span
    resolution, most = pooling.resolution, pooling.sampling_ratio
    count = jnp.clip(jnp.ceil(size / resolution), 1, most) if pooling.adaptive else jnp.float32(most)
    number = jnp.arange(most, dtype=jnp.float32)
    place = jnp.arange(resolution, dtype=jnp.float32)[:, None] + (number + 0.5) / count
    place = start + place * (size / resolution)
    counts = (place >= -1) & (place <= cells) & (number < count)
    return jnp.where(counts, jnp.clip(place, 0, cells - 1), 0.0), counts / count

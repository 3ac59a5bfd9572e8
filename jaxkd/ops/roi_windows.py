"""RoIAlign by matrix products over windows that neighbouring regions share."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxkd.ops.roi_regions import DEFAULT, Pooling, RegionMaps, check_sizes, check_strides, region_maps, samples

SUBLANES = 8  # cells of a row in one tile of a TPU; windows begin at multiples of it
FAR = 1 << 20  # beyond any cell


def roi_align_windows(
    pyramids: Sequence[Float[Array, "b _ _ c"]],
    boxes: Float[Array, "b r 4"],
    *,
    strides: Sequence[int],
    extents: Int[Array, "b 2"] | None = None,
    pooling: Pooling = DEFAULT,
    window: tuple[int, int] = (64, 128),
) -> Float[Array, "b r {pooling.resolution} {pooling.resolution} c"]:
    """What `roi_align.roi_align_batch` returns, without a gather of cells.

    The regions of each level of each image are sorted along a Hilbert curve through their centres and pooled
    `Pooling.chunk` at a time. The cells that a chunk reads lie in one rectangle, which is covered by as many windows as
    needed, usually one. Each window is one slice of the map and one matrix product: bilinear weights
    [chunk * resolution**2, cells] times features [cells, c]. The result is exact for every box, as the windows always
    cover the rectangle. The gradient is the transposed product, added to the same slice, in float32. Weights and
    products are in the dtype of the features, sums in float32. There is no derivative in forward mode.

    Args:
        pyramids, boxes, strides, extents, pooling: as in `roi_align_batch`; `Pooling.chunk` regions share windows.
        window: height and width of a window in cells; its width is rounded up to a multiple of 8.

    Raises:
        ValueError: if there is not one stride for each level, or a side of the window is not positive.
    """
    check_strides(pyramids, strides)
    check_sizes(window=min(window))
    b, r, _ = boxes.shape
    channels, dtype, resolution = pyramids[0].shape[-1], pyramids[0].dtype, pooling.resolution
    if r == 0:
        return jnp.zeros((b, r, resolution, resolution, channels), dtype)
    shapes = tuple((x.shape[1], x.shape[2]) for x in pyramids)
    maps = region_maps(shapes, boxes, strides=strides, extents=extents, pooling=pooling)
    layout = Layout(pooling=pooling, images=b, shapes=shapes, window=window, channels=channels, dtype=dtype)
    plan, slot = _plan(layout, maps)
    pooled = jnp.reshape(_pool(tuple(pyramids), plan, layout), (-1, resolution, resolution, channels))
    return pooled.at[slot].get(mode="promise_in_bounds", unique_indices=True).reshape(b, r, *pooled.shape[1:])


@dataclass(frozen=True)
class Layout:
    """The static sizes of one call."""

    pooling: Pooling
    images: Any  # a number, or symbolic in a program that is exported for any number of images
    shapes: tuple[tuple[int, int], ...]
    window: tuple[int, int]
    channels: int
    dtype: Any

    @property
    def chunk(self) -> int:
        """Regions that share windows."""
        return self.pooling.chunk

    @property
    def resolution(self) -> int:
        """Bins along each side of a region."""
        return self.pooling.resolution

    def width(self, level: int) -> int:
        """Width of a level's map, rounded up to whole tiles."""
        return -(-self.shapes[level][1] // SUBLANES) * SUBLANES

    def windows(self, level: int) -> tuple[int, int]:
        """Height and width of a level's windows."""
        height, width = self.window
        return min(height, self.shapes[level][0]), min(-(-width // SUBLANES) * SUBLANES, self.width(level))


class Plan(NamedTuple):
    """The n chunks, level by level."""

    axes: Float[Array, "n samples bins"]  # positions and shares of the samples: y, share of y, x, share of x
    corner: Int[Array, "n 2"]  # row and column at which the first window begins
    size: Int[Array, "n 2"]  # rows and columns of cells that the chunk reads
    ends: Int[Array, "runs+1"]  # the first chunk of each image, level by level, and the end


def _plan(layout: Layout, maps: RegionMaps) -> tuple[Plan, Int[Array, "regions"]]:
    """The chunks, and the slot of each region among those of all chunks."""
    axis_samples = jax.vmap(functools.partial(samples, pooling=layout.pooling))
    (y, y_share), (x, x_share) = axis_samples(maps.y, maps.height), axis_samples(maps.x, maps.width)
    low, high = (jnp.stack(ends, -1) for ends in zip(_cell_range(y, y_share), _cell_range(x, x_share), strict=True))
    nonempty = (low < FAR).all(-1)
    slot, ends, count = _assign_slots(layout, maps.level, low, high, nonempty)
    region_of_slot = (
        jnp.full(count * layout.chunk, slot.shape[0], jnp.int32)
        .at[slot]
        .set(jnp.arange(slot.shape[0], dtype=jnp.int32))
    )

    def by_chunk(rows: Shaped[Array, "regions *rest"], fill: float | int) -> Shaped[Array, "n chunk *rest"]:
        """The rows of the regions of each chunk; unused slots are filled with `fill`."""
        rows = jnp.concatenate([rows, jnp.full_like(rows[:1], fill)])[region_of_slot]
        return rows.reshape(count, layout.chunk, *rows.shape[1:])

    axes = by_chunk(jnp.concatenate([y, y_share, x, x_share], -1), 0.0)  # [n chunk bins samples]
    axes = axes.transpose(0, 3, 1, 2).reshape(
        count, 4 * layout.pooling.sampling_ratio, layout.chunk * layout.resolution
    )
    bounds = jnp.where(nonempty[:, None], jnp.concatenate([low, -high], -1), FAR)
    bounds = by_chunk(bounds, FAR).min(1)  # the rectangle around all regions of a chunk
    nonempty_chunk = bounds[:, 0] < FAR
    corner = jnp.where(nonempty_chunk[:, None], bounds[:, :2], 0)
    corner = corner - corner % jnp.array([1, SUBLANES])
    size = jnp.where(nonempty_chunk[:, None], 1 - bounds[:, 2:] - corner, 0)
    return Plan(axes, corner, size, ends), slot


def _cell_range(
    position: Float[Array, "regions bins samples"], share: Float[Array, "regions bins samples"]
) -> tuple[Int[Array, "regions"], Int[Array, "regions"]]:
    """The first and the last cell that each region reads along an axis; FAR and 1 - FAR where it reads none."""
    used = share > 0
    low = jnp.where(used, position, FAR).min((1, 2)).astype(jnp.int32)
    return low, jnp.where(used, position, -FAR).max((1, 2)).astype(jnp.int32) + 1


def _assign_slots(
    layout: Layout,
    level: Int[Array, "regions"],
    low: Int[Array, "regions 2"],
    high: Int[Array, "regions 2"],
    nonempty: Bool[Array, "regions"],
) -> tuple[Int[Array, "regions"], Int[Array, "ends"], Any]:
    """The slot of each region among those of all chunks, the first chunk of each run, and the number of chunks.

    A run is the regions of one level of one image, sorted along a Hilbert curve; each run begins a new chunk.
    """
    images, levels, chunk = layout.images, len(layout.shapes), layout.chunk
    r = level.shape[0] // images
    center = jnp.clip((low + high) // 2, 0, (1 << 10) - 1) >> 2
    key = jnp.where(nonempty, _hilbert(center[:, 0], center[:, 1], bits=8), 1 << 16) + (level << 17)
    level, key = level.reshape(images, r), key.reshape(images, r)
    order = jnp.argsort(key, axis=1)
    level = jnp.take_along_axis(level, order, 1)
    count = (level[:, :, None] == jnp.arange(levels)).sum(1, dtype=jnp.int32)  # [image level]
    chunks = (-(-count // chunk)).T.reshape(-1)  # level by level, image by image within
    first_chunk = jnp.cumsum(chunks) - chunks
    regions_before = jnp.cumsum(count, 1) - count
    shift = first_chunk.reshape(levels, images).T * chunk - regions_before
    slot = jnp.arange(r, dtype=jnp.int32) + jnp.take_along_axis(shift, level, 1)
    order = order + jnp.arange(images, dtype=order.dtype)[:, None] * r
    slot = jnp.zeros(images * r, jnp.int32).at[order.reshape(-1)].set(slot.reshape(-1), unique_indices=True)
    ends = jnp.append(first_chunk, chunks.sum())
    return slot, ends, images * (-(-r // chunk) + min(levels, r) - 1)


def _hilbert(y: Int[Array, "regions"], x: Int[Array, "regions"], *, bits: int) -> Int[Array, "regions"]:
    """The index of a cell on a Hilbert curve; neighbours on the curve are neighbours in the plane."""
    key, last = jnp.zeros_like(x), (1 << bits) - 1
    for bit in reversed(range(bits)):
        right, down = (x >> bit) & 1, (y >> bit) & 1
        key = key * 4 + ((3 * right) ^ down)
        rotate = (down == 0) & (right == 1)
        x, y = jnp.where(rotate, last - x, x), jnp.where(rotate, last - y, y)
        x, y = jnp.where(down == 0, y, x), jnp.where(down == 0, x, y)
    return key


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pool(
    levels: tuple[Float[Array, "b _ _ c"], ...], plan: Plan, layout: Layout
) -> Float[Array, "n {layout.chunk} {layout.resolution} {layout.resolution} c"]:
    """The pooled regions of all chunks."""
    n, bins = plan.corner.shape[0], layout.resolution
    out = jnp.zeros((n, layout.chunk, bins, bins, layout.channels), layout.dtype)
    for number, level in enumerate(levels):
        blocks = _in_blocks(level, layout, number)

        def image(
            index: Int[Array, ""],
            out: Float[Array, "n chunk i i c"],
            blocks: Float[Array, "b h w 8 c"] = blocks,
            number: int = number,
        ) -> Float[Array, "n chunk i i c"]:
            image_blocks = lax.dynamic_slice_in_dim(blocks, index, 1)
            shape = (1, *_window(layout, number), *image_blocks.shape[3:])

            def chunk(index: Int[Array, ""], out: Float[Array, "n chunk i i c"]) -> Float[Array, "n chunk i i c"]:
                def add(step: Int[Array, ""], total: Float[Array, "chunk i i c"]) -> Float[Array, "chunk i i c"]:
                    start, weights = _weights(plan, layout, number, index, step)
                    cells = lax.dynamic_slice(image_blocks, start, shape).reshape(*weights.shape[3:], -1)
                    return total + _product("gijhw,hwc->gijc", weights, cells)

                total = lax.fori_loop(
                    0, _window_count(plan, layout, number, index), add, jnp.zeros(out.shape[1:], jnp.float32)
                )
                return out.at[index].set(total.astype(out.dtype))

            return lax.fori_loop(*_chunk_range(plan, layout, number, index), chunk, out)

        out = lax.fori_loop(0, layout.images, image, out)
    return out


def _pool_forward(
    levels: tuple[Float[Array, "b _ _ c"], ...], plan: Plan, layout: Layout
) -> tuple[Float[Array, "n {layout.chunk} {layout.resolution} {layout.resolution} c"], Plan]:
    return _pool(levels, plan, layout), plan


def _pool_backward(
    layout: Layout, plan: Plan, gradient: Float[Array, "n {layout.chunk} {layout.resolution} {layout.resolution} c"]
) -> tuple[tuple[Float[Array, "b _ _ c"], ...], None]:
    """The gradients of the levels, and None for the plan."""
    levels = []
    for number, (height, width) in enumerate(layout.shapes):
        blocks = jnp.zeros((1, height, layout.width(number) // SUBLANES, SUBLANES, layout.channels), jnp.float32)
        shape = (1, *_window(layout, number), *blocks.shape[3:])

        def image(
            index: Int[Array, ""],
            blocks: Float[Array, "1 h w 8 c"] = blocks,
            shape: tuple = shape,
            number: int = number,
            width: int = width,
        ) -> Float[Array, "h {width} c"]:
            def chunk(index: Int[Array, ""], blocks: Float[Array, "1 h w 8 c"]) -> Float[Array, "1 h w 8 c"]:
                def add(step: Int[Array, ""], blocks: Float[Array, "1 h w 8 c"]) -> Float[Array, "1 h w 8 c"]:
                    start, weights = _weights(plan, layout, number, index, step)
                    cells = _product("gijhw,gijc->hwc", weights, gradient[index]).reshape(shape)
                    return lax.dynamic_update_slice(blocks, lax.dynamic_slice(blocks, start, shape) + cells, start)

                return lax.fori_loop(0, _window_count(plan, layout, number, index), add, blocks)

            blocks = lax.fori_loop(*_chunk_range(plan, layout, number, index), chunk, blocks)
            return blocks.reshape(len(blocks[0]), -1, layout.channels)[:, :width].astype(layout.dtype)

        levels.append(lax.map(image, jnp.arange(layout.images)))
    return tuple(levels), None


_pool.defvjp(_pool_forward, _pool_backward)


def _in_blocks(level: Float[Array, "b h w c"], layout: Layout, number: int) -> Float[Array, "b h blocks tile c"]:
    """A level in blocks of 8 cells of a row, so that no slice begins within a tile."""
    b, height, width, channels = level.shape
    level = jnp.pad(level, ((0, 0), (0, 0), (0, layout.width(number) - width), (0, 0)))
    return level.reshape(b, height, -1, SUBLANES, channels)


def _window(layout: Layout, number: int) -> tuple[int, int]:
    """Height in rows and width in blocks of a level's windows."""
    height, width = layout.windows(number)
    return height, width // SUBLANES


def _chunk_range(
    plan: Plan, layout: Layout, number: int, image: Int[Array, ""]
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The first chunk of a level of an image, and the end of its chunks."""
    run = number * layout.images + image
    return plan.ends[run], plan.ends[run + 1]


def _window_count(plan: Plan, layout: Layout, number: int, index: Int[Array, ""]) -> Int[Array, ""]:
    """The number of windows of a chunk."""
    height, width = layout.windows(number)
    return -(-plan.size[index, 0] // height) * -(-plan.size[index, 1] // width)


def _weights(
    plan: Plan, layout: Layout, number: int, index: Int[Array, ""], step: Int[Array, ""]
) -> tuple[tuple, Float[Array, "{layout.chunk} {layout.resolution} {layout.resolution} h w"]]:
    """The start of a window in its level in blocks, one index for each axis, and its weights."""
    height, width = layout.windows(number)
    windows_per_row = jnp.maximum(-(-plan.size[index, 1] // width), 1)
    top = plan.corner[index, 0] + step // windows_per_row * height
    left = plan.corner[index, 1] + step % windows_per_row * width
    row = jnp.minimum(top, layout.shapes[number][0] - height)
    column = jnp.minimum(left, layout.width(number) - width)
    sample_count = plan.axes.shape[1] // 4
    y, y_share, x, x_share = plan.axes[index].reshape(4, sample_count, -1)
    rows = _bilinear(y, y_share, row, top, height).reshape(layout.chunk, layout.resolution, height)
    columns = _bilinear(x, x_share, column, left, width).reshape(layout.chunk, layout.resolution, width)
    weights = rows[:, :, None, :, None] * columns[:, None, :, None, :]
    return (0, row, column // SUBLANES, 0, 0), weights.astype(layout.dtype)


def _bilinear(
    position: Float[Array, "samples bins"],
    share: Float[Array, "samples bins"],
    start: Int[Array, ""],
    first_new: Int[Array, ""],
    length: int,
) -> Float[Array, "bins {length}"]:
    """Bilinear weights of the cells from `start`; those before `first_new` belong to the window before."""
    cells = start + jnp.arange(length)
    weights = jnp.maximum(1 - jnp.abs(position[..., None] - cells), 0) * share[..., None]
    return jnp.where(cells >= first_new, weights.sum(0), 0.0)


def _product(subscripts: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """The einsum of two arrays, with sums in float32."""
    precision = "highest" if a.dtype == jnp.float32 else None
    return jnp.einsum(subscripts, a, b, precision=precision, preferred_element_type=jnp.float32)

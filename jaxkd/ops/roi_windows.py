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

SUBLANES = 8  # cells of a row that lie together in a TPU's tile; windows begin at multiples of it
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

    The regions of each level of each image are put in the order of a Hilbert curve through their centres and walked
    `Pooling.chunk` at a time. The cells that a chunk reads lie in one rectangle, which is covered by as many windows as
    it takes, most often one. Each window is one slice of the map and one matrix product: bilinear weights
    [chunk * resolution**2, cells] times features [cells, c]. The result is exact for every box, for there are as many
    windows as a chunk needs. The gradient is the transposed product, added to the same slice, in float32. Weights and
    products are in the dtype of the features, sums in float32. There is no derivative in forward mode.

    Args:
        pyramids, boxes, strides, extents, pooling: as in `roi_align_batch`; `Pooling.chunk` regions share windows.
        window: height and width of a window in cells; its width is rounded up to a multiple of 8.

    Raises:
        ValueError: if there is not one stride a level, or a side of the window is not positive.
    """
    check_strides(pyramids, strides)
    check_sizes(window=min(window))
    b, r, _ = boxes.shape
    channels, dtype, resolution = pyramids[0].shape[-1], pyramids[0].dtype, pooling.resolution
    if r == 0:
        return jnp.zeros((b, r, resolution, resolution, channels), dtype)
    shapes = tuple((x.shape[1], x.shape[2]) for x in pyramids)
    maps = region_maps(shapes, boxes, strides=strides, extents=extents, pooling=pooling)
    walk = Walk(pooling=pooling, images=b, shapes=shapes, window=window, channels=channels, dtype=dtype)
    plan, slot = _plan(walk, maps)
    pooled = jnp.reshape(_pool(tuple(pyramids), plan, walk), (-1, resolution, resolution, channels))
    return pooled.at[slot].get(mode="promise_in_bounds", unique_indices=True).reshape(b, r, *pooled.shape[1:])


@dataclass(frozen=True)
class Walk:
    """The static sizes of one pooling."""

    pooling: Pooling
    images: Any  # a number, or a symbol in a program that is exported for any number of them
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

    axes: Float[Array, "n samples bins"]  # places and shares of the samples: y, y's share, x, x's share
    corner: Int[Array, "n 2"]  # row and column at which the first window begins
    size: Int[Array, "n 2"]  # rows and columns of cells that the chunk reads
    ends: Int[Array, "runs+1"]  # the first chunk of each image, level by level, and the end


def _plan(walk: Walk, maps: RegionMaps) -> tuple[Plan, Int[Array, "regions"]]:
    """The chunks, and the place of each region in their row."""
    along = jax.vmap(functools.partial(samples, pooling=walk.pooling))
    (y, y_share), (x, x_share) = along(maps.y, maps.height), along(maps.x, maps.width)
    low, high = (jnp.stack(ends, -1) for ends in zip(_reach(y, y_share), _reach(x, x_share), strict=True))
    reads = (low < FAR).all(-1)
    slot, ends, count = _places(walk, maps.level, low, high, reads)
    owner = (
        jnp.full(count * walk.chunk, slot.shape[0], jnp.int32).at[slot].set(jnp.arange(slot.shape[0], dtype=jnp.int32))
    )

    def seated(rows: Shaped[Array, "regions *rest"], empty: float | int) -> Shaped[Array, "n chunk *rest"]:
        """The rows of the regions of each chunk, `empty` ones in its other places."""
        rows = jnp.concatenate([rows, jnp.full_like(rows[:1], empty)])[owner]
        return rows.reshape(count, walk.chunk, *rows.shape[1:])

    axes = seated(jnp.concatenate([y, y_share, x, x_share], -1), 0.0)  # [n chunk bins samples]
    axes = axes.transpose(0, 3, 1, 2).reshape(count, 4 * walk.pooling.sampling_ratio, walk.chunk * walk.resolution)
    box = jnp.where(reads[:, None], jnp.concatenate([low, -high], -1), FAR)
    box = seated(box, FAR).min(1)  # the rectangle round all regions of a chunk
    full = box[:, 0] < FAR
    corner = jnp.where(full[:, None], box[:, :2], 0)
    corner = corner - corner % jnp.array([1, SUBLANES])
    size = jnp.where(full[:, None], 1 - box[:, 2:] - corner, 0)
    return Plan(axes, corner, size, ends), slot


def _reach(
    place: Float[Array, "regions bins samples"], share: Float[Array, "regions bins samples"]
) -> tuple[Int[Array, "regions"], Int[Array, "regions"]]:
    """The first and the last cell that each region reads along an axis; FAR and beyond where it reads none."""
    read = share > 0
    low = jnp.where(read, place, FAR).min((1, 2)).astype(jnp.int32)
    return low, jnp.where(read, place, -FAR).max((1, 2)).astype(jnp.int32) + 1


def _places(
    walk: Walk,
    level: Int[Array, "regions"],
    low: Int[Array, "regions 2"],
    high: Int[Array, "regions 2"],
    reads: Bool[Array, "regions"],
) -> tuple[Int[Array, "regions"], Int[Array, "ends"], Any]:
    """Each region's place in the row of all chunks, the first chunk of each run, and the number of chunks.

    Regions of one level of one image lie together, in the order of a curve; each such run begins a new chunk.
    """
    images, levels, chunk = walk.images, len(walk.shapes), walk.chunk
    r = level.shape[0] // images
    middle = jnp.clip((low + high) // 2, 0, (1 << 10) - 1) >> 2
    key = jnp.where(reads, _hilbert(middle[:, 0], middle[:, 1], bits=8), 1 << 16) + (level << 17)
    level, key = level.reshape(images, r), key.reshape(images, r)
    order = jnp.argsort(key, axis=1)
    level = jnp.take_along_axis(level, order, 1)
    count = (level[:, :, None] == jnp.arange(levels)).sum(1, dtype=jnp.int32)  # [image level]
    chunks = (-(-count // chunk)).T.reshape(-1)  # level by level, image by image within
    first = jnp.cumsum(chunks) - chunks
    before = jnp.cumsum(count, 1) - count
    shift = first.reshape(levels, images).T * chunk - before
    slot = jnp.arange(r, dtype=jnp.int32) + jnp.take_along_axis(shift, level, 1)
    order = order + jnp.arange(images, dtype=order.dtype)[:, None] * r
    slot = jnp.zeros(images * r, jnp.int32).at[order.reshape(-1)].set(slot.reshape(-1), unique_indices=True)
    ends = jnp.append(first, chunks.sum())
    return slot, ends, images * (-(-r // chunk) + min(levels, r) - 1)


def _hilbert(y: Int[Array, "regions"], x: Int[Array, "regions"], *, bits: int) -> Int[Array, "regions"]:
    """How far along a Hilbert curve a cell lies; neighbours on the curve are neighbours in the plane."""
    key, last = jnp.zeros_like(x), (1 << bits) - 1
    for bit in reversed(range(bits)):
        right, down = (x >> bit) & 1, (y >> bit) & 1
        key = key * 4 + ((3 * right) ^ down)
        turn = (down == 0) & (right == 1)
        x, y = jnp.where(turn, last - x, x), jnp.where(turn, last - y, y)
        x, y = jnp.where(down == 0, y, x), jnp.where(down == 0, x, y)
    return key


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pool(
    levels: tuple[Float[Array, "b _ _ c"], ...], plan: Plan, walk: Walk
) -> Float[Array, "n {walk.chunk} {walk.resolution} {walk.resolution} c"]:
    """The regions of all chunks."""
    n, bins = plan.corner.shape[0], walk.resolution
    out = jnp.zeros((n, walk.chunk, bins, bins, walk.channels), walk.dtype)
    for number, level in enumerate(levels):
        blocks = _blocked(level, walk, number)

        def image(
            index: Int[Array, ""],
            out: Float[Array, "n chunk i i c"],
            blocks: Float[Array, "b h w 8 c"] = blocks,
            number: int = number,
        ) -> Float[Array, "n chunk i i c"]:
            own = lax.dynamic_slice_in_dim(blocks, index, 1)
            shape = (1, *_window(walk, number), *own.shape[3:])

            def chunk(index: Int[Array, ""], out: Float[Array, "n chunk i i c"]) -> Float[Array, "n chunk i i c"]:
                def add(step: Int[Array, ""], total: Float[Array, "chunk i i c"]) -> Float[Array, "chunk i i c"]:
                    at, weights = _weights(plan, walk, number, index, step)
                    cells = lax.dynamic_slice(own, at, shape).reshape(*weights.shape[3:], -1)
                    return total + _product("gijhw,hwc->gijc", weights, cells)

                total = lax.fori_loop(0, _steps(plan, walk, number, index), add, jnp.zeros(out.shape[1:], jnp.float32))
                return out.at[index].set(total.astype(out.dtype))

            return lax.fori_loop(*_chunks(plan, walk, number, index), chunk, out)

        out = lax.fori_loop(0, walk.images, image, out)
    return out


def _pool_forward(
    levels: tuple[Float[Array, "b _ _ c"], ...], plan: Plan, walk: Walk
) -> tuple[Float[Array, "n {walk.chunk} {walk.resolution} {walk.resolution} c"], Plan]:
    return _pool(levels, plan, walk), plan


def _pool_backward(
    walk: Walk, plan: Plan, gradient: Float[Array, "n {walk.chunk} {walk.resolution} {walk.resolution} c"]
) -> tuple[tuple[Float[Array, "b _ _ c"], ...], None]:
    """The gradient of the levels; the plan has none."""
    levels = []
    for number, (height, width) in enumerate(walk.shapes):
        blocks = jnp.zeros((1, height, walk.width(number) // SUBLANES, SUBLANES, walk.channels), jnp.float32)
        shape = (1, *_window(walk, number), *blocks.shape[3:])

        def image(
            index: Int[Array, ""],
            blocks: Float[Array, "1 h w 8 c"] = blocks,
            shape: tuple = shape,
            number: int = number,
            width: int = width,
        ) -> Float[Array, "h {width} c"]:
            def chunk(index: Int[Array, ""], blocks: Float[Array, "1 h w 8 c"]) -> Float[Array, "1 h w 8 c"]:
                def add(step: Int[Array, ""], blocks: Float[Array, "1 h w 8 c"]) -> Float[Array, "1 h w 8 c"]:
                    at, weights = _weights(plan, walk, number, index, step)
                    cells = _product("gijhw,gijc->hwc", weights, gradient[index]).reshape(shape)
                    return lax.dynamic_update_slice(blocks, lax.dynamic_slice(blocks, at, shape) + cells, at)

                return lax.fori_loop(0, _steps(plan, walk, number, index), add, blocks)

            blocks = lax.fori_loop(*_chunks(plan, walk, number, index), chunk, blocks)
            return blocks.reshape(len(blocks[0]), -1, walk.channels)[:, :width].astype(walk.dtype)

        levels.append(lax.map(image, jnp.arange(walk.images)))
    return tuple(levels), None


_pool.defvjp(_pool_forward, _pool_backward)


def _blocked(level: Float[Array, "b h w c"], walk: Walk, number: int) -> Float[Array, "b h blocks tile c"]:
    """A level as blocks of 8 cells of a row, so that a slice of it never cuts a tile."""
    b, height, width, channels = level.shape
    level = jnp.pad(level, ((0, 0), (0, 0), (0, walk.width(number) - width), (0, 0)))
    return level.reshape(b, height, -1, SUBLANES, channels)


def _window(walk: Walk, number: int) -> tuple[int, int]:
    """Rows and blocks of a level's windows."""
    height, width = walk.windows(number)
    return height, width // SUBLANES


def _chunks(plan: Plan, walk: Walk, number: int, image: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The first chunk of a level of an image, and the end."""
    run = number * walk.images + image
    return plan.ends[run], plan.ends[run + 1]


def _steps(plan: Plan, walk: Walk, number: int, index: Int[Array, ""]) -> Int[Array, ""]:
    """The number of windows of a chunk."""
    height, width = walk.windows(number)
    return -(-plan.size[index, 0] // height) * -(-plan.size[index, 1] // width)


def _weights(
    plan: Plan, walk: Walk, number: int, index: Int[Array, ""], step: Int[Array, ""]
) -> tuple[tuple, Float[Array, "{walk.chunk} {walk.resolution} {walk.resolution} h w"]]:
    """Where a window lies in its level, one index an axis of it in blocks, and its weights."""
    height, width = walk.windows(number)
    across = jnp.maximum(-(-plan.size[index, 1] // width), 1)
    top = plan.corner[index, 0] + step // across * height
    left = plan.corner[index, 1] + step % across * width
    row = jnp.minimum(top, walk.shapes[number][0] - height)
    column = jnp.minimum(left, walk.width(number) - width)
    most = plan.axes.shape[1] // 4
    y, y_share, x, x_share = plan.axes[index].reshape(4, most, -1)
    rows = _hats(y, y_share, row, top, height).reshape(walk.chunk, walk.resolution, height)
    columns = _hats(x, x_share, column, left, width).reshape(walk.chunk, walk.resolution, width)
    weights = rows[:, :, None, :, None] * columns[:, None, :, None, :]
    return (0, row, column // SUBLANES, 0, 0), weights.astype(walk.dtype)


def _hats(
    place: Float[Array, "samples bins"],
    share: Float[Array, "samples bins"],
    start: Int[Array, ""],
    own: Int[Array, ""],
    length: int,
) -> Float[Array, "bins {length}"]:
    """Bilinear weights of the cells from `start`; those before `own` are left to the window before."""
    cells = start + jnp.arange(length)
    weights = jnp.maximum(1 - jnp.abs(place[..., None] - cells), 0) * share[..., None]
    return jnp.where(cells >= own, weights.sum(0), 0.0)


def _product(subscripts: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Their product by Einstein's rule, the sums in float32."""
    precision = "highest" if a.dtype == jnp.float32 else None
    return jnp.einsum(subscripts, a, b, precision=precision, preferred_element_type=jnp.float32)

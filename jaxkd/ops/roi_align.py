"""RoIAlign over a feature pyramid: a small grid of features for every box."""

import functools
from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.export
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jaxkd.ops.roi_regions import DEFAULT, Pooling, RegionMaps, check_strides, region_maps, samples
from jaxkd.ops.roi_windows import roi_align_windows


def roi_align(
    pyramid: Sequence[Float[Array, "_ _ c"]],
    boxes: Float[Array, "r 4"],
    *,
    strides: Sequence[int],
    extents: Int[Array, "2"] | None = None,
    pooling: Pooling = DEFAULT,
) -> Float[Array, "r {pooling.resolution} {pooling.resolution} c"]:
    """A grid of features for every box of one image.

    `roi_align_batch` for one image; see there for the arguments. For several images that function is faster.

    Raises:
        ValueError: if there is not one stride for each level.
    """
    pyramids, boxes = [level[None] for level in pyramid], boxes[None]
    extents = None if extents is None else extents[None]
    return roi_align_batch(pyramids, boxes, strides=strides, extents=extents, pooling=pooling)[0]


def roi_align_batch(
    pyramids: Sequence[Float[Array, "b _ _ c"]],
    boxes: Float[Array, "b r 4"],
    *,
    strides: Sequence[int],
    extents: Int[Array, "b 2"] | None = None,
    pooling: Pooling = DEFAULT,
    formulation: str = "auto",
) -> Float[Array, "b r {pooling.resolution} {pooling.resolution} c"]:
    """A grid of features for every box of every image, in the dtype of the features.

    Each box is pooled from one level (`masks.box_level`; Lin et al. 2017, equation 1). Each of its bins is the mean of
    bilinear samples on a regular grid (He et al. 2017, section 3). A sample more than one cell outside the map counts
    as 0; any other outside sample reads the nearest cell of the border. Gradients flow into the pyramid, not into the
    boxes. A box with NaN gives zeros. Sums are float32, also those of the gradient, where many boxes may add to one
    cell.

    There are two formulations, `roi_align_gather` and `roi_windows.roi_align_windows`, and "auto" selects by the
    platform for which the program is compiled: windows on a TPU, where its compiler estimates them to be the fastest by
    far, the gather everywhere else. Estimates and measurements are in `benchmarks/README.md`.

    Args:
        pyramids: maps of the images, finest level first; all of one dtype and width c.
        boxes: (x0, y0, x1, y1) in pixels of the padded picture.
        strides: pixels per cell, one for each level.
        extents: height and width in pixels of each picture without its padding. Where given, a map ends at
            ceil(extent / stride) cells, so that the amount of padding never changes the result.
        pooling: bins, samples, alignment of pixels and assignment of levels.
        formulation: "auto", "gather" or "windows"; the results differ by rounding only.

    Raises:
        ValueError: if there is not one stride for each level, or the formulation is unknown.
    """
    check_strides(pyramids, strides)
    gather, windows = (
        functools.partial(function, strides=strides, pooling=pooling)
        for function in (roi_align_gather, roi_align_windows)
    )
    match formulation:
        case "gather":
            return gather(pyramids, boxes, extents=extents)
        case "windows":
            return windows(pyramids, boxes, extents=extents)
        case "auto":
            return lax.platform_dependent(
                list(pyramids),
                boxes,
                extents,
                tpu=lambda pyramids, boxes, extents: windows(pyramids, boxes, extents=extents),
                default=lambda pyramids, boxes, extents: gather(pyramids, boxes, extents=extents),
            )
        case _:
            raise ValueError(f"RoIAlign was given formulation={formulation!r}; give auto, gather or windows.")


def roi_align_gather(
    pyramids: Sequence[Float[Array, "b _ _ c"]],
    boxes: Float[Array, "b r 4"],
    *,
    strides: Sequence[int],
    extents: Int[Array, "b 2"] | None = None,
    pooling: Pooling = DEFAULT,
) -> Float[Array, "b r {pooling.resolution} {pooling.resolution} c"]:
    """What `roi_align_batch` returns, by gathering the cells of every bin.

    All levels of all images lie in one flat array. The interpolation weights along both axes are computed for each box,
    and each bin is one gather of (2 * sampling_ratio)**2 cells and one weighted sum, for `Pooling.chunk` boxes at a
    time, so that the gathered cells stay in the cache. On a CPU this is faster, and needs far less memory, than one
    gather for all boxes, than `jax.vmap(roi_align)`, which gathers for a chunk of every image at a time, and than
    `roi_align_dense`.

    Raises:
        ValueError: if there is not one stride for each level.
    """
    check_strides(pyramids, strides)
    b, r, _ = boxes.shape
    channels, resolution = pyramids[0].shape[-1], pooling.resolution
    flat = jnp.concatenate([level.reshape(-1, channels) for level in pyramids]).astype(jnp.float32)
    shapes = [(x.shape[1], x.shape[2]) for x in pyramids]
    regions = region_maps(shapes, boxes, strides=strides, extents=extents, pooling=pooling)

    def bin_taps(region: RegionMaps) -> tuple[Int[Array, "i i taps"], Float[Array, "i i taps"]]:
        """The cells that each bin of one region reads, and their weights."""
        rows, row_weights = _axis_taps(region.y, region.height, pooling=pooling)
        cols, col_weights = _axis_taps(region.x, region.width, pooling=pooling)
        index = rows[:, None, :, None] * region.pitch + cols[None, :, None, :] + region.offset
        weights = row_weights[:, None, :, None] * col_weights[None, :, None, :]
        taps = (resolution, resolution, -1)
        return index.reshape(taps), weights.reshape(taps)

    def pool_chunk(regions: RegionMaps) -> Float[Array, "n i i c"]:
        index, weights = jax.vmap(bin_taps)(regions)
        features = flat.at[index].get(mode="promise_in_bounds")
        return jnp.einsum("rijt,rijtc->rijc", weights, features).astype(pyramids[0].dtype)

    return _in_chunks(pool_chunk, regions, chunk=pooling.chunk).reshape(b, r, resolution, resolution, channels)


def roi_align_dense(
    pyramid: Sequence[Float[Array, "_ _ c"]],
    boxes: Float[Array, "r 4"],
    *,
    strides: Sequence[int],
    extents: Int[Array, "2"] | None = None,
    pooling: Pooling = DEFAULT,
) -> Float[Array, "r {pooling.resolution} {pooling.resolution} c"]:
    """What `roi_align` returns, as matrix products over the full maps instead of a gather.

    Bilinear sampling is separable: along each axis it is a matrix of hat functions, so each level contributes
    rows @ map @ columns, with the rows of boxes of other levels zero. It reads every map for every box, so on a CPU it
    is far slower than the gather; it is the simple reference to which the tests compare the others.

    Raises:
        ValueError: if there is not one stride for each level.
    """
    check_strides(pyramid, strides)
    shapes = [(level.shape[0], level.shape[1]) for level in pyramid]
    boxes, extents = boxes[None], None if extents is None else extents[None]
    regions = region_maps(shapes, boxes, strides=strides, extents=extents, pooling=pooling)

    def pool(region: RegionMaps) -> Float[Array, "i i c"]:
        """The bins of one region."""
        total = jnp.zeros((pooling.resolution, pooling.resolution, pyramid[0].shape[-1]), jnp.float32)
        for number, level in enumerate(pyramid):
            rows = _axis_matrix(region.y, region.height, length=level.shape[0], pooling=pooling)
            cols = _axis_matrix(region.x, region.width, length=level.shape[1], pooling=pooling)
            rows = jnp.where(region.level == number, rows, 0.0)
            total += jnp.einsum("ih,jw,hwc->ijc", rows, cols, level, precision="highest")
        return total.astype(pyramid[0].dtype)

    return _in_chunks(jax.vmap(pool), regions, chunk=pooling.chunk)


def _in_chunks(
    pool: Callable[[RegionMaps], Float[Array, "_ i i c"]], regions: RegionMaps, *, chunk: int
) -> Float[Array, "n i i c"]:
    """`pool` applied to all regions, `chunk` of them at a time."""
    count = regions.level.shape[0]  # symbolic in a program that is exported for any number of images
    if not jax.export.is_symbolic_dim(count) and count <= chunk:
        return pool(regions)
    chunks = -(-count // chunk)
    padding = chunks * chunk - count

    def split(x: Shaped[Array, "n *rest"]) -> Shaped[Array, "chunks chunk *rest"]:
        # A symbolic size is an int to jax.numpy, and not to its type annotations.
        return jnp.pad(x, [(0, cast(int, padding))] + [(0, 0)] * (x.ndim - 1)).reshape(chunks, chunk, *x.shape[1:])

    out = lax.map(pool, jax.tree.map(split, regions))
    return out.reshape(chunks * chunk, *out.shape[2:])[:count]


def _axis_taps(
    span: Float[Array, "2"], cells: Int[Array, ""], *, pooling: Pooling
) -> tuple[Int[Array, "{pooling.resolution} taps"], Float[Array, "{pooling.resolution} taps"]]:
    """The cells that each bin reads along an axis, two for every sample, and their weights."""
    position, share = samples(span, cells, pooling=pooling)
    low = jnp.minimum(position.astype(jnp.int32), cells - 1)
    high = jnp.minimum(low + 1, cells - 1)
    fraction = position - low
    weights = jnp.stack([1 - fraction, fraction], -1) * share[..., None]
    taps = (pooling.resolution, 2 * pooling.sampling_ratio)
    return jnp.stack([low, high], -1).reshape(taps), weights.reshape(taps)


def _axis_matrix(
    span: Float[Array, "2"], cells: Int[Array, ""], *, length: int, pooling: Pooling
) -> Float[Array, "{pooling.resolution} {length}"]:
    """The weights of `_axis_taps` as a matrix over all cells of the axis."""
    position, share = samples(span, cells, pooling=pooling)
    return (jnp.maximum(1 - jnp.abs(position[..., None] - jnp.arange(length)), 0) * share[..., None]).sum(1)

"""RoIAlign over a feature pyramid: a small grid of features for every box."""

import functools
from collections.abc import Sequence

import jax
import jax.export
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from jaxkd.ops.roi_regions import check_sizes, region_maps, samples
from jaxkd.ops.roi_windows import roi_align_windows


def roi_align(
    pyramid: Sequence[Float[Array, "_ _ c"]],
    boxes: Float[Array, "r 4"],
    *,
    strides: Sequence[int],
    resolution: int = 7,
    sampling_ratio: int = 2,
    adaptive: bool = False,
    aligned: bool = True,
    canonical_scale: float = 224.0,
    canonical_level: int = 4,
    first_level: int = 2,
    chunk: int = 16,
    extents: Int[Array, "2"] | None = None,
) -> Float[Array, "r {resolution} {resolution} c"]:
    """A resolution x resolution grid of features for every box of one image.

    `roi_align_batch` for one image; it explains the arguments, and is the faster choice for several images.

    Raises:
        ValueError: if there is not one stride a level, or a size is not positive.
    """
    out = roi_align_batch(
        [level[None] for level in pyramid],
        boxes[None],
        strides=strides,
        resolution=resolution,
        sampling_ratio=sampling_ratio,
        adaptive=adaptive,
        aligned=aligned,
        canonical_scale=canonical_scale,
        canonical_level=canonical_level,
        first_level=first_level,
        chunk=chunk,
        extents=None if extents is None else extents[None],
    )
    return out[0]


def roi_align_batch(
    pyramids: Sequence[Float[Array, "b _ _ c"]],
    boxes: Float[Array, "b r 4"],
    *,
    strides: Sequence[int],
    resolution: int = 7,
    sampling_ratio: int = 2,
    adaptive: bool = False,
    aligned: bool = True,
    canonical_scale: float = 224.0,
    canonical_level: int = 4,
    first_level: int = 2,
    chunk: int = 16,
    extents: Int[Array, "b 2"] | None = None,
    formulation: str = "auto",
) -> Float[Array, "b r {resolution} {resolution} c"]:
    """A resolution x resolution grid of features for every box of every image, in the dtype of the features.

    Each box reads one level (`masks.box_level`; Lin et al. 2017, equation 1). Each of its bins is the mean of
    sampling_ratio x sampling_ratio bilinear samples on a regular grid (He et al. 2017, section 3). A sample more than
    one cell outside the map counts as 0; any other outside sample reads the nearest cell of the border. Gradients flow
    into the pyramid and none into the boxes. A box that is not a number gives zeros. Sums, also those of the gradient,
    in which many boxes may meet in a cell, are float32.

    There are two formulations for it, `roi_align_gather` and `roi_windows.roi_align_windows`, and "auto" takes that of
    the platform for which the program is compiled: windows on a TPU, the gather everywhere else. The choice for TPUs
    rests on the estimates of their compiler (libtpu 0.0.42 for a v5e, no chip at hand) for four pictures of 800 x 1344
    with 512 boxes and 256 channels in bfloat16, by `benchmarks/formulations.py`: forward 10.6 ms against 22.7 for the
    gather and 20.8 for `roi_align_dense`; with the gradient 27.6 against 161, where a row that is added to memory is
    charged what the compiler's schedule shows, and 75.3. Nothing of it was measured on a GPU.

    Args:
        pyramids: maps of the images, finest level first; all of one dtype and width c.
        boxes: (x0, y0, x1, y1) in pixels of the padded picture.
        strides: pixels a cell, one for each level.
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
        extents: height and width in pixels of each picture inside the padding. Where given, a map ends at
            ceil(extent / stride) cells, so that how far a picture was padded never changes the result.
        formulation: "auto", "gather" or "windows"; the results differ by rounding only.

    Raises:
        ValueError: if there is not one stride a level, a size is not positive, or the formulation is unknown.
    """
    check_sizes(pyramids, strides, resolution=resolution, sampling_ratio=sampling_ratio, chunk=chunk)
    gather, windows = (
        functools.partial(
            function,
            strides=strides,
            resolution=resolution,
            sampling_ratio=sampling_ratio,
            adaptive=adaptive,
            aligned=aligned,
            canonical_scale=canonical_scale,
            canonical_level=canonical_level,
            first_level=first_level,
            chunk=chunk,
        )
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
    resolution: int = 7,
    sampling_ratio: int = 2,
    adaptive: bool = False,
    aligned: bool = True,
    canonical_scale: float = 224.0,
    canonical_level: int = 4,
    first_level: int = 2,
    chunk: int = 16,
    extents: Int[Array, "b 2"] | None = None,
) -> Float[Array, "b r {resolution} {resolution} c"]:
    """What `roi_align_batch` returns, by gathering the cells of every bin.

    All levels of all images lie in one flat array; the two axes' interpolation weights are worked out for each box,
    and each bin is one gather of (2 * sampling_ratio)**2 cells and one weighted sum, for `chunk` boxes at a time so
    that what was gathered stays in the cache. On two CPU cores, for 512 boxes of 256 channels, forward and backward,
    this took less than half of the time of one gather for all boxes, a fifth of its memory, and between a fifteenth
    and a thirtieth of the time of `roi_align_dense`; chunks of 8 to 32 were within 20 % of each other. For 8 small
    images of 64 boxes and 64 channels it took a third of the time of `jax.vmap(roi_align)` with the same chunk, which
    gathers for 8 * chunk boxes at a time.

    Raises:
        ValueError: if there is not one stride a level, or a size is not positive.
    """
    check_sizes(pyramids, strides, resolution=resolution, sampling_ratio=sampling_ratio, chunk=chunk)
    b, r, _ = boxes.shape
    channels = pyramids[0].shape[-1]
    flat = jnp.concatenate([level.reshape(-1, channels) for level in pyramids]).astype(jnp.float32)
    regions = region_maps(
        [(x.shape[1], x.shape[2]) for x in pyramids], boxes, strides, extents,
        aligned=aligned, canonical_scale=canonical_scale, canonical_level=canonical_level, first_level=first_level,
    )  # fmt: skip

    def pool(region):
        rows, row_weights = _taps(region.y, region.height, resolution, sampling_ratio, adaptive)
        cols, col_weights = _taps(region.x, region.width, resolution, sampling_ratio, adaptive)
        index = rows[:, None, :, None] * region.pitch + cols[None, :, None, :] + region.offset
        weights = row_weights[:, None, :, None] * col_weights[None, :, None, :]
        taps = (resolution, resolution, -1)
        return index.reshape(taps), weights.reshape(taps)

    def pool_chunk(regions):
        index, weights = jax.vmap(pool)(regions)
        features = flat.at[index].get(mode="promise_in_bounds")
        return jnp.einsum("rijt,rijtc->rijc", weights, features).astype(pyramids[0].dtype)

    return _chunked(pool_chunk, regions, chunk).reshape(b, r, resolution, resolution, channels)


def roi_align_dense(
    pyramid: Sequence[Float[Array, "_ _ c"]],
    boxes: Float[Array, "r 4"],
    *,
    strides: Sequence[int],
    resolution: int = 7,
    sampling_ratio: int = 2,
    adaptive: bool = False,
    aligned: bool = True,
    canonical_scale: float = 224.0,
    canonical_level: int = 4,
    first_level: int = 2,
    chunk: int = 16,
    extents: Int[Array, "2"] | None = None,
) -> Float[Array, "r {resolution} {resolution} c"]:
    """What `roi_align` returns, as matrix products over the full maps instead of a gather.

    Bilinear sampling is separable: along each axis it is a matrix of hat functions, so each level contributes
    rows @ map @ columns, with the rows of boxes of other levels zero. It reads every map for every box, so a CPU
    takes 15 to 30 times as long as for the gather; it is here as the plain form that the others are held against.

    Raises:
        ValueError: if there is not one stride a level, or a size is not positive.
    """
    check_sizes(pyramid, strides, resolution=resolution, sampling_ratio=sampling_ratio, chunk=chunk)
    regions = region_maps(
        [(level.shape[0], level.shape[1]) for level in pyramid], boxes[None], strides,
        None if extents is None else extents[None],
        aligned=aligned, canonical_scale=canonical_scale, canonical_level=canonical_level, first_level=first_level,
    )  # fmt: skip

    def pool(region):
        total = jnp.zeros((resolution, resolution, pyramid[0].shape[-1]), jnp.float32)
        for number, level in enumerate(pyramid):
            rows = _hats(region.y, region.height, resolution, sampling_ratio, adaptive, length=level.shape[0])
            cols = _hats(region.x, region.width, resolution, sampling_ratio, adaptive, length=level.shape[1])
            rows = jnp.where(region.level == number, rows, 0.0)
            total += jnp.einsum("ih,jw,hwc->ijc", rows, cols, level, precision="highest")
        return total.astype(pyramid[0].dtype)

    return _chunked(jax.vmap(pool), regions, chunk)


def _chunked(pool, regions, chunk):
    """`pool` of all regions, `chunk` of them at a time."""
    count = regions.level.shape[0]  # may be symbolic, in a program that is exported for any number of images
    if not jax.export.is_symbolic_dim(count) and count <= chunk:
        return pool(regions)
    chunks = -(-count // chunk)
    spare = chunks * chunk - count

    def split(x):
        return jnp.pad(x, [(0, spare)] + [(0, 0)] * (x.ndim - 1)).reshape(chunks, chunk, *x.shape[1:])

    out = lax.map(pool, jax.tree.map(split, regions))
    return out.reshape(chunks * chunk, *out.shape[2:])[:count]


def _taps(span, cells, resolution, most, adaptive):
    """The cells that each bin reads along an axis, [resolution 2*most], and their weights."""
    place, share = samples(span, cells, resolution=resolution, most=most, adaptive=adaptive)
    low = jnp.minimum(place.astype(jnp.int32), cells - 1)
    high = jnp.minimum(low + 1, cells - 1)
    part = place - low
    weights = jnp.stack([1 - part, part], -1) * share[..., None]
    taps = (resolution, 2 * most)
    return jnp.stack([low, high], -1).reshape(taps), weights.reshape(taps)


def _hats(span, cells, resolution, most, adaptive, *, length):
    """The same weights as a matrix over all cells of the axis, [resolution length]."""
    place, share = samples(span, cells, resolution=resolution, most=most, adaptive=adaptive)
    return (jnp.maximum(1 - jnp.abs(place[..., None] - jnp.arange(length)), 0) * share[..., None]).sum(1)

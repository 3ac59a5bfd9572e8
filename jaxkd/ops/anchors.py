"""Anchor boxes of a feature pyramid, with the cell, id and level of each."""

from collections.abc import Sequence
from typing import Any

from flax import struct
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int, Num

Leaf = Any  # an array or, as `in_axes` of `jax.vmap`, its picture axis

_LEVEL_BITS, _ROW_BITS, _COLUMN_BITS, _KIND_BITS = 3, 12, 12, 5


class Anchors(struct.PyTreeNode):
    """The anchors of a pyramid, ordered by level, row, column and kind (index within the cell)."""

    boxes: Leaf  # [a 4] float32; [b a 4] where they differ between pictures, see `respace`
    cells: Leaf  # [a 2] float32: (y, x) of the top left corner of the anchor's cell, in pixels
    ids: Leaf  # [a] uint32: level, row, column and kind packed in bits; independent of the map's width
    levels: Leaf  # [a] int32: 0 for the first level given

    @property
    def axes(self) -> "Anchors":
        """The `in_axes` of `jax.vmap` over pictures."""
        return Anchors(boxes=0 if self.boxes.ndim == 3 else None, cells=None, ids=None, levels=None)

    def boxes_at(self, span: slice, index: Int[Array, "b n"]) -> Float[Array, "b n 4"]:
        """The boxes at `index` within `span`, for each picture."""
        boxes = self.boxes[..., span, :]
        return boxes[index] if boxes.ndim == 2 else jnp.take_along_axis(boxes, index[..., None], axis=1)


def base_anchors(*, sizes: Sequence[float], ratios: Sequence[float], rounded: bool = False) -> Float[Array, "k 4"]:
    """Boxes centred on the origin, one for each pair of ratio and size, ratios first.

    Args:
        sizes: square roots of the areas, in pixels.
        ratios: heights divided by widths.
        rounded: whether corners are rounded to whole pixels.

    Raises:
        ValueError: if there are no sizes or ratios, or one of them is not above 0.
    """
    if not sizes or not ratios or min(*sizes, *ratios) <= 0:
        raise ValueError(f"Anchors need sizes and ratios above 0, not sizes {sizes} and ratios {ratios}.")
    height_factor = jnp.sqrt(jnp.asarray(ratios, jnp.float32))[:, None]
    side = jnp.asarray(sizes, jnp.float32)[None]
    half_height = (height_factor * side).ravel() / 2
    half_width = ((1 / height_factor) * side).ravel() / 2
    boxes = jnp.stack([-half_width, -half_height, half_width, half_height], axis=-1)
    return jnp.round(boxes) if rounded else boxes


def pyramid_anchors(
    shapes: Sequence[tuple[int, int]],
    *,
    strides: Sequence[int | tuple[int, int]],
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[float],
    offset: float = 0.0,
    rounded: bool = False,
) -> Anchors:
    """Anchors of every cell of every level (Ren et al. 2015, section 3.1; Lin et al. 2017, section 4.1).

    Args:
        shapes: (height, width) of each level, in cells.
        strides: pixels from one cell to the next, for each level; a pair where rows and columns differ.
        sizes: the anchors' sizes in pixels, one tuple for each level.
        ratios: heights divided by widths, for all levels.
        offset: position of an anchor's centre in its cell, in cells: 0 is the corner, 0.5 the centre.
        rounded: whether corners of the boxes around the origin are rounded to whole pixels.

    Raises:
        ValueError: if shapes, strides and sizes are not equally many, or the pyramid is too large for 32-bit ids.
    """
    if not shapes or not len(shapes) == len(strides) == len(sizes):
        raise ValueError(
            f"A pyramid needs as many shapes as strides and tuples of sizes, and was given "
            f"{len(shapes)}, {len(strides)} and {len(sizes)}."
        )
    if len(shapes) > 2**_LEVEL_BITS:
        raise ValueError(f"A pyramid has at most {2**_LEVEL_BITS} levels, and {len(shapes)} were given.")
    parts = [
        _level_anchors(level, shape, stride, base_anchors(sizes=level_sizes, ratios=ratios, rounded=rounded), offset)
        for level, (shape, stride, level_sizes) in enumerate(zip(shapes, strides, sizes, strict=True))
    ]
    return Anchors(
        boxes=jnp.concatenate([level.boxes for level in parts]),
        cells=jnp.concatenate([level.cells for level in parts]),
        ids=jnp.concatenate([level.ids for level in parts]),
        levels=jnp.concatenate([level.levels for level in parts]),
    )


def respace(
    anchors: Anchors, steps: Num[Array, "b l 2"], *, strides: Sequence[int | tuple[int, int]], offset: float = 0.0
) -> Anchors:
    """Anchors of `strides` moved to another step from cell to cell in each picture; their boxes are [b a 4].

    Args:
        anchors: of a pyramid of l levels.
        steps: (y, x) pixels from one cell to the next of each level of each picture.
        strides: those of the anchors.
        offset: that of the anchors.
    """
    nominal = jnp.stack([jnp.broadcast_to(jnp.asarray(stride, jnp.float32), (2,)) for stride in strides])  # [l 2]
    positions = anchors.cells / nominal[anchors.levels] + offset
    shift = (positions * (steps - nominal)[:, anchors.levels])[..., ::-1]
    return anchors.replace(boxes=anchors.boxes + jnp.tile(shift, 2))


def inside(anchors: Anchors, size: Num[Array, "2"]) -> Bool[Array, "a"]:
    """Whether the cell of each anchor begins within a picture of `size` (height, width)."""
    return jnp.all(anchors.cells < size.astype(jnp.float32), axis=-1)


def _level_anchors(
    level: int, shape: tuple[int, ...], stride: int | tuple[int, int], base: Float[Array, "k 4"], offset: float
) -> Anchors:
    (height, width), per_cell = shape, base.shape[0]
    if height > 2**_ROW_BITS or width > 2**_COLUMN_BITS or per_cell > 2**_KIND_BITS:
        raise ValueError(
            f"A level has at most {2**_ROW_BITS} x {2**_COLUMN_BITS} cells and {2**_KIND_BITS} anchors in each, "
            f"and {height} x {width} with {per_cell} were given."
        )
    grid = jnp.meshgrid(jnp.arange(height), jnp.arange(width), jnp.arange(per_cell), indexing="ij")
    row, column, kind = (part.ravel() for part in grid)
    step = jnp.broadcast_to(jnp.asarray(stride, jnp.float32), (2,))
    cells = jnp.stack([row, column], axis=-1).astype(jnp.float32) * step
    center = (cells + offset * step)[:, ::-1]
    packed = jnp.uint32(level)
    for bits, part in ((_ROW_BITS, row), (_COLUMN_BITS, column), (_KIND_BITS, kind)):
        packed = (packed << bits) | part.astype(jnp.uint32)
    return Anchors(
        boxes=jnp.tile(center, 2) + jnp.tile(base, (height * width, 1)),
        cells=cells,
        ids=packed,
        levels=jnp.full(row.shape, level, jnp.int32),
    )

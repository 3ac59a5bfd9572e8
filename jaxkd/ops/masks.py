"""Masks over a feature map: binary, Gaussian or weighted inside boxes, and of a picture's extent."""

from typing import Literal

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num, Shaped

from jaxkd.ops import boxes as box_ops


def cell_centers(shape: tuple[int, ...], stride: int) -> tuple[Float[Array, "h"], Float[Array, "w"]]:
    """Centres in pixels, y of each row and x of each column, of a map of `shape` (height, width) in cells.

    Raises:
        ValueError: if a side or the stride is below 1.
    """
    if min(*shape, stride) < 1:
        raise ValueError(f"A map needs a height, a width and a stride of at least 1, not {shape} and {stride}.")
    rows, columns = (jnp.arange(side, dtype=jnp.float32) for side in shape)
    return (rows + 0.5) * stride, (columns + 0.5) * stride


def hard_mask(
    boxes: Float[Array, "g 4"], *, valid: Bool[Array, "g"], shape: tuple[int, ...], stride: int
) -> Float[Array, "h w"]:
    """1 in cells whose centre lies in a valid box or on its edge, 0 elsewhere.

    A valid box that holds no cell's centre gets the cell that holds the box's centre, or all adjacent cells where that
    lies on a border between cells, so that a flipped box has the flipped mask.

    Raises:
        ValueError: if a side of `shape` or the stride is below 1.
    """
    y, x = cell_centers(shape, stride)
    boxes = jnp.where(valid[:, None], boxes.astype(jnp.float32), 0.0)
    rows, columns = _in_closed(y, boxes[:, 1], boxes[:, 3]), _in_closed(x, boxes[:, 0], boxes[:, 2])
    rows, columns = _with_center_cells(rows, columns, empty=_covers_no_cell(rows, columns), boxes=boxes / stride)
    rows = rows * valid[:, None]
    return (jnp.einsum("gh,gw->hw", rows, columns) > 0).astype(jnp.float32)


def gaussian_mask(
    boxes: Float[Array, "g 4"],
    *,
    valid: Bool[Array, "g"],
    shape: tuple[int, ...],
    stride: int,
    sigma_sq: float = 2.0,
    grid: Literal["center", "legacy_int"] = "center",
    merge: Literal["max", "sum_clip"] = "max",
) -> Float[Array, "h w"]:
    """A Gaussian in [0, 1] for each valid box, 1 at its centre and 0 outside the box (Sun et al. 2020, TAR).

    The Gaussian is exp(-(u^2 + v^2) / sigma_sq), with u and v the distances from the centre in half widths and half
    heights. The edges belong to the box; its value is exp(-1 / sigma_sq) in the middle of a side. A valid box that
    holds no cell gets 1 in the cell that holds its centre, or in all adjacent cells where that lies on a border between
    cells, so that a flipped box has the flipped mask.

    Args:
        boxes: boxes in pixels.
        valid: boxes that count; the others may hold anything.
        shape: height and width of the map, in cells.
        stride: pixels from one cell to the next.
        sigma_sq: the squared spread, in squared half sides.
        grid: "center" evaluates at the centres of cells; "legacy_int" rounds the box down to whole cells, excludes the
            last one and evaluates at their top left corners, so that the Gaussian is off by half a cell and the mask of
            a flipped box is not the flipped mask.
        merge: the value of a cell in several boxes: the highest value, or the sum, at most 1.

    Raises:
        ValueError: if sigma_sq is not above 0, `grid` or `merge` is unknown, or a side or the stride is below 1.
    """
    if sigma_sq <= 0:
        raise ValueError(f"The spread sigma_sq of a Gaussian mask must be above 0, not {sigma_sq}.")
    if grid not in ("center", "legacy_int") or merge not in ("max", "sum_clip"):
        raise ValueError(
            f"A Gaussian mask's grid is center or legacy_int and its merge max or sum_clip, not {grid} and {merge}."
        )
    y, x = (center / stride for center in cell_centers(shape, stride))
    boxes = jnp.where(valid[:, None], boxes.astype(jnp.float32), 0.0) / stride
    bounds, inside, with_center = boxes, _in_closed, _with_center_cells
    if grid == "legacy_int":
        y, x, bounds, inside, with_center = y - 0.5, x - 0.5, jnp.floor(boxes), _in_half_open, _with_center_cell
    inner_rows, inner_columns = inside(y, bounds[:, 1], bounds[:, 3]), inside(x, bounds[:, 0], bounds[:, 2])
    rows = _gaussian(y, bounds[:, 1], bounds[:, 3], sigma_sq) * inner_rows
    columns = _gaussian(x, bounds[:, 0], bounds[:, 2], sigma_sq) * inner_columns
    rows, columns = with_center(rows, columns, empty=_covers_no_cell(inner_rows, inner_columns), boxes=boxes)
    return _merge(rows * valid[:, None], columns, merge)


def overlay(
    boxes: Float[Array, "g 4"],
    weights: Float[Array, "g"],
    *,
    valid: Bool[Array, "g"],
    shape: tuple[int, ...],
    stride: int,
    merge: Literal["max", "last"] = "max",
) -> Float[Array, "h w"]:
    """The weight of the valid box that covers each cell, 0 where there is none (Tang et al. 2022, GKD).

    A box covers the columns from floor(x0 / stride) to floor(x1 / stride), the last excluded, and rows likewise; one
    that covers no column or no row gets the single cell of its first corner.

    Args:
        boxes: boxes in pixels.
        weights: one for each box, none below 0.
        valid: boxes that count; the others may hold anything.
        shape: height and width of the map, in cells.
        stride: pixels from one cell to the next.
        merge: the value of a cell in several boxes: the greatest weight, or that of the last; a box of a single cell
            never lowers a value.
    """
    cells = jnp.floor(jnp.where(valid[:, None], boxes.astype(jnp.float32), 0.0) / stride)

    def covered_cells(low: Float[Array, "g"], high: Float[Array, "g"], side: int) -> Bool[Array, "g {side}"]:
        return (jnp.arange(side) >= low[:, None]) & (jnp.arange(side) < high[:, None])

    rows, columns = covered_cells(cells[:, 1], cells[:, 3], shape[0]), covered_cells(cells[:, 0], cells[:, 2], shape[1])
    single = ~(rows.any(1) & columns.any(1))
    corner_rows = jnp.arange(shape[0]) == jnp.clip(cells[:, 1], 0, shape[0] - 1)[:, None]
    corner_columns = jnp.arange(shape[1]) == jnp.clip(cells[:, 0], 0, shape[1] - 1)[:, None]
    rows = jnp.where(single[:, None], corner_rows, rows) & valid[:, None]
    columns = jnp.where(single[:, None], corner_columns, columns)

    def paint(mask: Float[Array, "h w"], box: tuple[Array, Array, Array, Array]) -> tuple[Float[Array, "h w"], None]:
        rows, columns, weight, keep_max = box
        covered = rows[:, None] & columns
        return jnp.where(covered, jnp.where(keep_max, jnp.maximum(mask, weight), weight), mask), None

    keep_max = single if merge == "last" else jnp.ones_like(single)
    mask, _ = jax.lax.scan(paint, jnp.zeros(shape, weights.dtype), (rows, columns, weights, keep_max))
    return mask


def smallest_box_weights(
    boxes: Float[Array, "g 4"],
    *,
    valid: Bool[Array, "g"],
    inside: Float[Array, "h w"],
    stride: int,
    touched: bool = False,
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """Weights of objects and of background (Yang et al. 2022, FGD, equations 2 and 3): of the cells of each, 1 in sum.

    A cell of several boxes takes the weight of the one with the fewest cells. Background is what no box covers.

    Args:
        boxes: boxes in pixels.
        valid: boxes that count; the others may hold anything.
        inside: 1 in cells of the picture, 0 in padding.
        stride: pixels from one cell to the next.
        touched: whether a box covers all cells that it touches and one more, instead of those of `overlay`.
    """
    boxes = jnp.where(valid[:, None], boxes.astype(jnp.float32), 0.0)
    if touched:
        low, high = jnp.floor(boxes[:, :2] / stride), jnp.ceil(boxes[:, 2:] / stride) + 1
        boxes = jnp.concatenate((low, high), -1) * stride
    cells = jnp.floor(boxes / stride)
    limits = jnp.asarray(inside.shape[::-1], jnp.float32)
    sides = jnp.clip(cells[:, 2:], 0, limits) - jnp.clip(cells[:, :2], 0, limits)
    count = jnp.where((sides > 0).all(-1), sides.prod(-1), 1.0)
    objects = inside * overlay(boxes, 1.0 / count, valid=valid, shape=inside.shape, stride=stride)
    rest = inside * (objects == 0)
    return objects, rest / jnp.maximum(rest.sum(), 1.0)


def extent_mask(size: Num[Array, "*b 2"], *, shape: tuple[int, ...], stride: int) -> Float[Array, "*b h w"]:
    """1 in cells whose first corner lies in pictures of `size` (height, width), 0 in cells of the padding.

    Raises:
        ValueError: if a side of `shape` or the stride is below 1.
    """
    y, x = (center - 0.5 * stride for center in cell_centers(shape, stride))
    height, width = size[..., 0, None, None], size[..., 1, None, None]
    return ((y[:, None] < height) & (x < width)).astype(jnp.float32)


def box_level(
    boxes: Float[Array, "*n 4"],
    *,
    levels: int,
    first: int = 2,
    canonical_scale: float = 224.0,
    canonical_level: int = 4,
    epsilon: float = 0.0,
) -> Int[Array, "*n"]:
    """The pyramid level of each box, counted from 0 (Lin et al. 2017, equation 1).

    floor(canonical_level + log2(sqrt(area) / canonical_scale + epsilon)), clamped to the levels; a box without
    area gets the first.

    Args:
        boxes: boxes in pixels.
        levels: number of levels.
        first: the number of the first one, 2 for P2.
        canonical_scale: side in pixels of the square box of `canonical_level`.
        canonical_level: the number of that level.
        epsilon: added to the relative side.

    Raises:
        ValueError: if there is no level, or canonical_scale is not above 0.
    """
    if levels < 1 or canonical_scale <= 0:
        raise ValueError(f"Levels and canonical_scale must be above 0, not {levels} and {canonical_scale}.")
    area = box_ops.area(boxes)
    side = jnp.where(area > 0, jnp.sqrt(jnp.where(area > 0, area, 1.0)) / canonical_scale + epsilon, 0.0)
    # Compared with powers of two, at which the rounding of a logarithm may give the level below.
    at_least = [side >= 2.0 ** (number - canonical_level) for number in range(first + 1, first + levels)]
    return sum(at_least, jnp.zeros(side.shape, jnp.int32))


def _in_closed(points: Float[Array, "c"], low: Float[Array, "g"], high: Float[Array, "g"]) -> Bool[Array, "g c"]:
    """Whether each point lies in each interval, its ends included."""
    return (points >= low[:, None]) & (points <= high[:, None])


def _in_half_open(points: Float[Array, "c"], low: Float[Array, "g"], high: Float[Array, "g"]) -> Bool[Array, "g c"]:
    """Whether each point lies in each interval, its upper end excluded."""
    return (points >= low[:, None]) & (points < high[:, None])


def _gaussian(
    points: Float[Array, "c"], low: Float[Array, "g"], high: Float[Array, "g"], sigma_sq: float
) -> Float[Array, "g c"]:
    """A Gaussian over each interval, 1 at its centre."""
    half = 0.5 * (high - low)[:, None]
    distance = points - 0.5 * (low + high)[:, None]
    return jnp.exp(-((distance / jnp.where(half > 0, half, 1.0)) ** 2) / sigma_sq)


def _covers_no_cell(rows: Bool[Array, "g h"], columns: Bool[Array, "g w"]) -> Bool[Array, "g 1"]:
    """Whether each box covers no cell, from the masks of its rows and columns."""
    return ~(jnp.any(rows, axis=1) & jnp.any(columns, axis=1))[:, None]


def _with_center_cells(
    rows: Shaped[Array, "g h"], columns: Shaped[Array, "g w"], *, empty: Bool[Array, "g 1"], boxes: Float[Array, "g 4"]
) -> tuple[Float[Array, "g h"], Float[Array, "g w"]]:
    """Rows and columns, where an empty box gets the cells that hold its centre; `boxes` are in cells."""
    center = 0.5 * (boxes[:, :2] + boxes[:, 2:])

    def holds_center(index: int, length: int) -> Bool[Array, "g {length}"]:
        return jnp.abs(jnp.arange(length) + 0.5 - center[:, index, None]) <= 0.5

    rows = jnp.where(empty, holds_center(1, rows.shape[1]), rows)
    return rows * 1.0, jnp.where(empty, holds_center(0, columns.shape[1]), columns) * 1.0


def _with_center_cell(
    rows: Shaped[Array, "g h"], columns: Shaped[Array, "g w"], *, empty: Bool[Array, "g 1"], boxes: Float[Array, "g 4"]
) -> tuple[Float[Array, "g h"], Float[Array, "g w"]]:
    """The same with a single cell, the last where several hold the centre."""
    center_cell = jnp.floor(0.5 * (boxes[:, :2] + boxes[:, 2:]))
    rows = jnp.where(empty, jnp.arange(rows.shape[1]) == center_cell[:, 1:], rows)
    return rows * 1.0, jnp.where(empty, jnp.arange(columns.shape[1]) == center_cell[:, :1], columns) * 1.0


def _merge(rows: Float[Array, "g h"], columns: Float[Array, "g w"], merge: str) -> Float[Array, "h w"]:
    """One map from the rows and columns of all boxes, one box at a time: all maps at once would be large."""

    def add(
        mask: Float[Array, "h w"], profiles: tuple[Float[Array, "h"], Float[Array, "w"]]
    ) -> tuple[Float[Array, "h w"], None]:
        gaussian = profiles[0][:, None] * profiles[1]
        return jnp.maximum(mask, gaussian) if merge == "max" else mask + gaussian, None

    mask, _ = jax.lax.scan(add, jnp.zeros((rows.shape[1], columns.shape[1]), jnp.float32), (rows, columns))
    return jnp.minimum(mask, 1.0)

"""Adaptive training sample selection: the assignment of a pyramid's square anchors to ground truth."""

from dataclasses import dataclass
from typing import NamedTuple

from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int, Num

from jaxkd.ops.anchors import Anchors, pyramid_anchors
from jaxkd.ops.match import Matches

MARGIN = 0.01  # pixels by which the centre of a positive lies inside its truth


@dataclass(frozen=True)
class Grid:
    """A pyramid with one square anchor in each cell.

    Raises:
        ValueError: if there are not as many shapes as strides.
    """

    shapes: tuple[tuple[int, int], ...]  # rows and columns of each level, the finest first
    strides: tuple[int, ...]  # pixels from one cell to the next, for each level
    scale: float = 8.0  # side of an anchor, in strides of its level
    offset: float = 0.0  # position of an anchor's centre in its cell: 0 is the corner, 0.5 the centre

    def __post_init__(self):
        if not self.shapes or len(self.shapes) != len(self.strides):
            raise ValueError(
                f"A grid needs a stride for each level, and was given {len(self.shapes)} shapes and "
                f"{len(self.strides)} strides."
            )

    @property
    def anchor_count(self) -> int:
        """The number of anchors."""
        return sum(rows * columns for rows, columns in self.shapes)

    def anchors(self) -> Anchors:
        """The anchors, in the order of `assign`."""
        sizes = [(self.scale * stride,) for stride in self.strides]
        return pyramid_anchors(self.shapes, strides=self.strides, sizes=sizes, ratios=(1.0,), offset=self.offset)


def assign(
    grid: Grid,
    truth: Float[Array, "g 4"],
    *,
    size: Num[Array, "2"],
    valid: Bool[Array, "g"],
    crowd: Bool[Array, "g"],
    topk: int = 9,
    at_least_one: bool = False,
) -> Matches:
    """Matches of the anchors of one picture [a] to truths by ATSS (Zhang et al. 2020, arXiv 1912.02424, algorithm 1).

    The candidates of a truth are the `topk` anchors of each level whose centres are nearest to its centre; at the same
    distance, those of lower index. A candidate is positive if its IoU reaches the threshold of the truth (see
    `thresholds`) and its centre lies inside the truth. An anchor that is positive for several truths takes the one of
    the highest IoU; of equal ones, the first. All other anchors are negative, but for those that do not begin inside
    the picture or have their centre in a crowd. Truths that are neither valid nor crowd are padding and change nothing.

    Give at least three levels: on two levels that are equally full, an object inside all its candidates has the IoUs v
    and v / 4, and their mean plus standard deviation is above v, so that no candidate reaches it.

    Candidates are computed from the truth's centre and the grid, without an array of all anchors and truths.

    Args:
        grid: the pyramid's cells and anchors.
        truth: boxes of the objects, padded; they may leave the picture.
        size: height and width of the picture; anchors whose cells begin beyond it take no part.
        valid: whether each truth is a real object.
        crowd: whether each truth is a crowd region, in which no anchor is background.
        topk: candidates a level, fewer where the picture has fewer anchors.
        at_least_one: whether a truth that would end without a positive takes its candidate of the highest IoU, however
            low, among those with their centres inside it that no other truth holds by a higher IoU (or by the same,
            and comes first). One truth can still end without: where no such candidate is left.

    Raises:
        ValueError: if `topk` is below 1, or there is no truth, not even a padded one.
    """
    _check(truth, topk)
    truth = _unpadded(truth, valid | crowd)
    candidates = _candidates(grid, truth, valid=valid, size=size, topk=topk)
    holders = _hold(
        candidates, candidates.inside & (candidates.iou >= _thresholds(candidates)[:, None]), grid.anchor_count
    )
    if at_least_one:
        holders = _hold_one_each(candidates, holders)
    positive = holders.truth < truth.shape[0]
    return Matches(
        truth=jnp.where(positive, holders.truth, 0),
        positive=positive,
        negative=~positive & _background(grid, truth, crowd=crowd, size=size),
    )


def thresholds(
    grid: Grid, truth: Float[Array, "g 4"], *, size: Num[Array, "2"], valid: Bool[Array, "g"], topk: int = 9
) -> Float[Array, "g"]:
    """The IoU from which a candidate of each truth is positive; infinite for truths that are not valid.

    The mean plus the standard deviation (unbiased; 0 for one candidate) of the IoUs of the truth's candidates on all
    levels. For arguments and errors see `assign`.
    """
    _check(truth, topk)
    candidates = _candidates(grid, _unpadded(truth, valid), valid=valid, size=size, topk=topk)
    return jnp.where(valid, _thresholds(candidates), jnp.inf)


class _Candidates(NamedTuple):
    """The n candidates of each truth, on all levels."""

    anchor: Int[Array, "g n"]  # index; the number of anchors where there is no candidate
    valid: Bool[Array, "g n"]
    iou: Float[Array, "g n"]  # with the truth; 0 where not valid
    inside: Bool[Array, "g n"]  # valid, and the centre lies inside the truth


class _Holders(NamedTuple):
    """The truth that holds each anchor among those that claim it."""

    claims: Bool[Array, "g n"]  # whether a truth claims its candidate
    iou: Float[Array, "a"]  # 0 where no truth claims the anchor
    truth: Int[Array, "a"]  # the number of truths where none claims it


def _check(truth: Float[Array, "g 4"], topk: int) -> None:
    if topk < 1:
        raise ValueError(f"ATSS needs at least one candidate a level, not topk={topk}.")
    if truth.shape[0] == 0:
        raise ValueError("ATSS needs at least one truth; give a padded one that is not valid.")


def _unpadded(truth: Float[Array, "g 4"], used: Bool[Array, "g"]) -> Float[Array, "g 4"]:
    """The boxes without gradients, zero where not used."""
    return lax.stop_gradient(jnp.where(used[:, None], truth.astype(jnp.float32), 0.0))


def _candidates(
    grid: Grid, truth: Float[Array, "g 4"], *, valid: Bool[Array, "g"], size: Num[Array, "2"], topk: int
) -> _Candidates:
    """The candidates of each truth, `topk` a level, with their overlaps."""
    x0, y0, x1, y1 = (side[:, None, None] for side in truth.T)
    cells = _nearest_cells(grid, 0.5 * (y0 + y1), 0.5 * (x0 + x1), size=size, topk=topk)
    chosen, y, x = cells.valid & valid[:, None, None], cells.y, cells.x
    half = 0.5 * grid.scale * jnp.asarray(grid.strides, jnp.float32)[:, None]
    width = jnp.minimum(x1, x + half) - jnp.maximum(x0, x - half)
    height = jnp.minimum(y1, y + half) - jnp.maximum(y0, y - half)
    shared = jnp.maximum(width, 0.0) * jnp.maximum(height, 0.0)
    area = jnp.maximum(x1 - x0, 0.0) * jnp.maximum(y1 - y0, 0.0)
    iou = jnp.where(chosen, shared / (area + (2.0 * half) ** 2 - shared), 0.0)
    margin = jnp.minimum(jnp.minimum(x - x0, x1 - x), jnp.minimum(y - y0, y1 - y))
    flat = (truth.shape[0], -1)
    return _Candidates(
        anchor=jnp.where(chosen, cells.anchor, grid.anchor_count).reshape(flat),
        valid=chosen.reshape(flat),
        iou=lax.optimization_barrier(iou.reshape(flat)),  # else XLA computes it again for each use, rounded otherwise
        inside=(chosen & (margin > MARGIN)).reshape(flat),
    )


class _Cells(NamedTuple):
    """Cells of each level for each truth: m of them, of which the valid ones are the nearest."""

    anchor: Int[Array, "g l m"]  # index
    y: Float[Array, "g l m"]  # the anchor's centre, in pixels
    x: Float[Array, "g l m"]
    valid: Bool[Array, "g l m"]


def _nearest_cells(
    grid: Grid, y: Float[Array, "g 1 1"], x: Float[Array, "g 1 1"], *, size: Num[Array, "2"], topk: int
) -> _Cells:
    """The `topk` cells of each level that begin inside the picture and whose anchors' centres are nearest to (y, x).

    The cell in the i-th nearest row and the j-th nearest column has i j - 1 cells before it at least, so that only
    those with i j <= topk have to be compared: 23 for nine.
    """
    pairs = [(i, j) for i in range(topk) for j in range(topk) if (i + 1) * (j + 1) <= topk]
    row_rank, column_rank = jnp.asarray(pairs, jnp.int32).T
    starts = [sum(rows * columns for rows, columns in grid.shapes[:level]) for level in range(len(grid.shapes))]
    start, columns, stride = (
        jnp.asarray(numbers)[:, None] for numbers in (starts, [width for _, width in grid.shapes], grid.strides)
    )
    row_count, column_count = (count[:, None] for count in _counts_inside(grid, size))
    row = _nearest(y / stride - grid.offset, row_count, row_rank)
    column = _nearest(x / stride - grid.offset, column_count, column_rank)
    cell_y, cell_x = (row + grid.offset) * stride, (column + grid.offset) * stride
    exists = (row_rank < row_count) & (column_rank < column_count)
    distance = jnp.where(exists, (cell_y - y) ** 2 + (cell_x - x) ** 2, jnp.inf)
    anchor = start + row * columns + column
    return _Cells(anchor=anchor, y=cell_y, x=cell_x, valid=exists & (_order(distance, anchor) < topk))


def _nearest(position: Float[Array, "g l 1"], count: Int[Array, "l 1"], rank: Int[Array, "m"]) -> Int[Array, "g l m"]:
    """The cell of each rank, 0 for the nearest, among `count` cells in a line; any cell for ranks from `count` on.

    Cells alternate between both sides of the position, as long as there are cells on both; at the same distance the
    lower one comes first.
    """
    first = jnp.clip(jnp.ceil(position - 0.5), 0, count - 1).astype(jnp.int32)
    below, above = first, count - 1 - first
    step = (rank + 1) // 2
    up = (rank % 2 == 1) == (position > first)  # the side of an odd rank is that of the position
    alternate = jnp.where(up, first + step, first - step)
    pairs = jnp.minimum(below, above)
    beyond = jnp.where(above > below, first + rank - pairs, first - rank + pairs)
    return jnp.clip(jnp.where(rank > 2 * pairs, beyond, alternate), 0, count - 1)


def _order(distance: Float[Array, "g l m"], index: Int[Array, "g l m"]) -> Int[Array, "g l m"]:
    """The number of cells of the same level that come before each, by distance and then by index."""
    nearer = distance[..., None, :] < distance[..., :, None]
    tied = distance[..., None, :] == distance[..., :, None]
    return jnp.sum(nearer | (tied & (index[..., None, :] < index[..., :, None])), axis=-1, dtype=jnp.int32)


def _counts_inside(grid: Grid, size: Num[Array, "2"]) -> tuple[Int[Array, "l"], Int[Array, "l"]]:
    """The rows and the columns of each level that begin inside a picture of `size` (height, width)."""

    def count(axis: int) -> Int[Array, "l"]:
        masks = [
            jnp.arange(shape[axis]) * stride < size[axis]
            for shape, stride in zip(grid.shapes, grid.strides, strict=True)
        ]
        return jnp.stack([mask.sum(dtype=jnp.int32) for mask in masks])

    return count(0), count(1)


def _thresholds(candidates: _Candidates) -> Float[Array, "g"]:
    """Mean plus unbiased standard deviation of the candidates' IoUs; 0 for a truth without candidates."""
    count = candidates.valid.sum(-1)
    mean = candidates.iou.sum(-1) / jnp.maximum(count, 1)
    squares = jnp.where(candidates.valid, (candidates.iou - mean[:, None]) ** 2, 0.0).sum(-1)
    return mean + jnp.sqrt(squares / jnp.maximum(count - 1, 1))


def _hold(candidates: _Candidates, claims: Bool[Array, "g n"], count: int) -> _Holders:
    """The holders of `count` anchors: of the truths that claim one, that of the highest IoU, the first of equals."""
    index = jnp.arange(claims.shape[0], dtype=jnp.int32)[:, None]
    iou = jnp.zeros(count).at[candidates.anchor].max(jnp.where(claims, candidates.iou, 0.0), mode="drop")
    best = claims & (candidates.iou == iou.at[candidates.anchor].get(mode="fill", fill_value=-1.0))
    none = claims.shape[0]
    truth = jnp.full(count, none, jnp.int32).at[candidates.anchor].min(jnp.where(best, index, none), mode="drop")
    return _Holders(claims=claims, iou=iou, truth=truth)


def _hold_one_each(candidates: _Candidates, holders: _Holders) -> _Holders:
    """The holders after truths that hold nothing have claimed what they can win, round after round.

    What a truth has claimed and lost it cannot win again, so the rounds end.
    """
    index = jnp.arange(holders.claims.shape[0], dtype=jnp.int32)[:, None]

    def new_claims(holders: _Holders) -> Bool[Array, "g n"]:
        """For each truth that holds nothing the best candidate that it would win; of equals, that of lower index."""
        iou = holders.iou.at[candidates.anchor].get(mode="fill", fill_value=jnp.inf)
        truth = holders.truth.at[candidates.anchor].get(mode="fill", fill_value=-1)
        empty = ~jnp.any(holders.claims & (truth == index), axis=-1, keepdims=True)
        wins = (candidates.iou > iou) | ((candidates.iou == iou) & (index < truth))
        score = jnp.where(empty & candidates.inside & wins, candidates.iou, 0.0)
        best = (score > 0) & (score == score.max(-1, keepdims=True))
        lowest = jnp.where(best, candidates.anchor, holders.iou.shape[0]).min(-1, keepdims=True)
        return best & (candidates.anchor == lowest)

    def unfinished(state: tuple[_Holders, Bool[Array, "g n"]]) -> Bool[Array, ""]:
        return state[1].any()

    def claim(state: tuple[_Holders, Bool[Array, "g n"]]) -> tuple[_Holders, Bool[Array, "g n"]]:
        holders, new = state
        holders = _hold(candidates, holders.claims | new, holders.iou.shape[0])
        return holders, new_claims(holders)

    return lax.while_loop(unfinished, claim, (holders, new_claims(holders)))[0]


def _background(
    grid: Grid, truth: Float[Array, "g 4"], *, crowd: Bool[Array, "g"], size: Num[Array, "2"]
) -> Bool[Array, "a"]:
    """Whether each anchor begins inside the picture and has its centre in no crowd."""
    x0, y0, x1, y1 = truth.T
    levels = []
    for (rows, columns), stride in zip(grid.shapes, grid.strides, strict=True):
        row, column = jnp.arange(rows), jnp.arange(columns)
        y, x = (row[:, None] + grid.offset) * stride, (column[:, None] + grid.offset) * stride
        row_crowds, column_crowds = (y0 <= y) & (y < y1) & crowd, (x0 <= x) & (x < x1)  # [h g], [w g]
        crowds = row_crowds.astype(jnp.float32) @ column_crowds.T.astype(jnp.float32)
        inside = (row * stride < size[0])[:, None] & (column * stride < size[1])
        levels.append((inside & (crowds == 0)).ravel())
    return jnp.concatenate(levels)

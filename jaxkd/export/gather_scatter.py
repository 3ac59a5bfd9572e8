"""Gathers and scatters of any kind, as look-ups of rows and values put into one row of cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxkd.export.context import Context
from jaxkd.export.ops import Handle
from jaxkd.export.values import Size, Value, ints

INT32 = np.dtype(np.int32)


def gather(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    """A gather as a look-up of rows: all axes that are looked up in are made one, with one number for each row."""
    (x, index), params = inputs, equation.params
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    windows = [axis for axis in range(len(x.shape)) if axis not in gone]
    whole = [axis for axis in windows if axis not in numbers.start_index_map and sizes[axis] == x.shape[axis]]
    looked = [axis for axis in range(len(x.shape)) if axis not in whole]
    walked = [axis for axis in windows if axis in looked]  # windows that begin somewhere
    lead, place = index.shape[:-1], Places(ctx, index, x.shape, looked, walked, sizes)
    batching = dict(zip(ints(numbers.operand_batching_dims), ints(numbers.start_indices_batching_dims), strict=True))
    linear, there = place.linear(ints(numbers.start_index_map), batching, checked="FILL" in str(params["mode"]))
    table = ctx.whole(x)
    order = [*looked, *whole]
    if order != sorted(order):
        table = ctx.ops.transpose(table, order)
    rows = [x.shape[axis] for axis in whole]
    table = ctx.ops.reshape(table, ctx.numbers([math.prod(x.shape[axis] for axis in looked), *rows]))
    found = ctx.ops.take(table, ctx.ops.reshape(linear, [-1]))
    shape = [*lead, *(sizes[axis] for axis in walked), *rows]
    found = ctx.ops.reshape(found, ctx.numbers(shape))
    if there is not None:
        there = ctx.ops.reshape(there, ctx.numbers([*lead, *[1] * (len(shape) - len(lead))]))
        fill = ctx.ops.constant(_filling(params["fill_value"], x.dtype))
        found = ctx.ops.where(there, found, fill, x.dtype)
    made = {axis: len(lead) + position for position, axis in enumerate([*walked, *whole])}
    from_windows = [made[axis] for axis in windows]
    order, plain = [], iter(range(len(lead)))
    spots = dict(zip(ints(numbers.offset_dims), from_windows, strict=True))
    for axis in range(len(shape)):
        order.append(spots[axis] if axis in spots else next(plain))
    return found if order == sorted(order) else ctx.ops.transpose(found, order)


def scatter(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    """A scatter as values put into one row of cells, with one more for those that fall outside."""
    (x, index, updates), params = inputs, equation.params
    numbers = params["dimension_numbers"]
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windows = [axis for axis in range(len(x.shape)) if axis not in gone]
    lead = index.shape[:-1]
    spots = ints(numbers.update_window_dims)
    sizes = [1] * len(x.shape)
    for axis, spot in zip(windows, spots, strict=True):
        sizes[axis] = updates.shape[spot]
    place = Places(ctx, index, x.shape, list(range(len(x.shape))), windows, sizes)
    batching = dict(zip(ints(numbers.operand_batching_dims), ints(numbers.scatter_indices_batching_dims), strict=True))
    linear, there = place.linear(ints(numbers.scatter_dims_to_operand_dims), batching, checked=True)
    values = ctx.whole(updates)
    plain = [axis for axis in range(len(updates.shape)) if axis not in spots]
    if [*plain, *spots] != sorted([*plain, *spots]):
        values = ctx.ops.transpose(values, [*plain, *spots])
    cells = ctx.of_size(math.prod(x.shape))
    if there is not None:
        there = ctx.ops.reshape(there, ctx.numbers([*lead, *[1] * len(windows)]))
        linear = ctx.ops.where(there, linear, cells, INT32)
    table = ctx.ops.reshape(ctx.whole(x), [-1])
    table = ctx.ops.concatenate([table, ctx.ops.constant(np.zeros(1, x.dtype))], 0)
    linear, values = (ctx.ops.reshape(handle, [-1]) for handle in (linear, values))
    table = ctx.ops.slice(ctx.ops.put(table, linear, values, x.dtype), [0], [cells], [1])
    return ctx.ops.reshape(table, ctx.numbers(x.shape))


@dataclass(frozen=True)
class Places:
    """Where a gather or scatter looks: windows of `sizes` in a tensor of `shape`, one for each row of the index.

    Attributes:
      looked: the axes that are numbered through.
      walked: those of them along which a window lies.
    """

    ctx: Context
    index: Value  # [*lead k]
    shape: Sequence[Size]
    looked: Sequence[int]
    walked: Sequence[int]
    sizes: Sequence[Size]

    def linear(self, named: Sequence[int], batching: dict[int, int], *, checked: bool) -> tuple[Handle, Handle | None]:
        """The numbers of the cells [*lead *walked], and which windows lie inside [*lead], None where all do.

        Args:
          named: the axis of each column of the index.
          batching: for axes that have their own rows of the index, the place of these among the index' axes.
          checked: whether windows outside are marked; they are moved inside in any case.
        """
        ctx, lead = self.ctx, self.index.shape[:-1]
        rank, total, there = len(lead) + len(self.walked), None, None
        table = ctx.whole(self.index)
        for axis in self.looked:
            held: list[Size] = [1] * rank
            first = None
            if axis in batching:
                held[batching[axis]] = lead[batching[axis]]
                first = ctx.ops.reshape(ctx.ops.arange(ctx.numbers([self.shape[axis]])[0]), ctx.numbers(held))
            elif axis in named:
                start = self._column(table, list(named).index(axis))
                last = self.shape[axis] - self.sizes[axis]
                inside = ctx.held_inside(start, last)
                if checked:
                    here = ctx.int("eq", inside, start)
                    there = here if there is None else ctx.ops.binary("and", there, here, np.dtype(bool))
                held[: len(lead)] = lead
                first = ctx.ops.reshape(inside, ctx.numbers(held))
            if axis in self.walked:
                along: list[Size] = [1] * rank
                along[len(lead) + list(self.walked).index(axis)] = self.sizes[axis]
                cells = ctx.ops.reshape(ctx.ops.arange(ctx.numbers([self.sizes[axis]])[0]), ctx.numbers(along))
                first = cells if first is None else ctx.int("add", first, cells)
            if first is None:
                continue
            pitch = math.prod(self.shape[later] for later in self.looked if later > axis)
            part = first if pitch == 1 else ctx.int("mul", first, ctx.of_size(pitch))
            total = part if total is None else ctx.int("add", total, part)
        shape = [*lead, *(self.sizes[axis] for axis in self.walked)]
        total = ctx.ops.constant(np.zeros([1] * rank, np.int32)) if total is None else total
        return ctx.ops.expand(total, ctx.numbers(shape)), there

    def _column(self, table: Handle, place: int) -> Handle:
        """One column of the index, int32 [*lead]."""
        lead = self.index.shape[:-1]
        low, high = [0] * len(lead) + [place], [*lead, place + 1]
        column = self.ctx.ops.slice(table, low, self.ctx.numbers(high), [1] * len(low))
        column = self.ctx.ops.reshape(column, self.ctx.numbers(lead))
        return column if self.index.dtype == np.int32 else self.ctx.ops.cast(column, INT32)


def _filling(value: Any, dtype: np.dtype) -> np.ndarray:
    """What a gather gives beyond the bounds."""
    if value is not None:
        return np.asarray(value, dtype)
    if np.issubdtype(dtype, np.floating):
        return np.asarray(np.nan, dtype)
    if dtype.kind == "b":
        return np.asarray(True)
    return np.asarray(np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max, dtype)

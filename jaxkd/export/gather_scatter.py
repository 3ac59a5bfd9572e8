"""Gathers and scatters of any kind, lowered to a take of rows and to a put into a flat tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxkd.export.context import Context
from jaxkd.export.ops import Handle
from jaxkd.export.values import Size, Value, ints, is_static

INT32 = np.dtype(np.int32)


def gather(ctx: Context, equation: Any, inputs: list[Value]) -> Value | Handle:
    """A gather as a take of rows: all indexed axes are flattened into one, so each row has one linear index.

    One window at a constant place is a slice.
    """
    (x, index), params = inputs, equation.params
    if starts := _constant_place(x, index, params):
        stops = [
            start + size if size != whole else whole
            for start, size, whole in zip(starts, params["slice_sizes"], x.shape, strict=True)
        ]
        return ctx.part(x, starts, stops)
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    removed = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    windows = [axis for axis in range(len(x.shape)) if axis not in removed]
    whole = [axis for axis in windows if axis not in numbers.start_index_map and sizes[axis] == x.shape[axis]]
    indexed = [axis for axis in range(len(x.shape)) if axis not in whole]
    window_axes = [axis for axis in windows if axis in indexed]  # along which a window has an offset
    lead, window_index = index.shape[:-1], WindowIndex(ctx, index, x.shape, indexed, window_axes, sizes)
    batching = dict(zip(ints(numbers.operand_batching_dims), ints(numbers.start_indices_batching_dims), strict=True))
    linear, is_inside = window_index.linear(
        ints(numbers.start_index_map), batching, checked="FILL" in str(params["mode"])
    )
    table = ctx.expanded(x)
    order = [*indexed, *whole]
    if order != sorted(order):
        table = ctx.ops.transpose(table, order)
    rows = [x.shape[axis] for axis in whole]
    table = ctx.ops.reshape(table, ctx.numbers([math.prod(x.shape[axis] for axis in indexed), *rows]))
    rows_taken = ctx.ops.take(table, ctx.ops.reshape(linear, [-1]))
    shape = [*lead, *(sizes[axis] for axis in window_axes), *rows]
    rows_taken = ctx.ops.reshape(rows_taken, ctx.numbers(shape))
    if is_inside is not None:
        is_inside = ctx.ops.reshape(is_inside, ctx.numbers([*lead, *[1] * (len(shape) - len(lead))]))
        fill = ctx.ops.constant(_fill_value(params["fill_value"], x.dtype))
        rows_taken = ctx.ops.where(is_inside, rows_taken, fill, x.dtype)
    result_axis = {axis: len(lead) + position for position, axis in enumerate([*window_axes, *whole])}
    from_windows = [result_axis[axis] for axis in windows]
    order, lead_axes = [], iter(range(len(lead)))
    offset_axes = dict(zip(ints(numbers.offset_dims), from_windows, strict=True))
    for axis in range(len(shape)):
        order.append(offset_axes[axis] if axis in offset_axes else next(lead_axes))
    return rows_taken if order == sorted(order) else ctx.ops.transpose(rows_taken, order)


def _constant_place(x: Value, index: Value, params: dict[str, Any]) -> list[int]:
    """The first cell of a gather's one window of all axes; [] where it has several, or not a constant place inside."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    if not index.is_constant or len(index.shape) != 1 or numbers.collapsed_slice_dims or numbers.operand_batching_dims:
        return []
    starts = [0] * len(x.shape)
    for axis, start in zip(numbers.start_index_map, np.broadcast_to(index.array, index.shape), strict=True):
        if not is_static([x.shape[axis], sizes[axis]]) or not 0 <= start <= x.shape[axis] - sizes[axis]:
            return []
        starts[axis] = int(start)
    return starts


def scatter(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    """A scatter as a put into the flat tensor, which has one more cell for updates that fall outside."""
    (x, index, updates), params = inputs, equation.params
    numbers = params["dimension_numbers"]
    removed = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windows = [axis for axis in range(len(x.shape)) if axis not in removed]
    lead = index.shape[:-1]
    window_dims = ints(numbers.update_window_dims)
    sizes = [1] * len(x.shape)
    for axis, dim in zip(windows, window_dims, strict=True):
        sizes[axis] = updates.shape[dim]
    window_index = WindowIndex(ctx, index, x.shape, list(range(len(x.shape))), windows, sizes)
    batching = dict(zip(ints(numbers.operand_batching_dims), ints(numbers.scatter_indices_batching_dims), strict=True))
    linear, is_inside = window_index.linear(ints(numbers.scatter_dims_to_operand_dims), batching, checked=True)
    values = ctx.expanded(updates)
    lead_axes = [axis for axis in range(len(updates.shape)) if axis not in window_dims]
    if [*lead_axes, *window_dims] != sorted([*lead_axes, *window_dims]):
        values = ctx.ops.transpose(values, [*lead_axes, *window_dims])
    cells = ctx.size_handle(math.prod(x.shape))
    if is_inside is not None:
        is_inside = ctx.ops.reshape(is_inside, ctx.numbers([*lead, *[1] * len(windows)]))
        linear = ctx.ops.where(is_inside, linear, cells, INT32)
    table = ctx.ops.reshape(ctx.expanded(x), [-1])
    table = ctx.ops.concatenate([table, ctx.ops.constant(np.zeros(1, x.dtype))], 0)
    linear, values = (ctx.ops.reshape(handle, [-1]) for handle in (linear, values))
    table = ctx.ops.slice(ctx.ops.put(table, linear, values, x.dtype), [0], [cells], [1])
    return ctx.ops.reshape(table, ctx.numbers(x.shape))


@dataclass(frozen=True)
class WindowIndex:
    """The windows of a gather or scatter: one of `sizes` in a tensor of `shape` for each row of the index."""

    ctx: Context
    index: Value  # [*lead k]
    shape: Sequence[Size]
    indexed: Sequence[int]  # the axes that are flattened into the linear index
    window_axes: Sequence[int]  # those of them along which a window extends
    sizes: Sequence[Size]

    def linear(
        self, start_axes: Sequence[int], batching: dict[int, int], *, checked: bool
    ) -> tuple[Handle, Handle | None]:
        """Linear indices of the cells [*lead *window_axes], and which windows lie inside [*lead], None where all do.

        Args:
          start_axes: the axis of each column of the index.
          batching: for each batching axis of the tensor, the axis of the index that it goes with.
          checked: whether windows outside are marked; they are moved inside in any case.
        """
        ctx, lead = self.ctx, self.index.shape[:-1]
        rank, total, is_inside = len(lead) + len(self.window_axes), None, None
        table = ctx.expanded(self.index)
        for axis in self.indexed:
            start_shape: list[Size] = [1] * rank
            position = None
            if axis in batching:
                start_shape[batching[axis]] = lead[batching[axis]]
                position = ctx.ops.reshape(ctx.ops.arange(ctx.numbers([self.shape[axis]])[0]), ctx.numbers(start_shape))
            elif axis in start_axes:
                start = self._column(table, list(start_axes).index(axis))
                last = self.shape[axis] - self.sizes[axis]
                clamped = ctx.clamped(start, last)
                if checked:
                    on_axis = ctx.int_op("eq", clamped, start)
                    is_inside = (
                        on_axis if is_inside is None else ctx.ops.binary("and", is_inside, on_axis, np.dtype(bool))
                    )
                start_shape[: len(lead)] = lead
                position = ctx.ops.reshape(clamped, ctx.numbers(start_shape))
            if axis in self.window_axes:
                window_shape: list[Size] = [1] * rank
                window_shape[len(lead) + list(self.window_axes).index(axis)] = self.sizes[axis]
                cells = ctx.ops.reshape(ctx.ops.arange(ctx.numbers([self.sizes[axis]])[0]), ctx.numbers(window_shape))
                position = cells if position is None else ctx.int_op("add", position, cells)
            if position is None:
                continue
            pitch = math.prod(self.shape[later] for later in self.indexed if later > axis)
            part = position if pitch == 1 else ctx.int_op("mul", position, ctx.size_handle(pitch))
            total = part if total is None else ctx.int_op("add", total, part)
        shape = [*lead, *(self.sizes[axis] for axis in self.window_axes)]
        total = ctx.ops.constant(np.zeros([1] * rank, np.int32)) if total is None else total
        return ctx.ops.expand(total, ctx.numbers(shape)), is_inside

    def _column(self, table: Handle, number: int) -> Handle:
        """One column of the index, int32 [*lead]."""
        lead = self.index.shape[:-1]
        starts, stops = [0] * len(lead) + [number], [*lead, number + 1]
        column = self.ctx.ops.slice(table, starts, self.ctx.stops(stops, self.index.shape), [1] * len(starts))
        column = self.ctx.ops.reshape(column, self.ctx.numbers(lead))
        return column if self.index.dtype == np.int32 else self.ctx.ops.cast(column, INT32)


def _fill_value(value: Any, dtype: np.dtype) -> np.ndarray:
    """What a gather gives out of bounds: NaN, True, or the extreme of an integer type."""
    if value is not None:
        return np.asarray(value, dtype)
    if np.issubdtype(dtype, np.floating):
        return np.asarray(np.nan, dtype)
    if dtype.kind == "b":
        return np.asarray(True)
    return np.asarray(np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max, dtype)

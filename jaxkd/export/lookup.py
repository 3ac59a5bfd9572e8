"""Gathers and scatters of any kind, as look-ups of rows and values put into one row of cells."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxkd.export.ops import Handle
from jaxkd.export.values import Size, Value, ints

if TYPE_CHECKING:
    from jaxkd.export.lowering import Lowering

INT32 = np.dtype(np.int32)


def gather(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    """A gather as a look-up of rows: all axes that are looked up in are made one, with one number for each row."""
    (x, index), params = inputs, equation.params
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    windows = [axis for axis in range(len(x.shape)) if axis not in gone]
    whole = [axis for axis in windows if axis not in numbers.start_index_map and sizes[axis] == x.shape[axis]]
    looked = [axis for axis in range(len(x.shape)) if axis not in whole]
    walked = [axis for axis in windows if axis in looked]  # windows that begin somewhere
    lead, place = index.shape[:-1], Places(walk, index, x.shape, looked, walked, sizes)
    batching = dict(zip(ints(numbers.operand_batching_dims), ints(numbers.start_indices_batching_dims), strict=True))
    linear, there = place.linear(ints(numbers.start_index_map), batching, checked="FILL" in str(params["mode"]))
    table = walk.whole(x)
    order = [*looked, *whole]
    if order != sorted(order):
        table = walk.ops.transpose(table, order)
    rows = [x.shape[axis] for axis in whole]
    table = walk.ops.reshape(table, walk.numbers([math.prod(x.shape[axis] for axis in looked), *rows]))
    found = walk.ops.take(table, walk.ops.reshape(linear, [-1]))
    shape = [*lead, *(sizes[axis] for axis in walked), *rows]
    found = walk.ops.reshape(found, walk.numbers(shape))
    if there is not None:
        there = walk.ops.reshape(there, walk.numbers([*lead, *[1] * (len(shape) - len(lead))]))
        fill = walk.ops.constant(_filling(params["fill_value"], x.dtype))
        found = walk.ops.where(there, found, fill, x.dtype)
    made = {axis: len(lead) + position for position, axis in enumerate([*walked, *whole])}
    from_windows = [made[axis] for axis in windows]
    order, plain = [], iter(range(len(lead)))
    spots = dict(zip(ints(numbers.offset_dims), from_windows, strict=True))
    for axis in range(len(shape)):
        order.append(spots[axis] if axis in spots else next(plain))
    return found if order == sorted(order) else walk.ops.transpose(found, order)


def scatter(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
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
    place = Places(walk, index, x.shape, list(range(len(x.shape))), windows, sizes)
    batching = dict(zip(ints(numbers.operand_batching_dims), ints(numbers.scatter_indices_batching_dims), strict=True))
    linear, there = place.linear(ints(numbers.scatter_dims_to_operand_dims), batching, checked=True)
    values = walk.whole(updates)
    plain = [axis for axis in range(len(updates.shape)) if axis not in spots]
    if [*plain, *spots] != sorted([*plain, *spots]):
        values = walk.ops.transpose(values, [*plain, *spots])
    cells = walk.of_size(math.prod(x.shape))
    if there is not None:
        there = walk.ops.reshape(there, walk.numbers([*lead, *[1] * len(windows)]))
        linear = walk.ops.where(there, linear, cells, INT32)
    table = walk.ops.reshape(walk.whole(x), [-1])
    table = walk.ops.concatenate([table, walk.ops.constant(np.zeros(1, x.dtype))], 0)
    linear, values = (walk.ops.reshape(handle, [-1]) for handle in (linear, values))
    table = walk.ops.slice(walk.ops.put(table, linear, values, x.dtype), [0], [cells], [1])
    return walk.ops.reshape(table, walk.numbers(x.shape))


@dataclass(frozen=True)
class Places:
    """Where a gather or scatter looks: windows of `sizes` in a tensor of `shape`, one for each row of the index.

    Attributes:
      looked: the axes that are numbered through.
      walked: those of them along which a window lies.
    """

    walk: "Lowering"
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
        walk, lead = self.walk, self.index.shape[:-1]
        rank, total, there = len(lead) + len(self.walked), None, None
        table = walk.whole(self.index)
        for axis in self.looked:
            held: list[Size] = [1] * rank
            first = None
            if axis in batching:
                held[batching[axis]] = lead[batching[axis]]
                first = walk.ops.reshape(walk.ops.arange(walk.numbers([self.shape[axis]])[0]), walk.numbers(held))
            elif axis in named:
                start = self._column(table, list(named).index(axis))
                last = self.shape[axis] - self.sizes[axis]
                inside = walk.held_inside(start, last)
                if checked:
                    here = walk.int("eq", inside, start)
                    there = here if there is None else walk.ops.binary("and", there, here, np.dtype(bool))
                held[: len(lead)] = lead
                first = walk.ops.reshape(inside, walk.numbers(held))
            if axis in self.walked:
                along: list[Size] = [1] * rank
                along[len(lead) + list(self.walked).index(axis)] = self.sizes[axis]
                cells = walk.ops.reshape(walk.ops.arange(walk.numbers([self.sizes[axis]])[0]), walk.numbers(along))
                first = cells if first is None else walk.int("add", first, cells)
            if first is None:
                continue
            pitch = math.prod(self.shape[later] for later in self.looked if later > axis)
            part = first if pitch == 1 else walk.int("mul", first, walk.of_size(pitch))
            total = part if total is None else walk.int("add", total, part)
        shape = [*lead, *(self.sizes[axis] for axis in self.walked)]
        total = walk.ops.constant(np.zeros([1] * rank, np.int32)) if total is None else total
        return walk.ops.expand(total, walk.numbers(shape)), there

    def _column(self, table: Handle, place: int) -> Handle:
        """One column of the index, int32 [*lead]."""
        lead = self.index.shape[:-1]
        low, high = [0] * len(lead) + [place], [*lead, place + 1]
        column = self.walk.ops.slice(table, low, self.walk.numbers(high), [1] * len(low))
        column = self.walk.ops.reshape(column, self.walk.numbers(lead))
        return column if self.index.dtype == np.int32 else self.walk.ops.cast(column, INT32)


def _filling(value: Any, dtype: np.dtype) -> np.ndarray:
    """What a gather gives beyond the bounds."""
    if value is not None:
        return np.asarray(value, dtype)
    if np.issubdtype(dtype, np.floating):
        return np.asarray(np.nan, dtype)
    if dtype.kind == "b":
        return np.asarray(True)
    return np.asarray(np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max, dtype)

"""How each operation of a program is told, but for loops, calls and what works cell by cell."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxkd.export.lookup import gather, scatter
from jaxkd.export.ops import REDUCTIONS, Handle, Number
from jaxkd.export.values import Size, Value, ints, plain

if TYPE_CHECKING:
    from jaxkd.export.lowering import Lowering


def dim_as_value(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    return walk.number(equation.params["dim"])


def iota(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    params, aval = equation.params, equation.outvars[0].aval
    (count,) = walk.numbers([aval.shape[params["dimension"]]])
    handle = walk.ops.arange(count)
    if aval.dtype != np.int32:
        handle = walk.ops.cast(handle, np.dtype(aval.dtype))
    held: list[Number] = [1] * len(aval.shape)
    held[params["dimension"]] = count
    handle = walk.ops.reshape(handle, held)
    return walk.ops.expand(handle, walk.numbers(aval.shape)) if len(held) > 1 else handle


def reshape(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    return walk.ops.reshape(walk.whole(inputs[0]), walk.numbers(equation.outvars[0].aval.shape))


def transpose(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    return walk.ops.transpose(walk.whole(inputs[0]), ints(equation.params["permutation"]))


def concatenate(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    return walk.ops.concatenate([walk.whole(value) for value in inputs], equation.params["dimension"])


def stack(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    axis, shape = equation.params["axis"], list(inputs[0].shape)
    shape.insert(axis, 1)
    parts = [walk.ops.reshape(walk.whole(value), walk.numbers(shape)) for value in inputs]
    return walk.ops.concatenate(parts, axis)


def tile(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    before, between = [], []
    for size, times in zip(inputs[0].shape, equation.params["reps"], strict=True):
        before += [1, size]
        between += [times, size]
    out = walk.ops.reshape(walk.whole(inputs[0]), walk.numbers(before))
    out = walk.ops.expand(out, walk.numbers(between))
    return walk.ops.reshape(out, walk.numbers(equation.outvars[0].aval.shape))


def split(walk: "Lowering", equation: Any, inputs: list[Value]) -> list[Handle]:
    axis, x, start, parts = equation.params["axis"], walk.whole(inputs[0]), 0, []
    for size in equation.params["sizes"]:
        parts.append(_cut(walk, x, inputs[0].shape, axis=axis, start=start, stop=start + size))
        start += size
    return parts


def unstack(walk: "Lowering", equation: Any, inputs: list[Value]) -> list[Handle]:
    axis, x, shape = equation.params["axis"], walk.whole(inputs[0]), inputs[0].shape
    parts = [_cut(walk, x, shape, axis=axis, start=place, stop=place + 1) for place in range(len(equation.outvars))]
    return [walk.ops.reshape(part, walk.numbers([*shape[:axis], *shape[axis + 1 :]])) for part in parts]


def _cut(walk: "Lowering", x: Handle, shape: Sequence[Size], *, axis: int, start: Size, stop: Size) -> Handle:
    """Cells from `start` to `stop` along one axis of a tensor of this shape."""
    low, high = [0] * len(shape), list(shape)
    low[axis], high[axis] = start, stop
    return walk.ops.slice(x, low, walk.numbers(high), [1] * len(shape))


def sliced(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    params = equation.params
    start, stop = walk.numbers(params["start_indices"]), walk.numbers(params["limit_indices"])
    return walk.ops.slice(walk.whole(inputs[0]), start, stop, params["strides"] or [1] * len(start))


def dynamic_slice(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    x, start = inputs[0], inputs[1:]
    sizes, low, high = equation.params["slice_sizes"], [], []
    for value, length, size in zip(start, x.shape, sizes, strict=True):
        first = walk.held_inside(walk.whole(value), length - size)
        low.append(first)
        high.append(walk.int("add", first, walk.of_size(size)))
    return walk.ops.slice(walk.whole(x), low, high, [1] * len(low))


def pad(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    before, after, between = zip(*equation.params["padding_config"], strict=True)
    if any(between) or any(isinstance(size, int) and size < 0 for size in (*before, *after)):
        raise walk.refusal("a padding between cells, or a negative one")
    return walk.ops.pad(walk.whole(inputs[0]), walk.numbers(before), walk.numbers(after), walk.whole(inputs[1]))


def rev(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    return walk.ops.reverse(walk.whole(inputs[0]), ints(equation.params["dimensions"]))


def reduce(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    name, axes = equation.primitive.name, ints(equation.params["axes"])
    if name in ("reduce_and", "reduce_or") and inputs[0].dtype.kind != "b":
        raise walk.refusal(f"the operation {name} of integers")
    return walk.ops.reduce(name, walk.whole(inputs[0]), axes, inputs[0].dtype)


def cumsum(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    return walk.ops.cumsum(walk.whole(inputs[0]), equation.params["axis"], equation.params["reverse"])


def top_k(walk: "Lowering", equation: Any, inputs: list[Value]) -> list[Handle]:
    if equation.params.get("axis", -1) not in (-1, len(inputs[0].shape) - 1):
        raise walk.refusal("the largest along an axis that is not the last")
    return list(walk.ops.top_k(walk.whole(inputs[0]), equation.params["k"]))


def sort(walk: "Lowering", equation: Any, inputs: list[Value]) -> list[Handle]:
    """The rows of the last axis in rising order of the first operand."""
    params, shape = equation.params, inputs[0].shape
    if params["num_keys"] != 1 or params["dimension"] != len(shape) - 1 or not isinstance(plain(shape[-1]), int):
        raise walk.refusal("a sort by several keys or not along the last axis")
    key, *others = [walk.whole(value) for value in inputs]
    values, place = walk.ops.top_k(walk.ops.unary("neg", key), int(shape[-1]))
    return [walk.ops.unary("neg", values), *(_along_last(walk, other, place, shape) for other in others)]


def _along_last(walk: "Lowering", x: Handle, place: Handle, shape: Sequence[Size]) -> Handle:
    """x[..., place] for places of each row."""
    rows = walk.ops.arange(walk.numbers([math.prod(shape[:-1])])[0])
    rows = walk.int("mul", rows, walk.of_size(shape[-1]))
    rows = walk.ops.reshape(rows, [*walk.numbers(shape[:-1]), 1])
    index = walk.ops.reshape(walk.int("add", rows, place), [-1])
    return walk.ops.reshape(walk.ops.take(walk.ops.reshape(x, [-1]), index), walk.numbers(shape))


def dot_general(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    (left_sum, right_sum), (left_batch, right_batch) = (
        [ints(axes) for axes in pair] for pair in equation.params["dimension_numbers"]
    )
    left, right = inputs
    if left_sum == [len(left.shape) - 1] and right_sum == [0] and not left_batch and len(right.shape) == 2:
        return walk.ops.matmul(walk.whole(left), walk.whole(right))
    left_free, left_handle = _as_matrices(walk, left, left_batch, left_sum, last="sum")
    right_free, right_handle = _as_matrices(walk, right, right_batch, right_sum, last="free")
    shape = [left.shape[axis] for axis in (*left_batch, *left_free)] + [right.shape[axis] for axis in right_free]
    return walk.ops.reshape(walk.ops.matmul(left_handle, right_handle), walk.numbers(shape))


def _as_matrices(walk: "Lowering", value: Value, batch: Sequence[int], summed: Sequence[int], *, last: str):
    """The axes that are neither, and the handle of [*batch free sum] or [*batch sum free]."""
    free = [axis for axis in range(len(value.shape)) if axis not in (*batch, *summed)]
    parts = (free, summed) if last == "sum" else (summed, free)
    handle = walk.whole(value)
    order = [*batch, *parts[0], *parts[1]]
    if order != sorted(order):
        handle = walk.ops.transpose(handle, order)
    sides = [math.prod(value.shape[axis] for axis in part) for part in parts]
    return free, walk.ops.reshape(handle, walk.numbers([*(value.shape[axis] for axis in batch), *sides]))


def conv_general_dilated(walk: "Lowering", equation: Any, inputs: list[Value]) -> Handle:
    params, (x, kernel) = equation.params, inputs
    numbers = params["dimension_numbers"]
    usual = numbers.lhs_spec == (0, 3, 1, 2) and numbers.rhs_spec == (3, 2, 0, 1) and numbers.out_spec == (0, 3, 1, 2)
    dilated = set(params["lhs_dilation"]) | set(params["rhs_dilation"]) != {1}
    if not usual or dilated or params["batch_group_count"] != 1 or not kernel.known:
        raise walk.refusal("a convolution that is dilated or not of [b h w c]")
    return walk.ops.conv(
        walk.whole(x),
        np.broadcast_to(kernel.array, kernel.shape),
        strides=params["window_strides"],
        padding=params["padding"],
        groups=params["feature_group_count"],
    )


RULES: dict[str, Callable[["Lowering", Any, list[Value]], Any]] = {
    "concatenate": concatenate,
    "conv_general_dilated": conv_general_dilated,
    "cumsum": cumsum,
    "dim_as_value": dim_as_value,
    "dot_general": dot_general,
    "dynamic_slice": dynamic_slice,
    "expand_dims": reshape,
    "gather": gather,
    "iota": iota,
    "pad": pad,
    "reshape": reshape,
    "rev": rev,
    "scatter": scatter,
    "slice": sliced,
    "sort": sort,
    "split": split,
    "squeeze": reshape,
    "stack": stack,
    "tile": tile,
    "top_k": top_k,
    "transpose": transpose,
    "unstack": unstack,
} | dict.fromkeys(REDUCTIONS, reduce)

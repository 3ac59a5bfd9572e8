"""How each operation of a program is told, but for loops, calls and what works cell by cell."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxkd.export.context import Context
from jaxkd.export.gather_scatter import gather, scatter
from jaxkd.export.ops import REDUCTIONS, Handle, Number
from jaxkd.export.values import Size, Value, ints, plain


def dim_as_value(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.number(equation.params["dim"])


def iota(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    params, aval = equation.params, equation.outvars[0].aval
    (count,) = ctx.numbers([aval.shape[params["dimension"]]])
    handle = ctx.ops.arange(count)
    if aval.dtype != np.int32:
        handle = ctx.ops.cast(handle, np.dtype(aval.dtype))
    held: list[Number] = [1] * len(aval.shape)
    held[params["dimension"]] = count
    handle = ctx.ops.reshape(handle, held)
    return ctx.ops.expand(handle, ctx.numbers(aval.shape)) if len(held) > 1 else handle


def reshape(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.ops.reshape(ctx.whole(inputs[0]), ctx.numbers(equation.outvars[0].aval.shape))


def transpose(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.ops.transpose(ctx.whole(inputs[0]), ints(equation.params["permutation"]))


def concatenate(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.ops.concatenate([ctx.whole(value) for value in inputs], equation.params["dimension"])


def stack(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    axis, shape = equation.params["axis"], list(inputs[0].shape)
    shape.insert(axis, 1)
    parts = [ctx.ops.reshape(ctx.whole(value), ctx.numbers(shape)) for value in inputs]
    return ctx.ops.concatenate(parts, axis)


def tile(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    before, between = [], []
    for size, times in zip(inputs[0].shape, equation.params["reps"], strict=True):
        before += [1, size]
        between += [times, size]
    out = ctx.ops.reshape(ctx.whole(inputs[0]), ctx.numbers(before))
    out = ctx.ops.expand(out, ctx.numbers(between))
    return ctx.ops.reshape(out, ctx.numbers(equation.outvars[0].aval.shape))


def split(ctx: Context, equation: Any, inputs: list[Value]) -> list[Handle]:
    axis, x, start, parts = equation.params["axis"], ctx.whole(inputs[0]), 0, []
    for size in equation.params["sizes"]:
        parts.append(_cut(ctx, x, inputs[0].shape, axis=axis, start=start, stop=start + size))
        start += size
    return parts


def unstack(ctx: Context, equation: Any, inputs: list[Value]) -> list[Handle]:
    axis, x, shape = equation.params["axis"], ctx.whole(inputs[0]), inputs[0].shape
    parts = [_cut(ctx, x, shape, axis=axis, start=place, stop=place + 1) for place in range(len(equation.outvars))]
    return [ctx.ops.reshape(part, ctx.numbers([*shape[:axis], *shape[axis + 1 :]])) for part in parts]


def _cut(ctx: Context, x: Handle, shape: Sequence[Size], *, axis: int, start: Size, stop: Size) -> Handle:
    """Cells from `start` to `stop` along one axis of a tensor of this shape."""
    low, high = [0] * len(shape), list(shape)
    low[axis], high[axis] = start, stop
    return ctx.ops.slice(x, low, ctx.numbers(high), [1] * len(shape))


def sliced(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    params = equation.params
    start, stop = ctx.numbers(params["start_indices"]), ctx.numbers(params["limit_indices"])
    return ctx.ops.slice(ctx.whole(inputs[0]), start, stop, params["strides"] or [1] * len(start))


def dynamic_slice(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    x, start = inputs[0], inputs[1:]
    sizes, low, high = equation.params["slice_sizes"], [], []
    for value, length, size in zip(start, x.shape, sizes, strict=True):
        first = ctx.held_inside(ctx.whole(value), length - size)
        low.append(first)
        high.append(ctx.int("add", first, ctx.of_size(size)))
    return ctx.ops.slice(ctx.whole(x), low, high, [1] * len(low))


def pad(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    before, after, between = zip(*equation.params["padding_config"], strict=True)
    if any(between) or any(isinstance(size, int) and size < 0 for size in (*before, *after)):
        raise ctx.refusal("a padding between cells, or a negative one")
    return ctx.ops.pad(ctx.whole(inputs[0]), ctx.numbers(before), ctx.numbers(after), ctx.whole(inputs[1]))


def rev(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.ops.reverse(ctx.whole(inputs[0]), ints(equation.params["dimensions"]))


def reduce(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    name, axes = equation.primitive.name, ints(equation.params["axes"])
    if name in ("reduce_and", "reduce_or") and inputs[0].dtype.kind != "b":
        raise ctx.refusal(f"the operation {name} of integers")
    return ctx.ops.reduce(name, ctx.whole(inputs[0]), axes, inputs[0].dtype)


def cumsum(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.ops.cumsum(ctx.whole(inputs[0]), equation.params["axis"], equation.params["reverse"])


def top_k(ctx: Context, equation: Any, inputs: list[Value]) -> list[Handle]:
    if equation.params.get("axis", -1) not in (-1, len(inputs[0].shape) - 1):
        raise ctx.refusal("the largest along an axis that is not the last")
    return list(ctx.ops.top_k(ctx.whole(inputs[0]), equation.params["k"]))


def sort(ctx: Context, equation: Any, inputs: list[Value]) -> list[Handle]:
    """The rows of the last axis in rising order of the first operand."""
    params, shape = equation.params, inputs[0].shape
    if params["num_keys"] != 1 or params["dimension"] != len(shape) - 1 or not isinstance(plain(shape[-1]), int):
        raise ctx.refusal("a sort by several keys or not along the last axis")
    key, *others = [ctx.whole(value) for value in inputs]
    values, place = ctx.ops.top_k(ctx.ops.unary("neg", key), int(shape[-1]))
    return [ctx.ops.unary("neg", values), *(_along_last(ctx, other, place, shape) for other in others)]


def _along_last(ctx: Context, x: Handle, place: Handle, shape: Sequence[Size]) -> Handle:
    """x[..., place] for places of each row."""
    rows = ctx.ops.arange(ctx.numbers([math.prod(shape[:-1])])[0])
    rows = ctx.int("mul", rows, ctx.of_size(shape[-1]))
    rows = ctx.ops.reshape(rows, [*ctx.numbers(shape[:-1]), 1])
    index = ctx.ops.reshape(ctx.int("add", rows, place), [-1])
    return ctx.ops.reshape(ctx.ops.take(ctx.ops.reshape(x, [-1]), index), ctx.numbers(shape))


def dot_general(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    (left_sum, right_sum), (left_batch, right_batch) = (
        [ints(axes) for axes in pair] for pair in equation.params["dimension_numbers"]
    )
    left, right = inputs
    if left_sum == [len(left.shape) - 1] and right_sum == [0] and not left_batch and len(right.shape) == 2:
        return ctx.ops.matmul(ctx.whole(left), ctx.whole(right))
    left_free, left_handle = _as_matrices(ctx, left, left_batch, left_sum, last="sum")
    right_free, right_handle = _as_matrices(ctx, right, right_batch, right_sum, last="free")
    shape = [left.shape[axis] for axis in (*left_batch, *left_free)] + [right.shape[axis] for axis in right_free]
    return ctx.ops.reshape(ctx.ops.matmul(left_handle, right_handle), ctx.numbers(shape))


def _as_matrices(ctx: Context, value: Value, batch: Sequence[int], summed: Sequence[int], *, last: str):
    """The axes that are neither, and the handle of [*batch free sum] or [*batch sum free]."""
    free = [axis for axis in range(len(value.shape)) if axis not in (*batch, *summed)]
    parts = (free, summed) if last == "sum" else (summed, free)
    handle = ctx.whole(value)
    order = [*batch, *parts[0], *parts[1]]
    if order != sorted(order):
        handle = ctx.ops.transpose(handle, order)
    sides = [math.prod(value.shape[axis] for axis in part) for part in parts]
    return free, ctx.ops.reshape(handle, ctx.numbers([*(value.shape[axis] for axis in batch), *sides]))


def conv_general_dilated(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    params, (x, kernel) = equation.params, inputs
    numbers = params["dimension_numbers"]
    usual = numbers.lhs_spec == (0, 3, 1, 2) and numbers.rhs_spec == (3, 2, 0, 1) and numbers.out_spec == (0, 3, 1, 2)
    dilated = set(params["lhs_dilation"]) | set(params["rhs_dilation"]) != {1}
    if not usual or dilated or params["batch_group_count"] != 1 or not kernel.known:
        raise ctx.refusal("a convolution that is dilated or not of [b h w c]")
    return ctx.ops.conv(
        ctx.whole(x),
        np.broadcast_to(kernel.array, kernel.shape),
        strides=params["window_strides"],
        padding=params["padding"],
        groups=params["feature_group_count"],
    )


RULES: dict[str, Callable[[Context, Any, list[Value]], Any]] = {
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

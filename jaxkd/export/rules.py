"""The lowering rule of each JAX primitive, but for loops, calls and elementwise operations."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxkd.export.context import Context
from jaxkd.export.gather_scatter import gather, scatter
from jaxkd.export.ops import REDUCTIONS, Handle, Number
from jaxkd.export.values import Convolution, Size, Value, as_int, ints


def dim_as_value(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.number(equation.params["dim"])


def iota(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    params, aval = equation.params, equation.outvars[0].aval
    (count,) = ctx.numbers([aval.shape[params["dimension"]]])
    handle = ctx.ops.arange(count)
    if aval.dtype != np.int32:
        handle = ctx.ops.cast(handle, np.dtype(aval.dtype))
    shape: list[Number] = [1] * len(aval.shape)
    shape[params["dimension"]] = count
    handle = ctx.ops.reshape(handle, shape)
    return ctx.ops.expand(handle, ctx.numbers(aval.shape)) if len(shape) > 1 else handle


def reshape(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.ops.reshape(ctx.expanded(inputs[0]), ctx.numbers(equation.outvars[0].aval.shape))


def transpose(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.ops.transpose(ctx.expanded(inputs[0]), ints(equation.params["permutation"]))


def concatenate(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.ops.concatenate([ctx.expanded(value) for value in inputs], equation.params["dimension"])


def stack(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    axis, shape = equation.params["axis"], list(inputs[0].shape)
    shape.insert(axis, 1)
    parts = [ctx.ops.reshape(ctx.expanded(value), ctx.numbers(shape)) for value in inputs]
    return ctx.ops.concatenate(parts, axis)


def tile(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    before, between = [], []
    for size, times in zip(inputs[0].shape, equation.params["reps"], strict=True):
        before += [1, size]
        between += [times, size]
    out = ctx.ops.reshape(ctx.expanded(inputs[0]), ctx.numbers(before))
    out = ctx.ops.expand(out, ctx.numbers(between))
    return ctx.ops.reshape(out, ctx.numbers(equation.outvars[0].aval.shape))


def split(ctx: Context, equation: Any, inputs: list[Value]) -> list[Handle]:
    axis, x, start, parts = equation.params["axis"], ctx.expanded(inputs[0]), 0, []
    for size in equation.params["sizes"]:
        parts.append(_slice_axis(ctx, x, inputs[0].shape, axis=axis, start=start, stop=start + size))
        start += size
    return parts


def unstack(ctx: Context, equation: Any, inputs: list[Value]) -> list[Handle]:
    axis, x, shape = equation.params["axis"], ctx.expanded(inputs[0]), inputs[0].shape
    parts = [
        _slice_axis(ctx, x, shape, axis=axis, start=index, stop=index + 1) for index in range(len(equation.outvars))
    ]
    return [ctx.ops.reshape(part, ctx.numbers([*shape[:axis], *shape[axis + 1 :]])) for part in parts]


def _slice_axis(ctx: Context, x: Handle, shape: Sequence[Size], *, axis: int, start: Size, stop: Size) -> Handle:
    """The slice from `start` to `stop` along one axis of a tensor of this shape."""
    starts, stops = [0] * len(shape), list(shape)
    starts[axis], stops[axis] = start, stop
    return ctx.ops.slice(x, starts, ctx.stops(stops, shape), [1] * len(shape))


def sliced(ctx: Context, equation: Any, inputs: list[Value]) -> Value | Handle:
    params = equation.params
    return ctx.part(inputs[0], params["start_indices"], params["limit_indices"], params["strides"])


def dynamic_slice(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    x, start = inputs[0], inputs[1:]
    sizes, starts, stops = equation.params["slice_sizes"], [], []
    for value, length, size in zip(start, x.shape, sizes, strict=True):
        first = ctx.clamped(ctx.expanded(value), length - size)
        starts.append(first)
        stops.append(ctx.int_op("add", first, ctx.size_handle(size)))
    return ctx.ops.slice(ctx.expanded(x), starts, stops, [1] * len(starts))


def pad(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    before, after, interior = zip(*equation.params["padding_config"], strict=True)
    if any(interior) or any(isinstance(size, int) and size < 0 for size in (*before, *after)):
        raise ctx.unsupported("a padding between cells, or a negative one")
    return ctx.ops.pad(ctx.expanded(inputs[0]), ctx.numbers(before), ctx.numbers(after), ctx.expanded(inputs[1]))


def rev(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.ops.reverse(ctx.expanded(inputs[0]), ints(equation.params["dimensions"]))


def reduce(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    name, axes = equation.primitive.name, ints(equation.params["axes"])
    if name in ("reduce_and", "reduce_or") and inputs[0].dtype.kind != "b":
        raise ctx.unsupported(f"the operation {name} of integers")
    return ctx.ops.reduce(name, ctx.expanded(inputs[0]), axes, inputs[0].dtype)


def cumsum(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    return ctx.ops.cumsum(ctx.expanded(inputs[0]), equation.params["axis"], equation.params["reverse"])


# Of the polynomial in t = 1 / (1 + ERF_SLOPE |x|) by which erf is computed, from the highest power on.
ERF_SLOPE, ERF_FACTORS = 0.3275911, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def erf(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    """The error function to 1.5e-7, by formula 7.1.26 of Abramowitz & Stegun; not every format has an own one."""
    dtype, x = np.dtype(np.float32), ctx.expanded(inputs[0])

    def binary(name: str, x: Handle | float, y: Handle | float) -> Handle:
        left, right = (ctx.ops.constant(np.float32(one)) if isinstance(one, float) else one for one in (x, y))
        return ctx.ops.binary(name, left, right, dtype)

    size = ctx.ops.unary("abs", x)
    t = binary("div", 1.0, binary("add", 1.0, binary("mul", ERF_SLOPE, size)))
    polynomial: Handle = 0.0
    for factor in ERF_FACTORS:
        polynomial = binary("mul", binary("add", polynomial, factor), t)
    decay = ctx.ops.unary("exp", ctx.ops.unary("neg", binary("mul", size, size)))
    return binary("mul", ctx.ops.unary("sign", x), binary("sub", 1.0, binary("mul", polynomial, decay)))


def top_k(ctx: Context, equation: Any, inputs: list[Value]) -> list[Handle]:
    if equation.params.get("axis", -1) not in (-1, len(inputs[0].shape) - 1):
        raise ctx.unsupported("the largest along an axis that is not the last")
    return list(ctx.ops.top_k(ctx.expanded(inputs[0]), equation.params["k"]))


def sort(ctx: Context, equation: Any, inputs: list[Value]) -> list[Handle]:
    """The operands sorted along the last axis by the first of them, ascending."""
    params, shape = equation.params, inputs[0].shape
    if params["num_keys"] != 1 or params["dimension"] != len(shape) - 1 or not isinstance(as_int(shape[-1]), int):
        raise ctx.unsupported("a sort by several keys or not along the last axis")
    key, *others = [ctx.expanded(value) for value in inputs]
    values, index = ctx.ops.top_k(ctx.ops.unary("neg", key), int(shape[-1]))
    return [ctx.ops.unary("neg", values), *(_along_last(ctx, other, index, shape) for other in others)]


def _along_last(ctx: Context, x: Handle, index: Handle, shape: Sequence[Size]) -> Handle:
    """`x` taken along its last axis at the indices `index` of each row."""
    rows = ctx.ops.arange(ctx.numbers([math.prod(shape[:-1])])[0])
    rows = ctx.int_op("mul", rows, ctx.size_handle(shape[-1]))
    rows = ctx.ops.reshape(rows, [*ctx.numbers(shape[:-1]), 1])
    flat = ctx.ops.reshape(ctx.int_op("add", rows, index), [-1])
    return ctx.ops.reshape(ctx.ops.take(ctx.ops.reshape(x, [-1]), flat), ctx.numbers(shape))


def dot_general(ctx: Context, equation: Any, inputs: list[Value]) -> Handle:
    (left_sum, right_sum), (left_batch, right_batch) = (
        [ints(axes) for axes in pair] for pair in equation.params["dimension_numbers"]
    )
    left, right = inputs
    if left_sum == [len(left.shape) - 1] and right_sum == [0] and not left_batch and len(right.shape) == 2:
        return ctx.ops.matmul(ctx.expanded(left), ctx.expanded(right))
    left_free, left_handle = _as_matrices(ctx, left, left_batch, left_sum, last="sum")
    right_free, right_handle = _as_matrices(ctx, right, right_batch, right_sum, last="free")
    shape = [left.shape[axis] for axis in (*left_batch, *left_free)] + [right.shape[axis] for axis in right_free]
    return ctx.ops.reshape(ctx.ops.matmul(left_handle, right_handle), ctx.numbers(shape))


def _as_matrices(ctx: Context, value: Value, batch: Sequence[int], summed: Sequence[int], *, last: str):
    """The free axes (neither batch nor summed), and the handle of [*batch free sum] or [*batch sum free]."""
    free = [axis for axis in range(len(value.shape)) if axis not in (*batch, *summed)]
    parts = (free, summed) if last == "sum" else (summed, free)
    handle = ctx.expanded(value)
    order = [*batch, *parts[0], *parts[1]]
    if order != sorted(order):
        handle = ctx.ops.transpose(handle, order)
    sides = [math.prod(value.shape[axis] for axis in part) for part in parts]
    return free, ctx.ops.reshape(handle, ctx.numbers([*(value.shape[axis] for axis in batch), *sides]))


def conv_general_dilated(ctx: Context, equation: Any, inputs: list[Value]) -> Convolution:
    params, (x, kernel) = equation.params, inputs
    numbers = params["dimension_numbers"]
    is_nhwc = numbers.lhs_spec == (0, 3, 1, 2) and numbers.rhs_spec == (3, 2, 0, 1) and numbers.out_spec == (0, 3, 1, 2)
    is_dilated = set(params["lhs_dilation"]) | set(params["rhs_dilation"]) != {1}
    if not is_nhwc or is_dilated or params["batch_group_count"] != 1 or not kernel.is_constant:
        raise ctx.unsupported("a convolution that is dilated or not of [b h w c]")
    return Convolution(
        ctx.expanded(x),
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
    "erf": erf,
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

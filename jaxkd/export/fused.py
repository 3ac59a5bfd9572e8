"""Functions of a program that a format has as one operation: activations, poolings, resizes and suppression.

Each is found by its name and its file, and lowered by the rule of FUSED. A rule returns None where the operation does
not fit, and the function is then lowered step by step.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxkd.export.context import Context
from jaxkd.export.values import Convolution, Size, Value, constant, with_shape

FUNCTIONS = "jax/_src/nn/functions.py"


def greedy(ctx: Context, equation: Any, inputs: list[Value]) -> list[Value] | None:
    """`ops.nms.greedy` as the format's non-maximum suppression."""
    suppress = getattr(ctx.ops, "suppress", None)
    boxes, scores, valid, *classes, threshold = inputs
    index, _ = [variable.aval for variable in equation.outvars]
    if suppress is None or not threshold.is_constant or len(index.shape) != 2:
        return None
    class_rows = classes[0] if classes else constant(np.zeros((1, 1), np.int32))
    limit, count = index.shape[-1], boxes.shape[-2]
    operands = [_with_batch(ctx, value, boxes.shape[0]) for value in (boxes, scores, valid)]
    operands.append(_with_batch(ctx, class_rows, boxes.shape[0], count))
    handles = suppress(*operands, threshold=float(threshold.array), limit=limit, count=count)
    return [ctx.as_value(handle, variable.aval) for handle, variable in zip(handles, equation.outvars, strict=True)]


def _with_batch(ctx: Context, value: Value, batch: Size, count: Size | None = None) -> Any:
    """The value with the axis of the batch expanded; `count` gives the length of its last axis."""
    shape = (batch, *value.shape[1:]) if count is None else (batch, count)
    return ctx.expanded(with_shape(value, shape))


def shifted_products(ctx: Context, equation: Any, inputs: list[Value]) -> list[Value] | None:
    """`nets.depthwise.shifted_products`, which is a depthwise convolution."""
    x, kernel = inputs
    if not kernel.is_constant:
        return None
    aval = equation.outvars[0].aval
    strides = [-(-int(x.shape[axis]) // int(aval.shape[axis])) for axis in (1, 2)]  # for one cell any stride does
    weights = np.asarray(kernel.array)[:, :, None]
    margin = (len(weights) // 2, len(weights) // 2)
    convolution = Convolution(ctx.expanded(x), weights, strides, (margin, margin), groups=weights.shape[-1])
    return [ctx.as_value(convolution, aval)]


def pointwise(ctx: Context, equation: Any, inputs: list[Value]) -> list[Value] | None:
    """`nets.conv.pointwise`, which is a convolution of 1 x 1."""
    x, kernel = inputs
    if not kernel.is_constant:
        return None
    aval, weights = equation.outvars[0].aval, np.broadcast_to(kernel.array, kernel.shape)[None, None]
    strides = [-(-int(x.shape[axis]) // int(aval.shape[axis])) for axis in (1, 2)]  # as in `shifted_products`
    return [ctx.as_value(Convolution(ctx.expanded(x), weights, strides, ((0, 0), (0, 0))), aval)]


def relu(ctx: Context, equation: Any, inputs: list[Value]) -> list[Value] | None:
    """`jax.nn.relu`."""
    return _activated(ctx, "relu", inputs[0])


def relu6(ctx: Context, equation: Any, inputs: list[Value]) -> list[Value] | None:
    """`jax.nn.relu6`."""
    return _activated(ctx, "relu6", inputs[0])


def leaky_relu(ctx: Context, equation: Any, inputs: list[Value]) -> list[Value] | None:
    """`jax.nn.leaky_relu`, for a slope that does not depend on the pictures."""
    x, slope = inputs
    return _activated(ctx, "leaky_relu", x, slope=float(slope.array)) if slope.is_constant else None


def _activated(ctx: Context, name: str, x: Value, *, slope: float = 0.0) -> list[Value] | None:
    if x.dtype != np.float32:
        return None
    handle = ctx.ops.activation(name, ctx.stored(x), slope=slope)
    return [Value(handle, False, x.shape, x.stored_shape, x.dtype)]


def max_pool(ctx: Context, equation: Any, inputs: list[Value]) -> list[Value] | None:
    """`nets.pool.halved`, in which the padding is never the greatest of a window."""
    return [ctx.as_value(ctx.ops.max_pool(ctx.expanded(inputs[0])), equation.outvars[0].aval)]


def mean_pool(ctx: Context, equation: Any, inputs: list[Value]) -> list[Value] | None:
    """`nets.sum_pan.halved` of a map all of whose cells are valid."""
    x, valid = inputs
    return [ctx.as_value(ctx.ops.mean_pool(ctx.expanded(x)), equation.outvars[0].aval)] if _is_one(valid) else None


def nearest(ctx: Context, equation: Any, inputs: list[Value]) -> list[Value] | None:
    """`nets.pyramid.repeated`."""
    return _resized(ctx, "nearest", inputs[0], equation)


def bilinear(ctx: Context, equation: Any, inputs: list[Value]) -> list[Value] | None:
    """`nets.sum_pan.interpolated` of a map all of whose cells are valid, where nothing has to be cropped."""
    x, valid, *_ = inputs
    shape = equation.outvars[0].aval.shape
    if not _is_one(valid) or any(shape[axis] != 2 * x.shape[axis] for axis in (1, 2)):
        return None
    return _resized(ctx, "bilinear", x, equation)


def _resized(ctx: Context, name: str, x: Value, equation: Any) -> list[Value] | None:
    aval = equation.outvars[0].aval
    if x.dtype != np.float32:
        return None
    size = int(aval.shape[1]), int(aval.shape[2])
    return [ctx.as_value(ctx.ops.doubled(name, ctx.expanded(x), size), aval)]


def _is_one(value: Value) -> bool:
    return value.is_constant and bool((np.asarray(value.array) == 1).all())


Rule = Callable[[Context, Any, list[Value]], list[Value] | None]
FUSED: dict[tuple[str, str], Rule] = {  # by name and file of the function
    ("greedy", "jaxkd/ops/nms.py"): greedy,
    ("shifted_products", "jaxkd/nets/depthwise.py"): shifted_products,
    ("pointwise", "jaxkd/nets/conv.py"): pointwise,
    ("relu", FUNCTIONS): relu,
    ("relu6", FUNCTIONS): relu6,
    ("leaky_relu", FUNCTIONS): leaky_relu,
    ("halved", "jaxkd/nets/pool.py"): max_pool,
    ("halved", "jaxkd/nets/sum_pan.py"): mean_pool,
    ("repeated", "jaxkd/nets/pyramid.py"): nearest,
    ("interpolated", "jaxkd/nets/sum_pan.py"): bilinear,
}


def rule_of(source: str) -> Rule | None:
    """The rule for a function whose name and file are in `source`, as "NAME at FILE:LINE"."""
    name, _, file = source.partition(" at ")
    file = file.replace("\\", "/").rpartition(":")[0]
    rules = [rule for (known, path), rule in FUSED.items() if known == name and file.endswith(path)]
    return rules[0] if rules else None

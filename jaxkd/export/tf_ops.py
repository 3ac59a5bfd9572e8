"""The operations of `ops.Ops` in TensorFlow, restricted to those that TFLite has as builtins."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from jaxkd.export.ops import Number

UNARY = {
    "abs": tf.abs, "ceil": tf.math.ceil, "exp": tf.exp, "floor": tf.floor, "log": tf.math.log,
    "logistic": tf.sigmoid, "neg": tf.negative, "not": tf.logical_not, "round": tf.round, "rsqrt": tf.math.rsqrt,
    "sign": tf.sign, "sqrt": tf.sqrt, "tanh": tf.tanh,
}  # fmt: skip
BINARY = {
    "add": tf.add, "and": tf.logical_and, "eq": tf.equal, "ge": tf.greater_equal, "gt": tf.greater,
    "le": tf.less_equal, "lt": tf.less, "max": tf.maximum, "min": tf.minimum, "mul": tf.multiply, "ne": tf.not_equal,
    "or": tf.logical_or, "pow": tf.pow, "sub": tf.subtract, "xor": tf.not_equal,
}  # fmt: skip
REDUCE = {
    "reduce_and": tf.reduce_all, "reduce_max": tf.reduce_max, "reduce_min": tf.reduce_min, "reduce_or": tf.reduce_any,
    "reduce_sum": tf.reduce_sum,
}  # fmt: skip


class TfOps:
    """Operations of the TensorFlow graph that is being traced; handles are tensors.

    With `exact`, float32 tables are gathered as int32 of the same bits, which a quantiser leaves alone. Else it makes
    every table int8, boxes too, which costs the quickstart's student 3 AP.
    """

    format = "TensorFlow"

    def __init__(self, *, exact: bool = False) -> None:
        self._exact = exact
        self._constants: dict[tuple, Any] = {}

    def constant(self, value: np.ndarray | np.generic) -> Any:
        """A constant of the current graph (a loop has a graph of its own); equal constants are shared."""
        value = np.asarray(value)
        key = (tf.compat.v1.get_default_graph(), value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = tf.constant(value)
        return self._constants[key]

    def unary(self, name: str, x: Any) -> Any:
        """See `ops.Ops`, as for all that follow."""
        return UNARY[name](x)

    def binary(self, name: str, x: Any, y: Any, dtype: np.dtype) -> Any:
        """Integer division rounds towards zero; TFLite only has division that rounds down."""
        if name == "rem" and dtype.kind == "f":
            return tf.math.floormod(tf.abs(x), tf.abs(y)) * tf.sign(x)
        if name in ("div", "rem") and dtype.kind != "f":
            quotient = tf.math.floordiv(tf.abs(x), tf.abs(y)) * tf.sign(x) * tf.sign(y)
            return quotient if name == "div" else x - quotient * y
        return tf.divide(x, y) if name == "div" else BINARY[name](x, y)

    def where(self, condition: Any, x: Any, y: Any, dtype: np.dtype) -> Any:
        return tf.where(condition, x, y)

    def cast(self, x: Any, dtype: np.dtype) -> Any:
        return tf.cast(x, dtype)

    def reshape(self, x: Any, shape: Sequence[Number]) -> Any:
        dynamic = [index for index, size in enumerate(shape) if tf.is_tensor(size)]
        if len(dynamic) == 1 and -1 not in [size for size in shape if isinstance(size, int)]:
            shape = [-1 if index in dynamic else size for index, size in enumerate(shape)]
        return tf.reshape(x, list(shape))

    def transpose(self, x: Any, order: Sequence[int]) -> Any:
        return tf.transpose(x, [int(axis) for axis in order])

    def expand(self, x: Any, shape: Sequence[Number]) -> Any:
        return tf.broadcast_to(x, list(shape))

    def concatenate(self, parts: Sequence[Any], axis: int) -> Any:
        return tf.concat(list(parts), axis)

    def slice(self, x: Any, start: Sequence[Number], stop: Sequence[Number | None], step: Sequence[int]) -> Any:
        """A stop that is a tensor would leave TensorFlow without the sizes of all axes."""
        to_end = sum(1 << axis for axis, number in enumerate(stop) if number is None)
        ends = [0 if number is None else number for number in stop]
        return tf.strided_slice(x, list(start), ends, [int(number) for number in step], end_mask=to_end)

    def pad(self, x: Any, before: Sequence[Number], after: Sequence[Number], value: Any) -> Any:
        return tf.pad(x, [list(pair) for pair in zip(before, after, strict=True)], constant_values=value)

    def reverse(self, x: Any, axes: Sequence[int]) -> Any:
        return tf.reverse(x, [int(axis) for axis in axes])

    def reduce(self, name: str, x: Any, axes: Sequence[int], dtype: np.dtype) -> Any:
        return REDUCE[name](x, [int(axis) for axis in axes])

    def cumsum(self, x: Any, axis: int, reverse: bool) -> Any:
        return tf.cumsum(x, int(axis), reverse=reverse)

    def matmul(self, x: Any, y: Any) -> Any:
        return tf.matmul(x, y)

    def conv(
        self,
        x: Any,
        kernel: np.ndarray,
        *,
        bias: np.ndarray | None,
        strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        groups: int,
    ) -> Any:
        """The padding is a separate operation unless it is TFLite's "same", as its convolutions have no other."""
        sides = zip(x.shape[1:3], kernel.shape[:2], strides, strict=True)
        is_same = all(_same(*side) == tuple(pair) for side, pair in zip(sides, padding, strict=True))
        if not is_same and any(any(pair) for pair in padding):
            x = tf.pad(x, [(0, 0), *padding, (0, 0)])
        strides, mode = [1, *strides, 1], "SAME" if is_same else "VALID"
        if groups == 1:
            out = tf.nn.conv2d(x, self.constant(kernel), strides, mode)
        elif kernel.shape[2] == 1 and kernel.shape[3] == groups:
            out = tf.nn.depthwise_conv2d(x, self.constant(kernel.transpose(0, 1, 3, 2)), strides, mode)
        else:
            parts = zip(tf.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
            out = tf.concat([tf.nn.conv2d(part, self.constant(numbers), strides, mode) for part, numbers in parts], -1)
        return out if bias is None else tf.nn.bias_add(out, self.constant(bias))

    def activation(self, name: str, x: Any, *, slope: float) -> Any:
        return tf.nn.leaky_relu(x, slope) if name == "leaky_relu" else getattr(tf.nn, name)(x)

    def max_pool(self, x: Any) -> Any:
        """The padding repeats the cells at the edge, which count anyway: as a number it would widen int8's ranges."""
        padded = tf.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="SYMMETRIC")
        return tf.nn.max_pool2d(padded, 3, 2, "VALID")

    def mean_pool(self, x: Any) -> Any:
        return tf.nn.avg_pool2d(x, 2, 2, "SAME")

    def doubled(self, name: str, x: Any, size: tuple[int, int]) -> Any:
        if name == "nearest":
            return tf.raw_ops.ResizeNearestNeighbor(images=x, size=size)
        return tf.raw_ops.ResizeBilinear(images=x, size=size, half_pixel_centers=True)

    def take(self, x: Any, index: Any) -> Any:
        if self._exact and x.dtype == tf.float32:
            return tf.bitcast(tf.gather(tf.bitcast(x, tf.int32), index), tf.float32)
        return tf.gather(x, index)

    def put(self, x: Any, index: Any, values: Any, dtype: np.dtype) -> Any:
        index = index[:, None]
        is_set = tf.scatter_nd(index, tf.ones_like(index[:, 0]), tf.shape(x)) > 0
        if dtype == np.bool_:
            return tf.where(is_set, tf.scatter_nd(index, tf.cast(values, tf.int32), tf.shape(x)) > 0, x)
        return tf.where(is_set, tf.scatter_nd(index, values, tf.shape(x)), x)

    def top_k(self, x: Any, k: int) -> tuple[Any, Any]:
        return tf.math.top_k(x, int(k))

    def arange(self, count: Number) -> Any:
        return tf.range(count, dtype=tf.int32)

    def loop(
        self, condition: Callable, body: Callable, start: Sequence[Any], shapes: Sequence[tuple], dtypes: Sequence
    ) -> list[Any]:
        return list(
            tf.while_loop(
                lambda *carried: condition(list(carried)),
                lambda *carried: tuple(body(list(carried))),
                tuple(start),
                shape_invariants=tuple(tf.TensorShape(shape) for shape in shapes),
                parallel_iterations=1,
            )
        )

    def map(
        self, body: Callable, rows: Sequence[Any], row_specs: Sequence[tuple], result_specs: Sequence[tuple]
    ) -> list[Any]:
        signature = tuple(tf.TensorSpec(shape, dtype) for shape, dtype in result_specs)
        results = tf.map_fn(
            lambda row: tuple(body(list(row))), tuple(rows), fn_output_signature=signature, parallel_iterations=1
        )
        return list(results)


def _same(side: int | None, size: int, stride: int) -> tuple[int, int] | None:
    """What "same" pads of a side before and after, None where the side is not known."""
    if side is None:
        return None
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2

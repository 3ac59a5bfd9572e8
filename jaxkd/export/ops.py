"""The operations that a format has to offer so that a traced program can be lowered to it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

Handle = Any  # a tensor of the format, or its name
Number = Any  # an integer, or the handle of one

UNARY = (
    "abs", "ceil", "exp", "floor", "log", "logistic", "neg", "not", "round", "rsqrt", "sign", "sqrt", "tanh",
)  # fmt: skip
BINARY = (
    "add", "and", "div", "eq", "ge", "gt", "le", "lt", "max", "min", "mul", "ne", "or", "pow", "rem", "sub", "xor",
)  # fmt: skip
ACTIVATIONS = ("leaky_relu", "relu", "relu6")
REDUCTIONS = ("reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_sum")


@runtime_checkable
class Ops(Protocol):
    """The operations of a format, on handles of tensors; a `Number` in a shape may be the handle of a scalar."""

    format: str  # its name, for messages

    def constant(self, value: np.ndarray | np.generic) -> Handle:
        """A constant tensor."""
        ...

    def unary(self, name: str, x: Handle) -> Handle:
        """One of UNARY, elementwise."""
        ...

    def binary(self, name: str, x: Handle, y: Handle, dtype: np.dtype) -> Handle:
        """One of BINARY, elementwise, with NumPy's broadcasting; `dtype` is that of the operands.

        Integer division rounds towards zero.
        """
        ...

    def where(self, condition: Handle, x: Handle, y: Handle, dtype: np.dtype) -> Handle:
        """`x` where the condition is true, `y` elsewhere, with NumPy's broadcasting."""
        ...

    def cast(self, x: Handle, dtype: np.dtype) -> Handle:
        """The same numbers in another dtype; floats are truncated to integers."""
        ...

    def reshape(self, x: Handle, shape: Sequence[Number]) -> Handle:
        """The same elements in another shape."""
        ...

    def transpose(self, x: Handle, order: Sequence[int]) -> Handle:
        """The axes in another order."""
        ...

    def expand(self, x: Handle, shape: Sequence[Number]) -> Handle:
        """Axes of length 1 repeated up to this shape."""
        ...

    def concatenate(self, parts: Sequence[Handle], axis: int) -> Handle:
        """The parts joined along an axis."""
        ...

    def slice(self, x: Handle, start: Sequence[Number], stop: Sequence[Number | None], step: Sequence[int]) -> Handle:
        """A part of `x`; none of the numbers is negative, and a stop of None is the end of an axis."""
        ...

    def pad(self, x: Handle, before: Sequence[Number], after: Sequence[Number], value: Handle) -> Handle:
        """`x` padded with `value`."""
        ...

    def reverse(self, x: Handle, axes: Sequence[int]) -> Handle:
        """`x` reversed along these axes."""
        ...

    def reduce(self, name: str, x: Handle, axes: Sequence[int], dtype: np.dtype) -> Handle:
        """One of REDUCTIONS; the axes are removed."""
        ...

    def cumsum(self, x: Handle, axis: int, reverse: bool) -> Handle:
        """Cumulative sums along an axis."""
        ...

    def matmul(self, x: Handle, y: Handle) -> Handle:
        """Products of matrices [... n m] and [... m k], with equal leading axes; or [... n m] and [m k]."""
        ...

    def conv(
        self,
        x: Handle,
        kernel: np.ndarray,
        *,
        bias: np.ndarray | None,
        strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        groups: int,
    ) -> Handle:
        """The convolution of [b h w c] by a kernel [h w c/groups d], plus a bias [d]."""
        ...

    def activation(self, name: str, x: Handle, *, slope: float) -> Handle:
        """One of ACTIVATIONS, elementwise; `slope` is that of "leaky_relu" below 0."""
        ...

    def max_pool(self, x: Handle) -> Handle:
        """The greatest of each 3x3 window of [b h w c] with stride 2 and a padding of 1, which does not count."""
        ...

    def mean_pool(self, x: Handle) -> Handle:
        """The mean of every 2x2 cells of [b h w c]; of an odd side the last cells are fewer."""
        ...

    def doubled(self, name: str, x: Handle, size: tuple[int, int]) -> Handle:
        """[b h w c] at twice its size, which is `size`: "nearest" or, between the centres of cells, "bilinear"."""
        ...

    def take(self, x: Handle, index: Handle) -> Handle:
        """x[index] along the first axis, for an index [n] within its bounds."""
        ...

    def put(self, x: Handle, index: Handle, values: Handle, dtype: np.dtype) -> Handle:
        """`x` [n] with values [m] put at an index [m] within its bounds; of two for one place either may stay."""
        ...

    def top_k(self, x: Handle, k: int) -> tuple[Handle, Handle]:
        """The largest k along the last axis, and their indices (int32); of equal ones the first comes first."""
        ...

    def arange(self, count: Number) -> Handle:
        """The int32 numbers 0 to `count` - 1."""
        ...

    def loop(
        self, condition: Callable, body: Callable, start: Sequence[Handle], shapes: Sequence[tuple], dtypes: Sequence
    ) -> list[Handle]:
        """`start` after `body` has run while `condition` is true; both take and return lists of handles."""
        ...

    def map(
        self, body: Callable, rows: Sequence[Handle], row_specs: Sequence[tuple], result_specs: Sequence[tuple]
    ) -> list[Handle]:
        """The results of `body` for each row of the tensors, stacked.

        `row_specs` and `result_specs` are pairs of shape and dtype of one row.
        """
        ...

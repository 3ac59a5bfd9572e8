"""What a format has to offer so that a traced program can be told to it."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

Handle = Any  # of the format: the name of a tensor, or a tensor
Number = Any  # an integer, or the handle of one

UNARY = (
    "abs", "ceil", "exp", "floor", "log", "logistic", "neg", "not", "round", "rsqrt", "sign", "sqrt", "tanh",
)  # fmt: skip
BINARY = (
    "add", "and", "div", "eq", "ge", "gt", "le", "lt", "max", "min", "mul", "ne", "or", "pow", "rem", "sub", "xor",
)  # fmt: skip
REDUCTIONS = ("reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_sum")


@runtime_checkable
class Ops(Protocol):
    """What a format has to offer. Handles are of whole tensors; a `Number` in a shape may be the handle of one."""

    format: str  # its name, for messages

    def constant(self, value: np.ndarray | np.generic) -> Handle:
        """A tensor with this value."""
        ...

    def unary(self, name: str, x: Handle) -> Handle:
        """One of UNARY, cell by cell."""
        ...

    def binary(self, name: str, x: Handle, y: Handle, dtype: np.dtype) -> Handle:
        """One of BINARY, cell by cell, with NumPy's broadcasting; `dtype` is that of the operands.

        Integers are divided towards zero.
        """
        ...

    def where(self, condition: Handle, x: Handle, y: Handle, dtype: np.dtype) -> Handle:
        """Cells of `x` where the condition holds, of `y` elsewhere, with NumPy's broadcasting."""
        ...

    def cast(self, x: Handle, dtype: np.dtype) -> Handle:
        """The same numbers in another dtype; fractions are cut off."""
        ...

    def reshape(self, x: Handle, shape: Sequence[Number]) -> Handle:
        """The same cells in another shape."""
        ...

    def transpose(self, x: Handle, order: Sequence[int]) -> Handle:
        """The axes in another order."""
        ...

    def expand(self, x: Handle, shape: Sequence[Number]) -> Handle:
        """Axes of length 1 repeated up to this shape."""
        ...

    def concatenate(self, parts: Sequence[Handle], axis: int) -> Handle:
        """The parts behind each other."""
        ...

    def slice(self, x: Handle, start: Sequence[Number], stop: Sequence[Number], step: Sequence[int]) -> Handle:
        """A part of `x`; none of the numbers is negative."""
        ...

    def pad(self, x: Handle, before: Sequence[Number], after: Sequence[Number], value: Handle) -> Handle:
        """`x` with `value` around it."""
        ...

    def reverse(self, x: Handle, axes: Sequence[int]) -> Handle:
        """These axes backwards."""
        ...

    def reduce(self, name: str, x: Handle, axes: Sequence[int], dtype: np.dtype) -> Handle:
        """One of REDUCTIONS; the axes are gone."""
        ...

    def cumsum(self, x: Handle, axis: int, reverse: bool) -> Handle:
        """Sums up to each cell."""
        ...

    def matmul(self, x: Handle, y: Handle) -> Handle:
        """Products of matrices [... n m] and [... m k], with equal leading axes; or any x with a y [m k]."""
        ...

    def conv(
        self, x: Handle, kernel: np.ndarray, *, strides: Sequence[int], padding: Sequence[tuple[int, int]], groups: int
    ) -> Handle:
        """The convolution of [b h w c] by a kernel [h w c/groups d]."""
        ...

    def take(self, x: Handle, index: Handle) -> Handle:
        """x[index] along the first axis, for an index [n] within its bounds."""
        ...

    def put(self, x: Handle, index: Handle, values: Handle, dtype: np.dtype) -> Handle:
        """`x` [n] with the values [m] at an index [m] within its bounds; those at equal places may fall anyhow."""
        ...

    def top_k(self, x: Handle, k: int) -> tuple[Handle, Handle]:
        """The largest k along the last axis, and their places (int32); of equal ones the first comes first."""
        ...

    def arange(self, count: Number) -> Handle:
        """int32 numbers from 0."""
        ...

    def loop(
        self, condition: Callable, body: Callable, start: Sequence[Handle], shapes: Sequence[tuple], dtypes: Sequence
    ) -> list[Handle]:
        """What `body` makes of `start` as often as `condition` holds; both take and give lists of handles."""
        ...

    def map(
        self, body: Callable, rows: Sequence[Handle], given: Sequence[tuple], made: Sequence[tuple]
    ) -> list[Handle]:
        """`body` for each row of the tensors, and what it makes as rows again.

        `given` and `made` are shape and dtype of each row.
        """
        ...

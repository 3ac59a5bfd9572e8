"""The tensors of a program while it is lowered."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Size = Any  # an integer, or an expression of the batch


@dataclass(frozen=True)
class Value:
    """A tensor of the program."""

    array: Any  # a NumPy array where it is constant, else a handle, or a Convolution that is not yet written
    is_constant: bool
    shape: tuple[Size, ...]  # as the program has it
    stored_shape: tuple[Size, ...]  # of `array`: 1 on axes that are only broadcast
    dtype: np.dtype


@dataclass(frozen=True)
class Convolution:
    """A convolution of [b h w c], before it is written: factors and shifts of its channels can still join it."""

    x: Any  # a handle
    kernel: np.ndarray  # [h w c/groups d]
    strides: Sequence[int]
    padding: Sequence[tuple[int, int]]
    groups: int = 1
    bias: np.ndarray | None = None  # [d]

    def joined(self, name: str, numbers: np.ndarray) -> "Convolution":
        """The convolution whose results are these after "add", "sub", "mul" or "div" by [d] or [1] finite numbers."""
        bias = np.zeros(self.kernel.shape[-1], np.float32) if self.bias is None else self.bias
        if name in ("add", "sub"):
            return dataclasses.replace(self, bias=bias + numbers if name == "add" else bias - numbers)
        factor = numbers if name == "mul" else 1 / numbers
        scaled_bias = None if self.bias is None else bias * factor
        return dataclasses.replace(self, kernel=self.kernel * factor, bias=scaled_bias)


def constant(array: np.ndarray) -> Value:
    """The value of an array that depends on no input."""
    array = np.asarray(array)
    return Value(array, True, array.shape, array.shape, array.dtype)


def with_shape(value: Value, shape: tuple[Size, ...]) -> Value:
    """The value broadcast to another shape."""
    return Value(value.array, value.is_constant, shape, value.stored_shape, value.dtype)


def part_of(value: Value, starts: Sequence[int], stops: Sequence[Size], steps: Sequence[int] | None) -> Value | None:
    """A part of a constant, as a constant; None where it is cut along an axis whose size depends on the batch."""
    pieces, shape = [], []
    for axis, (start, stop, step) in enumerate(zip(starts, stops, steps or [1] * len(starts), strict=True)):
        size = value.shape[axis]
        if not is_static([size]) and (start, str(stop), step) != (0, str(size), 1):
            return None
        pieces.append(slice(None) if value.stored_shape[axis] == 1 else slice(start, stop, step))
        shape.append(-(-(stop - start) // step) if is_static([size]) else size)
    array = np.asarray(value.array)[tuple(pieces)]
    return Value(array, True, tuple(shape), array.shape, value.dtype)


def scalar_of_rank(value: Value, rank: int) -> Value:
    """A scalar as a tensor of `rank` axes of length 1."""
    ones = (1,) * rank
    return Value(
        np.reshape(value.array, ones) if value.is_constant else value.array, value.is_constant, ones, ones, value.dtype
    )


def as_int(size: Size) -> Size:
    """The size as a plain int where it is static."""
    return int(size) if isinstance(size, (int, np.integer)) else size


def is_static(shape: Sequence[Size]) -> bool:
    """Whether no size depends on the batch."""
    return all(isinstance(as_int(size), int) for size in shape)


def static_sizes(shape: Sequence[Size]) -> tuple[int | None, ...]:
    """The sizes with None for those that depend on the batch."""
    return tuple(size if isinstance(size, int) else None for size in map(as_int, shape))


def ints(axes: Sequence[Any]) -> list[int]:
    """Axes as plain integers; vmap leaves NumPy's."""
    return [int(axis) for axis in axes]

"""The tensors of a program while it is lowered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Size = Any  # an integer, or an expression of the batch


@dataclass(frozen=True)
class Value:
    """A tensor of the program."""

    array: Any  # a NumPy array where it is constant, else a handle
    is_constant: bool
    shape: tuple[Size, ...]  # as the program has it
    stored_shape: tuple[Size, ...]  # of `array`: 1 on axes that are only broadcast
    dtype: np.dtype


def constant(array: np.ndarray) -> Value:
    """The value of an array that depends on no input."""
    array = np.asarray(array)
    return Value(array, True, array.shape, array.shape, array.dtype)


def with_shape(value: Value, shape: tuple[Size, ...]) -> Value:
    """The value broadcast to another shape."""
    return Value(value.array, value.is_constant, shape, value.stored_shape, value.dtype)


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

"""Tensors of a program on their way to a format."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Size = Any  # an integer, or an expression of the batch


@dataclass(frozen=True)
class Value:
    """A tensor of the program."""

    array: Any  # NumPy's where it is known, else a handle
    known: bool
    shape: tuple[Size, ...]  # as the program has it
    held: tuple[Size, ...]  # as `array` has it: 1 where an axis only repeats
    dtype: np.dtype


def known(array: np.ndarray) -> Value:
    """A value that no input changes."""
    array = np.asarray(array)
    return Value(array, True, array.shape, array.shape, array.dtype)


def reshaped(value: Value, shape: tuple[Size, ...]) -> Value:
    """The value with another full shape."""
    return Value(value.array, value.known, shape, value.held, value.dtype)


def of_rank(value: Value, rank: int) -> Value:
    """A scalar among tensors."""
    ones = (1,) * rank
    return Value(np.reshape(value.array, ones) if value.known else value.array, value.known, ones, ones, value.dtype)


def plain(size: Size) -> Size:
    """The size as an integer where it is one."""
    return int(size) if isinstance(size, (int, np.integer)) else size


def is_static(shape: Sequence[Size]) -> bool:
    """Whether no size depends on the batch."""
    return all(isinstance(plain(size), int) for size in shape)


def known_sizes(shape: Sequence[Size]) -> tuple[int | None, ...]:
    """The sizes with None for those that depend on the batch."""
    return tuple(size if isinstance(size, int) else None for size in map(plain, shape))


def ints(axes: Sequence[Any]) -> list[int]:
    """Axes as plain integers; vmap leaves NumPy's."""
    return [int(axis) for axis in axes]

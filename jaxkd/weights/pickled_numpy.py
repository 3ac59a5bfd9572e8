"""Makers of NumPy objects in a pickle: arrays and scalars of plain numbers, and placeholders for the others."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxkd.weights.unpickle import Name, Stateful, Stored, Unread, plain_keys, printable

DIMENSIONS, LARGEST = 32, 8 << 30  # of an array, and of one of its sides
CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


def checked_shape(shape: Any) -> tuple[int, ...]:
    """`shape` if it is a tuple of sizes that an array can have; else raises ValueError."""
    if type(shape) is not tuple or len(shape) > DIMENSIONS:
        raise ValueError("it declares a shape that no array has")
    if not all(type(size) is int and 0 <= size <= LARGEST for size in shape):
        raise ValueError("it declares a shape that no array has")
    return shape


@dataclass(slots=True)
class _NumberType(Stateful):
    """A number type; `plain` is whether `code` is one of CODES."""

    code: str
    order: str = "|"

    def set_state(self, state: Any) -> None:
        if not self.plain:
            return
        if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("it holds a number type with an odd state")
        if any(part is not None for part in state[2:5]):
            raise ValueError("it holds a structured number type")
        self.order = state[1]

    @property
    def plain(self) -> bool:
        return self.code in CODES

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"{self.order}{self.code}")


@dataclass(slots=True)
class _Array(Stored, Stateful):
    """An array whose numbers are in the pickle, in C order before its axes are permuted."""

    shape: tuple[int, ...] = (0,)
    axes: tuple[int, ...] = (0,)
    number: _NumberType | None = None
    data: bytes = b""

    def set_state(self, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise ValueError("it holds an array with an odd state")
        _, shape, number, fortran, data = state
        axes = tuple(range(len(checked_shape(shape))))
        if fortran:
            self.set(shape[::-1], axes[::-1], number, data)
        else:
            self.set(shape, axes, number, data)

    def set(self, shape: Any, axes: Any, number: Any, data: Any) -> None:
        self.shape, self.axes = checked_shape(shape), checked_shape(axes)
        if type(number) is Unread:
            number = _NumberType(number.text)
        if type(number) is not _NumberType:
            raise ValueError("it holds an array without a number type")
        self.number, self.data = number, _bytes(data) if number.plain else b""

    @property
    def unread(self) -> str:
        return "" if self.number is None or self.number.plain else f"NumPy array of {printable(self.number.code)}"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (self.number.dtype.itemsize if self.number and self.number.plain else 1)

    def array(self) -> np.ndarray:
        if self.number is None or len(self.data) != self.nbytes:
            raise ValueError(f"it declares {self.nbytes} bytes for an array and holds {len(self.data)}")
        return np.frombuffer(self.data, self.number.dtype).reshape(self.shape).transpose(self.axes)


def _bytes(data: Any) -> bytes:
    if type(data) is str:  # the bytes of Python 2
        return data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError("it holds an array whose numbers are no bytes")
    return bytes(data)


def _number_type(code: Any, *_: Any) -> _NumberType | Unread:
    if type(code) is str:
        return _NumberType(code)
    return Unread(code.text if type(code) is Name else "numpy.dtype")


def _empty_array(kind: Any, *_: Any) -> _Array | Unread:
    if type(kind) is not Name:
        raise ValueError("it holds an array of an odd kind")
    return _Array() if kind.text == "numpy.ndarray" else Unread(kind.text)


def _scalar(number: Any, data: Any) -> _Array | Unread:
    if type(number) is _NumberType and not number.plain:
        return Unread(f"NumPy number of {printable(number.code)}")
    out = _Array()
    out.set_state((1, (), number, False, data))
    return out


def _from_buffer(data: Any, number: Any, shape: Any, order: Any, axes: Any = None) -> _Array:
    out = _Array()
    if order == "K":
        out.set(shape, axes, number, data)
    else:
        out.set_state((1, shape, number, order == "F", data))
    return out


def _encode(text: Any, codec: Any) -> bytes | Unread:
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        return Unread("_codecs.encode")
    return text.encode("latin-1")


def _empty_bytes(*values: Any) -> bytes | Unread:
    return Unread("builtins.bytes") if values else b""


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    if type(pairs) not in (list, tuple) or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("its pickle makes an odd mapping")
    return plain_keys(pairs)


def _default_dict(*_: Any) -> dict[Any, Any]:
    return {}


NUMPY: dict[str, Callable[..., Any] | None] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
    "numpy.ndarray": None,
    "numpy.dtype": _number_type,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _empty_bytes,
    "builtins.bytes": _empty_bytes,
    **{f"numpy.{core}.multiarray._reconstruct": _empty_array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}

"""Makers of torch objects in a pickle: tensors as views of storages, and placeholders for other objects."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jax import numpy as jnp

from jaxkd.weights.pickled_numpy import NUMPY, checked_shape
from jaxkd.weights.unpickle import Name, Stored, Unread, printable

STORAGES = {
    "BoolStorage": np.dtype(np.bool_),
    "ByteStorage": np.dtype(np.uint8),
    "CharStorage": np.dtype(np.int8),
    "ShortStorage": np.dtype(np.int16),
    "IntStorage": np.dtype(np.int32),
    "LongStorage": np.dtype(np.int64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "UntypedStorage": np.dtype(np.uint8),
}
# Bytes of a number in storages that are not read, but that lie between others in a file.
WIDTHS = {
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QInt32Storage": 4,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
}
DTYPES = {
    **{f"torch.{dtype.name}": dtype for dtype in STORAGES.values()},
    **{f"torch.{name}": np.dtype(name) for name in ("uint16", "uint32", "uint64")},
}


@runtime_checkable
class Storages(Protocol):
    """A file's storages; `swapped` where their numbers are big-endian."""

    swapped: bool

    def data(self, key: str) -> bytes:
        """The bytes of the storage called `key`; raises ValueError where the file does not hold them."""
        ...


@dataclass(frozen=True, slots=True)
class Storage:
    """A range of numbers of a file: `nbytes` of the storage called `key`, from the byte `start` on."""

    file: Storages = field(repr=False)
    key: str
    dtype: np.dtype
    nbytes: int
    start: int = 0

    def numbers(self, dtype: np.dtype) -> np.ndarray:
        """All numbers of the range, read as this type."""
        plain = np.dtype(f"u{dtype.itemsize}") if self.file.swapped else dtype
        count = self.nbytes // dtype.itemsize
        numbers = np.frombuffer(self.file.data(self.key), plain, count=count, offset=self.start)
        return numbers.byteswap().view(dtype) if self.file.swapped else numbers


def kind_of(storage: Any) -> str:
    """The class of a storage without its module, such as FloatStorage; ValueError if it is no storage."""
    text = storage.text if type(storage) is Name else ""
    if not text.startswith("torch.") or not text.endswith("Storage"):
        raise ValueError(f"its pickle takes {printable(text) if text else 'a value'} for a storage")
    return text.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class _Tensor(Stored):
    """A view of a storage, with checked bounds."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def unread(self) -> str:
        return ""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * max(self.dtype.itemsize, 4 if self.dtype.kind not in "biu" else 1)

    def array(self) -> np.ndarray:
        if not math.prod(self.shape):
            return np.empty(self.shape, self.dtype)
        numbers = self.storage.numbers(self.dtype)[self.offset :]
        strides = tuple(stride * self.dtype.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(numbers, self.shape, strides, writeable=False)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> _Tensor | Unread:
    """A tensor from torch's arguments; `more` has requires_grad, hooks, and a note on lazy negation."""
    return _view(storage, offset, shape, strides, dtype=getattr(storage, "dtype", None), note=more[2:])


def _tensor_of_dtype(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> _Tensor | Unread:
    """A tensor from torch's arguments; `more` is as in `_tensor`, with the number type before the note."""
    if len(more) < 3 or type(more[2]) is not Name:
        raise ValueError("it holds a tensor of an odd number type")
    dtype = more[2].text
    if dtype not in DTYPES:
        return Unread(dtype)
    return _view(storage, offset, shape, strides, dtype=DTYPES[dtype], note=more[3:])


def _view(
    storage: Any, offset: Any, shape: Any, strides: Any, *, dtype: Any, note: tuple[Any, ...]
) -> _Tensor | Unread:
    if type(storage) is not Storage:
        raise ValueError("it holds a tensor that is no view of a storage")
    if any(note):
        return Unread("torch.Tensor, conjugated or negated")
    shape, strides = checked_shape(shape), checked_shape(strides)
    if type(offset) is not int or offset < 0 or len(strides) != len(shape):
        raise ValueError("it holds a tensor with an odd offset or strides")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.nbytes // dtype.itemsize:
        raise ValueError(f"it holds a tensor that reaches past the end of data/{printable(storage.key)}")
    return _Tensor(storage, dtype, offset, shape, strides)


def _parameter(tensor: Any, *_: Any) -> Any:
    if not isinstance(tensor, Stored):
        raise ValueError("it holds a parameter that is no tensor")
    return tensor


def _tensor_of_subclass(maker: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor of a subclass of torch.Tensor, as a plain tensor."""
    build = TENSORS.get(maker.text) if type(maker) is Name else None
    if build is None or type(arguments) is not tuple or any(type(value) is Unread for value in arguments):
        return Unread(kind.text if type(kind) is Name else "torch.Tensor")
    return build(*arguments)


def _size(shape: Any = ()) -> tuple[int, ...]:
    return checked_shape(shape)


TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
}
TORCH: dict[str, Callable[..., Any] | None] = {
    **NUMPY,
    **TENSORS,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_device_tensor_from_numpy": _parameter,
    "torch._utils._rebuild_xla_tensor": _parameter,
    "torch._tensor._rebuild_from_type": _tensor_of_subclass,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_subclass,
    "torch.Size": _size,
}

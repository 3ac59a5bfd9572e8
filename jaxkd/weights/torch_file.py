"""Weights files that torch wrote: zip archives of a pickle and of each storage's raw numbers, read without torch."""

import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jax import numpy as jnp

from jaxkd.errors import WeightsError
from jaxkd.weights import unpickle
from jaxkd.weights.pickle_file import NUMPY, checked_shape, guarded
from jaxkd.weights.unpickle import Name, shown

PICKLE_LIMIT = 64 << 20  # bytes of the pickle alone, which holds names and shapes
ZIP = b"PK\x03\x04"
LEGACY = bytes.fromhex("80028a0a6cfc9c46f920")  # the magic number that torch wrote before it wrote archives
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
}
NUMBERS = {
    **{f"torch.{dtype.name}": dtype for dtype in STORAGES.values()},
    **{f"torch.{name}": np.dtype(name) for name in ("uint16", "uint32", "uint64")},
}
UNTYPED = ("torch.UntypedStorage", "torch.storage.UntypedStorage")


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .pth, .pt, .bin or .ckpt file by name; nothing in the file is executed.

    Raises WeightsError where the file is of another kind, is broken, asks for anything but tensors and NumPy arrays,
    declares sizes that it does not hold, or has no weights.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head.startswith(ZIP):
        raise WeightsError(_other_kind(head, path=path))
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise WeightsError(f"{path} is a TorchScript program; save model.state_dict() by torch.save instead.")
            return guarded(lambda: _Archive(archive, size=path.stat().st_size).load(), path=path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        raise WeightsError(f"{path} is not a sound torch file ({unpickle.reason(error)}); fetch it again.") from error


def _other_kind(head: bytes, *, path: Path) -> str:
    if head.startswith(LEGACY) or head[257:262] == b"ustar":
        return f"{path} is in the form that torch wrote before version 1.6; load and save it once with a newer torch."
    if head[8:9] == b"{":
        return f"{path} looks like safetensors and is no torch file; name it .safetensors."
    if head.startswith(b"\x80"):
        return f"{path} is a bare pickle and no torch archive; if it is a model of detectron2, name it .pkl."
    return f"{path} is no torch file, for it does not start as a zip archive does; fetch it again."


class _Archive:
    """The members of a torch file, checked before any is read."""

    def __init__(self, archive: zipfile.ZipFile, *, size: int):
        self.archive = archive
        self.members = _members(archive, size=size)
        pickles = [name for name in self.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError("it is a zip archive without the one data.pkl that torch writes")
        self.root = pickles[0].removesuffix("data.pkl")
        if self.members[pickles[0]].file_size > PICKLE_LIMIT:
            raise ValueError(f"its data.pkl is longer than {PICKLE_LIMIT} bytes")
        order = self.bytes("byteorder") if f"{self.root}byteorder" in self.members else b"little"
        if order not in (b"little", b"big"):
            raise ValueError("its byteorder is neither little nor big")
        self.swapped = order == b"big"
        self.kept: dict[str, bytes] = {}

    def load(self) -> Any:
        return unpickle.load(self.bytes("data.pkl"), MAKERS, persistent=self.storage)

    def bytes(self, name: str) -> bytes:
        return self.archive.read(self.members[f"{self.root}{name}"])

    def storage(self, reference: Any) -> "_Storage":
        if type(reference) is not tuple or len(reference) != 5 or reference[0] != "storage":
            raise ValueError("its pickle refers to data in an odd way")
        _, kind, key, _, count = reference
        if type(kind) is not Name or type(key) is not str or type(count) is not int:
            raise ValueError("its pickle refers to data in an odd way")
        dtype = np.dtype(np.uint8) if kind.text in UNTYPED else STORAGES.get(kind.text.removeprefix("torch."))
        if dtype is None:
            raise ValueError(f"its pickle takes {kind.text} for a storage")
        member = self.members.get(f"{self.root}data/{key}")
        if member is None:
            raise ValueError(f"it has no entry data/{shown(key)}, which its pickle refers to")
        if member.file_size != count * dtype.itemsize:
            raise ValueError(
                f"it declares {count} numbers of {dtype} for data/{shown(key)}, which has {member.file_size} bytes"
            )
        return _Storage(self, key, dtype, member.file_size)

    def numbers(self, key: str, dtype: np.dtype) -> np.ndarray:
        if key not in self.kept:
            self.kept[key] = self.bytes(f"data/{key}")
        if not self.swapped:
            return np.frombuffer(self.kept[key], dtype)
        return np.frombuffer(self.kept[key], f"u{dtype.itemsize}").byteswap().view(dtype)


def _members(archive: zipfile.ZipFile, *, size: int) -> dict[str, zipfile.ZipInfo]:
    out: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"it has an entry {shown(name)}, which leads out of the archive")
        if name in out:
            raise ValueError(f"it has the entry {shown(name)} twice")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"its entry {shown(name)} is compressed, which torch never does")
        out[name] = member
    if sum(member.file_size for member in out.values()) > size:
        raise ValueError("its entries are longer together than the file")
    return out


@dataclass(frozen=True, slots=True)
class _Storage:
    """A row of numbers in the archive."""

    archive: _Archive = field(repr=False)
    key: str
    dtype: np.dtype
    nbytes_stored: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view of a storage; its bounds were checked."""

    storage: _Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * max(self.dtype.itemsize, 4 if self.dtype.kind not in "biu" else 1)

    def array(self) -> np.ndarray:
        if not math.prod(self.shape):
            return np.empty(self.shape, self.dtype)
        numbers = self.storage.archive.numbers(self.storage.key, self.dtype)[self.offset :]
        strides = tuple(stride * self.dtype.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(numbers, self.shape, strides, writeable=False)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> _Tensor:
    """Torch's arguments; `more` is whether a gradient is wanted, its hooks, and a note on lazy negation."""
    return _view(storage, offset, shape, strides, dtype=getattr(storage, "dtype", None), note=more[2:])


def _tensor_of_dtype(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, dtype: Any, *note: Any
) -> _Tensor:
    if type(dtype) is not Name or dtype.text not in NUMBERS:
        raise ValueError("it holds a tensor of an odd number type")
    return _view(storage, offset, shape, strides, dtype=NUMBERS[dtype.text], note=note)


def _view(storage: Any, offset: Any, shape: Any, strides: Any, *, dtype: Any, note: tuple[Any, ...]) -> _Tensor:
    if type(storage) is not _Storage or any(note):
        raise ValueError("it holds a tensor that is no plain view of a storage")
    shape, strides = checked_shape(shape), checked_shape(strides)
    if type(offset) is not int or offset < 0 or len(strides) != len(shape):
        raise ValueError("it holds a tensor with an odd offset or strides")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.nbytes_stored // dtype.itemsize:
        raise ValueError(f"it holds a tensor that reaches past the end of data/{shown(storage.key)}")
    return _Tensor(storage, dtype, offset, shape, strides)


def _parameter(tensor: Any, *_: Any) -> _Tensor:
    if type(tensor) is not _Tensor:
        raise ValueError("it holds a parameter that is no tensor")
    return tensor


def _size(shape: Any = ()) -> tuple[int, ...]:
    return checked_shape(shape)


MAKERS: dict[str, Callable[..., Any] | None] = {
    **NUMPY,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    **{f"torch.{name}": None for name in STORAGES},
    **dict.fromkeys((*NUMBERS, *UNTYPED), None),
}

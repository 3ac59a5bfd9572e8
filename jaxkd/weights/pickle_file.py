"""Model files that are plain pickles of NumPy arrays, and the choice of the weights in a checkpoint."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import unpickle
from jaxkd.weights.unpickle import Name, shown

LIMIT = 8 << 30  # bytes of a file and of its arrays
SLACK, GROWTH = 64 << 20, 16  # views may repeat a file's numbers, but a small file does not become gigabytes
DIMENSIONS = 32
WEIGHTS = ("state_dict", "model", "model_state", "model_state_dict", "params", "net", "ema", "blobs")
CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


@runtime_checkable
class Stored(Protocol):
    """An array that still lies in its file."""

    @property
    def nbytes(self) -> int:
        """Memory that the array takes, known before any is taken."""
        ...

    def array(self) -> np.ndarray:
        """The numbers; raises ValueError where the file does not hold them."""
        ...


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a model file of detectron2 or Caffe2 by name; nothing in the file is executed.

    Raises WeightsError where the file is broken, asks for anything but NumPy arrays, declares more than it holds or
    has no weights.
    """
    size = path.stat().st_size
    if size > LIMIT:
        raise WeightsError(f"{path} has {size} bytes, more than the {LIMIT} allowed; convert it to .safetensors.")
    data = path.read_bytes()
    if data[:4] == b"PK\x03\x04":
        raise WeightsError(f"{path} is a zip archive and no pickle; if torch wrote it, name it .pth.")
    return guarded(lambda: unpickle.load(data, NUMPY), path=path)


def guarded(load: Callable[[], Any], *, path: Path) -> dict[str, np.ndarray]:
    """The weights in what `load` gives of the file `path`; any fault of the file becomes a WeightsError."""
    try:
        return weights(load(), path=path)
    except unpickle.UnknownNameError as error:
        raise WeightsError(
            f"{path} asks for the Python object {shown(error.name)}, which plain weights do not need, and nothing in "
            "it was executed; save model.state_dict() alone instead."
        ) from error
    except (ValueError, OverflowError) as error:
        raise WeightsError(f"{path} is not a sound weights file ({unpickle.reason(error)}); fetch it again.") from error


def weights(tree: Any, *, path: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint's weights by name, without what other state lies beside them.

    They are the mapping under a known key (see WEIGHTS) or else the top level; "module.", which DataParallel puts
    before every name, is taken off. Raises WeightsError where there are none or where they are too large.
    """
    chosen = _chosen(tree)
    if chosen is None:
        held = ", ".join(shown(str(key)) for key in list(tree)[:8]) or "nothing" if type(tree) is dict else "no mapping"
        raise WeightsError(f"{path} holds {held} and no weights by name; save model.state_dict() instead.")
    stored = {name: item for name, item in chosen.items() if type(name) is str and isinstance(item, Stored)}
    if odd := next((name for name in stored if not name.isprintable()), None):
        raise WeightsError(f"{path} names an array {shown(odd)}, which is no printable text; fetch it again.")
    check_needed(sum(item.nbytes for item in stored.values()), path=path)
    if all(name.startswith("module.") for name in stored):
        stored = {name.removeprefix("module."): item for name, item in stored.items()}
    return {name: item.array() for name, item in stored.items()}


def check_needed(needed: int, *, path: Path) -> None:
    """Raises WeightsError where arrays of `needed` bytes are more than the file `path` may hold by its size."""
    allowed = min(LIMIT, SLACK + GROWTH * path.stat().st_size)
    if needed > allowed:
        raise WeightsError(f"{path} declares {needed} bytes of arrays, more than the {allowed} allowed for its size.")


def _chosen(tree: Any) -> dict[Any, Any] | None:
    if type(tree) is not dict:
        return None
    for candidate in (*(tree.get(key) for key in WEIGHTS), tree):
        if type(candidate) is dict and any(isinstance(item, Stored) for item in candidate.values()):
            return candidate
    return None


def checked_shape(shape: Any) -> tuple[int, ...]:
    """`shape` as it is, where it is a tuple of sizes that an array can have; else ValueError."""
    if type(shape) is not tuple or len(shape) > DIMENSIONS:
        raise ValueError("it declares a shape that no array has")
    if not all(type(size) is int and 0 <= size <= LIMIT for size in shape):
        raise ValueError("it declares a shape that no array has")
    return shape


@dataclass(slots=True)
class _Number:
    """A dtype of plain numbers."""

    code: str
    order: str = "|"

    def set_state(self, state: Any) -> None:
        if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("it holds a number type with an odd state")
        if any(part is not None for part in state[2:5]):
            raise ValueError("it holds a structured number type")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"{self.order}{self.code}")


@dataclass(slots=True)
class _Array:
    """An array whose numbers lie in the pickle, in C order before its axes are permuted."""

    shape: tuple[int, ...] = (0,)
    axes: tuple[int, ...] = (0,)
    number: _Number | None = None
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
        if type(number) is not _Number:
            raise ValueError("it holds an array without a number type")
        self.number, self.data = number, _bytes(data)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * (self.number.dtype.itemsize if self.number else 1)

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


def _number(code: Any, *_: Any) -> _Number:
    if code not in CODES:
        raise ValueError(f"it holds {shown(str(code)) if type(code) is str else 'objects'} and not plain numbers")
    return _Number(code)


def _empty(kind: Any, *_: Any) -> _Array:
    if kind != Name("numpy.ndarray"):
        raise ValueError("it holds an array of an odd kind")
    return _Array()


def _scalar(number: Any, data: Any) -> _Array:
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


def _encoded(text: Any, codec: Any) -> bytes:
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise ValueError("its pickle encodes text in an odd way")
    return text.encode("latin-1")


def _no_bytes() -> bytes:
    return b""


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if type(pairs) not in (list, tuple) or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError("its pickle makes an odd mapping")
    return unpickle.plain_keys(pairs)


NUMPY: dict[str, Callable[..., Any] | None] = {
    "collections.OrderedDict": _ordered,
    "numpy.ndarray": None,
    "numpy.dtype": _number,
    "_codecs.encode": _encoded,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytes": _no_bytes,
    **{f"numpy.{core}.multiarray._reconstruct": _empty for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}

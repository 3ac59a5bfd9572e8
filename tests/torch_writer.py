"""Torch's weights files written without torch, whole or broken on purpose."""

import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STORAGES = {
    "bool": "BoolStorage",
    "uint8": "ByteStorage",
    "int8": "CharStorage",
    "int16": "ShortStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
}


@dataclass(frozen=True)
class Global:
    """The instruction that asks for a Python object."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A call of a Global, and the state that is set after it."""

    function: Any
    arguments: tuple
    state: Any = None


@dataclass(frozen=True)
class Outside:
    """A reference to a storage, by torch's five words."""

    reference: tuple


@dataclass(frozen=True)
class Raw:
    """Instructions as they are."""

    instructions: bytes


ORDERED = Call(Global("collections", "OrderedDict"), ())


class Writer:
    """Turns values into a pickle and keeps the storages that it refers to; arrays of one base share a storage."""

    def __init__(self):
        self.storages: dict[str, np.ndarray] = {}

    def pickle(self, value: Any) -> bytes:
        return b"\x80\x02" + self.encoded(value) + b"."

    def encoded(self, value: Any) -> bytes:
        match value:
            case None | bool():
                return {None: b"N", True: b"\x88", False: b"\x89"}[value]
            case int():
                return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
            case float():
                return b"G" + struct.pack(">d", value)
            case str():
                return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
            case tuple():
                return b"(" + b"".join(map(self.encoded, value)) + b"t"
            case list():
                return b"](" + b"".join(map(self.encoded, value)) + b"e"
            case dict():
                return b"}(" + b"".join(self.encoded(part) for pair in value.items() for part in pair) + b"u"
            case np.ndarray():
                return self.encoded(self.tensor(value))
        return self.instruction(value)

    def instruction(self, value: Any) -> bytes:
        match value:
            case Global(module, name):
                return f"c{module}\n{name}\n".encode()
            case Call(function, arguments, state):
                call = self.encoded(function) + self.encoded(arguments) + b"R"
                return call if state is None else call + self.encoded(state) + b"b"
            case Outside(reference):
                return self.encoded(reference) + b"Q"
            case Raw(instructions):
                return instructions
        raise TypeError(type(value))

    def tensor(self, array: np.ndarray) -> Call:
        base = array.base if isinstance(array.base, np.ndarray) else array
        if not base.flags.c_contiguous or base.dtype != array.dtype:
            base = array = np.array(array, order="C")
        key = next((key for key, kept in self.storages.items() if kept is base), str(len(self.storages)))
        self.storages[key] = base
        offset = (array.__array_interface__["data"][0] - base.__array_interface__["data"][0]) // array.itemsize
        strides = tuple(stride // array.itemsize for stride in array.strides)
        return view(self.reference(key), offset, array.shape, strides)

    def reference(self, key: str) -> Outside:
        whole = self.storages[key]
        return Outside(("storage", Global("torch", STORAGES[whole.dtype.name]), key, "cpu", whole.size))


def view(storage: Any, offset: int, shape: tuple, strides: tuple) -> Call:
    """A tensor as torch describes it."""
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (storage, offset, shape, strides, False, ORDERED))


def members(value: Any, *, byteorder: str = "little") -> dict[str, bytes]:
    """The entries of the archive that holds `value`."""
    writer = Writer()
    out = {"archive/data.pkl": writer.pickle(value), "archive/byteorder": byteorder.encode(), "archive/version": b"3\n"}
    for key, array in writer.storages.items():
        plain = array.reshape(-1).view(f"u{array.itemsize}")
        out[f"archive/data/{key}"] = (plain if byteorder == "little" else plain.byteswap()).tobytes()
    return out


def write(path: Path, entries: Mapping[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> None:
    """An archive of these entries."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def save(path: Path, value: Any, *, byteorder: str = "little") -> None:
    """What torch.save writes of a checkpoint whose tensors are arrays here."""
    write(path, members(value, byteorder=byteorder))


MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
VERSION = b"\x80\x02M\xe9\x03."


def about(*, little: bool = True) -> bytes:
    """The third pickle of torch's older form."""
    sizes = {"short": 2, "int": 4, "long": 4}
    return Writer().pickle({"protocol_version": 1001, "little_endian": little, "type_sizes": sizes})


def legacy(value: Any, *, byteorder: str = "little", order: Callable[[list[str]], list[str]] = sorted) -> bytes:
    """What torch wrote of a checkpoint before version 1.6; `order` is that of the storages."""
    writer = LegacyWriter()
    head = MAGIC + VERSION + about(little=byteorder == "little") + writer.pickle(value)
    keys = order(list(writer.storages))
    return head + Writer().pickle(keys) + b"".join(raw(writer.storages[key], byteorder=byteorder) for key in keys)


def raw(array: np.ndarray, *, byteorder: str = "little") -> bytes:
    """A storage as torch's older form has it: how many numbers, and these."""
    plain = array.reshape(-1).view(f"u{array.itemsize}")
    numbers = plain if byteorder == "little" else plain.byteswap()
    return array.size.to_bytes(8, byteorder) + numbers.tobytes()


class LegacyWriter(Writer):
    """Writes references to storages as torch's older form has them, with a sixth word for views."""

    def reference(self, key: str) -> Outside:
        return Outside((*super().reference(key).reference, None))

"""Files of named arrays: read from .safetensors, .npz, torch's files and pickles, written as .safetensors."""

import contextlib
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jax import numpy as jnp

from jaxkd.errors import StorageError, WeightsError
from jaxkd.weights.pickle_file import check_needed, checked_shape, read_pickle
from jaxkd.weights.torch_file import read_torch
from jaxkd.weights.unpickle import reason, shown

BFLOAT16 = np.dtype(jnp.bfloat16)
STORED = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": BFLOAT16,
    "F32": np.float32,
    "F64": np.float64,
}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a weights file by name; half-precision ones become float32.

    The suffix says the kind: .safetensors, .npz, torch's .pth, .pt, .bin or .ckpt, or detectron2's .pkl. Of a
    checkpoint the weights alone are read.

    Nothing in the file is executed. Raises WeightsError where the file is missing, is of another kind, declares sizes
    that it does not hold, or holds anything but numbers.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise WeightsError(f"{path} is of no kind that is read here; convert the weights to one of {KINDS}.")
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}; give the path of a file of the kind {KINDS}.")
    try:
        arrays = READERS[path.suffix](path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from error
    if odd := next((name for name in arrays if not name.isprintable()), None):
        raise WeightsError(f"{path} names an array {shown(odd)}, which is no printable text; fetch it again.")
    return {name: _plain(array) for name, array in arrays.items()}


def read_metadata(path: str | Path) -> dict[str, str]:
    """The free text that `save` put into a .safetensors file beside the arrays."""
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{path} is not a readable .safetensors file: {error}.") from error


def save(
    path: str | Path, arrays: Mapping[str, Any], *, half: bool = False, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes `arrays` to a .safetensors file, all or nothing.

    Args:
      path: the file; its folder is made where it is missing.
      arrays: NumPy or JAX arrays by name.
      half: store float32 as float16, which halves the file.
      metadata: free text to store beside the arrays.

    Raises WeightsError for another suffix or where a number is too large for float16, and StorageError where the folder
    cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"Weights are written as .safetensors; got the file name {path.name}.")
    stored = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    if half:
        stored = {name: _halved(array, name=name) for name, array in stored.items()}
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(safetensors.numpy.save(stored, metadata=dict(metadata or {})))
        scratch.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:  # the library refuses a header that is too long and offsets that overlap, leave holes or pass the file's end
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a sound .safetensors file ({reason(error)}); fetch it again.") from error
    out = {}
    for name, entry in entries:
        if entry["dtype"] not in STORED:
            raise WeightsError(
                f"{path} stores {shown(name)} as {entry['dtype']}, which is not supported; store it as float32."
            )
        out[name] = np.frombuffer(entry["data"], STORED[entry["dtype"]]).reshape(entry["shape"])
    return out


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            if len(members) < len(archive.infolist()):
                raise ValueError("it has two arrays of one name")
            check_needed(sum(member.file_size for member in members.values()), path=path)
            return {name: _member(archive, member, path=path) for name, member in members.items()}
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise WeightsError(f"{path} is not a sound .npz file ({reason(error)}); fetch it again.") from error


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, path: Path) -> np.ndarray:
    declared = _declared_bytes(archive, member)
    if declared != member.file_size:
        raise WeightsError(
            f"{path} declares {declared} bytes for {shown(member.filename)} and holds {member.file_size}; "
            "fetch it again."
        )
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _declared_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Length of the header and of the array that it announces, before memory is taken for that array."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in headers:
            raise ValueError(f"array format {version} is unknown")
        try:
            shape, _, dtype = headers[version](file)
        except MemoryError as error:  # of Python's parser, when signs are nested in signs
            raise ValueError("its header is nested too deeply") from error
        if dtype.kind not in "biuf":
            raise ValueError(f"it holds {dtype} and not plain numbers")
        return file.tell() + math.prod(checked_shape(shape)) * dtype.itemsize


def _plain(array: np.ndarray) -> np.ndarray:
    if array.dtype in (np.float16, BFLOAT16):
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="))


def _halved(array: np.ndarray, *, name: str) -> np.ndarray:
    if array.dtype != np.float32:
        return array
    if array.size and np.abs(array).max() > np.finfo(np.float16).max:
        raise WeightsError(f"{name} holds numbers too large for float16; save it with half=False.")
    return array.astype(np.float16)


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    **dict.fromkeys((".pth", ".pt", ".bin", ".ckpt"), read_torch),
    ".pkl": read_pickle,
}
KINDS = ", ".join(READERS)

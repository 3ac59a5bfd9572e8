"""Files of named arrays: .safetensors, .npz, torch.save's, pickles and TensorFlow.js's; written as .safetensors."""

import contextlib
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jax import numpy as jnp

from jaxkd.errors import StorageError, WeightsError
from jaxkd.weights import contents, pickle_file, tfjs, torch_file, torch_legacy, unpickle
from jaxkd.weights.contents import Contents
from jaxkd.weights.pickled_numpy import checked_shape
from jaxkd.weights.unpickle import Stored, printable, reason

BFLOAT16 = np.dtype(jnp.bfloat16)
DTYPES = {
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

    The kind is given by the suffix: .safetensors, .npz, torch's .pth, .pt, .bin, .ckpt or .tar, detectron2's .pkl, or
    the .json of a TensorFlow.js graph model. Of a checkpoint only the weights are read, under their names there.

    Nothing in the file is executed. Raises WeightsError where the file is missing, is of another kind, declares other
    sizes than it has, or has weights that are not numbers.
    """
    with opened(path) as file:
        return to_arrays(contents.weights_of(file), path=file.path)


def to_arrays(arrays: Mapping[str, Stored], *, path: Path) -> dict[str, np.ndarray]:
    """The numbers of arrays of an open file; half-precision ones become float32.

    Raises WeightsError where they are too large for the file or a name is unprintable, ValueError for a broken file.
    """
    return {name: _to_native(array) for name, array in contents.load_arrays(arrays, path=path).items()}


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Contents]:
    """The contents of a weights file, whose numbers can be read as long as it is open; raises as `read` does."""
    path = Path(path)
    if path.suffix not in READERS:
        raise WeightsError(f"{path} is of no kind that is read here; convert the weights to one of {KINDS}.")
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}; give the path of a file of the kind {KINDS}.")
    try:
        with _reader(path)(path) as file:
            yield file
    except unpickle.ProgramError as error:
        raise WeightsError(
            f"{path} wants to run {printable(error.name)}, which no weights need, and nothing in it was executed; "
            "do not trust it, or save model.state_dict() alone."
        ) from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (
        ValueError,
        EOFError,
        NotImplementedError,
        OverflowError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise WeightsError(f"{path} is not a sound {path.suffix} file ({reason(error)}); fetch it again.") from error


def _reader(path: Path) -> "Reader":
    """The reader of the file: by its suffix, unless it begins like a file of another kind."""
    with path.open("rb") as file:
        head = file.read(32)
    if (head.startswith(torch_file.ZIP) and path.suffix != ".npz") or torch_legacy.is_legacy(head):
        return torch_file.opened
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:  # the length of the header
        return _safetensors
    if head.startswith(b"\x80"):
        return pickle_file.opened
    return READERS[path.suffix]


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
      path: the file; a missing folder is created.
      arrays: NumPy or JAX arrays by name.
      half: whether float32 is stored as float16, which halves the file.
      metadata: free text to store beside the arrays.

    Raises WeightsError for another suffix or where a number is too large for float16, and StorageError where the folder
    cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"Weights are written as .safetensors; got the file name {path.name}.")
    stored = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    if half:
        stored = {name: _to_half(array, name=name) for name, array in stored.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(safetensors.numpy.save(stored, metadata=dict(metadata or {})))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise StorageError(f"{path} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[Contents]:
    try:  # the library refuses headers that are too long and offsets that overlap, leave gaps or pass the end
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is not a sound .safetensors file ({reason(error)}); fetch it again.") from error
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise WeightsError(
                f"{path} stores {printable(name)} as {entry['dtype']}, which is not supported; store it as float32."
            )
        arrays[name] = np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    yield contents.of_arrays(arrays, path=path)


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[Contents]:
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("it has two arrays of one name")
        contents.check_needed(sum(member.file_size for member in members.values()), path=path)
        arrays = {name: _member(archive, member, path=path) for name, member in members.items()}
    yield contents.of_arrays(arrays, path=path)


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, path: Path) -> np.ndarray:
    declared = _declared_bytes(archive, member)
    if declared != member.file_size:
        raise WeightsError(
            f"{path} declares {declared} bytes for {printable(member.filename)} and holds {member.file_size}; "
            "fetch it again."
        )
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _declared_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Length of the header and of the array that it declares, before memory is allocated for the array."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in headers:
            raise ValueError(f"array format {version} is unknown")
        try:
            shape, _, dtype = headers[version](file)
        except (MemoryError, tokenize.TokenError) as error:  # of Python's parser, for nested signs
            raise ValueError("its header is nested too deeply") from error
        if dtype.kind not in "biuf":
            raise ValueError(f"it holds {dtype} and not plain numbers")
        return file.tell() + math.prod(checked_shape(shape)) * dtype.itemsize


def _to_native(array: np.ndarray) -> np.ndarray:
    if array.dtype in (np.float16, BFLOAT16):
        return array.astype(np.float32)
    return array.astype(array.dtype.newbyteorder("="))


def _to_half(array: np.ndarray, *, name: str) -> np.ndarray:
    if array.dtype != np.float32:
        return array
    if array.size and np.abs(array).max() > np.finfo(np.float16).max:
        raise WeightsError(f"{name} holds numbers too large for float16; save it with half=False.")
    return array.astype(np.float16)


Reader = Callable[[Path], contextlib.AbstractContextManager[Contents]]
READERS: dict[str, Reader] = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    **dict.fromkeys((".pth", ".pt", ".bin", ".ckpt", ".tar"), torch_file.opened),
    ".pkl": pickle_file.opened,
    tfjs.SUFFIX: tfjs.opened,
}
KINDS = ", ".join(READERS)

"""Graph models of TensorFlow.js: a .json file of a graph and a manifest, and the numbers in files beside it."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import contents
from jaxkd.weights.contents import NAME_LENGTH, Contents
from jaxkd.weights.pickled_numpy import checked_shape
from jaxkd.weights.unpickle import printable

SUFFIX = ".json"
GRAPH_LIMIT = 16 << 20  # bytes of the .json file, which has names and shapes
DTYPES = {"float32": "<f4", "int32": "<i4", "bool": "|b1"}
QUANTISED = {  # how the numbers of a dtype may be stored instead
    "float32": {"float16": "<f2", "uint8": "|u1", "uint16": "<u2"},
    "int32": {"uint8": "|u1", "uint16": "<u2"},
}
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
SUMS = ("Add", "AddV2", "BiasAdd")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """The contents of a graph model; of the graph only names and inputs are read, and nothing in it is executed.

    The weights of a convolution have the name of its node, with dots for slashes: `NAME.kernel` in TensorFlow's layout
    [h w i o], and `NAME.bias` for a vector that is added to its result. Other arrays of floating-point numbers have
    their own names. Integers and single numbers, which are arguments of operations, are apart as constants. So no name
    depends on the manifest's order. Quantised numbers are restored by their scale and minimum.

    Raises WeightsError where it is no graph model, a file of numbers is missing or of another length than declared, or
    numbers are of an unknown type; ValueError where it is broken.
    """
    if path.stat().st_size > GRAPH_LIMIT:
        raise WeightsError(
            f"{path} has more than the {GRAPH_LIMIT} bytes that are allowed for a graph without numbers."
        )
    nodes, manifest = _parts_of(json.loads(path.read_bytes()), path=path)
    groups = [_group(group, path=path) for group in manifest]
    files = [file for group in groups for file in group.files]
    if len({*files}) < len(files):
        raise ValueError("its manifest names a file of numbers twice")
    size = sum(one.nbytes for group in groups for one in group.arrays)
    contents.check_needed(sum(one.needed for group in groups for one in group.arrays), path=path, size=size)
    arrays: dict[str, np.ndarray] = {}
    for name, array in (named for group in groups for named in _numbers_of(group)):
        if name in arrays:
            raise ValueError(f"it has two arrays named {printable(name)}")
        arrays[name] = array
    named = _by_node(nodes, arrays)
    weights = {name: array for name, array in named.items() if array.dtype.kind == "f" and array.ndim}
    if not weights:
        raise WeightsError(f"{path} is a graph without weights; give the model.json of a net.")
    needed = sum(array.size * np.dtype(np.float32).itemsize for array in weights.values())
    contents.check_needed(needed, path=path, size=size)  # an array may be that of any number of convolutions
    constants = tuple(name for name in named if name not in weights)
    yield contents.of_arrays(weights, path=path, constants=constants)


def _parts_of(model: Any, *, path: Path) -> tuple[list[Any], list[Any]]:
    """The nodes of the graph and the groups of the manifest, none of which is checked."""
    topology = model.get("modelTopology") if type(model) is dict else None
    nodes = topology.get("node") if type(topology) is dict else None
    groups = model.get("weightsManifest") if type(model) is dict else None
    if type(nodes) is not list or type(groups) is not list:
        raise WeightsError(
            f"{path} is no graph model of TensorFlow.js, which has the nodes of a graph in modelTopology and a "
            "weightsManifest; give the model.json that its converter wrote."
        )
    return nodes, groups


@dataclass(frozen=True)
class _Declared:
    """An array as the manifest declares it: its numbers are `stored` * `scale` + `minimum`, or as stored."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stored: np.dtype
    scale: float = 1.0
    minimum: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers in their file."""
        return math.prod(self.shape) * self.stored.itemsize

    @property
    def needed(self) -> int:
        """Bytes of memory for the array."""
        return math.prod(self.shape) * max(self.dtype.itemsize, self.stored.itemsize)

    def array(self, data: bytes, start: int) -> np.ndarray:
        """The numbers that begin at the byte `start`; half-precision ones and integers as they are stored."""
        numbers: np.ndarray = np.ndarray(self.shape, self.stored, buffer=data, offset=start)
        if self.dtype.kind != "f" or self.stored.kind != "u":
            return numbers
        with np.errstate(over="ignore"):
            return (numbers.astype(np.float64) * self.scale + self.minimum).astype(self.dtype)


@dataclass(frozen=True)
class _Group:
    """Arrays whose numbers lie one after another in these files."""

    files: tuple[Path, ...]
    arrays: tuple[_Declared, ...]


def _group(group: Any, *, path: Path) -> _Group:
    """A group of the manifest, whose files are there and as long as declared."""
    if type(group) is not dict or type(group.get("paths")) is not list or type(group.get("weights")) is not list:
        raise ValueError("its manifest has a group without paths or weights")
    files = tuple(_beside(name, path=path) for name in group["paths"])
    arrays = tuple(_declared(weight, path=path) for weight in group["weights"])
    declared, length = sum(one.nbytes for one in arrays), sum(file.stat().st_size for file in files)
    if declared != length:
        names = ", ".join(file.name for file in files[:3]) + ("..." if len(files) > 3 else "")
        raise WeightsError(
            f"{path} declares {declared} bytes of numbers and has {length} in {names or 'no file'}; fetch all of its "
            "files again."
        )
    return _Group(files, arrays)


def _numbers_of(group: _Group) -> Iterator[tuple[str, np.ndarray]]:
    data, start = b"".join(file.read_bytes() for file in group.files), 0
    if len(data) != sum(one.nbytes for one in group.arrays):
        raise ValueError("its numbers changed while they were read")
    for one in group.arrays:
        yield one.name, one.array(data, start)
        start += one.nbytes


def _beside(name: Any, *, path: Path) -> Path:
    """A file of numbers that the manifest names; raises ValueError for one outside of the model's folder."""
    if type(name) is not str or not name.isprintable() or "\\" in name or ":" in name:
        raise ValueError("its manifest has a path that is no name of a file")
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise ValueError(f"its manifest has the path {printable(name)}, which leads out of its folder")
    file = path.parent / relative
    if not file.is_file():
        raise WeightsError(f"{path} has its numbers in {printable(name)}, which is not beside it; put that file there.")
    return file


def _declared(weight: Any, *, path: Path) -> _Declared:
    if type(weight) is not dict or type(weight.get("shape")) is not list:
        raise ValueError("its manifest has an array without a shape")
    name, dtype = _text(weight, "name"), _text(weight, "dtype")
    if not name or len(name) > NAME_LENGTH:
        raise ValueError("its manifest has an array without a name, or with an endless one")
    shape = checked_shape(tuple(weight["shape"]))
    kept, kind, limits = DTYPES.get(dtype), dtype, weight.get("quantization")
    code = kept
    if limits is not None:
        kind = _text(limits, "dtype") if type(limits) is dict else "an odd form"
        code = QUANTISED.get(dtype, {}).get(kind)
    if kept is None or code is None:
        raise WeightsError(
            f"{path} stores {printable(name)} as {printable(kind)} for {printable(dtype)}, which is not supported; "
            "store it as float32."
        )
    declared = _Declared(name, shape, np.dtype(kept), np.dtype(code))
    if declared.stored.kind != "u":
        return declared
    return replace(declared, scale=_number(limits, "scale"), minimum=_number(limits, "min"))


def _by_node(nodes: Sequence[Any], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, with those of a convolution under the name of its node and dots for slashes.

    Raises ValueError where two vectors are added to a convolution, or two arrays get one name.
    """
    added: dict[str, list[str]] = {}
    for _, op, inputs in map(_node, nodes):
        if op in SUMS and len(inputs) == 2:
            for given, other in (inputs, inputs[::-1]):
                if other in arrays and arrays[other].ndim == 1:
                    added.setdefault(given, []).append(other)
    sources: dict[str, str] = {}
    for name, op, inputs in map(_node, nodes):
        if op not in CONVOLUTIONS or len(inputs) != 2 or inputs[1] not in arrays:
            continue
        biases = added.get(name, [])
        if len(biases) > 1 or f"{name}.kernel" in sources:
            raise ValueError(f"its graph has the convolution {printable(name)} twice, or adds two vectors to it")
        sources |= {f"{name}.kernel": inputs[1]} | {f"{name}.bias": bias for bias in biases}
    sources |= {name: name for name in arrays.keys() - {*sources.values()}}
    named = {name.replace("/", "."): arrays[source] for name, source in sorted(sources.items())}
    if len(named) < len(sources):
        raise ValueError("its graph has two arrays whose names differ in slashes and dots alone")
    return named


def _node(node: Any) -> tuple[str, str, tuple[str, ...]]:
    """Name, operation and inputs of a node; without its control inputs and the numbers of outputs."""
    if type(node) is not dict:
        raise ValueError("its graph has a node that is no mapping")
    inputs = node.get("input", [])
    if type(inputs) is not list or not all(type(name) is str for name in inputs):
        raise ValueError("its graph has a node with odd inputs")
    data = tuple(name.removesuffix(":0") for name in inputs if not name.startswith("^"))
    return _text(node, "name"), _text(node, "op"), data


def _text(mapping: Mapping[str, Any], key: str) -> str:
    value = mapping.get(key)
    if type(value) is not str:
        raise ValueError(f"it has an entry without the text '{key}'")
    return value


def _number(mapping: Any, key: str) -> float:
    value = mapping.get(key)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"it has quantised numbers without the finite number '{key}'")
    return float(value)

"""The named arrays of a weights file and its other contents, before the numbers are read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights.unpickle import Pickled, Stored, Unread, printable

LIMIT = 8 << 30  # bytes of a file, and of its arrays
SLACK, GROWTH = 64 << 20, 16  # limit arrays by the file's size: views may repeat its numbers, but not to gigabytes
DEPTH, KEY_LENGTH = 6, 100  # of nested mappings, and of the key of one
NAME_LENGTH = 500  # of an array's name
CONTAINERS = 100_000  # mappings and lists that are visited
# Keys under which training programs store a net's weights, in the order of preference.
MAIN = ("state_dict", "model", "model_state", "model_state_dict", "params", "net", "blobs")
CLASSES = (
    "meta.dataset_meta.classes",
    "meta.dataset_meta.CLASSES",
    "meta.classes",
    "meta.CLASSES",
    "classes",
    "CLASSES",
    "class_names",
    "hyper_parameters.classes",
    "hyper_parameters.class_names",
)


@dataclass(frozen=True)
class Contents:
    """The arrays of a file by mapping and name, and its other contents.

    Attributes:
      path: the file.
      sets: named arrays by their mapping: "" for the top level, "ema.module" for a nested one.
      unread: descriptions of the objects that are not read, by mapping and name.
      lost: number of arrays within objects that are not read, or without a name.
      objects: names of the classes and functions whose objects are not read.
      classes: names of classes in the file; empty where it has none.
      metadata: the texts under its key "meta".
      summary: the keys of the top level, for a message.
      constants: names of arrays that are no weights, but arguments of a graph's operations.
    """

    path: Path
    sets: Mapping[str, Mapping[str, Stored]]
    unread: Mapping[str, Mapping[str, str]]
    lost: int = 0
    objects: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    summary: str = "nothing"
    constants: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """The names of all arrays, each with its mapping as prefix; constants come last."""
        named = [joined(mapping, name) for mapping, arrays in self.sets.items() for name in arrays]
        return [*named, *self.constants]


@dataclass(frozen=True, slots=True)
class _InMemory(Stored):
    """An array that is in memory."""

    numbers: np.ndarray

    @property
    def unread(self) -> str:
        return ""

    @property
    def nbytes(self) -> int:
        """None that is still to be allocated."""
        return 0

    def array(self) -> np.ndarray:
        return self.numbers


def of_arrays(arrays: Mapping[str, np.ndarray], *, path: Path, constants: Sequence[str] = ()) -> Contents:
    """The contents of a file of named arrays, and of `constants` with these names, which are no weights."""
    sets = {"": {name: _InMemory(array) for name, array in arrays.items()}}
    return Contents(path, sets, {}, constants=tuple(constants))


def of_pickle(pickled: Pickled, *, path: Path) -> Contents:
    """The contents of the pickle of a checkpoint."""
    sets: dict[str, dict[str, Stored]] = {}
    unread: dict[str, dict[str, str]] = {}
    metadata: dict[str, str] = {}
    classes: tuple[str, ...] = ()
    for mapping, name, item in _items(pickled.value):
        if isinstance(item, Unread):
            unread.setdefault(mapping, {})[name] = item.text
        elif isinstance(item, Stored):
            if item.unread:
                unread.setdefault(mapping, {})[name] = item.unread
            else:
                sets.setdefault(mapping, {})[name] = item
        elif joined(mapping, name) in CLASSES and _are_names(item):
            classes = classes or tuple(item)
        elif type(item) is str and mapping == "meta":
            metadata[name] = item
    reached = {id(item) for arrays in sets.values() for item in arrays.values()}
    lost = max(pickled.arrays - len(reached), 0)
    return Contents(path, sets, unread, lost, pickled.unread, classes, metadata, _summary(pickled.value))


def weights_of(contents: Contents) -> Mapping[str, Stored]:
    """The named arrays under the first key of MAIN that has some, else under "ema", else at the top level.

    Raises WeightsError where there are none.
    """
    for mapping in (*MAIN, "ema", ""):
        if any(not name.isdigit() for name in contents.sets.get(mapping, ())):
            return contents.sets[mapping]
    raise WeightsError(without_weights(contents))


def without_weights(contents: Contents) -> str:
    """A sentence on a file that has no named arrays."""
    untouched = ", and nothing in it was executed" if contents.objects else ""
    return (
        f"{contents.path} holds {contents.summary} and no weights by name{untouched}; save model.state_dict() instead."
    )


def load_arrays(arrays: Mapping[str, Stored], *, path: Path) -> dict[str, np.ndarray]:
    """The numbers of the arrays; raises WeightsError where they are too large for the file or a name is unprintable."""
    if odd := next((name for name in arrays if not name.isprintable()), None):
        raise WeightsError(f"{path} names an array {printable(odd)}, which is no printable text; fetch it again.")
    check_needed(sum(item.nbytes for item in arrays.values()), path=path)
    return {name: item.array() for name, item in arrays.items()}


def check_needed(needed: int, *, path: Path, size: int | None = None) -> None:
    """Raises WeightsError where `needed` bytes of arrays are more than the size of the file `path` allows.

    `size` is given where the numbers are in other files: the bytes of all of these.
    """
    allowed = min(LIMIT, SLACK + GROWTH * (path.stat().st_size if size is None else size))
    if needed > allowed:
        raise WeightsError(f"{path} declares {needed} bytes of arrays, more than the {allowed} allowed for its size.")


def joined(mapping: str, name: str) -> str:
    """A name with its mapping as prefix."""
    return f"{mapping}.{name}" if mapping else name


def _items(tree: Any) -> Iterator[tuple[str, str, Any]]:
    """All items of nested mappings and lists, with their mapping and name; each container is visited once.

    Items nested too deeply, or beyond CONTAINERS, are skipped; `of_pickle` counts the arrays there as lost.
    """
    queue: list[tuple[str, int, Any]] = [("", 0, tree)]
    visited = {id(tree)}
    for mapping, depth, node in queue:
        pairs = node.items() if type(node) is dict else enumerate(node) if type(node) in (list, tuple) else ()
        for key, item in pairs:
            name = key if type(key) is str else str(key) if type(key) is int else ""
            if not name or len(name) > NAME_LENGTH:
                continue
            yield mapping, name, item
            if type(item) not in (dict, list, tuple) or not item or id(item) in visited:
                continue
            if depth < DEPTH and len(name) <= KEY_LENGTH and len(queue) < CONTAINERS:
                visited.add(id(item))
                queue.append((joined(mapping, name), depth + 1, item))


def _are_names(value: Any) -> bool:
    return type(value) in (list, tuple) and bool(value) and all(type(name) is str and name for name in value)


def _summary(tree: Any) -> str:
    if type(tree) is dict:
        return ", ".join(_entry(key, item) for key, item in list(tree.items())[:8]) or "nothing"
    if type(tree) is Unread:
        return f"an object of {printable(tree.text)}"
    return "no mapping"


def _entry(key: Any, item: Any) -> str:
    text = printable(str(key)) if type(key) is not int or key.bit_length() < 64 else "a number"
    return f"{text} (an object of {printable(item.text)})" if type(item) is Unread else text

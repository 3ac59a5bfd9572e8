"""What a weights file holds by name, before its numbers are read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights.unpickle import Pickled, Stored, Unread, shown

LIMIT = 8 << 30  # bytes of a file and of its arrays
SLACK, GROWTH = 64 << 20, 16  # views may repeat a file's numbers, but a small file does not become gigabytes
DEPTH, KEY_LENGTH = 6, 100  # of mappings in mappings, and of a key that one lies under
NAME_LENGTH = 500  # of an array's name
CONTAINERS = 100_000  # mappings and lists that are looked into
# Where training programs keep a net's weights, before those that they keep beside them.
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
    """A file's arrays by place and name, and what lies beside them.

    Attributes:
      path: the file.
      sets: named arrays by the mapping that they lie in: "" for the top level, "ema.module" for one in another.
      unread: what is not read, by mapping and name, and what it is.
      lost: number of arrays that are part of what is not read.
      objects: names of the classes and functions whose objects are not read.
      classes: names of classes in the file; empty where it has none.
      about: what its key "meta" says in words.
      held: what there is at the top level, for a message.
    """

    path: Path
    sets: Mapping[str, Mapping[str, Stored]]
    unread: Mapping[str, Mapping[str, str]]
    lost: int = 0
    objects: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    held: str = "nothing"

    def names(self) -> list[str]:
        """All arrays, each with the place of its mapping before its name."""
        return [joined(place, name) for place, arrays in self.sets.items() for name in arrays]


@dataclass(frozen=True, slots=True)
class _Held(Stored):
    """An array that was read already."""

    numbers: np.ndarray

    @property
    def unread(self) -> str:
        return ""

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes

    def array(self) -> np.ndarray:
        return self.numbers


def of_arrays(arrays: Mapping[str, np.ndarray], *, path: Path) -> Contents:
    """What a file of named arrays and nothing else holds."""
    return Contents(path, {"": {name: _Held(array) for name, array in arrays.items()}}, {})


def of_pickle(pickled: Pickled, *, path: Path) -> Contents:
    """What the pickle of a checkpoint holds."""
    sets: dict[str, dict[str, Stored]] = {}
    unread: dict[str, dict[str, str]] = {}
    about: dict[str, str] = {}
    classes: tuple[str, ...] = ()
    for place, name, item in _items(pickled.value):
        if isinstance(item, Unread):
            unread.setdefault(place, {})[name] = item.text
        elif isinstance(item, Stored):
            if item.unread:
                unread.setdefault(place, {})[name] = item.unread
            else:
                sets.setdefault(place, {})[name] = item
        elif joined(place, name) in CLASSES and _are_names(item):
            classes = classes or tuple(item)
        elif type(item) is str and place == "meta":
            about[name] = item
    reached = {id(item) for arrays in sets.values() for item in arrays.values()}
    lost = max(pickled.arrays - len(reached), 0)
    return Contents(path, sets, unread, lost, pickled.unread, classes, about, _held(pickled.value))


def weights_of(contents: Contents) -> Mapping[str, Stored]:
    """The named arrays under the first key of MAIN that has some, or else "ema", or else at the top level.

    Raises WeightsError where there are none.
    """
    for place in (*MAIN, "ema", ""):
        if any(not name.isdigit() for name in contents.sets.get(place, ())):
            return contents.sets[place]
    raise WeightsError(without_weights(contents))


def without_weights(contents: Contents) -> str:
    """A sentence on a file that has no named arrays."""
    untouched = ", and nothing in it was executed" if contents.objects else ""
    return f"{contents.path} holds {contents.held} and no weights by name{untouched}; save model.state_dict() instead."


def loaded(arrays: Mapping[str, Stored], *, path: Path) -> dict[str, np.ndarray]:
    """The numbers of these arrays; raises WeightsError where they are too large for the file, or a name is odd."""
    if odd := next((name for name in arrays if not name.isprintable()), None):
        raise WeightsError(f"{path} names an array {shown(odd)}, which is no printable text; fetch it again.")
    check_needed(sum(item.nbytes for item in arrays.values()), path=path)
    return {name: item.array() for name, item in arrays.items()}


def check_needed(needed: int, *, path: Path) -> None:
    """Raises WeightsError where arrays of `needed` bytes are more than the file `path` may hold by its size."""
    allowed = min(LIMIT, SLACK + GROWTH * path.stat().st_size)
    if needed > allowed:
        raise WeightsError(f"{path} declares {needed} bytes of arrays, more than the {allowed} allowed for its size.")


def joined(place: str, name: str) -> str:
    """A name with the place of its mapping before it."""
    return f"{place}.{name}" if place else name


def _items(tree: Any) -> Iterator[tuple[str, str, Any]]:
    """All that lies in mappings and lists, each of which is looked at once, by its place and its name there.

    What lies too deep, or in more than CONTAINERS, is passed over; of_pickle counts the arrays there as lost.
    """
    waiting: list[tuple[str, int, Any]] = [("", 0, tree)]
    seen = {id(tree)}
    for place, depth, node in waiting:
        pairs = node.items() if type(node) is dict else enumerate(node) if type(node) in (list, tuple) else ()
        for key, item in pairs:
            name = key if type(key) is str else str(key) if type(key) is int else ""
            if not name or len(name) > NAME_LENGTH:
                continue
            yield place, name, item
            if type(item) not in (dict, list, tuple) or not item or id(item) in seen:
                continue
            if depth < DEPTH and len(name) <= KEY_LENGTH and len(waiting) < CONTAINERS:
                seen.add(id(item))
                waiting.append((joined(place, name), depth + 1, item))


def _are_names(value: Any) -> bool:
    return type(value) in (list, tuple) and bool(value) and all(type(name) is str and name for name in value)


def _held(tree: Any) -> str:
    if type(tree) is dict:
        return ", ".join(_piece(key, item) for key, item in list(tree.items())[:8]) or "nothing"
    if type(tree) is Unread:
        return f"an object of {shown(tree.text)}"
    return "no mapping"


def _piece(key: Any, item: Any) -> str:
    text = shown(str(key)) if type(key) is not int or key.bit_length() < 64 else "a number"
    return f"{text} (an object of {shown(item.text)})" if type(item) is Unread else text

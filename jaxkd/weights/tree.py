"""Parameter trees by leaf name, and the strict match of a tree to named arrays."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError

MAX_FAULTS = 10


@dataclass(frozen=True)
class Report:
    """The result of a match for every leaf and every array.

    Attributes:
      matched: leaves with the array of their name.
      missing: leaves without an array, which keep their value.
      misshapen: leaves with an array of another shape, which keep their value.
      unused: arrays without a leaf.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        """A line of counts, and a line for each name that was not matched."""
        lines = [f"{len(self.matched)} leaves matched"]
        for kind in ("missing", "misshapen", "unused"):
            lines += [f"{kind:<10}{name}" for name in getattr(self, kind)]
        return "\n".join(lines)


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of nested dicts under names such as "layer1_0/conv1/kernel"."""
    out = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            out.update({f"{key}/{name}": leaf for name, leaf in flatten(value).items()})
        else:
            out[key] = value
    return out


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`; raises WeightsError where one name is both a leaf and a folder of leaves."""
    out: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split("/")
        node = out
        for folder in folders:
            node = node.setdefault(folder, {})
            if not isinstance(node, dict):
                raise WeightsError(f"The name {name} lies below another leaf; rename one of the two.")
        if last in node:
            raise WeightsError(f"The name {name} is both a leaf and a folder of leaves; rename one of the two.")
        node[last] = leaf
    return out


def match(
    wanted: Mapping[str, Any],
    given: Mapping[str, np.ndarray],
    *,
    allow_unused: Sequence[str] = (),
    allow_missing: Sequence[str] = (),
) -> tuple[dict[str, Any], Report]:
    """The tree `wanted` with its leaves from `given`, and a report.

    Args:
      wanted: nested dicts of arrays or ShapeDtypeStructs; given arrays are cast to their dtype.
      given: arrays under the names of `flatten`.
      allow_unused: patterns ("fc/*"; a star also spans slashes) of arrays that need no leaf.
      allow_missing: patterns of leaves that keep their value where `given` has no array of that name and shape.

    Raises WeightsError, with the first ten faults and the closest names, where a leaf or an array is neither matched
    nor allowed to be missing or unused.
    """
    leaves = flatten(wanted)
    missing = [name for name in leaves if name not in given]
    unused = [name for name in given if name not in leaves]
    common = [name for name in leaves if name in given]
    misshapen = [name for name in common if given[name].shape != leaves[name].shape]
    faults = [f"{name} is missing{_closest(name, unused)}" for name in _not_allowed(missing, allow_missing)]
    faults += [
        f"{name} has the shape {given[name].shape} where {leaves[name].shape} is wanted"
        for name in _not_allowed(misshapen, allow_missing)
    ]
    faults += [f"{name} is not used{_closest(name, missing)}" for name in _not_allowed(unused, allow_unused)]
    if faults:
        more = f"; and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
        raise WeightsError(
            f"The weights do not fit the net of {len(leaves)} leaves: {'; '.join(faults[:MAX_FAULTS])}{more}."
        )
    kept = {*missing, *misshapen}
    filled = {
        name: leaf if name in kept else np.asarray(given[name], dtype=leaf.dtype) for name, leaf in leaves.items()
    }
    matched = tuple(name for name in common if name not in kept)
    return unflatten(filled), Report(matched, tuple(missing), tuple(misshapen), tuple(unused))


def _not_allowed(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)]


def _closest(name: str, others: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, others, n=1)
    return f" (closest: {matches[0]})" if matches else ""

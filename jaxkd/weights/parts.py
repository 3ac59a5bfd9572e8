"""The nets in a weights file, under any prefix of a wrapper or a training program."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import backbone_names, contents, names, published, query_names, read
from jaxkd.weights.contents import Contents, joined
from jaxkd.weights.unpickle import printable

# Prefixes of torch: DataParallel and AveragedModel, compile, FSDP, activation checkpoints, Fabric.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
LEAVES = ("weight", "bias", "running_mean", "running_var")
MAX_NAMES = 3  # names in a sentence
Kind = Literal["detector", "backbone"]


@dataclass(frozen=True)
class Part:
    """A net of a weights file.

    Attributes:
      kind: "detector" or "backbone", by its names.
      location: its prefix for a sentence, such as "under model._orig_mod."; empty without a prefix.
      arrays: its arrays, under their names without the prefix.
      unused: names of the other arrays of the file.
      notes: sentences on contents of the file that are not used.
      classes: names of classes in the file; empty where it has none.
      metadata: the texts under its key "meta".
    """

    kind: Kind
    location: str
    arrays: dict[str, np.ndarray]
    unused: tuple[str, ...]
    notes: tuple[str, ...]
    classes: tuple[str, ...]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class _Location:
    """The location of a net: its mapping in the file, and the prefix of its names there."""

    mapping: str
    prefix: str
    kind: Kind

    @property
    def label(self) -> str:
        return joined(self.mapping, self.prefix).removesuffix(".")

    @property
    def where(self) -> str:
        prefix_text = f"under {self.prefix}" if self.prefix else ""
        return f"{prefix_text} in {self.mapping}".strip() if self.mapping else prefix_text


def split(source: str | Path) -> tuple[Path, str | None]:
    """The file and the part of it that FILE or FILE:PART names; the part is None where no such file exists."""
    path = Path(source)
    if path.exists():
        return path, None
    for match in reversed(list(re.finditer(":", str(source)))):
        file = Path(str(source)[: match.start()])
        if file.is_file():
            return file, str(source)[match.end() :]
    return path, None


def read_net(path: str | Path, *, part: str | None = None) -> Part:
    """The net in a weights file, or the one that `part` names; for the kinds of files see `read.read`.

    Without `part`, of several nets the only one under a key that training programs use for weights is read
    (`contents.MAIN`, in that order, then the top level). Backbones count only where the file has no detectors.

    Raises WeightsError where the file cannot be read or has no known net, a weight of the net is of a kind that is not
    read, or the choice between several nets is not clear.
    """
    with read.opened(path) as file:
        locations = _labels(_locations(file))
        if not locations:
            raise WeightsError(_unknown_net(file))
        location = _select(locations, part, file)
        short_names = _short_names(file.sets[location.mapping], location, locations, path=file.path)
        _refuse_unread(file, location)
        short_names = {name: short for name, short in short_names.items() if short not in query_names.GRIDS}
        stored = {short: file.sets[location.mapping][name] for name, short in short_names.items()}
        arrays = read.to_arrays(stored, path=file.path)
        _refuse_odd_numbers(arrays, path=file.path)
    used = {joined(location.mapping, name) for name in short_names}
    unused = tuple(name for name in file.names() if name not in used)
    others = [label for other, label in locations.items() if other != location]
    notes = tuple(_notes(file, others, unused))
    return Part(location.kind, location.where, arrays, unused, notes, file.classes, file.metadata)


def few(items: Sequence[str]) -> str:
    """The first names and the number of the others, for a sentence."""
    more = f" and {len(items) - MAX_NAMES} more" if len(items) > MAX_NAMES else ""
    return ", ".join(printable(name) for name in items[:MAX_NAMES]) + more


def _pattern(marks: Mapping[str, str]) -> re.Pattern:
    """A pattern of names that identify a net, from regular expressions; wrappers may stand at each of their dots."""
    wrapped = rf"\.(?:(?:{'|'.join(WRAPPERS)})\.)*"
    patterns = "|".join(mark.replace(r"\.", wrapped) for mark in marks.values())
    return re.compile(rf"((?:.*\.)?)(?:{patterns})", re.DOTALL)


MARKS: dict[Kind, re.Pattern] = {"detector": _pattern(published.MARKS), "backbone": _pattern(backbone_names.MARKS)}


def _locations(file: Contents) -> list[_Location]:
    """The locations of the nets in a file: detectors, or else backbones."""
    for kind, marks in MARKS.items():
        matches = ((mapping, marks.match(name)) for mapping, arrays in file.sets.items() for name in arrays)
        if locations := dict.fromkeys(_Location(mapping, match[1], kind) for mapping, match in matches if match):
            return list(locations)
    arrays = file.sets.get("", {})
    if any(name.startswith("backbone/") for name in arrays):
        raise WeightsError(
            f"{file.path} is the weights of a jaxkd detector, whose description lies beside it; give its folder "
            f"{file.path.parent}."
        )
    return [_Location("", "", "backbone")] if any("/" in name for name in arrays) else []


def _labels(locations: Sequence[_Location]) -> dict[_Location, str]:
    """Short labels of the nets: without wrappers and common prefixes, where they stay unique."""
    rows = [[piece for piece in location.label.split(".") if piece not in WRAPPERS] for location in locations]
    while len(rows) > 1 and all(len(row) > 1 for row in rows) and len({row[0] for row in rows}) == 1:
        rows = [row[1:] for row in rows]
    short = [".".join(row) for row in rows]
    labels = short if len(set(short)) == len(short) else [location.label for location in locations]
    return dict(zip(locations, labels, strict=True))


def _select(nets: Mapping[_Location, str], part: str | None, file: Contents) -> _Location:
    path = file.path
    if part is not None:
        requested = part.removesuffix(".")
        matches = [net for net, label in nets.items() if requested in (label, net.label)]
        partial = [net for net in nets if f".{requested}." in f".{net.label}."]
        if matches or len(partial) == 1:
            return (matches or partial)[0]
        if list(nets.values()) == [""]:
            raise WeightsError(
                f"{path} holds one net, whose names have nothing before them; leave the part '{part}' out."
            )
        raise WeightsError(f"{path} has no part '{printable(part)}'; there is {_listed(list(nets.values()))}.")
    if len(nets) == 1:
        return next(iter(nets))
    preferred = next((preferred for mapping in _order(file) if (preferred := _in_mapping(nets, mapping))), [])
    if len(preferred) == 1:
        return preferred[0]
    labels = list(nets.values())
    raise WeightsError(
        f"{path} holds {len(nets)} {next(iter(nets)).kind}s: {_listed(labels)}; name one, {_syntax(path, labels[0])}."
    )


def _order(file: Contents) -> tuple[str, ...]:
    """The mappings from which a net is taken, the first one first: of query detectors the averaged weights."""
    averaged = any(re.search(query_names.MARK, name) for name in file.sets.get(query_names.AVERAGED, ()))
    return (*([query_names.AVERAGED] if averaged else []), *contents.MAIN, "")


def _listed(labels: Sequence[str]) -> str:
    return few([label or "'' (names with nothing before them)" for label in labels])


def _syntax(path: Path, label: str) -> str:
    """The syntax that names a part of a file, for a sentence."""
    return f"as {path.name}:{label} or by --part={label} of jaxkd convert"


def _in_mapping(locations: Mapping[_Location, str], mapping: str) -> list[_Location]:
    return [location for location in locations if location.mapping == mapping]


def _short_names(
    arrays: Mapping[str, object], location: _Location, locations: Mapping[_Location, str], *, path: Path
) -> dict[str, str]:
    """The names of the net's arrays, with the same names without prefix and wrappers."""
    nested = tuple(
        other.prefix
        for other in _in_mapping(locations, location.mapping)
        if other.prefix.startswith(location.prefix) and other != location
    )
    inside = [name for name in arrays if name.startswith(location.prefix) and not name.startswith(nested)]
    short_names = {
        name: ".".join(piece for piece in name.removeprefix(location.prefix).split(".") if piece not in WRAPPERS)
        for name in inside
    }
    sources: dict[str, str] = {}
    for name, short in short_names.items():
        if sources.setdefault(short, name) != name:
            raise WeightsError(
                f"{path} holds {printable(name)} and {printable(sources[short])}, which are the same weight; keep one."
            )
    return short_names


def _refuse_unread(file: Contents, location: _Location) -> None:
    """Raises WeightsError where a weight of the net is of a kind that is not read."""
    for name, kind in file.unread.get(location.mapping, {}).items():
        if name.startswith(location.prefix) and name.rpartition(".")[2] in LEAVES:
            raise WeightsError(
                f"{file.path} holds {printable(name)} as an object of {printable(kind)}, which is not read; save it as "
                "a plain tensor."
            )


def _refuse_odd_numbers(arrays: Mapping[str, np.ndarray], *, path: Path) -> None:
    """Raises WeightsError where an array has no numbers, integers, or numbers that are not finite."""
    for name, array in arrays.items():
        if name.rpartition(".")[2] == names.COUNTER:
            continue
        if array.dtype.kind != "f" or not array.size:
            kind = f"{array.dtype} numbers" if array.size else "no numbers"
            raise WeightsError(
                f"{path} holds {kind} as {printable(name)}, where weights are wanted; save the net unquantised."
            )
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32, copy=False)).all()
        if not finite:
            raise WeightsError(
                f"{path} holds numbers in {printable(name)} that are not finite; take an earlier checkpoint."
            )


def _notes(file: Contents, others: Sequence[str], unused: Sequence[str]) -> list[str]:
    """Sentences on contents of the file that are not used."""
    notes = []
    if others:
        notes.append(
            f"The file also holds {_listed(others)}; to take that instead, name it {_syntax(file.path, others[0])}."
        )
    if unused:
        notes.append(f"Not used are {len(unused)} array(s) beside these: {few(unused)}.")
    if file.objects:
        lost = f", with {file.lost} array(s) in them" if file.lost else ""
        notes.append(f"Not read are objects of {few(file.objects)}{lost}.")
    elif file.lost:
        notes.append(f"Not used are {file.lost} array(s) that have no name.")
    return notes


def _unknown_net(file: Contents) -> str:
    if not any(file.sets.values()):
        return contents.without_weights(file)
    return f"{file.path.name} holds no detector known here. {backbone_names.unknown(max(file.sets.values(), key=len))}"

"""The nets in a weights file, under whatever a wrapper or a training program put before their names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import contents, names, published, read
from jaxkd.weights.contents import Contents, joined
from jaxkd.weights.unpickle import shown

# What torch puts into names: DataParallel and AveragedModel, compile, FSDP, activation checkpoints, Fabric.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
LEAVES = ("weight", "bias", "running_mean", "running_var")
SHOWN = 3  # names in a sentence
Kind = Literal["detector", "backbone"]


@dataclass(frozen=True)
class Part:
    """A net of a weights file.

    Attributes:
      kind: "detector" or "backbone", by its names.
      where: its place for a sentence, such as "under model._orig_mod."; empty where nothing stands before its names.
      arrays: its arrays, under their names without what stood before them.
      beside: names of the file's other arrays.
      said: sentences on what of the file is not taken.
      classes: names of classes in the file; empty where it has none.
      about: what its key "meta" says in words.
    """

    kind: Kind
    where: str
    arrays: dict[str, np.ndarray]
    beside: tuple[str, ...]
    said: tuple[str, ...]
    classes: tuple[str, ...]
    about: Mapping[str, str]


@dataclass(frozen=True)
class _Place:
    """Where a net lies: the mapping of the file, and what stands there before its names."""

    mapping: str
    prefix: str
    kind: Kind

    @property
    def label(self) -> str:
        return joined(self.mapping, self.prefix).removesuffix(".")

    @property
    def where(self) -> str:
        said = f"under {self.prefix}" if self.prefix else ""
        return f"{said} in {self.mapping}".strip() if self.mapping else said


def split(source: str | Path) -> tuple[Path, str | None]:
    """The file and the part of it that FILE or FILE:PART names; no part where there is no such file."""
    path = Path(source)
    if path.exists():
        return path, None
    for match in reversed(list(re.finditer(":", str(source)))):
        file = Path(str(source)[: match.start()])
        if file.is_file():
            return file, str(source)[match.end() :]
    return path, None


def taken(path: str | Path, *, part: str | None = None) -> Part:
    """The net in a weights file, or that of its nets which `part` names; `read.read` says which files are read.

    Without `part`, of several nets the one is taken whose names lie under a key that training programs use for a net's
    weights (`contents.MAIN`, in that order, then the top level), where it is the only one there. A file's backbones
    count only where it holds no detectors.

    Raises WeightsError where the file cannot be read or holds no net known here, a net's weight is of a kind that is
    not read, or it is not clear which of several nets is meant.
    """
    with read.opened(path) as found:
        places = _labelled(_places(found))
        if not places:
            raise WeightsError(_unknown(found))
        place = _chosen(places, part, path=found.path)
        plain = _plain_names(found.sets[place.mapping], place, places, path=found.path)
        _refuse_unread(found, place)
        stored = {short: found.sets[place.mapping][name] for name, short in plain.items()}
        arrays = read.plain(stored, path=found.path)
        _refuse_odd_numbers(arrays, path=found.path)
    mine = {joined(place.mapping, name) for name in plain}
    beside = tuple(name for name in found.names() if name not in mine)
    others = [label for other, label in places.items() if other != place]
    said = tuple(_left(found, others, beside))
    return Part(place.kind, place.where, arrays, beside, said, found.classes, found.about)


def few(items: Sequence[str]) -> str:
    """The first of these names and the number of the others, for a sentence."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(shown(name) for name in items[:SHOWN]) + more


def _marks(marks: Mapping[str, str]) -> re.Pattern:
    """Names that begin a net, of which `marks` are regular expressions; wrappers may stand at each of their dots."""
    wrapped = rf"\.(?:(?:{'|'.join(WRAPPERS)})\.)*"
    patterns = "|".join(mark.replace(r"\.", wrapped) for mark in marks.values())
    return re.compile(rf"((?:.*\.)?)(?:{patterns})", re.DOTALL)


MARKS: dict[Kind, re.Pattern] = {"detector": _marks(published.MARKS), "backbone": _marks(names.MARKS)}


def _places(found: Contents) -> list[_Place]:
    """Where the file holds nets: detectors, or else backbones."""
    for kind, marks in MARKS.items():
        matches = ((mapping, marks.match(name)) for mapping, arrays in found.sets.items() for name in arrays)
        if places := dict.fromkeys(_Place(mapping, match[1], kind) for mapping, match in matches if match):
            return list(places)
    arrays = found.sets.get("", {})
    if any(name.startswith("backbone/") for name in arrays):
        raise WeightsError(
            f"{found.path} is the weights of a jaxkd detector, whose description lies beside it; give its folder "
            f"{found.path.parent}."
        )
    return [_Place("", "", "backbone")] if any("/" in name for name in arrays) else []


def _labelled(places: Sequence[_Place]) -> dict[_Place, str]:
    """The nets' names for people: without wrappers and without what all begin with, where that tells them apart."""
    rows = [[piece for piece in place.label.split(".") if piece not in WRAPPERS] for place in places]
    while len(rows) > 1 and all(len(row) > 1 for row in rows) and len({row[0] for row in rows}) == 1:
        rows = [row[1:] for row in rows]
    short = [".".join(row) for row in rows]
    labels = short if len(set(short)) == len(short) else [place.label for place in places]
    return dict(zip(places, labels, strict=True))


def _chosen(places: Mapping[_Place, str], part: str | None, *, path: Path) -> _Place:
    if part is not None:
        wanted = part.removesuffix(".")
        fitting = [place for place, label in places.items() if wanted in (label, place.label)]
        inside = [place for place in places if f".{wanted}." in f".{place.label}."]
        if fitting or len(inside) == 1:
            return (fitting or inside)[0]
        if list(places.values()) == [""]:
            raise WeightsError(
                f"{path} holds one net, whose names have nothing before them; leave the part '{part}' out."
            )
        raise WeightsError(f"{path} has no part '{shown(part)}'; there is {_listed(list(places.values()))}.")
    if len(places) == 1:
        return next(iter(places))
    there = next((there for mapping in (*contents.MAIN, "") if (there := _in(places, mapping))), [])
    if len(there) == 1:
        return there[0]
    labels = list(places.values())
    raise WeightsError(
        f"{path} holds {len(places)} {next(iter(places)).kind}s: {_listed(labels)}; name one, {_ways(path, labels[0])}."
    )


def _listed(labels: Sequence[str]) -> str:
    return few([label or "'' (names with nothing before them)" for label in labels])


def _ways(path: Path, label: str) -> str:
    """How to name a part of a file."""
    return f"as {path.name}:{label} or by --part={label} of jaxkd convert"


def _in(places: Mapping[_Place, str], mapping: str) -> list[_Place]:
    return [place for place in places if place.mapping == mapping]


def _plain_names(
    arrays: Mapping[str, object], place: _Place, places: Mapping[_Place, str], *, path: Path
) -> dict[str, str]:
    """The names of the net's arrays, with what they are without prefix and wrappers."""
    deeper = tuple(
        other.prefix for other in _in(places, place.mapping) if other.prefix.startswith(place.prefix) and other != place
    )
    inside = [name for name in arrays if name.startswith(place.prefix) and not name.startswith(deeper)]
    out = {
        name: ".".join(piece for piece in name.removeprefix(place.prefix).split(".") if piece not in WRAPPERS)
        for name in inside
    }
    seen: dict[str, str] = {}
    for name, short in out.items():
        if seen.setdefault(short, name) != name:
            raise WeightsError(
                f"{path} holds {shown(name)} and {shown(seen[short])}, which are the same weight; keep one."
            )
    return out


def _refuse_unread(found: Contents, place: _Place) -> None:
    """Raises WeightsError where a weight of the net is something that is not read."""
    for name, kind in found.unread.get(place.mapping, {}).items():
        if name.startswith(place.prefix) and name.rpartition(".")[2] in LEAVES:
            raise WeightsError(
                f"{found.path} holds {shown(name)} as an object of {shown(kind)}, which is not read; save it as a "
                "plain tensor."
            )


def _refuse_odd_numbers(arrays: Mapping[str, np.ndarray], *, path: Path) -> None:
    """Raises WeightsError where an array has no numbers, whole ones, or some that are not finite."""
    for name, array in arrays.items():
        if name.rpartition(".")[2] == names.COUNTER:
            continue
        if array.dtype.kind != "f" or not array.size:
            kind = f"{array.dtype} numbers" if array.size else "no numbers"
            raise WeightsError(
                f"{path} holds {kind} as {shown(name)}, where weights are wanted; save the net unquantised."
            )
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32, copy=False)).all()
        if not finite:
            raise WeightsError(
                f"{path} holds numbers in {shown(name)} that are not finite; take an earlier checkpoint."
            )


def _left(found: Contents, others: Sequence[str], beside: Sequence[str]) -> list[str]:
    """Sentences on what of the file is not taken."""
    said = []
    if others:
        said.append(
            f"The file also holds {_listed(others)}; to take that instead, name it {_ways(found.path, others[0])}."
        )
    if beside:
        said.append(f"Not used are {len(beside)} array(s) beside these: {few(beside)}.")
    if found.objects:
        lost = f", with {found.lost} array(s) in them" if found.lost else ""
        said.append(f"Not read are objects of {few(found.objects)}{lost}.")
    elif found.lost:
        said.append(f"Not used are {found.lost} array(s) that have no name.")
    return said


def _unknown(found: Contents) -> str:
    if not any(found.sets.values()):
        return contents.without_weights(found)
    return f"{found.path.name} holds no detector known here. {names.unknown(max(found.sets.values(), key=len))}"

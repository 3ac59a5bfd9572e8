"""Picture files looked up by their annotated names, also where these differ slightly from the names on the disk."""

import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from jaxkd.data.base import check_file_name, evenly_spaced, short_repr
from jaxkd.data.formats import PICTURES
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError

SAMPLE = 256  # names that are looked up first; the folder is indexed only where one of them is missing


def find(
    names: Sequence[str], folder: Path, repairs: Repairs, *, where: Callable[[int], str], any_suffix: bool = False
) -> list[str]:
    r"""The files below `folder` that the names refer to, by their names on the disk; an unknown name is kept.

    Unambiguous differences are resolved and counted: another normal form of Unicode, \ between folders, and leading
    folders that all names share and that do not exist below `folder`. With `any_suffix`, also a picture of the same
    stem with another suffix.

    Raises:
      DataError: for a name that leads out of the folder, or for an address on a network; `where` gives the place of a
        name in the annotations, for messages.
    """
    for index, name in enumerate(names):
        if re.match(r"[A-Za-z][\w+.-]+://", name):
            raise DataError(
                f"{where(index)} names the picture {short_repr(name)}, which is an address on a network; fetch the "
                "pictures and write the names of their files."
            )
    sampled = [names[index] for index in evenly_spaced(len(names), SAMPLE)]
    if not names or all(_is_safe(name) and (folder / name).exists() for name in sampled):
        return [check_file_name(name, where=where(index)) for index, name in enumerate(names)]
    folder_index = Index(folder)
    parts = [re.split(r"[/\\]+", name) for name in names]
    shared = _shared_folders(parts, folder_index)
    files = []
    for index, (name, path) in enumerate(zip(names, parts, strict=True)):
        stripped = "/".join(path[shared:])
        match = (
            folder_index.match(stripped)
            or (folder_index.with_another_suffix(stripped) if any_suffix else "")
            or stripped
        )
        files.append(check_file_name(match if match in folder_index else name, where=where(index)))
        if match in folder_index:
            repairs.add("names_below_a_shared_folder", int(shared > 0), example=name)
            repairs.add("names_with_backslashes", int("\\" in name), example=name)
            repairs.add(
                "names_in_another_form",
                int(match != stripped and folder_index.same_but_for_form(match, stripped)),
                example=name,
            )
            repairs.add("names_with_another_suffix", int(Path(match).suffix != Path(stripped).suffix), example=match)
    return files


def share_found(names: Sequence[str], folder: Path) -> float:
    """The share of the names that have a file below `folder`, as written or without leading folders that all share."""
    parts = [re.split(r"[/\\]+", name) for name in names]

    def found(count: int) -> int:
        below = ("/".join(path[count:]) for path in parts)
        return sum(_is_safe(name) and (folder / name).exists() for name in below)

    return max(map(found, range(_count_shared(parts) + 1)), default=0) / max(len(names), 1)


class Index:
    """The files below a folder, by their names relative to it with '/' between the parts."""

    def __init__(self, folder: Path):
        self._names: set[str] = set()
        for parent, _, files in os.walk(folder):
            below = os.path.relpath(parent, folder).replace(os.sep, "/")
            self._names |= {name if below == "." else f"{below}/{name}" for name in files}
        self._forms, self._cases, self._bases, self._stems = (defaultdict(list) for _ in range(4))
        for name in sorted(self._names):
            self._forms[_normal_form(name)].append(name)
            self._cases[_normal_form(name).casefold()].append(name)
            self._bases[_normal_form(name.rpartition("/")[2]).casefold()].append(name)
            if Path(name).suffix.lower() in PICTURES:
                self._stems[_normal_form(name).rpartition(".")[0]].append(name)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def match(self, name: str) -> str:
        """The file of this name in any normal form of Unicode; "" where there is none, or several."""
        return name if name in self._names else _only(self._forms[_normal_form(name)])

    def same_but_for_form(self, one: str, other: str) -> bool:
        """Whether two names are equal but for their normal form of Unicode."""
        return _normal_form(one) == _normal_form(other)

    def with_another_suffix(self, name: str) -> str:
        """The only picture of this name with another suffix; "" where there is none, or several."""
        return _only(self._stems[_normal_form(name).rpartition(".")[0]])

    def nearest(self, name: str) -> str:
        """A file whose name differs by percent-encoding, case, folder or suffix; "" where there is none."""
        for spelling in (name, unquote(name)):
            base = spelling.replace("\\", "/").rpartition("/")[2]
            candidates = (
                self.match(spelling),
                *self._cases[_normal_form(spelling).casefold()][:1],
                *self._bases[_normal_form(base).casefold()][:1],
                self.with_another_suffix(spelling),
            )
            if match := next(filter(None, candidates), ""):
                return match
        return ""


def _shared_folders(parts: Sequence[Sequence[str]], index: Index) -> int:
    """The number of leading folders to strip: with them no file exists, without them at least half of the files do."""
    for count in range(_count_shared(parts) + 1):
        existing = sum(bool(index.match("/".join(path[count:]))) for path in parts)
        if existing and (count == 0 or 2 * existing >= len(parts)):
            return count
    return 0


def _count_shared(parts: Sequence[Sequence[str]]) -> int:
    """The number of leading folders that all names share."""
    folders = zip(*(path[:-1] for path in parts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, folders))


def _is_safe(name: str) -> bool:
    try:
        check_file_name(name, where="")
    except DataError:
        return False
    return True


def _only(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ""


def _normal_form(name: str) -> str:
    return unicodedata.normalize("NFC", name)

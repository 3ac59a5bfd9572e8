"""Pictures found by the names that annotations give them, where these are nearly those on the disk."""

import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from jaxkd.data.base import check_file_name, shown, spaced
from jaxkd.data.formats import PICTURES
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError

LOOK = 256  # names that are looked for; the folder is searched where one of them is not there


def find(
    names: Sequence[str], folder: Path, repairs: Repairs, *, where: Callable[[int], str], any_suffix: bool = False
) -> list[str]:
    r"""The names of the files below `folder` that these names stand for; one that stands for none stays as it is.

    What is sure is taken and counted: another form of Unicode, a \ between folders, and first folders that all names
    share and that lead nowhere below `folder`. With `any_suffix` a picture of the same stem is taken too.

    Raises:
      DataError: for a name that leads out of the folder, or to a network; `where` says where a name stands.
    """
    for place, name in enumerate(names):
        if re.match(r"[A-Za-z][\w+.-]+://", name):
            raise DataError(
                f"{where(place)} names the picture {shown(name)}, which is an address on a network; fetch the pictures "
                "and write the names of their files."
            )
    looked = [names[place] for place in spaced(len(names), LOOK)]
    if not names or all(_is_safe(name) and (folder / name).exists() for name in looked):
        return [check_file_name(name, where=where(place)) for place, name in enumerate(names)]
    index = Index(folder)
    parts = [re.split(r"[/\\]+", name) for name in names]
    strip = _strip(parts, index)
    found = []
    for place, (name, split) in enumerate(zip(names, parts, strict=True)):
        wanted = "/".join(split[strip:])
        there = index.same(wanted) or (index.with_another_suffix(wanted) if any_suffix else "") or wanted
        found.append(check_file_name(there if there in index else name, where=where(place)))
        if there in index:
            repairs.add("names_below_a_shared_folder", int(strip > 0), example=name)
            repairs.add("names_with_backslashes", int("\\" in name), example=name)
            repairs.add("names_in_another_form", int(there != wanted and index.is_form(there, wanted)), example=name)
            repairs.add("names_with_another_suffix", int(Path(there).suffix != Path(wanted).suffix), example=there)
    return found


class Index:
    """The files below a folder by their names relative to it, '/' between their parts."""

    def __init__(self, folder: Path):
        self._names: set[str] = set()
        for place, _, files in os.walk(folder):
            inner = os.path.relpath(place, folder).replace(os.sep, "/")
            self._names |= {name if inner == "." else f"{inner}/{name}" for name in files}
        self._forms, self._cases, self._bases, self._stems = (defaultdict(list) for _ in range(4))
        for name in sorted(self._names):
            self._forms[_form(name)].append(name)
            self._cases[_form(name).casefold()].append(name)
            self._bases[_form(name.rpartition("/")[2]).casefold()].append(name)
            if Path(name).suffix.lower() in PICTURES:
                self._stems[_form(name).rpartition(".")[0]].append(name)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def same(self, name: str) -> str:
        """The file of this name, in whatever form of Unicode; "" where there is none, or several."""
        return name if name in self._names else _only(self._forms[_form(name)])

    def is_form(self, one: str, other: str) -> bool:
        """Whether two names differ in their form of Unicode alone."""
        return _form(one) == _form(other)

    def with_another_suffix(self, name: str) -> str:
        """The one picture of this name but for its suffix; "" where there is none, or several."""
        return _only(self._stems[_form(name).rpartition(".")[0]])

    def nearest(self, name: str) -> str:
        """A file whose name differs by percent signs, case, its folder or its suffix; "" where there is none."""
        for wanted in (name, unquote(name)):
            base = wanted.replace("\\", "/").rpartition("/")[2]
            near = (
                self.same(wanted),
                *self._cases[_form(wanted).casefold()][:1],
                *self._bases[_form(base).casefold()][:1],
                self.with_another_suffix(wanted),
            )
            if found := next(filter(None, near), ""):
                return found
        return ""


def _strip(parts: Sequence[Sequence[str]], index: Index) -> int:
    """How many first folders all names share that lead nowhere: with them no name is there, without them most are."""
    folders = zip(*(split[:-1] for split in parts), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, folders))
    for strip in range(shared + 1):
        there = sum(bool(index.same("/".join(split[strip:]))) for split in parts)
        if there and (strip == 0 or 2 * there >= len(parts)):
            return strip
    return 0


def _is_safe(name: str) -> bool:
    try:
        check_file_name(name, where="")
    except DataError:
        return False
    return True


def _only(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ""


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)

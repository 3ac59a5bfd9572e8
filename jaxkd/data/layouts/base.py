"""The files of a folder, walked once, and what a layout finds among them.

A layout is a function `evidence(tree: Tree) -> Dataset | None`: None where the folder has nothing of the layout,
DataError where it clearly has and cannot be used. No picture is decoded.
"""

import dataclasses
import functools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxkd.config import Recipe
from jaxkd.data import formats
from jaxkd.errors import DataError

MAX_DEPTH = 4  # levels of folders below the root
MAX_ENTRIES = 300_000  # files and folders
HEAD_BYTES = 2**16  # first bytes of a file that tell what it holds
SKIPPED = "__macosx"  # what archives from a Mac leave beside their content
# The split that a word in the name of a file or folder stands for.
WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A recognised set of annotated pictures."""

    format: str  # "coco", "yolo", "voc", "imagefolder", "open_images"
    splits: Mapping[str, Recipe]  # of "train", "val" and "test" those that exist: component("data.coco", ...)
    classes: tuple[str, ...] = ()  # () where only loading tells
    assumptions: tuple[str, ...] = ()  # what was assumed or passed over, one sentence each
    count: Callable[[], int] | None = dataclasses.field(default=None, repr=False, compare=False)
    """Counts the annotated objects of all splits; called only where two layouts are found."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """The files below a folder, without hidden ones; names are relative to it, with '/' between their parts."""

    root: Path
    files: tuple[str, ...]  # sorted
    folders: tuple[str, ...]  # sorted; "" is the root
    given: str = ""  # the file that the user named, where it was no folder
    complete: bool = True  # whether all was seen: no more entries than MAX_ENTRIES

    def path(self, name: str) -> Path:
        """The path of a file or folder of the tree."""
        return self.root / name if name else self.root

    def files_in(self, folder: str) -> Sequence[str]:
        """The files directly in a folder, sorted."""
        return self._by_folder.get(folder, ())

    def pictures_in(self, folder: str) -> Sequence[str]:
        """The pictures directly in a folder, by their suffix, sorted."""
        return [name for name in self.files_in(folder) if is_picture(name)]

    def pictures_below(self, folder: str) -> Sequence[str]:
        """The pictures in and below a folder, by their suffix, sorted; of the root all."""
        prefix = f"{folder}/" if folder else ""
        return [name for name in self.files if name.startswith(prefix) and is_picture(name)]

    def with_suffix(self, *suffixes: str) -> Sequence[str]:
        """The files with one of these suffixes, such as ".json", in any case."""
        return [name for name in self.files if name.lower().endswith(suffixes)]

    def find(self, name: str) -> str:
        """The file or folder of this name, compared without case, by its name on the disk; "" where there is none."""
        return self._by_case.get(name.lower(), "")

    def named(self, *names: str) -> Sequence[str]:
        """All files and folders whose last part is one of these names, given in lower case."""
        return [name for name in (*self.folders, *self.files) if base(name).lower() in names]

    def head(self, name: str) -> bytes:
        """The first bytes of a file; b"" where it cannot be read."""
        try:
            with self.path(name).open("rb") as stream:
                return stream.read(HEAD_BYTES)
        except OSError:
            return b""

    @functools.cached_property
    def _by_folder(self) -> dict[str, list[str]]:
        files = defaultdict(list)
        for name in self.files:
            files[parent(name)].append(name)
        return dict(files)

    @functools.cached_property
    def _by_case(self) -> dict[str, str]:
        return {name.lower(): name for name in reversed((*self.folders, *self.files))}


def walk(path: Path) -> Tree:
    """The tree of a folder, or of the folder of a file, which is then its `given`; at most 4 levels, 300 000 entries.

    The folder of a file in annotations/ is the one above, where the pictures are too. Folders nearer to the root come
    first, so that a limit leaves out the deepest ones.

    Raises:
      DataError: where there is no such file or folder, or it may not be read.
    """
    if not os.path.lexists(path):
        raise DataError(f"There is no file or folder {path}; correct the path of the data.")
    root, given = (path, "") if path.is_dir() else _around(path)
    files, folders, complete = [], [""], True
    for name, is_folder in _entries(root):
        if len(files) + len(folders) > MAX_ENTRIES:
            complete = False
            break
        (folders if is_folder else files).append(name)
    if given and given not in files:
        files.append(given)  # a hidden file that was named is meant
    return Tree(root, tuple(sorted(files)), tuple(sorted(folders)), given, complete)


def base(name: str) -> str:
    """The last part of a name."""
    return name.rpartition("/")[2]


def parent(name: str) -> str:
    """The folder of a name; "" for the root."""
    return name.rpartition("/")[0]


def join(folder: str, name: str) -> str:
    """The name below a folder, where "" is the root."""
    return f"{folder}/{name}" if folder else name


def is_picture(name: str) -> bool:
    """Whether a file is a picture that is read here, by its suffix."""
    return os.path.splitext(name)[1].lower() in formats.PICTURES


def split_of(name: str) -> str:
    """The split that a file or folder belongs to by the words in its name, the last part first; "" where none says it.

    Words are letters between anything else: "train" in "instances_train2017.json", "valid" in "valid/images".
    """
    for part in reversed(name.split("/")):
        words = "".join(letter if letter.isalpha() else " " for letter in part.lower()).split()
        if splits := {WORDS[word] for word in words if word in WORDS}:
            return splits.pop() if len(splits) == 1 else ""
    return ""


def _around(file: Path) -> tuple[Path, str]:
    """The folder of a data set by one of its files, and the name of the file below it."""
    folder = Path(os.path.abspath(file)).parent
    if folder.name.lower() == "annotations":
        return folder.parent, f"{folder.name}/{file.name}"
    return file.parent, file.name


def _entries(root: Path) -> Iterator[tuple[str, bool]]:
    """Names below a folder and whether they are folders, level by level; a folder that is linked twice comes once."""
    level, visited = [""], {os.path.realpath(root)}
    for depth in range(MAX_DEPTH + 1):
        below = []
        for folder in level:
            for entry in _scan(root / folder, is_root=not folder):
                name = join(folder, entry.name)
                if not entry.is_dir():
                    yield name, False
                elif depth < MAX_DEPTH and (real := os.path.realpath(entry.path)) not in visited:
                    visited.add(real)
                    yield name, True
                    below.append(name)
        level = below


def _scan(folder: Path, *, is_root: bool) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, sorted; [] for a folder below the root that may not be read."""
    try:
        with os.scandir(folder) as entries:
            kept = (entry for entry in entries if entry.name[0] != "." and entry.name.lower() != SKIPPED)
            return sorted(kept, key=lambda entry: entry.name)
    except OSError as error:
        if is_root:
            raise DataError(
                f"The folder {folder} may not be read ({error.strerror}); change its permissions."
            ) from error
        return []

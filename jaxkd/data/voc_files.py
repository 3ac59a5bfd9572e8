"""Which annotations and pictures a split of a VOC folder has: those of a list, or all of a folder."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from jaxkd.config import closest
from jaxkd.data.base import check_file_name
from jaxkd.data.formats import PICTURES
from jaxkd.data.repairs import Repairs
from jaxkd.errors import ConfigError, DataError

LISTS = "ImageSets/Main"
ANNOTATIONS = ("annotations", "annotation", "xmls", "xml")  # folders of annotations, in lower case
PICTURE_FOLDERS = ("jpegimages", "images", "image")


@dataclasses.dataclass(frozen=True)
class Listed:
    """An annotation of a split, and its picture."""

    file: Path  # the XML file
    picture: str  # name below the root; ends with "/", or is empty, where only <filename> tells it
    name: str  # folder and stem, for messages


def check_splits(splits: tuple[str, ...]) -> None:
    """Raises ConfigError where one is not of the form of a split, or there is none."""
    if not splits:
        raise ConfigError("splits is empty; name one at least, such as '2007_trainval'.")
    for split in splits:
        if not re.fullmatch(r"[\w. -]+(/[\w. -]*)?", split) or ".." in split:
            raise ConfigError(
                f"The split {split!r} is no year and list such as '2007_trainval', no folder and list such as "
                "'VOC2007/trainval', no folder such as 'train/', and no list such as 'trainval'."
            )


def is_folder(split: str) -> bool:
    """Whether a split is all of a folder."""
    return split.endswith("/")


def in_folder(split: str, root: Path, repairs: Repairs) -> list[Listed]:
    """All annotations of a folder, sorted: of its Annotations folder with JPEGImages, or of XML beside pictures.

    An annotation's picture has its stem, or else the name in its <filename>.

    Raises:
      DataError: where the folder has no annotation.
    """
    below = "" if split == "./" else split
    folder = root / below
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} of the split {split!r}; correct it.")
    files = _child(folder, ANNOTATIONS)
    pictures = _child(folder, PICTURE_FOLDERS)
    names = sorted(name for name in os.listdir(folder / files) if name.lower().endswith(".xml"))
    if not names:
        raise DataError(f"{folder / files} holds no .xml annotation; correct the split {split!r}.")
    of_stem = {
        os.path.splitext(name)[0]: name
        for name in sorted(os.listdir(folder / pictures), reverse=True)
        if os.path.splitext(name)[1].lower() in PICTURES
    }
    stems = [os.path.splitext(name)[0] for name in names]
    listed = [
        Listed(folder / files / name, f"{below}{pictures}{of_stem.get(stem, '')}", f"{below}{stem}")
        for name, stem in zip(names, stems, strict=True)
    ]
    if set(stems) <= of_stem.keys():
        unused = sorted(of_stem.keys() - set(stems))
        repairs.add("pictures_without_annotations", len(unused), example=of_stem[unused[0]] if unused else "")
    return listed


def in_list(split: str, root: Path, check: Callable[[Path], None]) -> tuple[str, list[Listed]]:
    """The folder of a split's list below the root ("." for the root), and the annotations that it lists.

    `check` is called with the list before it is read.

    Raises:
      DataError: where there is no such list, it cannot be read or is empty, or a name leads out of its folder.
    """
    folder, file = _list_file(split, root)
    check(file)
    return folder, [
        Listed(
            root / folder / "Annotations" / f"{stem}.xml",
            (Path(folder) / "JPEGImages" / f"{stem}.jpg").as_posix(),
            f"{folder}/{stem}",
        )
        for stem in _stems(root / folder, file)
    ]


def unique(listed: list[Listed]) -> tuple[list[Listed], list[str]]:
    """The annotations without those that are listed again, and the names of these."""
    by_file = {entry.file: entry for entry in listed}
    counts = Counter(entry.file for entry in listed)
    return list(by_file.values()), [by_file[file].name for file, count in counts.items() for _ in range(count - 1)]


def _child(folder: Path, names: tuple[str, ...]) -> str:
    """The child folder of one of these names, the first that is there, with a "/" behind it; "" where none is."""
    children = {name.lower(): name for name in os.listdir(folder) if (folder / name).is_dir()}
    return next((f"{children[name]}/" for name in names if name in children), "")


def _stems(folder: Path, file: Path) -> list[str]:
    """The names in a list file, without a second column."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); it has to be a list of names in UTF-8.") from error
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{file} lists no picture; write one name a line, or leave it out of splits.")
    columns = [re.fullmatch(r"(.*\S)\s+(-1|0|1)", line) for line in lines]
    exists = [
        bool(match) and (folder / "Annotations" / f"{line}.xml").exists()
        for line, match in zip(lines, columns, strict=True)
    ]
    if not (all(columns) and any(exists)):  # else the numbers are part of the names, as in "frame 0"
        rows = zip(lines, columns, exists, strict=True)
        lines = [match[1] if match and not complete else line for line, match, complete in rows]
    return [check_file_name(line, where=str(file)) for line in lines]


def _list_file(split: str, root: Path) -> tuple[str, Path]:
    """The folder below the root ("." for the root) and the list file of a split; DataError where there is none."""
    year, _, name = split.partition("_")
    folder, slash, name_below = split.partition("/")
    candidates = [(folder, name_below)] if slash else [(f"VOC{year}", name), (".", split)]
    for below, stem in candidates:
        file = root / below / LISTS / f"{stem}.txt"
        if stem and file.is_file():
            return below, file
    below, stem = candidates[0] if slash or name else candidates[-1]
    file, known = root / below / LISTS / f"{stem}.txt", _splits(root)
    raise DataError(
        f"There is no list {file} of the split '{split}'{closest(split, known)}{'' if known else f'; {_layout(root)}'}."
    )


def _splits(root: Path) -> set[str]:
    """All splits below the root, as they are named in a recipe, without the lists of single classes."""
    at_root = {file.stem for file in root.glob(f"{LISTS}/*.txt")}
    in_folders = {(file.parts[-4], file.stem) for file in root.glob(f"*/{LISTS}/*.txt")}
    splits = at_root | {
        f"{folder.removeprefix('VOC')}_{name}" if re.fullmatch(r"VOC\d+", folder) else f"{folder}/{name}"
        for folder, name in in_folders
    }
    return {name for name in splits if not re.search("_(train|val|trainval|test)$", name.partition("_")[2])}


def _layout(root: Path) -> str:
    """What to do where the root holds no list, for a message."""
    return (
        f"neither {root} nor a folder in it holds {LISTS}, so give the folder that does, or the one above it, as root"
    )

"""Pictures in the folders of Pascal VOC, one XML annotation a picture, joined over years and splits."""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import UInt8

from jaxkd.class_lists import VOC
from jaxkd.config import closest
from jaxkd.data import pictures, plain_xml
from jaxkd.data.base import (
    LONGEST,
    Record,
    check_boxes,
    check_file_name,
    check_links,
    coco_objects,
    coco_truth,
)
from jaxkd.data.folder import Found, PictureFolder
from jaxkd.data.repairs import Repairs
from jaxkd.data.sizes import Described
from jaxkd.errors import ConfigError, DataError
from jaxkd.paths import PathText, path_of
from jaxkd.ranges import Natural

LISTS = "ImageSets/Main"
SIDES = ("xmin", "ymin", "xmax", "ymax")
SHOWN = 40  # characters of a faulty text that a message repeats


@dataclasses.dataclass(frozen=True)
class Config:
    """Some splits of a VOCdevkit folder, such as ("2007_trainval", "2012_trainval") for what is called 07+12.

    A split YEAR_NAME is the list VOCYEAR/ImageSets/Main/NAME.txt, FOLDER/NAME is FOLDER/ImageSets/Main/NAME.txt of a
    folder of any name, and NAME is ImageSets/Main/NAME.txt where the root is itself such a folder. A second column, as
    the lists of single classes have it, is passed over. A picture that is listed again is taken once.
    """

    root: PathText = "VOCdevkit"  # folder that holds VOC2007, VOC2012 or others laid out like them; or one of these
    splits: tuple[str, ...] = ("2007_trainval", "2012_trainval")
    classes: tuple[str, ...] = VOC  # in the order of their labels; () for all that the splits name, sorted
    difficult: Literal["ignore", "keep"] = "ignore"  # trained on as regions that are not background, or as objects
    rule: Literal["auto", "11point", "area"] = "auto"  # of VOC's AP; "auto" is "11point" where all splits are of 2007
    limit: Natural = 0  # only the first pictures of the union; 0 for all
    reading: pictures.Config = dataclasses.field(default_factory=pictures.Config)  # how files become pictures
    strict: bool = False  # stop at faults that would otherwise be repaired or left out, and counted
    allow_links: bool = False  # follow symbolic links that lead out of the root


def load(config: Config) -> "VocSource":
    """The source that the lists and XML files describe, all of them checked; pictures are opened when they are read.

    The annotations' corners are whole pixels counted from 1, both of them inside the box; ours are the pixels' edges:
    (xmin - 1, ymin - 1, xmax, ymax). Paths are made from the lists; the names inside the XML files are not used.

    Raises:
      ConfigError: for splits or classes that cannot be.
      DataError: where a folder, list or annotation is missing, is not what VOC describes or leads out of the root, or
        has an object of a class that is not listed.
    """
    _check(config)
    root = path_of(config.root)
    if not root.is_dir():
        raise DataError(f"There is no folder {root}; correct the path of the VOCdevkit.")
    return VocSource(config, root=root)


class VocSource:
    """Records of the union of splits, in the order of the lists; image ids count from 1."""

    def __init__(self, config: Config, *, root: Path):
        self.repairs = Repairs(str(root))
        self._config = config
        self._root = root
        lists = [_list_of(split, root) for split in config.splits]
        only_2007 = all(folder == "VOC2007" for folder, _ in lists)
        self.voc_rule = config.rule if config.rule != "auto" else "11point" if only_2007 else "area"
        places = self._listed(lists)
        if config.classes and config.limit:
            places = places[: config.limit]
        read = [self._annotation(place) for place in places]
        self.classes = config.classes or _named(read, root)
        self.category_ids = tuple(range(1, len(self.classes) + 1))
        self._annotations = read[: config.limit] if config.limit else read
        self._folder = PictureFolder(
            root, described=root, reading=config.reading, strict=config.strict, allow_links=config.allow_links
        )
        found = self._folder.find([one.described for one in self._annotations], self.repairs, any_suffix=True)
        self.reading = self._folder.reading
        self._difficult: list[np.ndarray] = []  # for each record
        self.records: Sequence[Record] = tuple(
            self._record(index, *both) for index, both in enumerate(zip(self._annotations, found, strict=True))
        )

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record; raises as `PictureFolder.read` does."""
        return self._folder.read(self.records[index])

    def content(self, index: int) -> bytes:
        """The bytes of a record's file; raises as `pictures.content_of` does."""
        return self._folder.content(self.records[index])

    def annotations(self) -> dict:
        """The truth as a COCO dict; difficult objects are ignored by COCO's AP as by VOC's, even if trained on."""
        annotations, numbers = [], itertools.count(1)
        for index, (record, difficult) in enumerate(zip(self.records, self._difficult, strict=True)):
            boxes = record.boxes.astype(np.float64)
            annotations += coco_objects(
                self,
                index,
                ids=numbers,
                boxes=boxes,
                areas=(boxes[:, 2:] - boxes[:, :2]).prod(-1),
                difficult=difficult,
            )
        return coco_truth(self, annotations)

    def _listed(self, lists: Sequence[tuple[str, Path]]) -> list[tuple[str, str]]:
        """Folder and stem of every picture, once each."""
        places = [(folder, stem) for folder, file in lists for stem in self._stems(folder, file)]
        again = [place for place, count in Counter(places).items() if count > 1]
        kept = list(dict.fromkeys(places))
        self._count(
            {"files_listed_again": np.ones(len(places) - len(kept), bool)}, self._root, lambda _: "/".join(again[0])
        )
        return kept

    def _stems(self, folder: str, file: Path) -> list[str]:
        """The names in a list, without a second column."""
        self._check_links(file)
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read ({error}); it has to be a list of names in UTF-8.") from error
        lines = [line for line in lines if line]
        if not lines:
            raise DataError(f"{file} lists no picture; write one name a line, or leave it out of splits.")
        columns = [re.fullmatch(r"(.*\S)\s+(-1|0|1)", line) for line in lines]
        named = [bool(found) and self._xml(folder, line).exists() for line, found in zip(lines, columns, strict=True)]
        if not (all(columns) and any(named)):  # else the numbers belong to the names, as of "frame 0" and "frame 1"
            rows = zip(lines, columns, named, strict=True)
            lines = [found[1] if found and not whole else line for line, found, whole in rows]
        return [check_file_name(line, where=str(file)) for line in lines]

    def _xml(self, folder: str, stem: str) -> Path:
        return self._root / folder / "Annotations" / f"{stem}.xml"

    def _annotation(self, place: tuple[str, str]) -> "_Annotation":
        folder, stem = place
        file = self._xml(folder, stem)
        self._check_links(file)
        return _parsed(
            plain_xml.read(file), file=file, picture=(Path(folder) / "JPEGImages" / f"{stem}.jpg").as_posix()
        )

    def _record(self, index: int, one: "_Annotation", found: Found) -> Record:
        factors = np.array([*found.factors[::-1]] * 2)
        checked = check_boxes(one.boxes * factors, heights=found.size[0], widths=found.size[1])
        boxes, difficult = checked.boxes[checked.keep], one.difficult[checked.keep]
        labels = self._labels(one)[checked.keep]
        repeats = len(boxes) - len(np.unique(np.column_stack([labels, boxes]), axis=0))
        self._count(
            checked.faults | {"boxes_clipped": checked.clipped},
            one.file,
            lambda place: f"object {place + 1} ({one.names[place]}) of {one.file.name}",
        )
        self.repairs.add("boxes_repeated", repeats, example=str(one.file))
        self._difficult.append(difficult)
        return Record(
            index=index,
            image_id=index + 1,
            file=found.file,
            height=found.size[0],
            width=found.size[1],
            boxes=boxes,
            labels=labels,
            crowd=difficult if self._config.difficult == "ignore" else np.zeros_like(difficult),
        )

    def _labels(self, found: "_Annotation") -> np.ndarray:
        for number, name in enumerate(found.names, start=1):
            if name not in self.classes:
                raise DataError(
                    f"{found.file}: object {number} is of the class {_short(name)}, which is not among the "
                    f"classes{closest(name, set(self.classes))}; correct it, or set classes."
                )
        return np.array([self.classes.index(name) for name in found.names], np.int32)

    def _count(self, faults: dict[str, np.ndarray], file: Path, example: Callable[[int], str]) -> None:
        self.repairs.add_faults(faults, file=file, strict=self._config.strict, example=example)

    def _check_links(self, file: Path) -> None:
        if not self._config.allow_links:
            check_links(file, folder=self._root)


@dataclasses.dataclass(frozen=True)
class _Annotation:
    """What is used of one XML file."""

    file: Path
    picture: str  # below the root
    height: int
    width: int
    names: list[str]
    boxes: np.ndarray  # [n 4] float64, half-open, not yet checked
    difficult: np.ndarray  # [n]

    @property
    def described(self) -> Described:
        """What is looked for among the pictures."""
        reach = self.boxes[:, [3, 2]].max(0, initial=0.0)
        return Described(self.picture, str(self.file), (self.height, self.width), (float(reach[0]), float(reach[1])))


def _check(config: Config) -> None:
    if not config.splits:
        raise ConfigError("splits is empty; name one at least, such as '2007_trainval'.")
    for split in config.splits:
        if not re.fullmatch(r"[\w. -]+(/[\w. -]+)?", split) or ".." in split:
            raise ConfigError(
                f"The split {split!r} is no year and list such as '2007_trainval', no folder and list such as "
                "'VOC2007/trainval', and no list such as 'trainval'."
            )
    twice = [name for name, count in Counter(config.classes).items() if count > 1]
    if twice:
        raise ConfigError(f"classes lists {twice[0]!r} twice; make the names different.")


def _list_of(split: str, root: Path) -> tuple[str, Path]:
    """The folder below the root, "." for itself, and the file of a split's list; DataError where there is none."""
    year, _, name = split.partition("_")
    folder, slash, inner = split.partition("/")
    tried = [(folder, inner)] if slash else [(f"VOC{year}", name), (".", split)]
    for below, stem in tried:
        file = root / below / LISTS / f"{stem}.txt"
        if stem and file.is_file():
            return below, file
    below, stem = tried[0] if slash or name else tried[-1]
    file, known = root / below / LISTS / f"{stem}.txt", _splits(root)
    raise DataError(
        f"There is no list {file} of the split '{split}'{closest(split, known)}{'' if known else f'; {_layout(root)}'}."
    )


def _splits(root: Path) -> set[str]:
    """All splits that there are, as they are named in a recipe, but for those of single classes."""
    own = {file.stem for file in root.glob(f"{LISTS}/*.txt")}
    below = {(file.parts[-4], file.stem) for file in root.glob(f"*/{LISTS}/*.txt")}
    found = own | {
        f"{folder.removeprefix('VOC')}_{name}" if re.fullmatch(r"VOC\d+", folder) else f"{folder}/{name}"
        for folder, name in below
    }
    return {name for name in found if not re.search("_(train|val|trainval|test)$", name.partition("_")[2])}


def _layout(root: Path) -> str:
    """What to do where a root holds no list at all."""
    return (
        f"neither {root} nor a folder in it holds {LISTS}, so give the folder that does, or the one above it, as root"
    )


def _named(read: list[_Annotation], root: Path) -> tuple[str, ...]:
    found = {name for annotation in read for name in annotation.names}
    if not found:
        raise DataError(f"No annotation of the splits below {root} has an object to take a class from; set classes.")
    return tuple(sorted(found))


def _parsed(content: Element, *, file: Path, picture: str) -> _Annotation:
    if content.tag != "annotation":
        raise DataError(f"{file} holds <{content.tag[:SHOWN]}>; a VOC annotation is an <annotation>.")
    sides = []
    for side in ("height", "width"):
        value = _number(content, f"size/{side}", where=str(file))
        if not (1 <= value <= LONGEST and value.is_integer()):
            raise DataError(f"{file} gives the picture a {side} of {value:g}; write its true size in pixels.")
        sides.append(int(value))
    names, boxes, difficult = [], [], []
    for number, item in enumerate(content.findall("object"), start=1):
        where = f"{file}: object {number}"
        name, flag = (item.findtext("name") or "").strip(), item.findtext("difficult", "0").strip()
        if not name:
            raise DataError(f"{where} has no <name>; write its class.")
        if flag not in ("0", "1"):
            raise DataError(f"{where} has difficult = {_short(flag)}; write 0 or 1.")
        names.append(name)
        boxes.append([_number(item, f"bndbox/{side}", where=where) for side in SIDES])
        difficult.append(flag == "1")
    return _Annotation(
        file=file,
        picture=picture,
        height=sides[0],
        width=sides[1],
        names=names,
        boxes=np.array(boxes, np.float64).reshape(-1, 4) - [1, 1, 0, 0],
        difficult=np.array(difficult, bool),
    )


def _number(parent: Element, path: str, *, where: str) -> float:
    text = parent.findtext(path)
    if text is None:
        raise DataError(f"{where} has no <{path.replace('/', '><')}>; write it.")
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{where} has {path} = {_short(text)}; write a number.") from error


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")

"""Pictures in the folders of Pascal VOC, one XML annotation a picture, joined over years and splits."""

import dataclasses
import itertools
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import UInt8

from jaxkd.class_lists import VOC
from jaxkd.config import asset_path, closest
from jaxkd.data import pictures, plain_xml
from jaxkd.data.base import (
    LONGEST,
    Record,
    check_boxes,
    check_file_name,
    check_links,
    coco_objects,
    coco_truth,
    count_faults,
)
from jaxkd.errors import ConfigError, DataError
from jaxkd.ranges import Natural

SIDES = ("xmin", "ymin", "xmax", "ymax")
SHOWN = 40  # characters of a faulty text that a message repeats

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """Some splits of a VOCdevkit folder, such as ("2007_trainval", "2012_trainval") for what is called 07+12.

    A split YEAR_NAME is the list VOCYEAR/ImageSets/Main/NAME.txt. Where its lines have a second column, as the lists of
    single classes do, that is passed over. A picture that the splits list again is taken once.
    """

    root: str = "VOCdevkit"  # folder that holds VOC2007, VOC2012 or others laid out like them
    splits: tuple[str, ...] = ("2007_trainval", "2012_trainval")
    classes: tuple[str, ...] = VOC  # in the order of their labels; () for all that the splits name, sorted
    difficult: Literal["ignore", "keep"] = "ignore"  # trained on as regions that are not background, or as objects
    rule: Literal["auto", "11point", "area"] = "auto"  # of VOC's AP; "auto" is "11point" where all splits are of 2007
    limit: Natural = 0  # only the first pictures of the union; 0 for all
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
    root = asset_path(config.root)
    if not root.is_dir():
        raise DataError(f"There is no folder {root}; correct the path of the VOCdevkit.")
    return VocSource(config, root=root)


class VocSource:
    """Records of the union of splits, in the order of the lists; image ids count from 1."""

    def __init__(self, config: Config, *, root: Path):
        self.repairs: dict[str, int] = {}
        self._config = config
        self._root = root
        only_2007 = all(split.startswith("2007_") for split in config.splits)
        self.voc_rule = config.rule if config.rule != "auto" else "11point" if only_2007 else "area"
        places = self._listed()
        if config.classes and config.limit:
            places = places[: config.limit]
        read = [self._annotation(place) for place in places]
        self.classes = config.classes or _named(read, root)
        self.category_ids = tuple(range(1, len(self.classes) + 1))
        self._annotations = read[: config.limit] if config.limit else read
        self._difficult: list[np.ndarray] = []  # for each record
        self.records: Sequence[Record] = tuple(
            self._record(index, found) for index, found in enumerate(self._annotations)
        )
        if self.repairs:
            log.warning("%s: %s", root, ", ".join(f"{name} {count}" for name, count in self.repairs.items()))

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record.

        Raises:
          PictureError: where this picture is missing or broken.
          DataError: where it may not be used: a link out of the root, or in strict mode a wrong size.
        """
        return pictures.read_record(
            self.records[index],
            self._root,
            described=self._annotations[index].file,
            strict=self._config.strict,
            allow_links=self._config.allow_links,
        )

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

    def _listed(self) -> list[tuple[str, str]]:
        """Folder and stem of every picture, once each."""
        places = [
            ("VOC" + split.partition("_")[0], stem) for split in self._config.splits for stem in self._list(split)
        ]
        kept = list(dict.fromkeys(places))
        self._count({"files_listed_again": np.ones(len(places) - len(kept), bool)}, self._root)
        return kept

    def _list(self, split: str) -> list[str]:
        year, _, name = split.partition("_")
        file = self._root / f"VOC{year}" / "ImageSets" / "Main" / f"{name}.txt"
        if not file.is_file():
            raise DataError(f"There is no list {file} of the split '{split}'{closest(split, _splits(self._root))}.")
        self._check_links(file)
        try:
            lines = file.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read ({error}); it has to be a list of names in UTF-8.") from error
        stems = [re.sub(r"\s+(-1|0|1)$", "", line.strip()) for line in lines if line.strip()]
        if not stems:
            raise DataError(f"{file} lists no picture; write one name a line, or leave out the split '{split}'.")
        return [check_file_name(stem, where=str(file)) for stem in stems]

    def _annotation(self, place: tuple[str, str]) -> "_Annotation":
        folder, stem = place
        file = self._root / folder / "Annotations" / f"{stem}.xml"
        self._check_links(file)
        return _parsed(plain_xml.read(file), file=file, picture=f"{folder}/JPEGImages/{stem}.jpg")

    def _record(self, index: int, found: "_Annotation") -> Record:
        checked = check_boxes(found.boxes, heights=found.height, widths=found.width)
        boxes, difficult = checked.boxes[checked.keep], found.difficult[checked.keep]
        labels = self._labels(found)[checked.keep]
        repeats = len(boxes) - len(np.unique(np.column_stack([labels, boxes]), axis=0))
        self._count(checked.faults | {"boxes_clipped": checked.clipped}, found.file)
        if repeats:
            self.repairs["boxes_repeated"] = self.repairs.get("boxes_repeated", 0) + repeats
        self._difficult.append(difficult)
        return Record(
            index=index,
            image_id=index + 1,
            file=found.picture,
            height=found.height,
            width=found.width,
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

    def _count(self, faults: dict[str, np.ndarray], file: Path) -> None:
        count_faults(self.repairs, faults, file=file, strict=self._config.strict)

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


def _check(config: Config) -> None:
    if not config.splits:
        raise ConfigError("splits is empty; name one at least, such as '2007_trainval'.")
    for split in config.splits:
        if not re.fullmatch(r"\d+_\w[\w.-]*", split):
            raise ConfigError(f"The split {split!r} is not a year and a list, such as '2007_trainval'.")
    twice = [name for name, count in Counter(config.classes).items() if count > 1]
    if twice:
        raise ConfigError(f"classes lists {twice[0]!r} twice; make the names different.")


def _splits(root: Path) -> set[str]:
    """All splits that there are, but for those of single classes."""
    files = root.glob("VOC*/ImageSets/Main/*.txt")
    names = {(file.parts[-4].removeprefix("VOC"), file.stem) for file in files}
    return {f"{year}_{name}" for year, name in names if not re.search("_(train|val|trainval|test)$", name)}


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

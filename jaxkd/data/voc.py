"""The data source of Pascal VOC folders, one XML annotation a picture, joined over years and splits."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import Element

import numpy as np

from jaxkd.class_lists import VOC
from jaxkd.config import closest
from jaxkd.data import pictures, plain_xml, voc_files
from jaxkd.data.base import (
    MAX_SIDE,
    Record,
    check_boxes,
    check_file_name,
    check_links,
    coco_objects,
    coco_truth,
)
from jaxkd.data.folder import FolderSource, PictureFile, PictureFolder
from jaxkd.data.repairs import Repairs
from jaxkd.data.sizes import AnnotatedPicture
from jaxkd.data.voc_files import Listed
from jaxkd.errors import ConfigError, DataError
from jaxkd.paths import PathText, path_of
from jaxkd.ranges import Natural

SIDES = ("xmin", "ymin", "xmax", "ymax")
MAX_TEXT = 40  # characters of a faulty text that a message quotes


@dataclasses.dataclass(frozen=True)
class Config:
    """Splits of a VOCdevkit folder, such as ("2007_trainval", "2012_trainval") for what papers call 07+12.

    A split YEAR_NAME is the list VOCYEAR/ImageSets/Main/NAME.txt, FOLDER/NAME is FOLDER/ImageSets/Main/NAME.txt for a
    folder of any name, and NAME is ImageSets/Main/NAME.txt where the root is itself such a folder. A second column, as
    in the lists of single classes, is ignored. A picture that is listed several times is taken once. A split FOLDER/ is
    all of a folder without lists: its Annotations and JPEGImages, or the XML beside its pictures; ./ is the root's.
    """

    root: PathText = "VOCdevkit"
    """Folder that holds VOC2007, VOC2012 or other folders of their layout; or one of these itself."""
    splits: tuple[str, ...] = ("2007_trainval", "2012_trainval")
    """The splits to join, in order."""
    classes: tuple[str, ...] = VOC
    """Class names in the order of their labels; () for all names in the annotations, sorted."""
    difficult: Literal["ignore", "keep"] = "ignore"
    """Difficult objects in training: "ignore" takes them as regions that are not background, "keep" as objects."""
    rule: Literal["auto", "11point", "area"] = "auto"
    """Rule of VOC's AP; "auto" is "11point" where all splits are of 2007, else "area"."""
    limit: Natural = 0
    """Only the first pictures of the union; 0 for all."""
    reading: pictures.Config = dataclasses.field(default_factory=pictures.Config)
    """How picture files are decoded."""
    strict: bool = False
    """Stop at faults that are otherwise repaired or left out, and counted."""
    allow_links: bool = False
    """Follow symbolic links that lead out of the root."""


def load(config: Config) -> "VocSource":
    """The source of the listed XML files, all of which are checked; pictures are decoded when they are read.

    The corners in the annotations are pixel indices from 1, both inside the box; records have half-open boxes,
    (xmin - 1, ymin - 1, xmax, ymax). Paths are made from the lists; of the names inside the XML files <filename> alone
    is used, without folders, where a split is a folder and no picture has the stem of the XML.

    Raises:
      ConfigError: for invalid splits or classes.
      DataError: where a folder, list or annotation is missing, is not in the VOC format or leads out of the root, or
        has an object of a class that is not listed.
    """
    _check(config)
    root = path_of(config.root)
    if not root.is_dir():
        raise DataError(f"There is no folder {root}; correct the path of the VOCdevkit.")
    return VocSource(config, root=root)


class VocSource(FolderSource):
    """The records of the union of the splits, in the order of the lists; image ids count from 1."""

    def __init__(self, config: Config, *, root: Path):
        self.repairs = Repairs(str(root))
        self._config = config
        self._root = root
        listed, only_2007 = self._listed()
        self.voc_rule = config.rule if config.rule != "auto" else "11point" if only_2007 else "area"
        if config.classes and config.limit:
            listed = listed[: config.limit]
        annotations = [self._annotation(entry) for entry in listed]
        self.classes = config.classes or _class_names(annotations, root)
        self.category_ids = tuple(range(1, len(self.classes) + 1))
        self._annotations = annotations[: config.limit] if config.limit else annotations
        self._folder = PictureFolder(
            root, annotation_path=root, reading=config.reading, strict=config.strict, allow_links=config.allow_links
        )
        files = self._folder.find(
            [annotation.annotated_picture for annotation in self._annotations], self.repairs, any_suffix=True
        )
        self.reading = self._folder.reading
        self._difficult: list[np.ndarray] = []  # for each record
        self.records: Sequence[Record] = tuple(
            self._record(index, *both) for index, both in enumerate(zip(self._annotations, files, strict=True))
        )

    def annotations(self) -> dict:
        """The ground truth as a COCO dict; COCO's AP ignores difficult objects as VOC's does, even if trained on."""
        annotations, ids = [], itertools.count(1)
        for index, (record, difficult) in enumerate(zip(self.records, self._difficult, strict=True)):
            boxes = record.boxes.astype(np.float64)
            annotations += coco_objects(
                self,
                index,
                ids=ids,
                boxes=boxes,
                areas=(boxes[:, 2:] - boxes[:, :2]).prod(-1),
                difficult=difficult,
            )
        return coco_truth(self, annotations)

    def _listed(self) -> tuple[list[Listed], bool]:
        """The annotations of all splits, each once, and whether all splits are lists of 2007."""
        listed, only_2007 = [], True
        for split in self._config.splits:
            if voc_files.is_folder(split):
                listed += voc_files.in_folder(split, self._root, self.repairs)
                only_2007 = False
            else:
                folder, entries = voc_files.in_list(split, self._root, self._check_links)
                listed += entries
                only_2007 &= folder == "VOC2007"
        listed, repeated = voc_files.unique(listed)
        self._count({"files_listed_again": np.ones(len(repeated), bool)}, self._root, lambda index: repeated[index])
        return listed, only_2007

    def _annotation(self, listed: Listed) -> "_Annotation":
        self._check_links(listed.file)
        content = plain_xml.read(listed.file)
        picture = listed.picture
        if picture[-1:] in ("", "/"):
            name = (content.findtext("filename") or "").replace("\\", "/").rpartition("/")[2]
            picture += check_file_name(name or f"{listed.file.stem}.jpg", where=str(listed.file))
            self.repairs.add("pictures_named_inside", example=f"{listed.file}, {picture}")
        return _parse(content, file=listed.file, picture=picture)

    def _record(self, index: int, annotation: "_Annotation", file: PictureFile) -> Record:
        factors = np.array([*file.factors[::-1]] * 2)
        checked = check_boxes(annotation.boxes * factors, heights=file.size[0], widths=file.size[1])
        boxes, difficult = checked.boxes[checked.keep], annotation.difficult[checked.keep]
        labels = self._labels(annotation)[checked.keep]
        repeated = len(boxes) - len(np.unique(np.column_stack([labels, boxes]), axis=0))
        self._count(
            checked.faults | {"boxes_clipped": checked.clipped},
            annotation.file,
            lambda index: f"object {index + 1} ({annotation.names[index]}) of {annotation.file.name}",
        )
        self.repairs.add("boxes_repeated", repeated, example=str(annotation.file))
        self._difficult.append(difficult)
        return Record(
            index=index,
            image_id=index + 1,
            file=file.file,
            height=file.size[0],
            width=file.size[1],
            boxes=boxes,
            labels=labels,
            crowd=difficult if self._config.difficult == "ignore" else np.zeros_like(difficult),
        )

    def _labels(self, annotation: "_Annotation") -> np.ndarray:
        for number, name in enumerate(annotation.names, start=1):
            if name not in self.classes:
                raise DataError(
                    f"{annotation.file}: object {number} is of the class {_short(name)}, which is not among the "
                    f"classes{closest(name, set(self.classes))}; correct it, or set classes."
                )
        return np.array([self.classes.index(name) for name in annotation.names], np.int32)

    def _count(self, faults: dict[str, np.ndarray], file: Path, example: Callable[[int], str]) -> None:
        self.repairs.add_faults(faults, file=file, strict=self._config.strict, example=example)

    def _check_links(self, file: Path) -> None:
        if not self._config.allow_links:
            check_links(file, folder=self._root)


@dataclasses.dataclass(frozen=True)
class _Annotation:
    """The parts of one XML file that are used."""

    file: Path
    picture: str  # name below the root
    height: int
    width: int
    names: list[str]
    boxes: np.ndarray  # [n 4] float64, half-open, not yet checked
    difficult: np.ndarray  # [n]

    @property
    def annotated_picture(self) -> AnnotatedPicture:
        """The picture with its annotated size and the extent of its boxes."""
        extent = self.boxes[:, [3, 2]].max(0, initial=0.0)
        return AnnotatedPicture(
            self.picture, str(self.file), (self.height, self.width), (float(extent[0]), float(extent[1]))
        )


def _check(config: Config) -> None:
    voc_files.check_splits(config.splits)
    repeated = [name for name, count in Counter(config.classes).items() if count > 1]
    if repeated:
        raise ConfigError(f"classes lists {repeated[0]!r} twice; make the names different.")


def _class_names(annotations: list[_Annotation], root: Path) -> tuple[str, ...]:
    names = {name for annotation in annotations for name in annotation.names}
    if not names:
        raise DataError(f"No annotation of the splits below {root} has an object to take a class from; set classes.")
    return tuple(sorted(names))


def _parse(content: Element, *, file: Path, picture: str) -> _Annotation:
    if content.tag != "annotation":
        raise DataError(f"{file} holds <{content.tag[:MAX_TEXT]}>; a VOC annotation is an <annotation>.")
    sides = []
    for side in ("height", "width"):
        value = _number(content, f"size/{side}", where=str(file))
        if not (1 <= value <= MAX_SIDE and value.is_integer()):
            raise DataError(f"{file} gives the picture a {side} of {value:g}; write its true size in pixels.")
        sides.append(int(value))
    names, boxes, difficult = [], [], []
    for number, element in enumerate(content.findall("object"), start=1):
        where = f"{file}: object {number}"
        name, flag = (element.findtext("name") or "").strip(), element.findtext("difficult", "0").strip()
        if not name:
            raise DataError(f"{where} has no <name>; write its class.")
        if flag not in ("0", "1"):
            raise DataError(f"{where} has difficult = {_short(flag)}; write 0 or 1.")
        names.append(name)
        boxes.append([_number(element, f"bndbox/{side}", where=where) for side in SIDES])
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
    return repr(text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "...")

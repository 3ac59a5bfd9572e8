"""The data source of a prepared data set of TensorFlow Datasets, read without TensorFlow."""

import contextlib
import dataclasses
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from jaxkd.class_lists import COCO
from jaxkd.data import pictures
from jaxkd.data.base import PictureError, Record, check_boxes, coco_objects, coco_truth
from jaxkd.data.repairs import Repairs
from jaxkd.errors import ConfigError, DataError
from jaxkd.paths import PathText, expanded, path_of
from jaxkd.ranges import Natural

NAME = re.compile(r"\w+(/[\w.+-]+)?(:\d+\.\d+\.\d+)?")  # for other names tfds would load code or data from the network
BOX_FORMAT = "REL_YXYX"  # (ymin, xmin, ymax, xmax) in shares of the picture
CHUNK = 64  # records that are read at once
PREPARE = (
    "prepare it once where TensorFlow is installed (pip install tensorflow-cpu) with file_format='array_record', "
    "and set directory to the folder of its version, such as DIR/coco/2017/1.1.0"
)
ONLY_WITH = {  # fields without effect unless another field has this value; see `train.unused`
    "dataset": ("directory", False),
    "data_dir": ("directory", False),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """A data set by its name, or by the folder that it was prepared in; nothing is ever downloaded."""

    dataset: str = "voc/2007"
    """Name in TensorFlow Datasets; unused where `directory` is given."""
    data_dir: PathText = ""
    """Folder in which TensorFlow Datasets keeps its data; empty for ~/tensorflow_datasets."""
    directory: PathText = ""
    """Folder of one prepared version; the only way to read COCO without TensorFlow."""
    split: str = "train"
    """Split, such as "validation", "train[:10%]" or "train+validation"."""
    difficult: Literal["ignore", "keep"] = "ignore"
    """VOC's difficult objects in training: "ignore" takes them as crowds, "keep" as other objects."""
    limit: Natural = 0
    """Only the first pictures of the split; 0 for all."""
    reading: pictures.Config = dataclasses.field(default_factory=pictures.Config)
    """How picture files are decoded."""
    strict: bool = False
    """Stop at faults that are otherwise left out or clipped, and counted."""


def load(config: Config) -> "TfdsSource":
    """The source of a data set; all records are read once, of their pictures only the header.

    Raises:
      ConfigError: for an unknown name or split, or a data set that needs TensorFlow to be found or that has no boxes.
      DataError: where the data set is not prepared, or not in a format with random access.
    """
    title = config.directory or config.dataset
    with contextlib.redirect_stdout(io.StringIO()):  # tfds prints a banner where TensorFlow is missing
        builder = _builder_of_folder(config.directory) if config.directory else _builder_of_name(config)
        _check_features(builder.info.features, title)
        data = _open(builder, config.split, title)
    return TfdsSource(data, builder.info, config=config, title=title)


class TfdsSource:
    """A source with its annotations in memory; pictures are read from the data set when needed."""

    def __init__(self, data: Sequence[Any], info: Any, *, config: Config, title: str):
        objects = info.features["objects"]
        self.classes = tuple(objects["label"].names)
        self.category_ids = _category_ids(self.classes)
        self.repairs = Repairs(f"{title}, {config.split}")
        self._data = data
        self._config = config
        self._title = f"{title}, {config.split}"
        self._positions: list[int] = []  # position of each record in the data set
        self._areas: list[np.ndarray] = []
        self._exact: list[np.ndarray] = []
        self._difficult: list[np.ndarray] = []
        # Data sets with a flag for difficult objects are VOC's; 2007 is scored by the 11-point AP.
        self.voc_rule = None if "is_difficult" not in objects else "11point" if info.config_name == "2007" else "area"
        self.reading = config.reading.validated()
        records = list(self._make_records())
        self.records: Sequence[Record] = tuple(_with_unique_ids(records))
        if self.reading.exif == "auto":  # TensorFlow ignores EXIF, so boxes fit the stored picture
            exif = "ignore" if "exif_undecided" in self.repairs else "turn"
            self.reading = dataclasses.replace(self.reading, exif=exif)

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record.

        Raises:
          PictureError: where this picture is damaged.
          DataError: where the files of the data set can no longer be read.
        """
        record = self.records[index]
        size = (record.height, record.width)
        return pictures.decode(self.content(index), name=record.file, size=size, reading=self.reading)

    def annotations(self) -> dict:
        """The ground truth as a COCO dict: areas of the data set, else those of the boxes; ids are counted from 1."""
        annotations, ids = [], itertools.count(1)
        for index, (exact, areas) in enumerate(zip(self._exact, self._areas, strict=True)):
            difficult = self._difficult[index] if self.voc_rule else None
            annotations += coco_objects(
                self,
                index,
                ids=ids,
                boxes=exact,
                areas=areas,
                difficult=difficult,
            )
        return coco_truth(self, annotations)

    def content(self, index: int) -> bytes:
        """The encoded picture of a record."""
        (content,) = self._fetch([self._positions[index]])
        return content["image"]

    def _fetch(self, positions: list[int]) -> Sequence[dict]:
        try:
            get_many = getattr(self._data, "__getitems__", None)
            return get_many(positions) if get_many else [self._data[position] for position in positions]
        except (OSError, ValueError, IndexError, RuntimeError) as error:
            text = " ".join(str(error).split())
            raise DataError(f"{self._title}: its files cannot be read ({text}); prepare it again.") from error

    def _make_records(self) -> Iterator[Record]:
        count = min(len(self._data), self._config.limit or len(self._data))
        for low in range(0, count, CHUNK):
            positions = list(range(low, min(low + CHUNK, count)))
            for position, content in zip(positions, self._fetch(positions), strict=True):
                file = _text(content.get("image/filename", "")) or f"{self._title}[{position}]"
                try:
                    header = pictures.read_header(content["image"], name=file)
                except PictureError as error:
                    self._count({"pictures_unreadable": np.ones(1, bool)}, str(error))
                    continue
                if header.orientation != 1:
                    self.repairs.add("exif_undecided", example=f"{file} (orientation {header.orientation})")
                turned = self.reading.exif == "turn"
                yield self._record(content, position, file, *(header.turned_size if turned else header.stored_size))

    def _record(self, content: dict, position: int, file: str, height: int, width: int) -> Record:
        objects = content["objects"]
        boxes = _pixels(_column(objects, "bbox", np.float64).reshape(-1, 4), height, width)
        labels = _column(objects, "label", np.int32)
        crowd = difficult = np.zeros(len(boxes), bool)
        if "is_crowd" in objects:
            crowd = _column(objects, "is_crowd", np.bool_)
        if "is_difficult" in objects:
            boxes[:, :2] -= 1  # the data set keeps the pixel indices of VOC: from 1, the last one included
            difficult = _column(objects, "is_difficult", np.bool_)
            if self._config.difficult == "ignore":
                crowd = crowd | difficult
        checked = check_boxes(boxes, heights=height, widths=width)
        unknown = checked.keep & ((labels < 0) | (labels >= len(self.classes)))
        self._count(checked.faults | {"boxes_clipped": checked.clipped, "labels_unknown": unknown}, file)
        keep = checked.keep & ~unknown
        exact = np.where(checked.clipped[:, None], checked.boxes, boxes)[keep]
        sides = exact[:, 2:] - exact[:, :2]
        self._exact.append(exact)
        self._difficult.append(difficult[keep])
        self._areas.append(_column(objects, "area", np.float64)[keep] if "area" in objects else sides.prod(-1))
        self._positions.append(position)
        return Record(
            index=len(self._positions) - 1,
            image_id=_image_id(content.get("image/id"), position),
            file=file,
            height=height,
            width=width,
            boxes=checked.boxes[keep],
            labels=labels[keep],
            crowd=crowd[keep],
        )

    def _count(self, faults: dict[str, np.ndarray], file: str) -> None:
        self.repairs.add_faults(faults, file=self._title, strict=self._config.strict, example=lambda _: file)


def _builder_of_name(config: Config) -> Any:
    """The builder of a named data set."""
    if not NAME.fullmatch(config.dataset):
        raise ConfigError(f"'{config.dataset}' is not the name of a data set, such as 'voc/2007' or 'voc/2007:5.0.0'.")
    try:
        return tfds.builder(config.dataset, data_dir=expanded(config.data_dir) or None)
    except ImportError as error:
        raise ConfigError(
            f"The data set {config.dataset} needs TensorFlow to be found by its name; {PREPARE}."
        ) from error
    except (ValueError, AssertionError) as error:  # unknown names, of data sets, configurations and versions
        raise ConfigError(
            f"TensorFlow Datasets knows no data set '{config.dataset}'; correct dataset, or set directory to the "
            "folder of a prepared one."
        ) from error


def _builder_of_folder(directory: str) -> Any:
    """The builder of a folder with prepared data."""
    folder = path_of(directory)
    if not (folder / "dataset_info.json").is_file():
        versions = sorted(folder.glob("**/dataset_info.json"))[:1] if folder.is_dir() else []
        hint = f"; did you mean {versions[0].parent}" if versions else ""
        raise DataError(
            f"{folder} is not the folder of a prepared data set: it holds no dataset_info.json{hint}; "
            "give the folder of one version, such as DIR/coco/2017/1.1.0."
        )
    try:
        return tfds.builder_from_directory(str(folder))
    except Exception as error:  # damaged files make it raise nearly anything
        raise DataError(f"{folder} is not a prepared data set ({_brief(error)}); prepare it again.") from error


def _check_features(features: Any, title: str) -> None:
    objects = features["objects"] if features is not None and "objects" in features else {}
    missing = [f"objects/{name}" for name in ("bbox", "label") if name not in objects]
    missing += [] if features is not None and "image" in features else ["image"]
    if missing:
        raise ConfigError(f"The data set {title} has no {' and no '.join(missing)}; take one for object detection.")
    box_format = getattr(getattr(objects["bbox"], "bbox_format", None), "value", BOX_FORMAT)
    if box_format != BOX_FORMAT:
        raise ConfigError(f"The data set {title} has boxes in the format {box_format}; take one with {BOX_FORMAT}.")
    if not getattr(objects["label"], "names", None):
        raise ConfigError(f"The data set {title} has no names of classes in objects/label; take one that has.")


def _open(builder: Any, split: str, title: str) -> Sequence[Any]:
    """The records of a split, with encoded pictures."""
    try:
        return builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    except (NotImplementedError, ImportError) as error:
        if not (Path(builder.data_dir) / "dataset_info.json").is_file():
            raise DataError(f"The data set {title} is not prepared in {builder.data_dir}; {PREPARE}.") from error
        raise DataError(
            f"The data set {title} is stored as {_format(builder)}, which needs TensorFlow and has no random access; "
            f"{PREPARE}."
        ) from error
    except (ValueError, KeyError, AssertionError) as error:
        names = ", ".join(builder.info.splits) or "none"
        raise ConfigError(
            f"The data set {title} has no split '{split}'; it has {names}, and slices such as 'train[:10%]'."
        ) from error


def _format(builder: Any) -> str:
    return getattr(builder.info.file_format, "value", "another format")


def _category_ids(classes: tuple[str, ...]) -> tuple[int, ...]:
    """COCO's category ids for its 80 classes, so that results can be submitted; else 1, 2, 3..."""
    if classes == tuple(COCO.values()):
        return tuple(COCO)
    return tuple(range(1, len(classes) + 1))


def _with_unique_ids(records: list[Record]) -> list[Record]:
    """The records, with new image ids where two have the same."""
    if len({record.image_id for record in records}) == len(records):
        return records
    return [dataclasses.replace(record, image_id=record.index) for record in records]


def _pixels(shares: np.ndarray, height: int, width: int) -> np.ndarray:
    """Boxes (ymin, xmin, ymax, xmax) in shares of the picture as (x0, y0, x1, y1) in pixels."""
    return shares[:, [1, 0, 3, 2]] * np.array([width, height, width, height], np.float64)


def _column(objects: dict, name: str, dtype: Any) -> np.ndarray:
    return np.asarray(objects[name], dtype)


def _image_id(value: Any, position: int) -> int:
    """The id of a picture where it is an integer, else its position."""
    return int(value) if isinstance(value, (int, np.integer)) else position


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

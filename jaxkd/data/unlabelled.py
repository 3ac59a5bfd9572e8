"""Pictures without labels, to learn from a teacher: a folder of them, and what a teacher is sure of in each."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxkd import storage
from jaxkd.data import files, pictures
from jaxkd.data.base import Record, Source, Subset, coco_truth
from jaxkd.data.folder import FolderSource, PictureFolder
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError
from jaxkd.paths import PathText, path_of
from jaxkd.ranges import Probability, Share

UNREADABLE, OTHER_KIND = "pictures_unreadable", "pictures_unsupported"  # names in the repairs
FULL = 0.3  # share of a picture without an object above which doubtful regions leave nothing to learn from


@dataclasses.dataclass(frozen=True)
class Config:
    """A folder of pictures without labels, and what of a teacher's detections counts as true there."""

    images: PathText = ""
    """The folder; pictures in folders below count too."""
    share: Probability = 0.5
    """Share of each batch that is without labels."""
    precision: Share = 0.8
    """Detections count as objects from the score on from which so many are right on validation pictures."""
    possible: Share = 0.3
    """From this precision on a detection is a region in which nothing counts; below it is background."""
    reading: pictures.Config = dataclasses.field(default_factory=pictures.Config)
    """How picture files are decoded."""


class Unlabelled(FolderSource):
    """A source whose records have no objects, until a teacher tells of some."""

    def __init__(self, records: Sequence[Record], folder: PictureFolder, repairs: Repairs, *, like: Source):
        self.classes, self.category_ids = like.classes, like.category_ids
        self.records: Sequence[Record] = tuple(records)
        self.repairs = repairs
        self._folder, self.reading = folder, folder.reading

    def annotations(self) -> dict:
        """A COCO dict without annotations."""
        return coco_truth(self, [])


def open_folder(config: Config, *, like: Source) -> Unlabelled:
    """The pictures of the folder, for the classes of another source; those that cannot be read are counted.

    Raises DataError where there is no picture.
    """
    if not config.images:
        raise DataError("data.unlabelled.images is empty; name a folder of pictures without labels.")
    folder = path_of(config.images)
    repairs, passed_over = Repairs(title=str(folder)), []
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} of pictures without labels; correct data.unlabelled.images.")
    paths = [Path(str(path)) for path in files.expand_folders([folder], on_unsupported=passed_over.append)]
    names = [str(path.relative_to(folder)) for path in paths if path.is_file()]
    reader = PictureFolder(folder, annotation_path=folder, reading=config.reading, allow_links=True)
    found = reader.measure(names)
    if passed_over:
        repairs.add(OTHER_KIND, len(passed_over), example=passed_over[0])
    if len(found) < len(names):
        missing = next(name for index, name in enumerate(names) if index not in found)
        repairs.add(UNREADABLE, len(names) - len(found), example=missing)
    if not found:
        raise DataError(f"The folder {folder} holds no picture that can be read; correct data.unlabelled.images.")
    records = [_record(position, picture.file, *picture.size) for position, picture in enumerate(found.values())]
    return Unlabelled(records, reader, repairs, like=like)


def _record(index: int, file: str, height: int, width: int) -> Record:
    none = np.zeros(0, np.int32)
    return Record(index, index + 1, file, height, width, np.zeros((0, 4), np.float32), none, none.astype(bool))


@dataclasses.dataclass(frozen=True)
class PseudoLabels:
    """What a teacher is sure of in a picture: boxes (x0, y0, x1, y1) in its pixels, and what each counts."""

    boxes: Sequence[Sequence[float]]
    labels: Sequence[int]
    weights: Sequence[float]  # in (0, 1] of an object; 0 of a region in which nothing counts


class PseudoLabelled(Subset):
    """Pictures without labels, with pseudo-labels in place of ground truth."""

    def __init__(self, source: Source, labels: Mapping[str, PseudoLabels]):
        """`labels` by file; a picture that they do not have is left out."""
        super().__init__(source, [record.index for record in source.records if record.file in labels])
        self.records: Sequence[Record] = tuple(_with(record, labels[record.file]) for record in self.records)


def uncertain(record: Record) -> PseudoLabels:
    """The picture as one region in which nothing counts, of which no teacher knows anything."""
    return PseudoLabels(boxes=[[0.0, 0.0, float(record.width), float(record.height)]], labels=[0], weights=[0.0])


def _with(record: Record, found: PseudoLabels) -> Record:
    weights = np.array(found.weights, np.float32)
    return dataclasses.replace(
        record,
        boxes=np.array(found.boxes, np.float32).reshape(-1, 4),
        labels=np.array(found.labels, np.int32),
        crowd=weights == 0,
        weights=np.where(weights == 0, 1, weights).astype(np.float32),
    )


def leaves_something(record: Record, found: PseudoLabels) -> bool:
    """Whether there is something to learn in a picture: an object, or background that is no doubtful region."""
    if any(found.weights):
        return True
    area = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in found.boxes)
    return area <= FULL * record.height * record.width


def save(path: Path, labels: Mapping[str, PseudoLabels], *, key: str) -> None:
    """Writes pseudo-labels, for a run that goes on; StorageError where it cannot be written."""
    rows = {name: dataclasses.asdict(found) for name, found in labels.items()}
    storage.write(path, json.dumps({"key": key, "labels": rows}) + "\n")


def load_labels(path: Path, *, key: str) -> dict[str, PseudoLabels] | None:
    """The inverse of `save`; None where there is no such file, or one of another key. DataError where it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] != key:
            return None
        return {name: PseudoLabels(**fields) for name, fields in content["labels"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is broken ({error!r}); begin in another --workdir.") from error

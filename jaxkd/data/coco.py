"""The data source of a COCO annotation file and the folder of its pictures."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from jaxkd.config import closest
from jaxkd.data import coco_file, pictures
from jaxkd.data.base import Record, check_boxes, coco_objects, coco_truth, short_repr
from jaxkd.data.folder import FolderSource, PictureFile, PictureFolder
from jaxkd.data.ids import Ids
from jaxkd.data.relabelled import Relabelled
from jaxkd.data.repairs import Repairs
from jaxkd.data.sizes import AnnotatedPicture
from jaxkd.errors import DataError
from jaxkd.paths import PathText, path_of
from jaxkd.ranges import Natural

CORNER_SHARE = 0.05  # share of boxes beyond their picture above which they may be corners
NORMALISED = 1.5  # greatest value of boxes that are shares of the picture; boxes in pixels exceed it


@dataclasses.dataclass(frozen=True)
class Config:
    """A folder of pictures and the COCO file that describes them; "assets:NAME" is what comes with the package."""

    images: PathText = "assets:bccd/images"
    """Folder that the file names are relative to."""
    annotations: PathText = "assets:bccd/train.json"
    """The COCO annotation file."""
    limit: Natural = 0
    """Only the first pictures of the file; 0 for all."""
    classes: tuple[str, ...] = ()
    """Class names in the order of their labels, matched by name; () for the categories of the file, by their ids."""
    groups: Literal["auto", "keep"] = "auto"
    """Supercategories without an object: "auto" makes them no classes, "keep" keeps them as classes."""
    reading: pictures.Config = dataclasses.field(default_factory=pictures.Config)
    """How picture files are decoded."""
    strict: bool = False
    """Stop at faults that are otherwise repaired or left out, and counted."""
    allow_links: bool = False
    """Follow symbolic links that lead out of the picture folder."""


def load(config: Config) -> "CocoSource | Relabelled":
    """The source of a COCO file, every entry of which is checked; pictures are decoded when they are read.

    Raises:
      DataError: where the file or folder is missing, the file is not in the COCO format, or has objects of a class that
        is not among the given ones.
    """
    file, folder = path_of(config.annotations), path_of(config.images)
    content = coco_file.read(file)
    if not folder.is_dir():
        raise DataError(f"There is no picture folder {folder}; correct the path of the images.")
    source = CocoSource(content, config=config, file=file, folder=folder)
    if not config.classes or config.classes == source.classes:
        return source
    for label in {label for record in source.records for label in record.labels.tolist()}:
        if (name := source.classes[label]) not in config.classes:
            raise DataError(
                f"{file} has objects of the class {short_repr(name)}, which is not among the classes"
                f"{closest(name, set(config.classes))}; add it to classes, or leave classes empty."
            )
    return Relabelled(source, config.classes)


class CocoSource(FolderSource):
    """The records of a COCO file; its classes are in the order of their category ids."""

    def __init__(self, content: dict, *, config: Config, file: Path, folder: Path):
        self.repairs = Repairs(str(file))
        self._config, self._file = config, file
        annotations = coco_file.annotation_list(content, file)
        categories = coco_file.categories(content, annotations, file, self.repairs, groups=config.groups)
        self.category_ids = tuple(categories)
        self.classes = tuple(categories.values())
        images = coco_file.images(content, file)
        ids = Ids((image["id"] for image in images), self.repairs, of="images", file=file, text=True)
        if config.limit:
            images = images[: config.limit]
        self._folder = PictureFolder(
            folder, annotation_path=file, reading=config.reading, strict=config.strict, allow_links=config.allow_links
        )
        truth = coco_file.to_arrays(
            annotations, ids, self.category_ids, file, self.repairs, limit=len(images), strict=config.strict
        )
        files = self._folder.find(_annotated_pictures(images, truth, file), self.repairs)
        self.reading = self._folder.reading
        self._truth = self._clipped(truth, files)
        self.records: Sequence[Record] = self._make_records(files, ids.numbers)
        self._count_oddities()

    def annotations(self) -> dict:
        """The ground truth as a COCO dict with the ids and areas of the file; segmentations are left out."""
        truth, annotations = self._truth, []
        bounds = np.cumsum([0, *(len(record.boxes) for record in self.records)])
        for index, (low, high) in enumerate(itertools.pairwise(bounds)):
            annotations += coco_objects(
                self, index, ids=truth.ids[low:high], boxes=truth.exact[low:high], areas=truth.areas[low:high]
            )
        return coco_truth(self, annotations)

    def _clipped(self, truth: coco_file.Truth, files: Sequence[PictureFile]) -> coco_file.Truth:
        """The annotations whose boxes overlap their picture, in pixels of its real size and clipped to it."""
        heights, widths = np.array([file.size for file in files]).reshape(-1, 2)[truth.pictures].T
        factors = np.array([file.factors for file in files]).reshape(-1, 2)[truth.pictures]
        _refuse_other_formats(truth.exact * factors[:, [1, 0, 1, 0]], heights, widths, self._file)
        exact = truth.exact * factors[:, [1, 0, 1, 0]]
        checked = check_boxes(exact, heights=heights, widths=widths)

        def example(index: int) -> str:
            file, box = files[truth.pictures[index]], truth.exact[index].tolist()
            xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            text = ", ".join(f"{value:g}" for value in xywh)
            return f"annotation {short_repr(truth.ids[index])}, [{text}] on {file.file}"

        self.repairs.add_faults(
            checked.faults | {"boxes_clipped": checked.clipped},
            file=self._file,
            strict=self._config.strict,
            example=example,
        )
        exact = np.where(checked.clipped[:, None], checked.boxes, exact)
        areas = truth.areas * factors.prod(-1)
        return dataclasses.replace(truth, boxes=checked.boxes, exact=exact, areas=areas).only(checked.keep)

    def _make_records(self, files: Sequence[PictureFile], ids: Sequence[int]) -> tuple[Record, ...]:
        truth = self._truth
        bounds = np.searchsorted(truth.pictures, np.arange(len(files) + 1))
        return tuple(
            Record(
                index=index,
                image_id=image_id,
                file=file.file,
                height=file.size[0],
                width=file.size[1],
                boxes=truth.boxes[low:high],
                labels=truth.labels[low:high],
                crowd=truth.crowd[low:high],
            )
            for index, (file, image_id, low, high) in enumerate(zip(files, ids, bounds[:-1], bounds[1:], strict=False))
        )

    def _count_oddities(self) -> None:
        """Counts oddities that are kept as they are."""
        rows = np.column_stack([self._truth.pictures, self._truth.labels, self._truth.boxes])
        ids = self._truth.ids
        counts = {
            "boxes_repeated": len(rows) - len(np.unique(rows, axis=0)),
            "annotation_ids_repeated_or_zero": len(ids) - len(set(ids) - {0}),
            "files_listed_again": len(self.records) - len({record.file for record in self.records}),
        }
        for name, count in counts.items():
            self.repairs.add(name, count)


def _annotated_pictures(images: Sequence[dict], truth: coco_file.Truth, file: Path) -> list[AnnotatedPicture]:
    """The annotated size of each picture, and how far its boxes extend."""
    extents = np.zeros((len(images), 2))
    with np.errstate(invalid="ignore"):
        ends = np.where(np.isfinite(truth.exact[:, [3, 2]]), truth.exact[:, [3, 2]], 0)
    np.maximum.at(extents, truth.pictures, ends)
    return [
        AnnotatedPicture(
            image["file_name"], f"{file}: image {short_repr(image['id'])}", image["size"], (float(bottom), float(right))
        )
        for image, (bottom, right) in zip(images, extents, strict=True)
    ]


def _refuse_other_formats(corners: np.ndarray, heights: np.ndarray, widths: np.ndarray, file: Path) -> None:
    """Raises DataError where the boxes of the file only make sense in another format than [x, y, width, height]."""
    with np.errstate(invalid="ignore"):
        xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], -1)
        valid = np.isfinite(corners).all(-1) & (xywh[:, 2:] > 0).all(-1)
    xywh, limits = xywh[valid], np.stack([widths, heights], -1)[valid]
    if not len(xywh):
        return
    if xywh.max() <= NORMALISED and limits.max() > 2:
        raise DataError(f"{file}: no box exceeds {NORMALISED}, so they are shares of the picture; multiply to pixels.")
    outside = (corners[valid][:, 2:] > limits + 1).any(-1)
    as_corners = (xywh[:, 2:] > xywh[:, :2]).all(-1) & (xywh[:, 2:] <= limits + 1).all(-1)
    if outside.mean() > CORNER_SHARE and as_corners.all():
        raise DataError(
            f"{file}: {outside.sum()} of {len(xywh)} boxes leave their picture, and all of them fit as corners "
            "[x0, y0, x1, y1]; COCO wants [x, y, width, height]."
        )

"""Pictures in a folder with a COCO annotation file."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from jaxkd.data import coco_file, pictures
from jaxkd.data.base import Record, check_boxes, coco_objects, coco_truth, shown
from jaxkd.data.folder import Found, PictureFolder
from jaxkd.data.ids import Ids
from jaxkd.data.repairs import Repairs
from jaxkd.data.sizes import Described
from jaxkd.errors import DataError
from jaxkd.paths import PathText, path_of
from jaxkd.ranges import Natural

CORNER_SHARE = 0.05  # share of boxes that may leave their picture before they are suspected to be corners
NORMALISED = 1.5  # no pixel box ends below this


@dataclasses.dataclass(frozen=True)
class Config:
    """A folder of pictures and the COCO file that describes them; "assets:NAME" is what comes with the package."""

    images: PathText = "assets:bccd/images"  # folder that the file names are looked up in
    annotations: PathText = "assets:bccd/train.json"
    limit: Natural = 0  # only the first pictures of the file; 0 for all
    groups: Literal["auto", "keep"] = "auto"  # categories above others that no object has: no classes, or kept
    reading: pictures.Config = dataclasses.field(default_factory=pictures.Config)  # how files become pictures
    strict: bool = False  # stop at faults that would otherwise be repaired or left out, and counted
    allow_links: bool = False  # follow symbolic links that lead out of the picture folder


def load(config: Config) -> "CocoSource":
    """The source that a COCO file describes, checked from end to end; pictures are first opened when they are read.

    Raises:
      DataError: where the file or folder is missing, or the file is not what COCO describes.
    """
    file, folder = path_of(config.annotations), path_of(config.images)
    content = coco_file.read(file)
    if not folder.is_dir():
        raise DataError(f"There is no picture folder {folder}; correct the path of the images.")
    return CocoSource(content, config=config, file=file, folder=folder)


class CocoSource:
    """Records of a COCO file, its classes in the order of their category ids."""

    def __init__(self, content: dict, *, config: Config, file: Path, folder: Path):
        self.repairs = Repairs(str(file))
        self._config, self._file = config, file
        items = coco_file.listed(content, file)
        categories = coco_file.categories(content, items, file, self.repairs, groups=config.groups)
        self.category_ids = tuple(categories)
        self.classes = tuple(categories.values())
        images = coco_file.images(content, file)
        ids = Ids((image["id"] for image in images), self.repairs, of="images", file=file, text=True)
        if config.limit:
            images = images[: config.limit]
        self._folder = PictureFolder(
            folder, described=file, reading=config.reading, strict=config.strict, allow_links=config.allow_links
        )
        truth = coco_file.gather(
            items, ids, self.category_ids, file, self.repairs, most=len(images), strict=config.strict
        )
        found = self._folder.find(_described(images, truth, file), self.repairs)
        self.reading = self._folder.reading
        self._truth = self._inside(truth, found)
        self.records: Sequence[Record] = self._make_records(found, ids.numbers)
        self._count_oddities()

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record; raises as `PictureFolder.read` does."""
        return self._folder.read(self.records[index])

    def content(self, index: int) -> bytes:
        """The bytes of a record's file; raises as `pictures.content_of` does."""
        return self._folder.content(self.records[index])

    def annotations(self) -> dict:
        """The truth as a COCO dict with the file's own ids and areas; segmentations are left out."""
        truth, annotations = self._truth, []
        bounds = np.cumsum([0, *(len(record.boxes) for record in self.records)])
        for index, (low, high) in enumerate(itertools.pairwise(bounds)):
            annotations += coco_objects(
                self, index, ids=truth.ids[low:high], boxes=truth.exact[low:high], areas=truth.areas[low:high]
            )
        return coco_truth(self, annotations)

    def _inside(self, truth: coco_file.Truth, found: Sequence[Found]) -> coco_file.Truth:
        """The annotations whose boxes hold a pixel of their picture, in its real pixels and clipped to it."""
        heights, widths = np.array([one.size for one in found]).reshape(-1, 2)[truth.pictures].T
        factors = np.array([one.factors for one in found]).reshape(-1, 2)[truth.pictures]
        _refuse_other_formats(truth.exact * factors[:, [1, 0, 1, 0]], heights, widths, self._file)
        exact = truth.exact * factors[:, [1, 0, 1, 0]]
        checked = check_boxes(exact, heights=heights, widths=widths)

        def example(place: int) -> str:
            picture, box = found[truth.pictures[place]], truth.exact[place].tolist()
            sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            text = ", ".join(f"{side:g}" for side in sides)
            return f"annotation {shown(truth.ids[place])}, [{text}] on {picture.file}"

        self.repairs.add_faults(
            checked.faults | {"boxes_clipped": checked.clipped},
            file=self._file,
            strict=self._config.strict,
            example=example,
        )
        exact = np.where(checked.clipped[:, None], checked.boxes, exact)
        areas = truth.areas * factors.prod(-1)
        return dataclasses.replace(truth, boxes=checked.boxes, exact=exact, areas=areas).only(checked.keep)

    def _make_records(self, found: Sequence[Found], ids: Sequence[int]) -> tuple[Record, ...]:
        truth = self._truth
        bounds = np.searchsorted(truth.pictures, np.arange(len(found) + 1))
        return tuple(
            Record(
                index=index,
                image_id=number,
                file=one.file,
                height=one.size[0],
                width=one.size[1],
                boxes=truth.boxes[low:high],
                labels=truth.labels[low:high],
                crowd=truth.crowd[low:high],
            )
            for index, (one, number, low, high) in enumerate(zip(found, ids, bounds[:-1], bounds[1:], strict=False))
        )

    def _count_oddities(self) -> None:
        """Counts what is kept as it is and yet worth knowing."""
        rows = np.column_stack([self._truth.pictures, self._truth.labels, self._truth.boxes])
        ids = self._truth.ids
        counts = {
            "boxes_repeated": len(rows) - len(np.unique(rows, axis=0)),
            "annotation_ids_repeated_or_zero": len(ids) - len(set(ids) - {0}),
            "files_listed_again": len(self.records) - len({record.file for record in self.records}),
        }
        for name, number in counts.items():
            self.repairs.add(name, number)


def _described(images: Sequence[dict], truth: coco_file.Truth, file: Path) -> list[Described]:
    """What the file says of each picture, and how far its boxes reach."""
    extents = np.zeros((len(images), 2))
    with np.errstate(invalid="ignore"):
        reach = np.where(np.isfinite(truth.exact[:, [3, 2]]), truth.exact[:, [3, 2]], 0)
    np.maximum.at(extents, truth.pictures, reach)
    return [
        Described(
            image["file_name"], f"{file}: image {shown(image['id'])}", image["size"], (float(bottom), float(right))
        )
        for image, (bottom, right) in zip(images, extents, strict=True)
    ]


def _refuse_other_formats(corners: np.ndarray, heights: np.ndarray, widths: np.ndarray, file: Path) -> None:
    """Stops where the boxes of the whole file only make sense in another format than [x, y, width, height]."""
    with np.errstate(invalid="ignore"):
        raw = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], -1)
        sized = np.isfinite(corners).all(-1) & (raw[:, 2:] > 0).all(-1)
    raw, limits = raw[sized], np.stack([widths, heights], -1)[sized]
    if not len(raw):
        return
    if raw.max() <= NORMALISED and limits.max() > 2:
        raise DataError(f"{file}: no box exceeds {NORMALISED}, so they are shares of the picture; multiply to pixels.")
    leaving = (corners[sized][:, 2:] > limits + 1).any(-1)
    as_corners = (raw[:, 2:] > raw[:, :2]).all(-1) & (raw[:, 2:] <= limits + 1).all(-1)
    if leaving.mean() > CORNER_SHARE and as_corners.all():
        raise DataError(
            f"{file}: {leaving.sum()} of {len(raw)} boxes leave their picture, and all of them fit as corners "
            "[x0, y0, x1, y1]; COCO wants [x, y, width, height]."
        )

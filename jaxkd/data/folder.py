"""The folder of a source's pictures: finds their files, compares their sizes with the annotations, and reads them."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxkd.data import names, pictures, sizes
from jaxkd.data.base import PictureError, Record, check_links, evenly_spaced
from jaxkd.data.repairs import Repairs
from jaxkd.data.sizes import AnnotatedPicture, Comparison
from jaxkd.errors import DataError

SAMPLE = 256  # pictures whose headers are read first; all are, where one of these differs from its annotated size
THREADS, BLOCK = 8, 256  # threads that read headers, and how many headers one reads at a time


@dataclasses.dataclass(frozen=True)
class PictureFile:
    """A picture file, and the size of the decoded picture."""

    file: str  # name below the folder
    size: tuple[int, int]  # height and width
    factors: tuple[float, float] = (1.0, 1.0)  # (y, x) from annotated to real pixels


class PictureFolder:
    """Pictures below a folder; `annotation_path` is the file or folder of their annotations, for messages.

    Attributes:
      reading: how files are decoded; `find` decides whether EXIF is followed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        annotation_path: Path,
        reading: pictures.Config,
        strict: bool = False,
        allow_links: bool = False,
    ):
        self.reading = reading.validated()
        self._folder, self._annotation_path = folder, annotation_path
        self._strict, self._allow_links = strict, allow_links
        self._index: names.Index | None = None

    def find(
        self, annotated: Sequence[AnnotatedPicture], repairs: Repairs, *, any_suffix: bool = False
    ) -> list[PictureFile]:
        """The files of the annotated pictures, with their real sizes where headers were read.

        Differences from the annotations are counted in `repairs`. A missing file keeps its annotated size, and fails
        when it is read. With `any_suffix` a picture of the same stem with another suffix is taken in its place.

        Raises:
          DataError: for names that lead out of the folder; in strict mode for sizes that differ; and where a picture
            without an annotated size cannot be read.
        """
        files = names.find(
            [picture.file for picture in annotated],
            self._folder,
            repairs,
            where=lambda index: annotated[index].where,
            any_suffix=any_suffix,
        )
        headers = self._headers(files, evenly_spaced(len(files), SAMPLE))
        comparisons = sizes.compare_all(annotated, headers, turns=self.reading.follows_exif)
        missing_sizes = any(picture.size is None for picture in annotated)
        if missing_sizes or any(comparison.kind not in sizes.NO_FAULT for comparison in comparisons.values()):
            headers = self._headers(files, range(len(files)))
        self.reading = sizes.resolve_exif(self.reading, annotated, headers)
        turns = self.reading.follows_exif
        comparisons = sizes.compare_all(annotated, headers, turns=turns)
        sizes.count_differences(annotated, headers, comparisons, repairs, turns=turns, strict=self._strict)
        return [
            self._picture_file(picture, file, comparisons.get(index))
            for index, (picture, file) in enumerate(zip(annotated, files, strict=True))
        ]

    def measure(self, files: Sequence[str]) -> dict[int, PictureFile]:
        """The files that can be read, by index, with the sizes in their headers; for data without annotated sizes.

        They are turned by EXIF, unless `reading` ignores it.
        """
        turns = self.reading.follows_exif
        self.reading = dataclasses.replace(self.reading, exif="turn" if turns else "ignore")
        return {
            index: PictureFile(files[index], header.turned_size if turns else header.stored_size)
            for index, header in self._headers(files, range(len(files))).items()
        }

    def read(self, record: Record) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record.

        Raises:
          PictureError: where this picture is missing, damaged or not of the record's size, up to `sizes.TOLERANCE`.
          DataError: for a link out of the folder, and in strict mode for another size.
        """
        path, size = self._folder / record.file, (record.height, record.width)
        if not self._allow_links:
            check_links(path, folder=self._folder)
        try:
            image = pictures.read(path, size=size, reading=self.reading)
        except PictureError as error:
            raise error if os.path.lexists(path) else PictureError(self._missing_message(record.file)) from error
        if image.shape[:2] == size:
            return image
        difference = (
            f"{path} is {sizes.size_text(image.shape)}, but {self._annotation_path} says {sizes.size_text(size)}"
        )
        if self._strict:
            raise DataError(f"{difference}; correct the width and height, or leave out strict.")
        if np.abs(np.subtract(image.shape[:2], size)).max() > sizes.TOLERANCE:
            raise PictureError(f"{difference}; correct the width and height, or bring the picture back to that size.")
        return image

    def content(self, record: Record) -> bytes:
        """The bytes of a record's file; raises as `pictures.read_bytes` does."""
        return pictures.read_bytes(self._folder / record.file)

    def _missing_message(self, file: str) -> str:
        if self._index is None:
            self._index = names.Index(self._folder)
        path, nearest = self._folder / file, self._index.nearest(file)
        if not nearest:
            return f"There is no picture {path}; add it or take it off the list."
        return (
            f"There is no picture {path}; there is {self._folder / nearest}: correct the names in "
            f"{self._annotation_path}, or the path of the pictures."
        )

    def _headers(self, files: Sequence[str], indices: Iterable[int]) -> dict[int, pictures.Header]:
        """The headers of the pictures at these indices, by index, without those that cannot be read."""

        def read_header(index: int) -> pictures.Header | None:
            path = self._folder / files[index]
            try:
                if not self._allow_links:
                    check_links(path, folder=self._folder)
                return pictures.read_header(path, name=files[index])
            except DataError:
                return None

        def read_some(some: Sequence[int]) -> list[pictures.Header | None]:
            return [read_header(index) for index in some]

        listed = list(indices)
        blocks = [listed[start : start + BLOCK] for start in range(0, len(listed), BLOCK)]
        with ThreadPoolExecutor(THREADS) as pool:
            headers = itertools.chain.from_iterable(pool.map(read_some, blocks))
            return {index: header for index, header in zip(listed, headers, strict=True) if header is not None}

    def _picture_file(self, picture: AnnotatedPicture, file: str, comparison: Comparison | None) -> PictureFile:
        if comparison is None:
            if picture.size is None:
                raise DataError(
                    f"{picture.where} has no width and height, and {file} cannot be read to find them; write them."
                )
            return PictureFile(file, picture.size)
        if comparison.kind != "scaled" or picture.size is None:
            return PictureFile(file, comparison.size)
        return PictureFile(
            file, comparison.size, (comparison.size[0] / picture.size[0], comparison.size[1] / picture.size[1])
        )


class FolderSource:
    """What sources have in common whose pictures are the files of one folder."""

    _folder: PictureFolder
    records: Sequence[Record]

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record; raises as `PictureFolder.read` does."""
        return self._folder.read(self.records[index])

    def content(self, index: int) -> bytes:
        """The bytes of a record's file; raises as `pictures.read_bytes` does."""
        return self._folder.content(self.records[index])

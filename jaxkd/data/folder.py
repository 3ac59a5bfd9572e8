"""The folder of a source's pictures: their files found, and read as their annotations saw them."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxkd.data import names, pictures, sizes
from jaxkd.data.base import PictureError, Record, check_links, spaced
from jaxkd.data.repairs import Repairs
from jaxkd.data.sizes import Described, Verdict
from jaxkd.errors import DataError

LOOK = 256  # pictures whose heads are read at first; all, where one of them is of another size than annotated
THREADS = 8  # that read heads


@dataclasses.dataclass(frozen=True)
class Found:
    """A picture as it will be read."""

    file: str  # below the folder
    size: tuple[int, int]  # height and width
    factors: tuple[float, float] = (1.0, 1.0)  # (y, x) from annotated to real pixels


class PictureFolder:
    """Pictures below a folder.

    Attributes:
      reading: how files become pictures; once `find` has looked at some, whether EXIF is followed is decided.
    """

    def __init__(
        self,
        folder: Path,
        *,
        described: Path,
        reading: pictures.Config,
        strict: bool = False,
        allow_links: bool = False,
    ):
        self.reading = reading.checked()
        self._folder, self._described = folder, described
        self._strict, self._allow_links = strict, allow_links
        self._index: names.Index | None = None

    def find(self, annotated: Sequence[Described], repairs: Repairs, *, any_suffix: bool = False) -> list[Found]:
        """The pictures that annotations describe, with their real sizes as far as heads were read.

        What differs from the annotations is counted in `repairs`. A file that is not there keeps its annotated size;
        the error comes when it is read. With `any_suffix` a picture of the same stem stands in for it.

        Raises:
          DataError: for names that lead out of the folder; in strict mode for sizes that differ; and where a picture
            without an annotated size cannot be read.
        """
        files = names.find(
            [one.file for one in annotated],
            self._folder,
            repairs,
            where=lambda place: annotated[place].where,
            any_suffix=any_suffix,
        )
        heads = self._heads(files, spaced(len(files), LOOK))
        verdicts = sizes.judged(annotated, heads, turns=self.reading.turns)
        unknown = any(one.size is None for one in annotated)
        if unknown or any(verdict.kind not in sizes.NO_FAULT for verdict in verdicts.values()):
            heads = self._heads(files, range(len(files)))
        self.reading = sizes.decided(self.reading, annotated, heads)
        turns = self.reading.turns
        verdicts = sizes.judged(annotated, heads, turns=turns)
        sizes.count(annotated, heads, verdicts, repairs, turns=turns, strict=self._strict)
        return [
            self._found(one, file, verdicts.get(place))
            for place, (one, file) in enumerate(zip(annotated, files, strict=True))
        ]

    def read(self, record: Record) -> UInt8[np.ndarray, "h w 3"]:
        """The RGB picture of a record.

        Raises:
          PictureError: where this picture is missing, broken or of quite another size than the record.
          DataError: where it may not be used: a link out of the folder, or in strict mode another size.
        """
        path, size = self._folder / record.file, (record.height, record.width)
        if not self._allow_links:
            check_links(path, folder=self._folder)
        try:
            image = pictures.read(path, size=size, reading=self.reading)
        except PictureError as error:
            raise error if os.path.lexists(path) else PictureError(self._missing(record.file)) from error
        if image.shape[:2] == size:
            return image
        said = f"{path} is {sizes.text(image.shape)}, but {self._described} says {sizes.text(size)}"
        if self._strict:
            raise DataError(f"{said}; correct the width and height, or leave out strict.")
        if np.abs(np.subtract(image.shape[:2], size)).max() > sizes.SLACK:
            raise PictureError(f"{said}; correct the width and height, or bring the picture back to that size.")
        return image

    def content(self, record: Record) -> bytes:
        """The bytes of a record's file; raises as `pictures.content_of` does."""
        return pictures.content_of(self._folder / record.file)

    def _missing(self, file: str) -> str:
        if self._index is None:
            self._index = names.Index(self._folder)
        path, near = self._folder / file, self._index.nearest(file)
        if not near:
            return f"There is no picture {path}; add it or take it off the list."
        return (
            f"There is no picture {path}; there is {self._folder / near}: correct the names in {self._described}, or "
            "the path of the pictures."
        )

    def _heads(self, files: Sequence[str], places: Iterable[int]) -> dict[int, pictures.Head]:
        """What the heads of the pictures at these places say; those that cannot be read are left for later."""

        def look(place: int) -> tuple[int, pictures.Head | None]:
            path = self._folder / files[place]
            try:
                if not self._allow_links:
                    check_links(path, folder=self._folder)
                return place, pictures.head(path, name=files[place])
            except DataError:
                return place, None

        with ThreadPoolExecutor(THREADS) as pool:
            return {place: head for place, head in pool.map(look, places) if head is not None}

    def _found(self, one: Described, file: str, verdict: Verdict | None) -> Found:
        if verdict is None:
            if one.size is None:
                raise DataError(
                    f"{one.where} has no width and height, and {file} cannot be read to find them; write them."
                )
            return Found(file, one.size)
        if verdict.kind != "scaled" or one.size is None:
            return Found(file, verdict.size)
        return Found(file, verdict.size, (verdict.size[0] / one.size[0], verdict.size[1] / one.size[1]))

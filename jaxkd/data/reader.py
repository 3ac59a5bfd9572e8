"""The pictures of a source, read from several threads; those that cannot be read are replaced by others."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from jaxkd.data.base import PictureError, Source
from jaxkd.data.canvas import Sizes, buckets_of, resized
from jaxkd.data.labelled import Labelled, of_record
from jaxkd.data.rows import ResizedPicture, clipped, with_largest
from jaxkd.errors import DataError

log = logging.getLogger(__name__)
T = TypeVar("T")


class Reader:
    """Reads and resizes pictures, and keeps them where they are to be cached.

    `skipped` has the names of the pictures that could not be read, by their index.
    """

    def __init__(
        self,
        source: Source,
        sizes: Sizes,
        *,
        short: int,
        skip_limit: float,
        cache: bool = False,
        cache_resized: bool = False,
    ):
        """`short` decides each record's bucket; `cache_resized` keeps pictures of one working size as resized."""
        self.skipped: dict[int, str] = {}
        self.bucket_of = buckets_of(source, sizes, short=short)
        self._source, self._sizes = source, sizes
        self._max_skipped = max(1, int(skip_limit * len(source.records)))
        self._lock = threading.Lock()
        self._first_error = ""  # error of the first skipped picture
        self._cache: dict[int, UInt8[np.ndarray, "h w 3"] | ResizedPicture] | None = {} if cache else None
        self._cache_resized = cache_resized

    def resized(self, index: int, *, bucket: int, short: int) -> tuple[int, ResizedPicture]:
        """This record, or the next readable one, resized to a bucket; and its index."""
        return self._readable(index, lambda candidate: self._resized(candidate, bucket=bucket, short=short))

    def original(self, index: int) -> tuple[int, Labelled]:
        """This record, or the next readable one, with all of its ground truth in original pixels; and its index.

        Its arrays are shared: nobody may write to them.
        """
        return self._readable(index, self._original)

    def _readable(self, index: int, load: Callable[[int], T]) -> tuple[int, T]:
        for candidate in self._candidates(index):
            try:
                return candidate, load(candidate)
            except PictureError as error:
                self._skip(candidate, error)
        raise DataError(
            f"{self._source.repairs.title}: none of the {len(self._source.records)} pictures can be read; the first: "
            f"{self._first_error}"
        )

    def _candidates(self, index: int) -> Iterator[int]:
        """The record and then those after it: first all of its bucket, then the others; without skipped ones."""
        if index not in self.skipped:
            yield index
        following = np.roll(np.arange(len(self.bucket_of)), -index - 1)
        same = self.bucket_of[following] == self.bucket_of[index]
        for candidate in np.concatenate([following[same], following[~same]]).tolist():
            if candidate not in self.skipped:
                yield candidate

    def _skip(self, index: int, error: PictureError) -> None:
        file = self._source.records[index].file
        with self._lock:
            is_new = index not in self.skipped
            self._first_error = self._first_error or str(error)
            self.skipped[index] = file
            if len(self.skipped) > self._max_skipped:
                raise DataError(
                    f"{len(self.skipped)} pictures cannot be read, more than the {self._max_skipped} that skip_limit "
                    f"allows; the last one: {error}"
                ) from error
        if is_new:
            log.warning("Skipped: %s", error)

    def _resized(self, index: int, *, bucket: int, short: int) -> ResizedPicture:
        one_size = self._cache_resized and bucket == self.bucket_of[index]
        cached = None if self._cache is None else self._cache.get(index)
        if isinstance(cached, ResizedPicture) and one_size:
            return cached
        image = cached if isinstance(cached, np.ndarray) else self._source.read(index)
        record = with_largest(clipped(self._source.records[index], image), self._sizes.max_objects)
        result = resized(image, record, self._sizes, bucket=bucket, short=short)
        if self._cache is not None and cached is None:
            self._cache[index] = result if one_size else image
        return result

    def _original(self, index: int) -> Labelled:
        cached = None if self._cache is None else self._cache.get(index)
        image = cached if isinstance(cached, np.ndarray) else self._source.read(index)
        if self._cache is not None and cached is None:
            self._cache[index] = image
        return of_record(clipped(self._source.records[index], image), image)

"""Pictures to predict on, without ground truth: files, folders, videos, and arrays in memory."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import UInt8

from jaxkd.data import formats, pictures
from jaxkd.data.base import PictureError
from jaxkd.data.prefetch import in_order, prefetched
from jaxkd.errors import ConfigError, DataError

TOLERANCE = 5  # frames; a video that lacks at most so many of its header's count is complete
ENOUGH = 0.9  # share of its frames, or of its duration, with which a video counts as complete

Origin = np.ndarray | str | Path  # an RGB picture, uint8 [h w 3]; or the path of a picture, a video or a folder
T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """A still picture or a frame of a video, and where it comes from."""

    image: UInt8[np.ndarray, "h w 3"]  # RGB
    file: str  # path of the picture or video; "" for an array
    number: int | None = None  # of the frame in its video, from 0; None for a still picture
    seconds: float | None = None  # time of the frame in its video


def expand_folders(
    origins: Iterable[Origin],
    *,
    exclude: Path | None = None,
    on_unsupported: Callable[[str], None] = lambda message: None,
) -> Iterator[Origin]:
    """The origins, with each folder replaced by the picture files in and below it, sorted, without hidden ones.

    Pictures are recognised by their suffix or, where that is unknown, by their first bytes. Links to folders are
    followed, and each folder is searched once. A folder without a picture is kept, and so is one below that may not be
    read. The folder `exclude` is skipped below others; ConfigError where it is itself an origin. `on_unsupported` is
    called with a message for each picture in a format that is not supported.
    """
    excluded = None if exclude is None else exclude.resolve()
    for origin in origins:
        if isinstance(origin, np.ndarray) or not os.path.isdir(origin):
            yield origin
            continue
        folder = Path(origin).resolve()
        if folder == excluded:
            raise ConfigError(f"{origin} cannot be both searched and written to; give another folder to write.")
        files = _pictures_below(Path(origin), {folder, excluded}, on_unsupported)
        first = next(files, Path(origin))
        yield from itertools.chain([first], files)


def is_video(origin: Origin) -> bool:
    """Whether an origin is a video, by its suffix."""
    return not isinstance(origin, np.ndarray) and Path(origin).suffix.lower() in formats.VIDEOS


def count(origin: Origin, *, every: int = 1) -> int:
    """The number of pictures of an origin: 1, or for a video every n-th of the frames that its header gives."""
    if isinstance(origin, np.ndarray) or not is_video(origin):
        return 1
    video = cv2.VideoCapture(str(origin))
    try:
        return -(-max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0) // every) if video.isOpened() else 1
    finally:
        video.release()


def read(
    origins: Iterable[Origin],
    function: Callable[[Frame], T],
    *,
    reading: pictures.Config = pictures.PLAIN,
    every: int = 1,
    threads: int = 2,
    depth: int = 8,
) -> Iterator[T | DataError]:
    """The result of `function` for each picture, in order, or the error where it cannot be read; files are read once.

    Args:
      origins: pictures, videos and folders; taken as they are needed.
      function: called with each frame in the thread that reads it.
      reading: how files are decoded.
      every: every n-th frame of a video is taken.
      threads: threads that read pictures; a video has one.
      depth: pictures that are read ahead.
    """
    for video, group in itertools.groupby(expand_folders(origins), is_video):
        if video:
            for path in (Path(origin) for origin in group if not isinstance(origin, np.ndarray)):
                yield from prefetched(_results_of(frames(path, every=every), function), depth=depth)
        else:
            yield from in_order(
                (partial(_result_of, origin, function, reading) for origin in group), threads=threads, depth=depth
            )


def frames(path: Path, *, every: int = 1) -> Iterator[Frame]:
    """Every n-th frame of a video, from its first.

    PictureError where there is no frame, and after the last frame where the video ends early.
    """
    video = cv2.VideoCapture(str(path))
    try:
        any_decoded, number, seconds = False, 0, 0.0
        for number in itertools.count():
            if not video.grab():
                break
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if number % every:
                continue
            decoded, image = video.retrieve()
            if decoded:
                any_decoded = True
                yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), str(path), number, seconds)
        if not any_decoded:
            reason = "is no video that can be decoded" if path.is_file() else "does not exist"
            raise PictureError(f"{path} {reason}; replace it or take it off the list.")
        expected, rate = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), video.get(cv2.CAP_PROP_FPS)
        if _ends_early(number, seconds, expected=expected, rate=rate):
            raise PictureError(f"{path} ends after {number} of its {expected} frames, which were taken; copy it again.")
    finally:
        video.release()


def _ends_early(number: int, seconds: float, *, expected: int, rate: float) -> bool:
    """Whether a video that ended after `number` frames, the last at `seconds`, lacks some.

    Its header gives `expected` frames, 0 or less where unknown; some derive that from the duration at a guessed `rate`.
    """
    in_time = rate > 0 and seconds >= ENOUGH * expected / rate
    return number + TOLERANCE < expected and number < ENOUGH * expected and not in_time


def _pictures_below(folder: Path, visited: set[Path | None], on_unsupported: Callable[[str], None]) -> Iterator[Path]:
    """The picture files below a folder, and folders that may not be read; folders in `visited` are skipped."""
    try:
        with os.scandir(folder) as scanned:
            entries = sorted((entry for entry in scanned if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError:
        yield folder
        return
    for entry in entries:
        kind = "" if _is_folder(entry) else formats.kind_of(folder / entry.name)
        if kind == formats.PICTURE:
            yield folder / entry.name
        elif kind:
            on_unsupported(f"{folder / entry.name} is {kind}, which is not read here; {formats.ADVICE}.")
    folders = [entry for entry in entries if _is_folder(entry)]
    for entry in sorted(folders, key=os.DirEntry.is_symlink):  # real folders before links to them
        subfolder = folder / entry.name
        if (resolved := subfolder.resolve()) not in visited:
            visited.add(resolved)
            yield from _pictures_below(subfolder, visited, on_unsupported)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circular link
        return False


def _result_of(origin: Origin, function: Callable[[Frame], T], reading: pictures.Config) -> T | DataError:
    try:
        return function(_still(origin, reading))
    except DataError as error:
        return error


def _results_of(frames: Iterator[Frame], function: Callable[[Frame], T]) -> Iterator[T | DataError]:
    try:
        for frame in frames:
            yield function(frame)
    except DataError as error:
        yield error


def _still(origin: Origin, reading: pictures.Config) -> Frame:
    """The picture in memory or in a file; DataError where it is no picture."""
    if not isinstance(origin, np.ndarray):
        path = Path(origin)
        if os.path.isdir(path):
            raise PictureError(_why_no_picture(path))
        return Frame(pictures.read(path, reading=reading), str(path))
    if origin.ndim != 3 or origin.shape[2] != 3 or origin.dtype != np.uint8 or not origin.size:
        raise DataError(f"A picture has to be a uint8 array [h w 3], not {origin.dtype} {list(origin.shape)}.")
    return Frame(origin, "")


def _why_no_picture(folder: Path) -> str:
    """Why there is no picture in a folder."""
    try:
        os.listdir(folder)
    except OSError as error:
        return f"The folder {folder} may not be read ({error.strerror}); change its permissions."
    return f"The folder {folder} holds no picture that is read here, such as JPEG, PNG, TIFF, WebP, AVIF or JPEG 2000."

"""Pictures without truth, to look for objects in: files, folders of them, videos, and arrays in memory."""

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

from jaxkd.data import pictures
from jaxkd.data.ahead import ahead, one_ahead
from jaxkd.data.base import PictureError
from jaxkd.errors import DataError

PICTURES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts")

Origin = np.ndarray | str | Path  # an RGB picture, uint8 [h w 3]; or the path of a file, of a video or of a folder
T = TypeVar("T")


@dataclass(frozen=True)
class Shot:
    """A picture, and where it comes from."""

    image: UInt8[np.ndarray, "h w 3"]  # RGB
    file: str  # "" for an array
    frame: int | None = None  # its number in a video, from 0
    seconds: float | None = None  # its time in a video


def listed(origins: Iterable[Origin], *, without: Path | None = None) -> Iterator[Origin]:
    """The origins, with folders replaced by the picture files in them and below, sorted; hidden ones do not count.

    Nothing is taken from the folder `without`. A folder that holds no picture stays.
    """
    for origin in origins:
        if isinstance(origin, np.ndarray) or not Path(origin).is_dir():
            yield origin
            continue
        inside = _inside(Path(origin), None if without is None else without.resolve())
        first = next(inside, Path(origin))
        yield from itertools.chain([first], inside)


def is_video(origin: Origin) -> bool:
    """Whether an origin is a video, by its name."""
    return not isinstance(origin, np.ndarray) and Path(origin).suffix.lower() in VIDEOS


def count(origin: Origin, *, every: int = 1) -> int:
    """How many pictures there are to come: one; of a video each how-manieth frame, as far as its head knows."""
    if isinstance(origin, np.ndarray) or not is_video(origin):
        return 1
    video = cv2.VideoCapture(str(origin))
    try:
        return -(-max(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), 0) // every) if video.isOpened() else 1
    finally:
        video.release()


def read(
    origins: Iterable[Origin], work: Callable[[Shot], T], *, every: int = 1, threads: int = 2, depth: int = 8
) -> Iterator[T | DataError]:
    """What `work` makes of each picture, in order, or why it cannot be read; every file is read once.

    Args:
      origins: pictures, videos and folders; taken as they are needed.
      work: what is done with a picture in the thread that reads it.
      every: of a video's frames, each how-manieth is taken.
      threads: that read pictures; a video has one.
      depth: pictures that are read ahead.
    """
    for video, group in itertools.groupby(listed(origins), is_video):
        if video:
            for path in (Path(origin) for origin in group if not isinstance(origin, np.ndarray)):
                yield from one_ahead(_tried(frames(path, every=every), work), depth=depth)
        else:
            yield from ahead((partial(_worked, origin, work) for origin in group), threads=threads, depth=depth)


def frames(path: Path, *, every: int = 1) -> Iterator[Shot]:
    """Each how-manieth frame of a video, from its first; PictureError where there is none."""
    video = cv2.VideoCapture(str(path))
    try:
        found = False
        for number in itertools.count():
            if not video.grab():
                break
            if number % every:
                continue
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
            got, image = video.retrieve()
            if got:
                found = True
                yield Shot(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), str(path), number, seconds)
        if not found:
            why = "is no video that can be decoded" if path.is_file() else "does not exist"
            raise PictureError(f"{path} {why}; replace it or take it off the list.")
    finally:
        video.release()


def _inside(folder: Path, without: Path | None) -> Iterator[Path]:
    """The picture files below a folder."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if _is_wanted(Path(place) / name, without))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURES:
                yield Path(place) / name


def _is_wanted(folder: Path, without: Path | None) -> bool:
    return not folder.name.startswith(".") and (without is None or folder.resolve() != without)


def _worked(origin: Origin, work: Callable[[Shot], T]) -> T | DataError:
    try:
        return work(_shot(origin))
    except DataError as error:
        return error


def _tried(shots: Iterator[Shot], work: Callable[[Shot], T]) -> Iterator[T | DataError]:
    try:
        for shot in shots:
            yield work(shot)
    except DataError as error:
        yield error


def _shot(origin: Origin) -> Shot:
    """The picture in memory or in a file; DataError where it is none."""
    if not isinstance(origin, np.ndarray):
        path = Path(origin)
        if path.is_dir():
            raise PictureError(f"The folder {path} holds no picture; its files would end in {', '.join(PICTURES)}.")
        return Shot(pictures.read(path), str(path))
    if origin.ndim != 3 or origin.shape[2] != 3 or origin.dtype != np.uint8 or not origin.size:
        raise DataError(f"A picture has to be a uint8 array [h w 3], not {origin.dtype} {list(origin.shape)}.")
    return Shot(origin, "")

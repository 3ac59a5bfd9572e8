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

from jaxkd.data import formats, pictures
from jaxkd.data.base import PictureError
from jaxkd.data.prefetch import in_order, prefetched
from jaxkd.errors import ConfigError, DataError

SLACK = 5  # frames by which a video may be shorter than its head says
ENOUGH = 0.9  # share of its frames, or of its time, after which it is not said to end early

Origin = np.ndarray | str | Path  # an RGB picture, uint8 [h w 3]; or the path of a file, of a video or of a folder
T = TypeVar("T")


@dataclass(frozen=True)
class Shot:
    """A picture, and where it comes from."""

    image: UInt8[np.ndarray, "h w 3"]  # RGB
    file: str  # "" for an array
    frame: int | None = None  # its number in a video, from 0
    seconds: float | None = None  # its time in a video


def listed(
    origins: Iterable[Origin], *, without: Path | None = None, passed_over: Callable[[str], None] = lambda why: None
) -> Iterator[Origin]:
    """The origins, with folders replaced by the picture files in them and below, sorted; hidden ones do not count.

    A picture is what a file is by its suffix or, where that says nothing, by its first bytes. Links to folders are
    followed, and each folder is searched once. One that holds no picture stays, as does one below that may not be read.
    The folder `without` is passed over below others; ConfigError where it is itself among them. `passed_over` is told
    of each file that is a picture of a kind that is not read here.
    """
    barred = None if without is None else without.resolve()
    for origin in origins:
        if isinstance(origin, np.ndarray) or not os.path.isdir(origin):
            yield origin
            continue
        folder = Path(origin).resolve()
        if folder == barred:
            raise ConfigError(f"{origin} cannot be both searched and written to; give another folder to write.")
        inside = _inside(Path(origin), {folder, barred}, passed_over)
        first = next(inside, Path(origin))
        yield from itertools.chain([first], inside)


def is_video(origin: Origin) -> bool:
    """Whether an origin is a video, by its name."""
    return not isinstance(origin, np.ndarray) and Path(origin).suffix.lower() in formats.VIDEOS


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
    origins: Iterable[Origin],
    work: Callable[[Shot], T],
    *,
    reading: pictures.Config = pictures.PLAIN,
    every: int = 1,
    threads: int = 2,
    depth: int = 8,
) -> Iterator[T | DataError]:
    """What `work` makes of each picture, in order, or why it cannot be read; every file is read once.

    Args:
      origins: pictures, videos and folders; taken as they are needed.
      work: what is done with a picture in the thread that reads it.
      reading: how files become pictures.
      every: of a video's frames, each how-manieth is taken.
      threads: that read pictures; a video has one.
      depth: pictures that are read ahead.
    """
    for video, group in itertools.groupby(listed(origins), is_video):
        if video:
            for path in (Path(origin) for origin in group if not isinstance(origin, np.ndarray)):
                yield from prefetched(_tried(frames(path, every=every), work), depth=depth)
        else:
            yield from in_order(
                (partial(_worked, origin, work, reading) for origin in group), threads=threads, depth=depth
            )


def frames(path: Path, *, every: int = 1) -> Iterator[Shot]:
    """Each how-manieth frame of a video, from its first.

    PictureError where there is none, and after the last one where the video ends early.
    """
    video = cv2.VideoCapture(str(path))
    try:
        found, number, seconds = False, 0, 0.0
        for number in itertools.count():
            if not video.grab():
                break
            seconds = video.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if number % every:
                continue
            got, image = video.retrieve()
            if got:
                found = True
                yield Shot(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), str(path), number, seconds)
        if not found:
            why = "is no video that can be decoded" if path.is_file() else "does not exist"
            raise PictureError(f"{path} {why}; replace it or take it off the list.")
        wanted, rate = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), video.get(cv2.CAP_PROP_FPS)
        if _ends_early(number, seconds, wanted=wanted, rate=rate):
            raise PictureError(f"{path} ends after {number} of its {wanted} frames, which were taken; copy it again.")
    finally:
        video.release()


def _ends_early(number: int, seconds: float, *, wanted: int, rate: float) -> bool:
    """Whether a video lacks frames that ended after so many, the last at `seconds`.

    Its head says how many are `wanted`, not above 0 where it does not know; some count by time, at a guessed `rate`.
    """
    in_time = rate > 0 and seconds >= ENOUGH * wanted / rate
    return number + SLACK < wanted and number < ENOUGH * wanted and not in_time


def _inside(folder: Path, seen: set[Path | None], passed_over: Callable[[str], None]) -> Iterator[Path]:
    """The picture files below a folder, and folders that may not be read; `seen` are searched already, or never."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError:
        yield folder
        return
    for entry in entries:
        kind = "" if _is_folder(entry) else formats.kind_of(folder / entry.name)
        if kind == formats.READ:
            yield folder / entry.name
        elif kind:
            passed_over(f"{folder / entry.name} is {kind}, which is not read here; {formats.ADVICE}.")
    folders = [entry for entry in entries if _is_folder(entry)]
    for entry in sorted(folders, key=os.DirEntry.is_symlink):  # a folder is found where it is, before a link to it
        inner = folder / entry.name
        if (real := inner.resolve()) not in seen:
            seen.add(real)
            yield from _inside(inner, seen, passed_over)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that goes round in a circle
        return False


def _worked(origin: Origin, work: Callable[[Shot], T], reading: pictures.Config) -> T | DataError:
    try:
        return work(_shot(origin, reading))
    except DataError as error:
        return error


def _tried(shots: Iterator[Shot], work: Callable[[Shot], T]) -> Iterator[T | DataError]:
    try:
        for shot in shots:
            yield work(shot)
    except DataError as error:
        yield error


def _shot(origin: Origin, reading: pictures.Config) -> Shot:
    """The picture in memory or in a file; DataError where it is none."""
    if not isinstance(origin, np.ndarray):
        path = Path(origin)
        if os.path.isdir(path):
            raise PictureError(_why_none(path))
        return Shot(pictures.read(path, reading=reading), str(path))
    if origin.ndim != 3 or origin.shape[2] != 3 or origin.dtype != np.uint8 or not origin.size:
        raise DataError(f"A picture has to be a uint8 array [h w 3], not {origin.dtype} {list(origin.shape)}.")
    return Shot(origin, "")


def _why_none(folder: Path) -> str:
    """Why there is no picture in a folder."""
    try:
        os.listdir(folder)
    except OSError as error:
        return f"The folder {folder} may not be read ({error.strerror}); change its permissions."
    return f"The folder {folder} holds no picture that is read here, such as JPEG, PNG, TIFF, WebP, AVIF or JPEG 2000."

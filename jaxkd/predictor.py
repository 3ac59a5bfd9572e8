"""A detector to be called with pictures, for Python and notebooks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from jaxkd import config as configs
from jaxkd.data import files, loader
from jaxkd.data.files import Origin, Shot
from jaxkd.errors import DataError
from jaxkd.loading import build, prepare
from jaxkd.train import evaluate, mesh
from jaxkd.types import Batch, Detections

T = TypeVar("T")
LATE = 4  # batches that may be done before one that waits to be full


def load(path: str | Path, *, classes: Sequence[str] = ()) -> "Predictor":
    """The detector that `loading.prepare.load_detector` finds there, to be called."""
    return Predictor(prepare.load_detector(path, classes=classes))


@dataclass(frozen=True)
class Found:
    """A picture and what is on it: as `Predictor` gives it, without the leading axis."""

    shot: Shot
    detections: Detections


class Predictor:
    """Finds objects in pictures of any size.

    Attributes:
      classes: names of the labels.
      sizes: how pictures are resized, as fields of `data.loader`; those of training, or else COCO's.
      reading: how files become pictures, as in training.
    """

    def __init__(self, loaded: build.Loaded):
        self.classes = loaded.detector.classes
        self.sizes, self.reading = loaded.sizes, loaded.reading
        self._loaded = loaded
        self._feeding = configs.build(configs.component("data.loader", **loaded.sizes))
        self._devices = mesh.make_mesh(1)

    def __call__(self, images: Origin | Sequence[Origin]) -> Detections:
        """Detections as NumPy arrays, a row for each picture and best first: boxes [b d 4] (x0, y0, x1, y1) in the
        picture's own pixels, scores [b d], labels [b d], and which of them are valid [b d].

        Args:
          images: one or several, each an RGB array or the path of a file.

        Raises DataError for a picture that cannot be read or is no uint8 array [h w 3].
        """
        several = [images] if isinstance(images, (str, Path, np.ndarray)) else images
        rows = [found.detections for found in self.stream(several)]
        return jax.tree.map(lambda *parts: np.stack(parts), *rows) if rows else _nothing()

    def stream(
        self,
        origins: Iterable[Origin],
        *,
        every: int = 1,
        batch: int = 1,
        left_out: Callable[[DataError], None] | None = None,
    ) -> Iterator[Found]:
        """What is found in each picture, in order and as it comes, with a few pictures in memory and no more.

        Args:
          origins: RGB arrays uint8 [h w 3], paths of picture files, of folders with such files in and below them, and
            of videos.
          every: of a video's frames, each how-manieth is looked at.
          batch: pictures of about one shape that are looked at together.
          left_out: is told of each picture that cannot be used; without it, the first one raises its DataError.
        """
        depth = 2 * batch + 2
        threads = self._feeding.threads
        read = files.read(origins, self._row, reading=self.reading, every=every, threads=threads, depth=depth)
        groups = _grouped(_usable(read, left_out), batch)
        return _in_order(pair for group in groups for pair in self._looked_at(group, batch))

    def _row(self, shot: Shot) -> "_Row":
        return _Row(shot, *loader.blank_row(shot.image, self._feeding, index=0))

    def _looked_at(self, group: "Group", batch: int) -> Iterator[tuple[int, Found]]:
        """What is found in pictures of one bucket, with their numbers; the last one stands in for those that lack."""
        rows = [row.batch for _, row in group]
        whole = jax.tree.map(lambda *parts: np.stack(parts), *rows, *rows[-1:] * (batch - len(rows)))
        detect = evaluate.compiled_detect(self._loaded.detector, self._devices)
        found = jax.device_get(detect(self._loaded.params, mesh.put_batch(whole, self._devices)))
        for place, (number, row) in enumerate(group):
            one = jax.tree.map(lambda leaf, place=place: leaf[place], found)
            factors = np.asarray(row.batch.scales, np.float32)[[1, 0, 1, 0]]
            height, width = row.shot.image.shape[:2]
            limits = np.array([width, height] * 2, np.float32)
            yield number, Found(row.shot, one.replace(boxes=np.clip(one.boxes / factors, 0, limits)))


@dataclass(frozen=True)
class _Row:
    """A picture as it was read, and as the detector is to see it."""

    shot: Shot
    bucket: int
    batch: Batch  # of this picture alone, without the leading axis


Group = list[tuple[int, _Row]]


def _usable(rows: Iterator[_Row | DataError], left_out: Callable[[DataError], None] | None) -> Iterator[_Row]:
    for row in rows:
        if not isinstance(row, DataError):
            yield row
        elif left_out is None:
            raise row
        else:
            left_out(row)


def _grouped(rows: Iterable[_Row], batch: int) -> Iterator[Group]:
    """Numbered rows of one bucket, `batch` at a time, or fewer where one would wait for long."""
    waiting: dict[int, Group] = {}
    for number, row in enumerate(rows):
        waiting.setdefault(row.bucket, []).append((number, row))
        for bucket, group in list(waiting.items()):
            if len(group) == batch or number - group[0][0] >= LATE * batch:
                yield waiting.pop(bucket)
    yield from waiting.values()


def _in_order(pairs: Iterable[tuple[int, T]]) -> Iterator[T]:
    """The items of numbered pairs by their numbers, which are 0, 1, 2 and so on."""
    done: dict[int, T] = {}
    coming = 0
    for number, item in pairs:
        done[number] = item
        while coming in done:
            yield done.pop(coming)
            coming += 1


def _nothing() -> Detections:
    blank = np.zeros((0, 0), np.float32)
    return Detections(
        boxes=np.zeros((0, 0, 4), np.float32), scores=blank, labels=blank.astype(np.int32), valid=blank.astype(bool)
    )

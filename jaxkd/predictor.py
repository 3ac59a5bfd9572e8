"""The predictor: a detector that is called with pictures, for Python and notebooks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np

from jaxkd import config as configs
from jaxkd.data import files, loader
from jaxkd.data.files import Frame, Origin
from jaxkd.errors import DataError
from jaxkd.loading import build, fold, prepare
from jaxkd.train import evaluate, mesh
from jaxkd.types import Batch, Detections

T = TypeVar("T")
LATE = 4  # batches that may overtake an incomplete one


def load(path: str | Path, *, classes: Sequence[str] = ()) -> "Predictor":
    """A predictor with the detector at `path`, see `loading.prepare.load_detector`."""
    return Predictor(prepare.load_detector(path, classes=classes))


@dataclass(frozen=True)
class FrameDetections:
    """A picture and its detections, as `Predictor` gives them but without the leading axis."""

    frame: Frame
    detections: Detections


class Predictor:
    """A detector for pictures of any size.

    Attributes:
      classes: names of the labels.
      sizes: fields of `data.loader` that set how pictures are resized: those of training, or else COCO's.
      reading: how files are decoded, as in training.
    """

    def __init__(self, loaded: build.Loaded):
        self.classes = loaded.detector.classes
        self.sizes, self.reading = loaded.sizes, loaded.reading
        self._loaded = loaded
        self._loader_config = configs.build(configs.component("data.loader", **loaded.sizes))
        self._devices = mesh.make_mesh(1)

    def fold(self) -> "Predictor":
        """The same detector with its frozen and batch norms folded into the convolutions before them.

        It is for `save`: what reads that folder finds plain convolutions with biases. It is hardly faster, since XLA
        computes such a norm in one pass with the activation behind it. See `loading.fold.folded` for norms that stay,
        and for errors.
        """
        return Predictor(fold.folded(self._loaded))

    def save(self, folder: str | Path) -> None:
        """Writes a folder of weights, which `load` and the commands take; StorageError where it cannot be written."""
        loaded = self._loaded
        build.save(
            Path(folder),
            loaded.params,
            config=loaded.config,
            classes=self.classes,
            scores=loaded.scores,
            sizes=self.sizes,
            reading=self.reading,
        )

    def __call__(self, images: Origin | Sequence[Origin]) -> Detections:
        """Detections as NumPy arrays, a row for each picture and best first: boxes [b d 4] (x0, y0, x1, y1) in the
        picture's own pixels, scores [b d], labels [b d], and which of them are valid [b d].

        Args:
          images: one or several, each an RGB array or the path of a file.

        Raises DataError for a picture that cannot be read or is no uint8 array [h w 3].
        """
        origins = [images] if isinstance(images, (str, Path, np.ndarray)) else images
        rows = [result.detections for result in self.stream(origins)]
        return jax.tree.map(lambda *parts: np.stack(parts), *rows) if rows else _no_detections()

    def stream(
        self,
        origins: Iterable[Origin],
        *,
        every: int = 1,
        batch: int = 1,
        on_error: Callable[[DataError], None] | None = None,
    ) -> Iterator[FrameDetections]:
        """The detections of each picture, in order and as soon as they are computed, with few pictures in memory.

        Args:
          origins: RGB arrays uint8 [h w 3], paths of picture files, of folders with such files in and below them, and
            of videos.
          every: every n-th frame of a video is taken.
          batch: pictures of one bucket that are detected together.
          on_error: called with the DataError of each picture that cannot be read; without it, the first one is raised.
        """
        depth = 2 * batch + 2
        threads = self._loader_config.threads
        read = files.read(origins, self._row, reading=self.reading, every=every, threads=threads, depth=depth)
        groups = _by_bucket(_usable(read, on_error), batch)
        return _in_order(pair for group in groups for pair in self._detect(group, batch))

    def _row(self, frame: Frame) -> "_Row":
        return _Row(frame, *loader.blank_row(frame.image, self._loader_config, index=0))

    def _detect(self, group: "Group", batch: int) -> Iterator[tuple[int, FrameDetections]]:
        """Detections in pictures of one bucket, with their numbers; the last picture is repeated to fill the batch."""
        rows = [row.batch for _, row in group]
        batch_rows = jax.tree.map(lambda *parts: np.stack(parts), *rows, *rows[-1:] * (batch - len(rows)))
        detect = evaluate.compiled_detect(self._loaded.detector, self._devices)
        detections = jax.device_get(detect(self._loaded.params, mesh.put_batch(batch_rows, self._devices)))
        for index, (number, row) in enumerate(group):
            resized = jax.tree.map(lambda leaf, index=index: leaf[index], detections)
            factors = np.asarray(row.batch.scales, np.float32)[[1, 0, 1, 0]]
            height, width = row.frame.image.shape[:2]
            limits = np.array([width, height] * 2, np.float32)
            yield number, FrameDetections(row.frame, resized.replace(boxes=np.clip(resized.boxes / factors, 0, limits)))


@dataclass(frozen=True)
class _Row:
    """A picture as it was read, and as input of the detector."""

    frame: Frame
    bucket: int
    batch: Batch  # of this picture alone, without the leading axis


Group = list[tuple[int, _Row]]


def _usable(rows: Iterator[_Row | DataError], on_error: Callable[[DataError], None] | None) -> Iterator[_Row]:
    for row in rows:
        if not isinstance(row, DataError):
            yield row
        elif on_error is None:
            raise row
        else:
            on_error(row)


def _by_bucket(rows: Iterable[_Row], batch: int) -> Iterator[Group]:
    """Numbered rows of one bucket, `batch` at a time, or fewer where LATE batches have overtaken them."""
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
    next_number = 0
    for number, item in pairs:
        done[number] = item
        while next_number in done:
            yield done.pop(next_number)
            next_number += 1


def _no_detections() -> Detections:
    blank = np.zeros((0, 0), np.float32)
    return Detections(
        boxes=np.zeros((0, 0, 4), np.float32), scores=blank, labels=blank.astype(np.int32), valid=blank.astype(bool)
    )

"""A detector to be called with pictures, for Python and notebooks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from jaxkd import config as configs
from jaxkd.data import loader, pictures
from jaxkd.data.base import Record, coco_truth
from jaxkd.data.files import blank_record
from jaxkd.errors import DataError
from jaxkd.train import build, look, mesh, prepare
from jaxkd.types import Detections

Picture = np.ndarray | str | Path  # an RGB picture, uint8 [h w 3], or its file


def load(path: str | Path, *, classes: Sequence[str] = ()) -> "Predictor":
    """The detector that `train.prepare.load_detector` finds there, to be called."""
    return Predictor(prepare.load_detector(path, classes=classes))


class Predictor:
    """Finds objects in pictures of any size.

    Attributes:
      classes: names of the labels.
      sizes: how pictures are resized, as fields of `data.loader`; those of training, or else COCO's.
    """

    def __init__(self, loaded: build.Loaded):
        self.classes = loaded.detector.classes
        self.sizes = loaded.sizes
        self._loaded = loaded
        self._feeding = configs.build(configs.component("data.loader", **loaded.sizes))
        self._devices = mesh.make_mesh(1)

    def __call__(self, images: Picture | Sequence[Picture]) -> Detections:
        """Detections as NumPy arrays, a row for each picture and best first: boxes [b d 4] (x0, y0, x1, y1) in the
        picture's own pixels, scores [b d], labels [b d], and which of them are valid [b d].

        Args:
          images: one or several, each an RGB array or the path of a file.

        Raises DataError for a picture that cannot be read or is no uint8 array [h w 3].
        """
        several = [images] if isinstance(images, (str, Path, np.ndarray)) else list(images)
        source = _Pictures(several)
        detect = look.compiled_detect(self._loaded.detector, self._devices)
        rows: list[Any] = []
        for batch in loader.eval_batches(source, self._feeding, batch=1) if several else ():
            found = jax.device_get(detect(self._loaded.params, mesh.put_batch(batch, self._devices)))
            record = source.records[int(batch.ids[0])]
            factors = np.asarray(batch.scales, np.float32)[:, None, [1, 0, 1, 0]]
            limits = np.array([record.width, record.height] * 2, np.float32)
            rows.append((record.index, found.replace(boxes=np.clip(found.boxes / factors, 0, limits))))
        rows.sort(key=lambda row: row[0])
        return jax.tree.map(lambda *parts: np.concatenate(parts), *(row for _, row in rows)) if rows else _nothing()


class _Pictures:
    """Pictures in memory as a data source without truth."""

    classes: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()

    def __init__(self, images: Sequence[Picture]):
        self.repairs: dict[str, int] = {}
        self._images = [_array(image) for image in images]
        self.records: Sequence[Record] = tuple(
            blank_record(index, Path(f"picture {index}"), *image.shape[:2]) for index, image in enumerate(self._images)
        )

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of a record."""
        return self._images[index]

    def annotations(self) -> dict:
        """No truth."""
        return coco_truth(self, [])


def _array(image: Picture) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(image, (str, Path)):
        return pictures.read(Path(image))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise DataError(f"A picture has to be a uint8 array [h w 3], not {image.dtype} {list(image.shape)}.")
    return image


def _nothing() -> Detections:
    blank = np.zeros((0, 0), np.float32)
    return Detections(
        boxes=np.zeros((0, 0, 4), np.float32), scores=blank, labels=blank.astype(np.int32), valid=blank.astype(bool)
    )

"""The input of every format: a detector as a function of pictures, and the description that goes beside the file."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.export
from jax import Array
from jax import numpy as jnp
from jaxtyping import Int, UInt8

from jaxkd.data.pictures import MAX_PIXELS
from jaxkd.errors import ConfigError, first_line
from jaxkd.loading import build
from jaxkd.types import Batch
from jaxkd.version import VERSION, install_line

DESCRIPTION, SCRIPT = "model.json", "detect.py"
OUTPUTS = ("boxes", "scores", "labels", "count")
INPUTS = ("images", "sizes")
MAX_SIDE = 16384  # pixels of a side of a canvas, and so most rows of anchors on the finest level


@dataclass(frozen=True)
class Subject:
    """A detector and the one canvas size that it is exported for."""

    loaded: build.Loaded
    size: tuple[int, int]  # height and width

    @property
    def short(self) -> int:
        """Pixels of a picture's shorter side."""
        return int((self.loaded.sizes.get("short") or (min(self.size),))[0])

    @property
    def long(self) -> int:
        """Most pixels of its longer side."""
        return int(self.loaded.sizes.get("long") or max(self.size))

    def function(self, images: UInt8[Array, "b h w 3"], sizes: Int[Array, "b 2"]) -> dict[str, Array]:
        """The function that is exported; `describe` documents its inputs and outputs."""
        b = images.shape[0]
        batch = Batch(
            images=images,
            sizes=sizes,
            boxes=jnp.zeros((b, 1, 4)),
            labels=jnp.zeros((b, 1), jnp.int32),
            valid=jnp.zeros((b, 1), bool),
            crowd=jnp.zeros((b, 1), bool),
            ids=jnp.zeros(b, jnp.int32),
            scales=jnp.ones((b, 2)),
            real=jnp.ones(b, bool),
        )
        detections = self.loaded.detector.detect(self.loaded.params, batch)
        return {
            "boxes": jnp.where(detections.valid[..., None], detections.boxes, 0),
            "scores": jnp.where(detections.valid, detections.scores, 0),
            "labels": jnp.where(detections.valid, detections.labels, 0),
            "count": detections.valid.sum(1, dtype=jnp.int32),
        }

    def shapes(self, batch: Any) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Shapes of the inputs for a batch size that is a number or a symbol."""
        height, width = self.size
        images = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8)
        return images, jax.ShapeDtypeStruct((batch, 2), jnp.int32)

    def program(self) -> Any:
        """The function traced for any number of pictures b: a ClosedJaxpr, its outputs in the order of OUTPUTS."""

        def ordered_outputs(images: Any, sizes: Any) -> list[Array]:
            outputs = self.function(images, sizes)
            return [outputs[name] for name in OUTPUTS]

        (batch,) = jax.export.symbolic_shape("b")
        return jax.make_jaxpr(ordered_outputs)(*self.shapes(batch))


def subject(loaded: build.Loaded, *, size: tuple[int, int] | None = None) -> Subject:
    """A detector for pictures of `size` (height, width), by default its first bucket; it computes in float32.

    Raises ConfigError where no size is given and the detector names no bucket, or where the size is out of bounds.
    """
    sizes = [size] if size else list(loaded.sizes.get("buckets") or ())
    if not sizes:
        raise ConfigError("The detector does not say how large its pictures are; give --size=HEIGHTxWIDTH.")
    height, width = sizes[0]
    if min(height, width) < 1:
        raise ConfigError(f"The size of an export must be at least 1x1, not {height}x{width}.")
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise ConfigError(
            f"A size of {height}x{width} is too large; give --size=HEIGHTxWIDTH with at most {MAX_SIDE} pixels a side "
            f"and {MAX_PIXELS // 10**6} million in all."
        )
    if loaded.config.get("dtype", "float32") != "float32":
        loaded = build.with_dtype(loaded, dtype="float32")
    return Subject(loaded, (int(height), int(width)))


def describe(subject: Subject, *, kind: str, file: str) -> dict[str, Any]:
    """The content of model.json: how to prepare a picture, and what the outputs mean."""
    loaded, (height, width) = subject.loaded, subject.size
    return {
        "format": kind,
        "file": file,
        "jaxkd": VERSION,
        "detector": loaded.config.name,
        "classes": list(loaded.detector.classes),
        "picture": {
            "canvas": [height, width],
            "short": subject.short,
            "long": subject.long,
            "rule": "Scale by min(short / shorter side, long / longer side), then down until it fits the canvas, "
            "both sides by one factor, rounded to whole pixels; bilinear, pixel centres at half pixels, weights in "
            "2048ths, as OpenCV's INTER_LINEAR and detect.py do it; lay it in the top left corner of a black canvas.",
            "reading": {
                "exif": "turn" if loaded.reading.follows_exif else "ignore",
                "levels": list(loaded.reading.levels),
                "fourth": loaded.reading.fourth,
            },
            "normalisation": {
                "pixel_mean": list(loaded.config.pixels.mean),
                "pixel_std": list(loaded.config.pixels.std),
                "where": "inside the model, of RGB values from 0 to 255",
            },
        },
        "inputs": {
            "images": f"uint8 [b {height} {width} 3], RGB canvases, any number of them",
            "sizes": "int32 [b 2], height and width of each picture on its canvas",
        },
        "outputs": {
            "boxes": "float32 [b d 4], x0 y0 x1 y1 in pixels of the canvas, best first",
            "scores": "float32 [b d]",
            "labels": "int32 [b d], indices into classes",
            "count": "int32 [b], how many of the d are detections; the others are zero",
        },
    }


def installed(modules: Sequence[str]) -> bool:
    """Whether all of these modules are there."""
    return not _missing(modules)


def require(kind: str, *, extra: str, modules: Sequence[str]) -> None:
    """Raises ConfigError, with the command that installs them, where one of the modules is missing."""
    if missing := _missing(modules):
        raise ConfigError(f"The format {kind} needs {', '.join(missing)}: {_installs(extra, missing)}.")


def _missing(modules: Sequence[str]) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]


def import_failure(kind: str, error: ImportError, *, extra: str, modules: Sequence[str]) -> ConfigError:
    """The error for a package whose import fails while a file is written."""
    return ConfigError(
        f"The format {kind} needs packages that cannot be imported ({first_line(error)}): {_installs(extra, modules)}."
    )


def _installs(extra: str, modules: Sequence[str]) -> str:
    return install_line(extra) if extra else f"pip install {' '.join(modules)}"


def megabytes(path: Path) -> float:
    """Megabytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6

"""The input of every format: a detector as a function of pictures, and the description that goes beside the file."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Int, Num, UInt8

from jaxkd.data.pictures import MAX_PIXELS
from jaxkd.errors import ConfigError, first_line
from jaxkd.loading import build
from jaxkd.types import Batch
from jaxkd.version import VERSION, install_line

DESCRIPTION, SCRIPT = "model.json", "detect.py"
OUTPUTS = ("boxes", "scores", "labels", "count")
INPUTS = ("images", "sizes")
BLACK = (0, 0, 0)
TOLERANCE = 0.001  # of AP, between a float32 file and its detector
ROUNDED_TOLERANCE = 0.005  # the same where a colour or the weights are rounded
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

    @property
    def fit(self) -> str:
        """Whether a picture keeps the ratio of its sides ("keep") or fills the canvas ("stretch")."""
        return str(self.loaded.sizes.get("fit", "keep"))

    @property
    def antialias(self) -> bool:
        """Whether a picture that shrinks is smoothed."""
        return bool(self.loaded.sizes.get("antialias", False))

    def function(self, images: UInt8[Array, "b h w 3"], sizes: Int[Array, "b 2"]) -> dict[str, Array]:
        """The detections of the detector; `describe` documents inputs and outputs."""
        detections = self.loaded.detector.detect(self.loaded.params, batch_of(images, sizes))
        return {
            "boxes": jnp.where(detections.valid[..., None], detections.boxes, 0),
            "scores": jnp.where(detections.valid, detections.scores, 0),
            "labels": jnp.where(detections.valid, detections.labels, 0),
            "count": detections.valid.sum(1, dtype=jnp.int32),
        }

    @property
    def own(self) -> "Subject":
        """The detector as it was trained."""
        return self

    def on(self, size: tuple[int, int]) -> "Subject":
        """The detector on a canvas of another size; ConfigError where that is out of bounds."""
        return dataclasses.replace(self, size=_checked(size))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs of the file."""
        return INPUTS

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs."""
        return OUTPUTS

    def exported(self, *inputs: Array) -> dict[str, Array]:
        """The function that is exported."""
        return self.function(*inputs)

    def shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of the inputs, for any number b of pictures."""
        (b,) = jax.export.symbolic_shape("b")
        return jax.ShapeDtypeStruct((b, *self.size, 3), jnp.uint8), jax.ShapeDtypeStruct((b, 2), jnp.int32)

    def program(self) -> Any:
        """The exported function traced: a ClosedJaxpr, its outputs in the order of `outputs`."""

        def ordered_outputs(*inputs: Any) -> list[Array]:
            outputs = self.exported(*inputs)
            return [outputs[name] for name in self.outputs]

        return jax.make_jaxpr(ordered_outputs)(*self.shapes())

    @property
    def tolerance(self) -> float:
        """The largest difference in AP between the float32 file and the detector."""
        return TOLERANCE

    @property
    def fill(self) -> tuple[int, int, int]:
        """The colour of the canvas around a picture, RGB from 0 to 255."""
        return BLACK

    def canvases(self, images: UInt8[np.ndarray, "b h w 3"], sizes: Int[np.ndarray, "b 2"]) -> np.ndarray:
        """The canvases [b h w 3] as detect.py makes them, of the loader's, which are black around the pictures."""
        if self.fill == BLACK:
            return images
        rows, columns = (np.arange(side) for side in images.shape[1:3])
        within = (rows < sizes[:, :1])[:, :, None] & (columns < sizes[:, 1:])[:, None]
        return np.where(within[..., None], images, np.asarray(self.fill, np.uint8))

    def tensors(self) -> dict[str, Any]:
        """What model.json says of inputs and outputs."""
        height, width = self.size
        return {
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


def batch_of(images: Num[Array, "b h w 3"], sizes: Int[Array, "b 2"]) -> Batch:
    """The pictures as a batch without truth."""
    b = images.shape[0]
    return Batch(
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


def subject(loaded: build.Loaded, *, size: tuple[int, int] | None = None) -> Subject:
    """A detector for pictures of `size` (height, width), by default its first bucket; it computes in float32.

    Raises ConfigError where no size is given and the detector names no bucket, or where the size is out of bounds.
    """
    if "detections" not in loaded.detector.traits.capabilities:
        raise ConfigError(f"This {loaded.config.name} gives no detections, so it cannot be exported; give a detector.")
    sizes = [size] if size else list(loaded.sizes.get("buckets") or ())
    if not sizes:
        raise ConfigError("The detector does not say how large its pictures are; give --size=HEIGHTxWIDTH.")
    size = _checked(sizes[0])
    if loaded.config.get("dtype", "float32") != "float32":
        loaded = build.with_dtype(loaded, dtype="float32")
    return Subject(loaded, size)


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    """The size, unless it is out of bounds."""
    height, width = size
    if min(height, width) < 1:
        raise ConfigError(f"The size of an export must be at least 1x1, not {height}x{width}.")
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        raise ConfigError(
            f"A size of {height}x{width} is too large; give --size=HEIGHTxWIDTH with at most {MAX_SIDE} pixels a side "
            f"and {MAX_PIXELS // 10**6} million in all."
        )
    return int(height), int(width)


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
            **_resizing(subject),
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
    } | subject.tensors()


def _resizing(subject: Subject) -> dict[str, Any]:
    """What model.json says of how a picture comes to the canvas."""
    bilinear = (
        "bilinear, and of a side that shrinks each pixel is a mean of all that it covers, as Pillow's BILINEAR does it"
        if subject.antialias
        else "bilinear, pixel centres at half pixels, weights in 2048ths, as OpenCV's INTER_LINEAR and detect.py do it"
    )
    how = {"fit": subject.fit, "antialias": subject.antialias}
    if subject.fit == "stretch":
        return how | {"rule": f"Resize to the canvas, each side by its own factor; {bilinear}."}
    return how | {
        "short": subject.short,
        "long": subject.long,
        "rule": "Scale by min(short / shorter side, long / longer side), then down until it fits the canvas, both "
        f"sides by one factor, rounded to whole pixels; {bilinear}; lay it in the top left corner of a canvas of the "
        "colour fill.",
        "fill": list(subject.fill),
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

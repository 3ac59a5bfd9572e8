"""A dense detector whose file ends with the maps of its head; detect.py decodes them.

The file is of one picture and of static shapes. It has no input for the picture's size: the nets see the whole canvas,
which is filled with the mean colour around the picture. So the masks of the pictures are ones and vanish, and what is
left are convolutions, activations, sums and resizes, which the compilers of small chips have.
"""

import dataclasses
from typing import Any, Literal

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Num

from jaxkd.detectors import parts
from jaxkd.detectors.dense import Dense
from jaxkd.detectors.pyramid import PyramidDetector
from jaxkd.errors import ConfigError
from jaxkd.export.base import ROUNDED_TOLERANCE, Subject, batch_of
from jaxkd.loading import build
from jaxkd.ops import boxes as box_ops
from jaxkd.types import Batch


@dataclasses.dataclass(frozen=True)
class RawSubject(Subject):
    """A dense detector that sees the whole canvas; `loaded` is this one, and `trained` the one that it was made of."""

    trained: build.Loaded
    dtype: Literal["uint8", "float32"] = "uint8"  # of the input; RGB values from 0 to 255 in either

    @property
    def own(self) -> Subject:
        """The detector as it was trained."""
        return Subject(self.trained, self.size)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs of the file."""
        return ("images",)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs, two for each level."""
        return tuple(
            f"{name}_{level}" for level in range(len(self._detector.traits.strides)) for name in ("logits", "boxes")
        )

    def exported(self, *inputs: Array) -> dict[str, Array]:
        """The function that is exported: for each level two maps [1 h w _]."""
        (images,) = inputs
        pixels = parts.Pixels(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))  # `_normalised` does it
        detector = _with(self._detector, pixels=pixels)
        batch = self._batch(_normalised(images, self._detector.config.pixels))
        maps = detector.maps(self.loaded.params, detector.features(self.loaded.params, batch), batch)
        return dict(zip(self.outputs, (of_level for level in maps for of_level in level), strict=True))

    def shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shape of one picture."""
        return (jax.ShapeDtypeStruct((1, *self.size, 3), self.dtype),)

    @property
    def tolerance(self) -> float:
        """More than that of other files: the colour around a picture is a rounded one."""
        return ROUNDED_TOLERANCE

    @property
    def fill(self) -> tuple[int, int, int]:
        """The mean colour, as near to it as there is one."""
        red, green, blue = (int(min(max(round(value), 0), 255)) for value in self._detector.config.pixels.mean)
        return red, green, blue

    def tensors(self) -> dict[str, Any]:
        """What model.json says of inputs and outputs, and how detect.py makes detections of these."""
        height, width = self.size
        shapes = jax.eval_shape(self.exported, *self.shapes())
        postprocess, code = self.loaded.config.postprocess, self._detector.traits.box_code
        return {
            "inputs": {"images": f"uint8 [1 {height} {width} 3], one RGB canvas"},
            "outputs": {
                name: f"[{' '.join(map(str, shape.shape))}], "
                + ("logits of the classes" if name.startswith("logits") else f"boxes as {code.kind}")
                for name, shape in shapes.items()
            },
            "decoding": {
                "code": code.kind,
                "weights": list(code.weights),
                "most_log": box_ops.MAX_LOG_RATIO,
                "levels": self._levels(),
                **{name: postprocess[name] for name in ("score_threshold", "candidates", "nms", "max_detections")},
            },
        }

    def _levels(self) -> list[dict[str, Any]]:
        """For each level the anchors of its first cell, the step to the next, and the pixels of a unit of distance."""
        detector = self._detector
        batch = self._batch(jnp.zeros((1, *self.size, 3)))
        features = jax.eval_shape(detector.features, self.loaded.params, batch)
        anchors = detector.grid_anchors(features, batch)
        boxes, levels = np.asarray(anchors.boxes).reshape(-1, 4), np.asarray(anchors.levels)
        found = []
        for level, shape in enumerate(maps.shape[1:3] for maps in features.neck):
            grid = boxes[levels == level].reshape(*shape, -1, 4)
            steps = [float((grid[1, 0] - grid[0, 0])[0, 1]) if shape[0] > 1 else 0.0]
            steps += [float((grid[0, 1] - grid[0, 0])[0, 0]) if shape[1] > 1 else 0.0]
            unit = float(grid[0, 0, 0, 2] - grid[0, 0, 0, 0]) / self._detector.traits.box_code.strides
            found.append({"anchors": grid[0, 0].tolist(), "step": steps, "unit": unit})
        return found

    def _batch(self, images: Num[Array, "1 h w 3"]) -> Batch:
        """A picture that fills the canvas."""
        return batch_of(images, jnp.asarray([self.size], jnp.int32))

    @property
    def _detector(self) -> Any:
        """A `Dense` of a pyramid; see `subject`."""
        return self.loaded.detector


def subject(detections: Subject) -> RawSubject:
    """A detector for a file that ends with its head's maps.

    Raises ConfigError where the detector has no such maps, as those of two stages.
    """
    loaded = detections.loaded
    detector = loaded.detector
    if not isinstance(detector, Dense) or not isinstance(detector, PyramidDetector):
        raise ConfigError(
            f"--tail=raw is for detectors of one stage, such as detectors.gfl, and not for {loaded.config.name}; leave "
            "it out, or export another detector."
        )
    if detector.config.compat.padding == "canvas":
        return RawSubject(loaded, detections.size, trained=loaded)
    compat = dataclasses.replace(detector.config.compat, padding="canvas")
    on_canvas = dataclasses.replace(loaded, detector=_with(detector, compat=compat))
    return RawSubject(on_canvas, detections.size, trained=loaded)


def _with(detector: Any, **fields: Any) -> Any:
    """The detector with other fields of its config."""
    return dataclasses.replace(detector, config=dataclasses.replace(detector.config, **fields))


def _normalised(images: Num[Array, "1 h w 3"], pixels: parts.Pixels) -> Float[Array, "1 h w 3"]:
    """The normalised pictures, by a convolution of each colour by itself, so that int8 has one scale for each."""
    mean, std = (jnp.asarray(values, jnp.float32) for values in (pixels.mean, pixels.std))
    kernel = (1 / std)[None, None, None]
    dimensions = ("NHWC", "HWIO", "NHWC")
    colours = lax.conv_general_dilated(
        images.astype(jnp.float32), kernel, (1, 1), "VALID", dimension_numbers=dimensions, feature_group_count=3
    )
    return colours - mean / std

"""Parts of the Configs of detectors with queries."""

from dataclasses import dataclass, field
from typing import Literal

from jaxkd.detectors import parts
from jaxkd.nets.remat import Remat
from jaxkd.ranges import Count, Natural, NonNegative, Share


@dataclass(frozen=True)
class Postprocess:
    """From predictions to detections."""

    score_threshold: Share = 0.0
    """Score above which a box is a detection."""
    max_detections: Count = 300
    """Most detections of a picture."""


@dataclass(frozen=True)
class Denoising:
    """Truths with noise that the decoder learns to find again, beside its own queries; see `ops.denoising`."""

    queries: Natural = 100
    """Positive queries of a picture, in whole groups of `data.loader.max_objects`, at least one; 0 for none."""
    label_noise: Share = 0.5
    """Twice the share of labels that are drawn anew."""
    box_noise: NonNegative = 1.0
    """Largest movement of a positive's edges, in halves of the box's sides."""


@dataclass(frozen=True)
class Common:
    """What the Configs of detectors with queries share."""

    denoising: Denoising = field(default_factory=Denoising)
    """Truths with noise, in training."""
    postprocess: Postprocess = field(default_factory=Postprocess)
    """From predictions to detections."""
    pixels: parts.Pixels = field(default_factory=lambda: parts.Pixels(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)))
    """Normalisation of the pictures; by default to 0..1."""
    frozen_stages: parts.Stages = -1
    """Backbone stages that are not trained: -1 none, 0 the stem, 1 the stem and the first, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which backbone and neck compute; the decoder and all parameters are float32."""
    remat: Remat = "none"
    """Rematerialisation of the backbone's blocks: less memory, more time; see `nets.remat`."""

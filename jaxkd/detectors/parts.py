"""Parts of a detector's settings that detectors with anchors on a feature pyramid share."""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxkd.detectors.feature_extractor import Padding
from jaxkd.ranges import Count, Finite, Positive, Range, Share

BoxWeights = tuple[Positive, Positive, Positive, Positive]  # factors on the deltas dx, dy, dw and dh
Stages = Annotated[int, Range(-1)]  # of a backbone: -1 none, 0 the stem, 1 the stem and the first, ...
# Caffe's weights, from which detectron2 starts, are for pictures with the mean subtracted and nothing else.
CAFFE_PIXELS = {"mean": (123.675, 116.28, 103.53), "std": (1.0, 1.0, 1.0)}


@dataclass(frozen=True)
class Anchors:
    """Anchors of every cell of every level."""

    sizes: tuple[Positive, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    """Side in pixels of the (smallest) anchors of each level, finest level first."""
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    """Height / width of the anchors of every level."""
    offset: Share = 0.0
    """Where in its cell an anchor is centred; 0.5 is the middle."""
    octaves: Count = 1
    """Sizes of a level, each 2^(1/octaves) times the one before."""

    def of_levels(self) -> tuple[tuple[float, ...], ...]:
        """All sizes of each level, in pixels."""
        factors = [2 ** (step / self.octaves) for step in range(self.octaves)]
        return tuple(tuple(size * factor for factor in factors) for size in self.sizes)


@dataclass(frozen=True)
class Postprocess:
    """From predictions to detections."""

    score_threshold: Share = 0.05
    """Score above which a box is a detection."""
    nms: Share = 0.5
    """IoU above which the lower scored of two boxes of a class is suppressed."""
    max_detections: Count = 100
    """Most detections of a picture."""
    candidates: Count = 2000
    """Boxes of the highest scores that enter the suppression: of a picture, or in RetinaNet of a level."""


@dataclass(frozen=True)
class Pixels:
    """Normalisation of pictures."""

    mean: tuple[Finite, Finite, Finite] = (123.675, 116.28, 103.53)
    """Subtracted from RGB values in 0..255."""
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    """By which the difference is divided."""


@dataclass(frozen=True)
class Compat:
    """What only imitates another library, so that its weights give its outputs; see `like` of `config.component`."""

    anchor_step: Literal["stride", "canvas"] = "stride"
    """Pixels between the anchors of two cells: the level's stride, or as in torchvision the "canvas" divided by its
    cells. The canvas is the picture with its visible padding where `padding` is "seen", and else all that the picture
    is padded to; on coarse levels the step then depends on how far that is."""
    anchor_rounded: bool = False
    """Base anchors rounded to whole pixels, and in RetinaNet sizes rounded down, as in torchvision."""
    padding: Padding = "masked"
    """What the nets see beyond a picture's edge: nothing ("masked"), zeros up to the next multiple of 32 pixels
    ("seen"), as in the training of torchvision, detectron2 and mmdetection, or zeros on the whole "canvas"; see
    `detectors.feature_extractor`."""

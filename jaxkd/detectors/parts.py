"""Parts of a detector's settings that detectors with anchors on a feature pyramid share."""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxkd.detectors.feature_extractor import Padding
from jaxkd.nets.activation import Activation
from jaxkd.ranges import Count, Finite, Natural, Positive, Probability, Range, Share

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
class Head:
    """A dense head: one tower of convolutions for classes and one for boxes, or one for both."""

    convs: Natural = 4
    """Convolutions of each tower."""
    channels: Count = 256
    """Width of the towers."""
    kernel: Literal[3, 5] = 3
    """Size of the convolutions."""
    separable: bool = False
    """Depth-wise convolutions, each before one of 1x1, in place of full ones."""
    shared_tower: bool = False
    """One tower for classes and boxes."""
    per_level: bool = False
    """A head for each level, in place of one that all share."""
    level_scales: bool = True
    """A learned factor on each level's outputs for the sides of boxes."""
    last_kernel: Literal[1, 3] = 3
    """Size of the convolutions that predict."""
    norm: Literal["none", "group", "frozen_batch", "batch", "sync_batch", "bias"] = "group"
    """Norm after each convolution of the towers; batch norms, whose statistics differ by level, want `per_level`."""
    groups: Count = 32
    """Number of groups of "group" norm."""
    activation: Activation = "relu"
    """After each convolution of the towers; "leaky" has a slope of 0.1 below 0."""
    prior: Probability = 0.01
    """Probability of every class before training."""


HEAD_ONLY_WITH = {  # of a detector with such a head: fields that do nothing unless another is so; see `train.unused`
    "head.channels": ("head.convs", True),
    "head.kernel": ("head.convs", True),
    "head.separable": ("head.convs", True),
    "head.shared_tower": ("head.convs", True),
    "head.norm": ("head.convs", True),
    "head.groups": ("head.norm", "group"),
    "head.activation": ("head.convs", True),
}


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
    """Boxes of the highest scores that enter the suppression: of a picture, or in a dense detector of a level."""


@dataclass(frozen=True)
class Pixels:
    """Normalisation of pictures."""

    mean: tuple[Finite, Finite, Finite] = (123.675, 116.28, 103.53)
    """Subtracted from RGB values in 0..255."""
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    """By which the difference is divided."""


@dataclass(frozen=True)
class Spacing:
    """What only imitates another library, so that its weights give its outputs; see `like` of `config.component`."""

    anchor_step: Literal["stride", "canvas"] = "stride"
    """Pixels between the anchors of two cells: the level's stride, or as in torchvision the "canvas" divided by its
    cells. The canvas is the picture with its visible padding where `padding` is "seen", and else all that the picture
    is padded to; on coarse levels the step then depends on how far that is."""
    padding: Padding = "masked"
    """What the nets see beyond a picture's edge: nothing ("masked"), zeros up to the next multiple of 32 pixels
    ("seen"), as in the training of torchvision, detectron2 and mmdetection, or zeros on the whole "canvas"; see
    `detectors.feature_extractor`."""

    @property
    def step(self) -> str:
        """What the step between anchors depends on, for `Traits.anchors`."""
        return "stride" if self.anchor_step == "stride" else f"{self.padding} canvas"


@dataclass(frozen=True)
class Compat(Spacing):
    """What only imitates another library, in a detector with anchors of several shapes."""

    anchor_rounded: bool = False
    """Base anchors rounded to whole pixels, and in RetinaNet sizes rounded down, as in torchvision."""

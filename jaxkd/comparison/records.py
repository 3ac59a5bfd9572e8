"""What a comparison holds: plain records, which the page, the tables and the JSON are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxkd import config as configs
from jaxkd.evaluation import coco, voc
from jaxkd.evaluation.bootstrap import Interval
from jaxkd.evaluation.cost import Cost
from jaxkd.evaluation.errors import Confusion, Errors
from jaxkd.loading import build

SCORE = 0.5  # from which on a detection is drawn and counted, where only sure ones are
BATCHES = (1, 8)  # pictures at once whose time is taken
Role = Literal["alone", "taught", "teacher", "weights"]


@dataclass(frozen=True)
class Entry:
    """A detector that takes part: the best student of a run, or weights from elsewhere."""

    name: str
    place: str  # its folder, as it was given
    loaded: build.Loaded
    recipe: configs.Recipe = None  # of the run; None for weights


@dataclass(frozen=True)
class Series:
    """A number over the steps of a run; only where it is finite."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """What a run said while it went."""

    steps: int  # of the whole run, as its recipe has it
    reported: Mapping[str, Series]  # by the key in metrics.jsonl
    scores: Mapping[str, Series]  # "AP" and the like, of evaluations


@dataclass(frozen=True)
class Gains:
    """Differences to the first detector."""

    summary: Mapping[str, Interval]  # of COCO's numbers that are AP
    per_class: Mapping[str, Interval]


@dataclass(frozen=True)
class Compared:
    """One of the detectors, and all that is known of it."""

    name: str
    place: str
    role: Role
    methods: tuple[str, ...]  # that taught it
    sizes: str  # of the pictures that it sees
    scores: coco.Scores
    voc: voc.Scores | None
    costs: Mapping[int, Cost]  # by the pictures of a batch
    errors: Errors  # of all detections
    sure: Errors  # of those with a score of SCORE or more
    confusion: Confusion
    quality: np.ndarray  # [n] of each picture, see `matches.quality`
    gains: Gains | None  # None for the first
    curves: Curves | None  # of a run
    results: list[dict[str, Any]]  # detections, as COCO results


@dataclass(frozen=True)
class Comparison:
    """Detectors on the same pictures; the first is what the others are held against."""

    detectors: tuple[Compared, ...]
    focus: str  # name of the one that the first screen is about
    images: tuple[int, ...]  # ids of the pictures, in the order of `Compared.quality`
    objects: Mapping[str, int]  # by the name of the class
    sizes: Mapping[str, int]  # objects by COCO's sizes
    resamples: int
    seed: int
    machine: str
    remarks: tuple[str, ...]

    @property
    def first(self) -> Compared:
        """The reference of all differences."""
        return self.detectors[0]

    @property
    def other(self) -> Compared:
        """The detector in focus."""
        return next(one for one in self.detectors if one.name == self.focus)

    @property
    def teacher(self) -> Compared | None:
        """The one that taught, if it is here and not the first or in focus itself."""
        shown = (one for one in self.detectors if one.role == "teacher" and one not in (self.first, self.other))
        return next(shown, None)

"""The records of a comparison, from which the page, the tables and the JSON are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxkd import config as configs
from jaxkd.evaluation import coco, voc
from jaxkd.evaluation.bootstrap import Interval
from jaxkd.evaluation.cost import Cost
from jaxkd.evaluation.errors import Confusion, Errors
from jaxkd.evaluation.seeds import OverSeeds
from jaxkd.loading import build

SCORE = 0.5  # lowest score of a detection that is drawn, or counted as confident
BATCHES = (1, 8)  # batch sizes that are timed
Role = Literal["alone", "taught", "teacher", "weights"]


@dataclass(frozen=True)
class Entry:
    """A detector of the comparison: the best student of a run, or weights from elsewhere."""

    name: str
    folder: str  # as it was given
    loaded: build.Loaded
    recipe: configs.Recipe = None  # of the run; None for weights


@dataclass(frozen=True)
class Series:
    """A number over the steps of a run, without its non-finite values."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """The curves in the log of a run."""

    steps: int  # of the whole run, from its recipe
    reported: Mapping[str, Series]  # by the key in metrics.jsonl
    scores: Mapping[str, Series]  # "AP" and the like, of evaluations


@dataclass(frozen=True)
class Gains:
    """Differences to the reference detector."""

    summary: Mapping[str, Interval]  # of COCO's numbers that are AP
    per_class: Mapping[str, Interval]


@dataclass(frozen=True)
class ComparedDetector:
    """The results of one detector."""

    name: str
    folder: str
    role: Role
    methods: tuple[str, ...]  # that it was taught by
    sizes: str  # of its pictures' sides
    scores: coco.Scores
    voc: voc.Scores | None
    costs: Mapping[int, Cost]  # by the pictures of a batch
    errors: Errors  # of all detections
    confident_errors: Errors  # of those with a score of SCORE or more
    confusion: Confusion
    quality: np.ndarray  # [n] of each picture, see `matches.quality`
    gains: Gains | None  # None for the reference
    curves: Curves | None  # of a run
    results: list[dict[str, Any]]  # detections, as COCO results


@dataclass(frozen=True)
class Comparison:
    """Detectors on the same pictures; the first is the reference of all differences."""

    detectors: tuple[ComparedDetector, ...]
    focus: str  # name of the detector that the summary is about
    images: tuple[int, ...]  # ids of the pictures, in the order of `ComparedDetector.quality`
    objects: Mapping[str, int]  # by the name of the class
    sizes: Mapping[str, int]  # objects by COCO's sizes
    resamples: int
    seed: int
    machine: str
    remarks: tuple[str, ...]
    split: str = "validation"  # what the pictures are called
    over_seeds: OverSeeds | None = None  # of the detector in focus, where it was trained from several seeds

    @property
    def gain(self) -> Interval | None:
        """The gain in AP of the detector in focus: over all seeds where there are several; None of the reference."""
        if self.over_seeds:
            return self.over_seeds.mean
        return self.focused.gains.summary["AP"] if self.focused.gains else None

    @property
    def title(self) -> str:
        """What is compared with what."""
        return self.focus if self.gain is None else f"{self.focus} compared with {self.reference.name}"

    @property
    def reference(self) -> ComparedDetector:
        """The reference of all differences."""
        return self.detectors[0]

    @property
    def focused(self) -> ComparedDetector:
        """The detector in focus."""
        return next(detector for detector in self.detectors if detector.name == self.focus)

    @property
    def teacher(self) -> ComparedDetector | None:
        """The teacher, if it is among the detectors and is neither the reference nor in focus."""
        teachers = (
            detector
            for detector in self.detectors
            if detector.role == "teacher" and detector not in (self.reference, self.focused)
        )
        return next(teachers, None)

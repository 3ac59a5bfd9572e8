"""PKD: feature maps of equal shape up to scale and offset, by the Pearson correlation of each channel.

Source: Cao et al. 2022 (arXiv 2207.02039), equations 3 and 4. Up to rounding a level's term is the weight times
(n - 1) / n times the mean over channels of 1 - r, with r the correlation of the student's channel with the teacher's
over the batch's n cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxkd.distill import base, levels
from jaxkd.nets.norm import DEVICES
from jaxkd.ops.standardise import standardised
from jaxkd.ranges import Natural, NonNegative
from jaxkd.types import Inputs, Losses, Term

ZERO_AT_TEACHER = {"adapter.kind": "identity"}
ONLY_WITH = levels.ADAPTER_ONLY_WITH


@dataclass(frozen=True)
class Config(levels.Maps):
    """Imitation of standardised maps; the defaults are those published for Faster R-CNN."""

    weight: NonNegative = 6.0
    """Factor on the terms; 10 was published for RetinaNet."""
    levels: Natural = 4
    """How many of the common levels, finest first; 0 for all."""
    statistics: Literal["device", "all"] = "device"
    """Whose pictures mean and deviation are of: those of each device, as published, or of "all" devices."""
    reliability_from: str = ""
    """A method of the recipe that gives the reliability of each object (`reliability`); empty for 1."""


region_sources = base.student_regions
needs = base.both_features
init = levels.init


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """Half the squared distance of standardised maps, averaged over cells and channels, for each level.

    The metric "correlation" is the mean correlation of the channels.
    """
    devices, terms, together = DEVICES if config.statistics == "all" else "", {}, []
    for level in levels.of_both(config, params, inputs):
        student, teacher = (standardised(one, level.mask, devices=devices) for one in (level.student, level.teacher))
        weights = level.mask * base.reliability_of_cells(inputs, level.stride)
        term = base.masked_square(student, teacher, weights)
        terms[f"feature_{level.stride}"] = Term(config.weight / student.shape[-1] * term.total, level.mask.sum())
        together.append(Term((student * teacher).mean(-1).sum(), level.mask.sum()))
    return Losses(terms=terms, metrics={"correlation": base.pooled(together)})


def zero_reasons(config: Config, metrics: Mapping[str, float]) -> dict[str, str]:
    """Why a term of each kind is 0 in a step with these metrics."""
    del config, metrics
    return {"feature": "the standardised maps are equal, or constant in every channel"}

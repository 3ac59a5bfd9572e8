"""Plain feature imitation over all cells: the baseline of the other methods."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxkd.distill import adapters, base, levels
from jaxkd.distill.decay import Config as Decay
from jaxkd.ranges import NonNegative
from jaxkd.types import Inputs, Losses, Term

ZERO_AT_TEACHER = {"adapter.kind": "identity"}
ONLY_WITH = levels.ADAPTER_ONLY_WITH


@dataclass(frozen=True)
class Config(levels.Maps):
    """Imitation of every cell inside the picture."""

    weight: NonNegative = 0.01
    """Factor on the term."""
    adapter: adapters.Adapter = field(default_factory=adapters.Adapter)
    """The student's adapter."""
    reliability_from: str = ""
    """A method of the recipe that gives the reliability of each object (`reliability`); empty for 1."""
    decay: Decay = field(default_factory=Decay)
    """Factor on the terms over the run; see `distill.decay`."""


region_sources = base.student_regions
needs = base.both_features
init = levels.init


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """Half the squared distance to the teacher's features a cell, averaged over levels."""
    of_both, terms = list(levels.of_both(config, params, inputs)), {}
    for level in of_both:
        mask = level.mask * base.reliability_of_cells(inputs, level.stride)
        term = base.masked_square(level.student, level.teacher, mask)
        terms[f"feature_{level.stride}"] = Term(config.weight / len(of_both) * term.total, term.count)
    return Losses(terms=terms, metrics={})


def zero_reasons(config: Config, metrics: Mapping[str, float]) -> dict[str, str]:
    """Why a term of each kind is 0 in a step with these metrics."""
    del config, metrics
    return {"feature": "the maps are equal in all cells that count"}

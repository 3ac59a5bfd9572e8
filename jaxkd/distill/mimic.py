"""Plain feature imitation over all cells: the baseline of the other methods."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Array, Key

from jaxkd.distill import adapters, base
from jaxkd.distill.decay import Config as Decay
from jaxkd.ops.masks import extent_mask
from jaxkd.ranges import Natural, NonNegative
from jaxkd.types import Inputs, Losses, Term, Traits

ZERO_AT_TEACHER = {"adapter.kind": "identity"}
ONLY_WITH = {"adapter.init": ("adapter.kind", adapters.TRAINED)}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config:
    """Imitation of every cell inside the picture."""

    weight: NonNegative = 0.01
    """Factor on the term."""
    source: base.Source = "neck"
    """Which maps: "neck" (feature pyramid) or "backbone"."""
    levels: Natural = 0
    """How many of the common levels, finest first; 0 for all."""
    adapter: adapters.Adapter = field(default_factory=adapters.Adapter)
    """The student's adapter."""
    reliability_from: str = ""
    """A method of the recipe that gives the reliability of each object (`reliability`); empty for 1."""
    decay: Decay = field(default_factory=Decay)
    """Factor on the terms over the run; see `distill.decay`."""


def region_sources(config: Config) -> tuple[base.RegionSource, ...]:
    """The student's regions, which the term does not use."""
    del config
    return (base.RegionSource(),)


def needs(config: Config) -> base.Needs:
    """The feature maps of both detectors."""
    del config
    features = frozenset[base.Need]({"features"})
    return base.Needs(student=features, teacher=features)


def init(config: Config, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """One adapter a level."""
    pairs = base.level_pairs(student, teacher, source=config.source, limit=config.levels)
    return adapters.init_levels(key, pairs, config.adapter)


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """Half the squared distance to the teacher's features a cell, averaged over levels."""
    student, teacher, reliability = inputs.student, inputs.teacher, inputs.reliability
    pairs = base.level_pairs(student.traits, teacher.traits, source=config.source, limit=config.levels)
    terms = {}
    for pair in pairs:
        student_map = base.maps(student.features, config.source)[pair.student]
        teacher_map = base.maps(teacher.features, config.source)[pair.teacher]
        adapted = adapters.apply(params[adapters.of_level(pair)], student_map, kind=config.adapter.kind)
        mask = extent_mask(inputs.batch.sizes, shape=adapted.shape[1:3], stride=pair.stride)
        if reliability is not None:
            mask = mask * reliability.maps.get(pair.stride, 1.0)
        term = base.masked_square(adapted, teacher_map, mask)
        terms[f"feature_{pair.stride}"] = Term(config.weight / len(pairs) * term.total, term.count)
    return Losses(terms=terms, metrics={})


def zero_reasons(config: Config, metrics: Mapping[str, float]) -> dict[str, str]:
    """Why a term of each kind is 0 in a step with these metrics."""
    del config, metrics
    return {"feature": "the maps are equal in all cells that count"}

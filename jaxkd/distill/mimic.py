"""Plain feature imitation over whole maps: the baseline that other methods are measured against."""

from dataclasses import dataclass, field

from jaxtyping import Array, Key

from jaxkd.distill import adapters, base
from jaxkd.distill.decay import Config as Decay
from jaxkd.ops.masks import extent_mask
from jaxkd.ranges import Natural, NonNegative
from jaxkd.types import Inputs, Losses, Term, Traits

ZERO_AT_TEACHER = {"adapter": "identity"}
ONLY_WITH = {"adapter_init": ("adapter", adapters.TRAINED)}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config:
    """Imitation of every cell inside the picture.

    Attributes:
      weight: of the term.
      source: which maps: "neck" (feature pyramid) or "backbone".
      levels: how many of the common levels, finest first; 0 for all.
      adapter: the student's adapter.
      adapter_init: its start.
      reliability_from: a method of the recipe that gives the reliability of each object (`reliability`); empty for 1.
      decay: see `distill.decay`.
    """

    weight: NonNegative = 0.01
    source: base.Source = "neck"
    levels: Natural = 0
    adapter: adapters.Kind = "conv3"
    adapter_init: adapters.Init = "small"
    reliability_from: str = ""
    decay: Decay = field(default_factory=Decay)


def sharing(config: Config) -> tuple[base.Sharing, ...]:
    """The student's own regions; the term does not look at them."""
    del config
    return (base.Sharing(),)


def init(config: Config, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """One adapter a level."""
    pairs = base.level_pairs(student, teacher, source=config.source, limit=config.levels)
    return adapters.init_levels(key, pairs, kind=config.adapter, start=config.adapter_init)


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """Half the squared distance to the teacher's features a cell, averaged over levels."""
    student, teacher, reliability = inputs.student, inputs.teacher, inputs.reliability
    pairs = base.level_pairs(student.traits, teacher.traits, source=config.source, limit=config.levels)
    terms = {}
    for pair in pairs:
        mine = base.maps(student.features, config.source)[pair.student]
        theirs = base.maps(teacher.features, config.source)[pair.teacher]
        mine = adapters.apply(params[adapters.of_level(pair)], mine, kind=config.adapter)
        mask = extent_mask(inputs.batch.sizes, shape=mine.shape[1:3], stride=pair.stride)
        if reliability is not None:
            mask = mask * reliability.maps.get(pair.stride, 1.0)
        term = base.masked_square(mine, theirs, mask)
        terms[f"feature_{pair.stride}"] = Term(config.weight / len(pairs) * term.total, term.count)
    return Losses(terms=terms, metrics={})

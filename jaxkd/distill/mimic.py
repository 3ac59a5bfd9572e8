"""Plain feature imitation over whole maps: the baseline that other methods are measured against."""

from dataclasses import dataclass, field

from jaxtyping import Array, Key

from jaxkd.distill import adapt as adapters
from jaxkd.distill import base
from jaxkd.distill.decay import Config as Decay
from jaxkd.ops.masks import extent_mask
from jaxkd.ranges import Natural, NonNegative
from jaxkd.types import Inputs, Outcome, Term, Traits

ZERO_AT_TEACHER = {"adapt": "identity"}
ONLY_WITH = {"adapt_init": ("adapt", adapters.TRAINED)}  # it does nothing otherwise; see `train.unused`


@dataclass(frozen=True)
class Config:
    """Imitation of every cell inside the picture.

    Attributes:
      weight: of the term.
      source: which maps: "neck" (feature pyramid) or "backbone".
      levels: how many of the common levels, finest first; 0 for all.
      adapt: the student's adapter.
      adapt_init: its start.
      sigma_from: a method of the recipe that says how far to rely on each object (`trust`); empty for wholly.
      decay: see `distill.decay`.
    """

    weight: NonNegative = 0.01
    source: base.Source = "neck"
    levels: Natural = 0
    adapt: adapters.Kind = "conv3"
    adapt_init: adapters.Init = "small"
    sigma_from: str = ""
    decay: Decay = field(default_factory=Decay)


def sharing(config: Config) -> tuple[base.Sharing, ...]:
    """The student's own regions; the term does not look at them."""
    del config
    return (base.Sharing(),)


def init(config: Config, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """One adapter a level."""
    pairs = base.level_pairs(student, teacher, source=config.source, limit=config.levels)
    return adapters.init_levels(key, pairs, kind=config.adapt, start=config.adapt_init)


def losses(config: Config, params: dict, inputs: Inputs) -> Outcome:
    """Half the squared distance to the teacher's features a cell, averaged over levels."""
    student, teacher, trust = inputs.student, inputs.teacher, inputs.trust
    pairs = base.level_pairs(student.traits, teacher.traits, source=config.source, limit=config.levels)
    terms = {}
    for pair in pairs:
        mine = base.maps(student.features, config.source)[pair.student]
        theirs = base.maps(teacher.features, config.source)[pair.teacher]
        mine = adapters.apply(params[adapters.of_level(pair)], mine, kind=config.adapt)
        mask = extent_mask(inputs.batch.sizes, shape=mine.shape[1:3], stride=pair.stride)
        if trust is not None:
            mask = mask * trust.cells.get(pair.stride, 1.0)
        term = base.masked_square(mine, theirs, mask)
        terms[f"feature_{pair.stride}"] = Term(config.weight / len(pairs) * term.total, term.count)
    return Outcome(terms=terms, metrics={})

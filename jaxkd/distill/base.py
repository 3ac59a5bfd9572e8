"""What a distillation method is, and what several of them share.

A method is a module in this folder with

* `Config`: a frozen dataclass; its field `decay` is a `distill.decay` component;
* `sharing(config)`: the sets of regions that both heads are to be asked about;
* `init(config, key, student, teacher)`: its own parameters (adapters), {} if it has none; raises ConfigError where
  the two detectors do not fit the method;
* `losses(config, params, student, teacher, regions, batch, memory, key)`: an Outcome. It is called once for each set
  of regions, with the views that belong to it; nothing of the teacher's carries a gradient.

A method sees two views, the regions and the batch, and never the inside of a detector.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Key

from jaxkd.errors import ConfigError
from jaxkd.types import Batch, Features, Outcome, Regions, Term, Traits, View

Source = Literal["neck", "backbone"]


class Sharing(NamedTuple):
    """A set of regions: whose they are, and whether they are the sampled ones or the best proposals."""

    source: Literal["student", "teacher"] = "student"
    stage: Literal["sampled", "proposals"] = "sampled"


class Method(Protocol):
    """The functions of a method's module."""

    Config: type

    def sharing(self, config: Any) -> tuple[Sharing, ...]:
        """The sets of regions that both heads are to be asked about."""
        ...

    def init(self, config: Any, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
        """The method's own parameters."""
        ...

    def losses(
        self,
        config: Any,
        params: dict,
        student: View,
        teacher: View,
        regions: Regions,
        batch: Batch,
        memory: Any,
        key: Key[Array, ""],
    ) -> Outcome:
        """Terms to be minimised and metrics to be reported."""
        ...


class LevelPair(NamedTuple):
    """A level that both detectors have, with its place in each."""

    stride: int
    student: int
    teacher: int
    student_channels: int
    teacher_channels: int


def level_pairs(student: Traits, teacher: Traits, *, source: Source, limit: int = 0) -> tuple[LevelPair, ...]:
    """The levels of equal stride, finest first; at most `limit` of them if it is above 0.

    Raises ConfigError where the detectors have no stride in common.
    """
    mine, theirs = _levels(student, source), _levels(teacher, source)
    shared = [stride for stride in mine if stride in theirs]
    if not shared:
        raise ConfigError(
            f"The student's {source} has strides {tuple(mine)}, the teacher's {tuple(theirs)}; features can be "
            "compared only at strides that both have."
        )
    pairs = [LevelPair(s, mine[s][0], theirs[s][0], mine[s][1], theirs[s][1]) for s in shared]
    return tuple(pairs[:limit] if limit else pairs)


def maps(features: Features, source: Source) -> tuple[Array, ...]:
    """The feature maps called `source`."""
    return features.neck if source == "neck" else features.backbone


def masked_square(
    student: Float[Array, "b h w c"], teacher: Float[Array, "b h w c"], mask: Float[Array, "b h w"]
) -> Term:
    """Half the squared distance of two maps, summed over channels, averaged over the cells that `mask` weighs.

    Only the student's map carries a gradient.
    """
    teacher, mask = lax.stop_gradient((teacher, mask))
    gap = student.astype(jnp.float32) - teacher.astype(jnp.float32)
    error = jnp.where(mask > 0, (gap * gap).sum(-1), 0.0)
    return Term(0.5 * (mask * error).sum(), mask.sum())


def scaled(terms: dict[str, Term], factor: Float[Array, ""] | float) -> dict[str, Term]:
    """The terms with every total times `factor`."""
    return {name: Term(factor * term.total, term.count) for name, term in terms.items()}


def summed(outcomes: Sequence[Outcome]) -> Outcome:
    """One outcome whose terms are the mean of those given, as when two sets of regions are shared."""
    if len(outcomes) == 1:
        return outcomes[0]
    parts = [(index, outcome) for index, outcome in enumerate(outcomes)]
    terms = {
        f"{name}/{index}": Term(term.total / len(outcomes), term.count)
        for index, outcome in parts
        for name, term in outcome.terms.items()
    }
    metrics = {f"{name}/{index}": term for index, outcome in parts for name, term in outcome.metrics.items()}
    return Outcome(terms=terms, metrics=metrics)


def _levels(traits: Traits, source: Source) -> dict[int, tuple[int, int]]:
    neck = source == "neck"
    strides = traits.strides if neck else traits.backbone_strides
    channels = traits.channels if neck else traits.backbone_channels
    return {stride: (index, width) for index, (stride, width) in enumerate(zip(strides, channels, strict=True))}

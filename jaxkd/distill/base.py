"""The protocol of a distillation method, and functions that several methods share.

A method is a module in this folder with

* `Config`: a frozen dataclass; its field `decay` is a `distill.decay` component;
* `region_sources(config)`: the sets of regions for which both detectors make predictions;
* `needs(config)`: a `Needs`, the outputs of either detector that it uses; `distill.fit` compares them with what the
  detectors give (`Traits.capabilities`) before anything is compiled;
* `init(config, key, student, teacher)`: the method's parameters (adapters), {} if it has none; raises ConfigError where
  the levels of the two detectors do not fit the method;
* `losses(config, params, inputs)`: a `Losses`. It is called once for each set of regions with its `Inputs`: `student`,
  `teacher`, `regions`, `batch`, `memory`, `key` and `reliability`. Nothing of the teacher carries a gradient;
* optionally `init_memory(config, student, teacher)`: the state that is kept between epochs, before the first one. Such
  a method needs "features" of both detectors, and has also `select_objects(config, truth, pictures, classes)`, the
  training objects whose vectors it needs; `object_vectors(config, student, teacher, features, batch, who)`, their
  vectors from one of the detectors; and `refresh_memory(config, vectors, classes)`, the new memory. Its Config says
  when: `refresh_every` and `start_epoch`;
* optionally `reliability(config, inputs)`: a `Reliability`. Another method that names this one in its
  `reliability_from` gets it as `inputs.reliability`;
* optionally `ZERO_AT_TEACHER`: values of fields of its Config, dotted, with which all terms are 0 where student and
  teacher have the same features and predictions;
* optionally `zero_reasons(config, metrics)`: for each kind of its terms, in a few words, why such a term is 0 in a step
  with these metrics of the method, which a run says in its first step. A kind is a name without its level: "feature";
* optionally `explain(config, inputs)`: an `Explanation`, to be drawn; there is no key outside of training.

A method sees the outputs of both detectors, the regions and the batch, and never the inside of a detector. What it does
not need of a detector may be None.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Key

from jaxkd.errors import ConfigError
from jaxkd.types import Capability, Features, Inputs, Losses, Term, Traits

OWN_CANVAS = "its own canvas"  # in front of a teacher's anchors that lie on another canvas than the student's
Source = Literal["neck", "backbone"]
Who = Literal["student", "teacher"]
Need = Literal[
    Capability,
    "shared_logits",  # class logits of both heads for the regions of `region_sources`
    "shared_deltas",  # box deltas of both heads for the regions of `region_sources`
]


class RegionSource(NamedTuple):
    """A set of regions: of which detector, and whether the sampled ones, the best proposals or boxes at random.

    Random boxes are regions such as the detector predicts for, without truth.
    """

    detector: Who = "student"
    stage: Literal["sampled", "proposals", "random"] = "sampled"
    count: int = 0  # of random boxes


@dataclasses.dataclass(frozen=True)
class Needs:
    """The outputs of the two detectors that a method uses with one Config."""

    student: frozenset[Need]
    teacher: frozenset[Need]
    switches: Mapping[Need, str] = dataclasses.field(default_factory=dict)  # the field that, at 0, ends a need


class LevelPair(NamedTuple):
    """A level that both detectors have, with its index and channels in each."""

    stride: int
    student: int
    teacher: int
    student_channels: int
    teacher_channels: int


def student_regions(config: object) -> tuple[RegionSource, ...]:
    """The `region_sources` of a method that takes the regions of the student's detection loss, or none."""
    del config
    return (RegionSource(),)


def both_features(config: object) -> Needs:
    """The `needs` of a method that takes the feature maps of both detectors."""
    del config
    features = frozenset[Need]({"features"})
    return Needs(student=features, teacher=features)


def no_parameters(config: object, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """The `init` of a method without parameters."""
    del config, key, student, teacher
    return {}


def level_pairs(student: Traits, teacher: Traits, *, source: Source, limit: int = 0) -> tuple[LevelPair, ...]:
    """The levels of equal stride, finest first; at most `limit` of them if it is above 0.

    Raises ConfigError where the detectors have no stride in common.
    """
    of_student, of_teacher = _levels(student, source), _levels(teacher, source)
    shared = [stride for stride in of_student if stride in of_teacher]
    if not shared:
        raise ConfigError(
            f"The student's {source} has strides {tuple(of_student)}, the teacher's {tuple(of_teacher)}; features can "
            "be compared only at strides that both have."
        )
    pairs = [
        LevelPair(stride, of_student[stride][0], of_teacher[stride][0], of_student[stride][1], of_teacher[stride][1])
        for stride in shared
    ]
    return tuple(pairs[:limit] if limit else pairs)


def can_predict(detector: Traits, regions: Traits, *, random: bool = False) -> bool:
    """Whether a detector can predict for the regions of another one, or for boxes at random.

    One with queries takes boxes as queries, for which all anchors of a dense detector would be too many.
    """
    if "box_predictions" in detector.capabilities:
        return True
    if "query_predictions" in detector.capabilities:
        return random or bool(regions.capabilities & {"query_predictions", "box_predictions"})
    if random:
        return False
    return "anchor_predictions" in detector.capabilities and detector.anchors == regions.anchors


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


def reliability_of_cells(inputs: Inputs, stride: int) -> Float[Array, "b h w"] | float:
    """The reliability of the cells of a level; 1 without a method that gives one."""
    return 1.0 if inputs.reliability is None else inputs.reliability.maps.get(stride, 1.0)


def per_channel(term: Term, *, channels: int) -> Term:
    """A term of `masked_square` averaged over channels too, its sum divided by at least 1 / 2 (Guo et al. 2021)."""
    return Term(term.total, term.count * channels, least=0.5)


def pooled(terms: Sequence[Term]) -> Term:
    """The sum of several terms of the same unit as one term, divided once."""
    total, count = sum(term.total for term in terms), sum(term.count for term in terms)
    return terms[0].replace(total=total, count=count)


def kind(name: str) -> str:
    """The name of a term without level and set of regions: "tar/feature" of "tar/feature_8" or "tar/feature_8/1"."""
    return re.sub(r"(_\d+)?(/\d+)?$", "", name)


def scaled(terms: dict[str, Term], factor: Float[Array, ""] | float) -> dict[str, Term]:
    """The terms with every total times `factor`."""
    return {name: term.replace(total=factor * term.total) for name, term in terms.items()}


def factored(
    losses: Losses, *, decay: Float[Array, ""] | float, warmup: Float[Array, ""] | float | None = None
) -> dict[str, Term]:
    """All terms, those that decay times `decay`, and the others times `warmup` where there is one."""
    undecayed = losses.undecayed if warmup is None else scaled(losses.undecayed, warmup)
    return scaled(losses.terms, decay) | undecayed


def summed(losses: Sequence[Losses]) -> Losses:
    """The mean of several losses, as of two sets of regions."""
    if len(losses) == 1:
        return losses[0]

    def indexed(parts: Sequence[dict[str, Term]], share: float) -> dict[str, Term]:
        return {
            f"{name}/{index}": term.replace(total=term.total * share)
            for index, part in enumerate(parts)
            for name, term in part.items()
        }

    share = 1 / len(losses)
    return Losses(
        terms=indexed([part.terms for part in losses], share),
        metrics=indexed([part.metrics for part in losses], 1.0),
        undecayed=indexed([part.undecayed for part in losses], share),
    )


def _levels(traits: Traits, source: Source) -> dict[int, tuple[int, int]]:
    neck = source == "neck"
    strides = traits.strides if neck else traits.backbone_strides
    channels = traits.channels if neck else traits.backbone_channels
    return {stride: (index, width) for index, (stride, width) in enumerate(zip(strides, channels, strict=True))}

"""The feature maps of both detectors at the strides that both have, as methods on whole maps use them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from jax import lax
from jaxtyping import Array, Float, Key

from jaxkd.distill import adapters, base
from jaxkd.distill.decay import Config as Decay
from jaxkd.ops.masks import extent_mask
from jaxkd.ranges import Natural
from jaxkd.types import Inputs, Traits

# The start does nothing where an adapter has no parameters; see `train.unused`.
ADAPTER_ONLY_WITH = {"adapter.init": ("adapter.kind", adapters.TRAINED)}


@dataclass(frozen=True)
class Maps:
    """What the Configs of methods on whole maps share."""

    source: base.Source = "neck"
    """Which maps: "neck" (feature pyramid) or "backbone"."""
    levels: Natural = 0
    """How many of the common levels, finest first; 0 for all."""
    adapter: adapters.Adapter = field(default_factory=lambda: adapters.Adapter("auto", init="lecun"))
    """The student's adapter."""
    decay: Decay = field(default_factory=lambda: Decay(kind="none"))
    """Factor on the terms over the run; see `distill.decay`."""


class Level(NamedTuple):
    """A level of both detectors."""

    stride: int
    student: Float[Array, "b h w c"]  # adapted
    teacher: Float[Array, "b h w c"]  # without a gradient
    mask: Float[Array, "b h w"]  # 1 in cells of the pictures, 0 in padding


def init(config: Maps, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """One adapter a level; ConfigError where no stride is common, or widths differ and the adapter is the identity."""
    return adapters.init_levels(key, _pairs(config, student, teacher), config.adapter)


def of_both(config: Maps, params: dict, inputs: Inputs) -> Iterator[Level]:
    """The common levels, finest first."""
    student, teacher = inputs.student, inputs.teacher
    for pair in _pairs(config, student.traits, teacher.traits):
        level = base.maps(student.features, config.source)[pair.student]
        adapted = adapters.apply(params[adapters.of_level(pair)], level, kind=config.adapter.kind)
        wanted = lax.stop_gradient(base.maps(teacher.features, config.source)[pair.teacher])
        mask = extent_mask(inputs.batch.sizes, shape=adapted.shape[1:3], stride=pair.stride)
        yield Level(pair.stride, adapted, wanted, mask)


def _pairs(config: Maps, student: Traits, teacher: Traits) -> tuple[base.LevelPair, ...]:
    return base.level_pairs(student, teacher, source=config.source, limit=config.levels)

"""The feature maps of both detectors at the strides that both have, as methods on whole maps use them."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from jax import lax
from jaxtyping import Array, Float, Key

from jaxkd.distill import adapters, base
from jaxkd.ops.masks import extent_mask
from jaxkd.types import Inputs, Traits


@runtime_checkable
class Settings(Protocol):
    """The fields of a method's Config that say which maps it takes."""

    @property
    def source(self) -> base.Source:
        """Maps of the neck or of the backbone."""
        ...

    @property
    def levels(self) -> int:
        """How many, finest first; 0 for all."""
        ...

    @property
    def adapter(self) -> adapters.Adapter:
        """The student's adapter."""
        ...


class Level(NamedTuple):
    """A level of both detectors."""

    stride: int
    student: Float[Array, "b h w c"]  # adapted
    teacher: Float[Array, "b h w c"]  # without a gradient
    mask: Float[Array, "b h w"]  # 1 in cells of the pictures, 0 in padding


def init(config: Settings, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """One adapter a level; ConfigError where no stride is common, or widths differ and the adapter is the identity."""
    return adapters.init_levels(key, _pairs(config, student, teacher), config.adapter)


def of_both(config: Settings, params: dict, inputs: Inputs) -> Iterator[Level]:
    """The common levels, finest first."""
    student, teacher = inputs.student, inputs.teacher
    for pair in _pairs(config, student.traits, teacher.traits):
        level = base.maps(student.features, config.source)[pair.student]
        adapted = adapters.apply(params[adapters.of_level(pair)], level, kind=config.adapter.kind)
        wanted = lax.stop_gradient(base.maps(teacher.features, config.source)[pair.teacher])
        mask = extent_mask(inputs.batch.sizes, shape=adapted.shape[1:3], stride=pair.stride)
        yield Level(pair.stride, adapted, wanted, mask)


def _pairs(config: Settings, student: Traits, teacher: Traits) -> tuple[base.LevelPair, ...]:
    return base.level_pairs(student, teacher, source=config.source, limit=config.levels)

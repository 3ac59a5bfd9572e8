"""MGD: the teacher's map is made from the student's map of which random cells are hidden.

Source: Yang et al. 2022 (arXiv 2205.01529), equations 2 to 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Key

from jaxkd.distill import adapters, base, levels
from jaxkd.ranges import NonNegative, Share
from jaxkd.types import Inputs, Losses, Term, Traits

ONLY_WITH = levels.ADAPTER_ONLY_WITH


@dataclass(frozen=True)
class Config(levels.Maps):
    """Masked generation; the defaults are those published for detectors of two stages."""

    weight: NonNegative = 5e-7
    """Factor on the terms (alpha); 2e-5 for detectors of one stage."""
    hidden: Share = 0.45
    """Share of cells that are hidden (lambda); 0.65 for detectors of one stage."""
    reliability_from: str = ""
    """A method of the recipe that gives the reliability of each object (`reliability`); empty for 1."""


region_sources = base.student_regions
needs = base.both_features


def init(config: Config, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """An adapter and a generator of two convolutions a level."""
    params = levels.init(config, key, student, teacher)
    for pair in base.level_pairs(student, teacher, source=config.source, limit=config.levels):
        for index in range(2):
            params[_layer(pair.stride, index)] = adapters.init(
                jax.random.fold_in(jax.random.fold_in(key, pair.stride), 1 + index),
                kind="conv3",
                student_channels=pair.teacher_channels,
                teacher_channels=pair.teacher_channels,
                start="lecun",
            )
    return params


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """The squared distance of generated and real map, summed over a picture and averaged over pictures."""
    terms = {}
    for level in levels.of_both(config, params, inputs):
        seen, inside = _seen(inputs, level, hidden=config.hidden)[..., None], level.mask[..., None]
        made = adapters.apply(params[_layer(level.stride, 0)], level.student * seen * inside, kind="conv3_relu")
        made = adapters.apply(params[_layer(level.stride, 1)], made * inside, kind="conv3")
        weights = level.mask * base.reliability_of_cells(inputs, level.stride)
        term = base.masked_square(made, level.teacher, weights)
        terms[f"feature_{level.stride}"] = Term(2 * config.weight * term.total, level.mask.any((1, 2)).sum() * 1.0)
    return Losses(terms=terms, metrics={})


def _seen(inputs: Inputs, level: levels.Level, *, hidden: float) -> Float[Array, "b h w"]:
    """1 in cells that the generator sees, by a draw for each picture; all without a key.

    A key for each row keeps the draws of a picture as they are on a larger canvas.
    """
    if inputs.key is None or not hidden:
        return jnp.ones_like(level.mask)
    rows, columns = level.mask.shape[1:]
    of_level = jax.random.fold_in(inputs.key, level.stride)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(of_level, inputs.batch.ids)
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, jnp.arange(rows))
    draws = jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (columns,))))(keys)
    return (draws >= hidden).astype(jnp.float32)


def _layer(stride: int, index: int) -> str:
    return f"generator_{stride}_{index}"


def zero_reasons(config: Config, metrics: Mapping[str, float]) -> dict[str, str]:
    """Why a term of each kind is 0 in a step with these metrics."""
    del config, metrics
    return {"feature": "the teacher's maps are 0"}

"""CWD: where in the picture each channel is active, as a distribution over cells.

Source: Shu et al. 2021 (arXiv 2011.13256), equations 3 and 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import optax
from jax import numpy as jnp
from jaxtyping import Array, Float

from jaxkd.distill import base, levels
from jaxkd.ranges import NonNegative, Positive
from jaxkd.types import Inputs, Losses, Term

ZERO_AT_TEACHER = {"adapter.kind": "identity"}
ONLY_WITH = levels.ADAPTER_ONLY_WITH
OUTSIDE = -1e30  # the logit of a cell outside of the picture


@dataclass(frozen=True)
class Config(levels.Maps):
    """Imitation of each channel's distribution over cells; the defaults are those published for pyramids."""

    weight: NonNegative = 10.0
    """Factor on the terms."""
    temperature: Positive = 1.0
    """Temperature of the distributions; above 1, more cells count."""


region_sources = base.student_regions
needs = base.both_features
init = levels.init


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """KL(teacher || student) of each channel over the picture's cells, averaged over channels and pictures."""
    terms = {}
    for level in levels.of_both(config, params, inputs):
        student, teacher = (_logits(one, level.mask) / config.temperature for one in (level.student, level.teacher))
        apart = optax.losses.kl_divergence(jax.nn.log_softmax(student), jax.nn.softmax(teacher)).mean(-1)
        inside = level.mask.any((1, 2))
        total = config.weight * config.temperature**2 * jnp.where(inside, apart, 0.0).sum()
        terms[f"feature_{level.stride}"] = Term(total, inside.sum() * 1.0)
    return Losses(terms=terms, metrics={})


def _logits(level: Float[Array, "b h w c"], mask: Float[Array, "b h w"]) -> Float[Array, "b c n"]:
    """Each channel's values over the cells, very low outside of the picture."""
    values = jnp.where(mask[..., None] > 0, level.astype(jnp.float32), OUTSIDE)
    return values.reshape(*values.shape[:1], -1, values.shape[-1]).swapaxes(1, 2)


def zero_reasons(config: Config, metrics: Mapping[str, float]) -> dict[str, str]:
    """Why a term of each kind is 0 in a step with these metrics."""
    del config, metrics
    return {"feature": "every channel is active in the same cells"}

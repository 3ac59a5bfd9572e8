"""FGD: features of objects and of background apart, weighted by the teacher's attention; and relations between cells.

Source: Yang et al. 2022 (arXiv 2111.11837), equations 1 to 13. Weights of terms are those of the authors' configs for
detectors of two stages; where their paper has others it is said.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Key

from jaxkd.distill import base, levels
from jaxkd.ops.masks import smallest_box_weights
from jaxkd.ranges import NonNegative, Positive
from jaxkd.types import Inputs, Losses, Term, Traits

ZERO_AT_TEACHER = {"adapter.kind": "identity"}
ONLY_WITH = levels.ADAPTER_ONLY_WITH
LOW = -1e30  # a logit whose probability is 0
EPSILON = 1e-5  # of the layer norm


@dataclass(frozen=True)
class Config(levels.Maps):
    """Focal and global imitation; the defaults are those of Faster R-CNN."""

    foreground: NonNegative = 5e-5
    """Factor on cells of objects (alpha); 1e-3 for RetinaNet and GFL, 1.6e-3 for FCOS."""
    background: NonNegative = 2.5e-5
    """Factor on all other cells (beta); half of alpha for all detectors."""
    attention: NonNegative = 5e-5
    """Factor on the distance of attentions (gamma); the paper has 1e-3 with anchors and 8e-3 without."""
    relation: NonNegative = 5e-7
    """Factor on the global term (lambda); a hundredth of alpha for most detectors."""
    temperature: Positive = 0.5
    """Temperature of attentions."""
    legacy_mask: bool = False
    """Let a box cover all cells that it touches and one more to the right and below, as the authors' program does."""
    reliability_from: str = ""
    """A method of the recipe that gives the reliability of each object (`reliability`); empty for 1."""


region_sources = base.student_regions
needs = base.both_features


class Attention(NamedTuple):
    """How much each cell and each channel of a map counts, 1 on average."""

    cells: Float[Array, "b h w"]
    channels: Float[Array, "b c"]


def init(config: Config, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """An adapter a level, and the relation blocks of both detectors."""
    params = levels.init(config, key, student, teacher)
    for pair in base.level_pairs(student, teacher, source=config.source, limit=config.levels):
        for index, who in enumerate(("student", "teacher")):
            block_key = jax.random.fold_in(jax.random.fold_in(key, pair.stride), 1 + index)
            params[_block(who, pair.stride)] = relation_params(block_key, pair.teacher_channels)
    return params


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """The terms feature, attention and relation of each level, summed over a picture and averaged over pictures."""
    terms = {}
    for level in levels.of_both(config, params, inputs):
        student, teacher = (one.astype(jnp.float32) for one in (level.student, level.teacher))
        inside = level.mask.any((1, 2))
        of_student, of_teacher = (attention(one, level.mask, config.temperature) for one in (student, teacher))
        objects, background = _shares_of_cells(config, inputs, level)
        weights = config.foreground * objects + config.background * background
        weights *= of_teacher.cells * base.reliability_of_cells(inputs, level.stride)
        gap = of_teacher.channels[:, None, None] * (student - teacher) ** 2
        apart = [
            jnp.abs(one - other).sum(range(1, one.ndim)) for one, other in zip(of_student, of_teacher, strict=True)
        ]
        related = [
            relation(params[_block(who, level.stride)], one, level.mask)
            for who, one in (("student", student), ("teacher", teacher))
        ]
        sums = {
            "feature": jnp.where(weights > 0, weights * gap.sum(-1), 0.0).sum((1, 2)),
            "attention": config.attention * (apart[0] + apart[1]),
            "relation": config.relation * (level.mask * ((related[0] - related[1]) ** 2).sum(-1)).sum((1, 2)),
        }
        for name, of_picture in sums.items():
            total = jnp.where(inside, of_picture, 0.0).sum()
            terms[f"{name}_{level.stride}"] = Term(total, inside.sum() * 1.0)
    return Losses(terms=terms, metrics={})


def _shares_of_cells(
    config: Config, inputs: Inputs, level: levels.Level
) -> tuple[Float[Array, "b h w"], Float[Array, "b h w"]]:
    """What each cell of objects and of background counts, by `masks.smallest_box_weights`."""

    def of_picture(
        boxes: Float[Array, "g 4"], valid: Bool[Array, "g"], inside: Float[Array, "h w"]
    ) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
        return smallest_box_weights(boxes, valid=valid, inside=inside, stride=level.stride, touched=config.legacy_mask)

    return jax.vmap(of_picture)(inputs.batch.boxes, inputs.batch.valid, level.mask)


def attention(x: Float[Array, "b h w c"], mask: Float[Array, "b h w"], temperature: float) -> Attention:
    """The softmax of mean magnitudes over cells inside the picture and over channels, times their number."""
    size, cells = jnp.abs(jnp.where(mask[..., None] > 0, x, 0.0)), mask.sum((1, 2))
    of_cells = jnp.where(mask > 0, size.mean(-1) / temperature, LOW)
    chances = jax.nn.softmax(of_cells.reshape(len(x), -1)).reshape(mask.shape)
    of_channels = size.sum((1, 2)) / jnp.maximum(cells, 1.0)[:, None] / temperature
    return Attention(mask * chances * cells[:, None, None], jax.nn.softmax(of_channels) * x.shape[-1])


def relation_params(key: Key[Array, ""], channels: int) -> dict:
    """Parameters of a relation block (global context; Cao et al. 2019), whose last layer is 0."""
    hidden = max(channels // 2, 1)
    of_mask, of_first = jax.random.split(key)
    draw = jax.nn.initializers.lecun_normal()
    return {
        "mask": {"kernel": draw(of_mask, (channels, 1)), "bias": jnp.zeros(1)},
        "first": {"kernel": draw(of_first, (channels, hidden)), "bias": jnp.zeros(hidden)},
        "norm": {"scale": jnp.ones(hidden), "bias": jnp.zeros(hidden)},
        "second": {"kernel": jnp.zeros((hidden, channels)), "bias": jnp.zeros(channels)},
    }


def relation(params: dict, x: Float[Array, "b h w c"], mask: Float[Array, "b h w"]) -> Float[Array, "b h w c"]:
    """The map plus what a block makes of its mean cell, weighted by learned attention (equation 12)."""
    cells = jnp.where(mask[..., None] > 0, x, 0.0).reshape(len(x), -1, x.shape[-1])
    logits = jnp.where(mask.reshape(len(x), -1) > 0, _dense(params["mask"], cells)[..., 0], LOW)
    context = jnp.einsum("bn,bnc->bc", jax.nn.softmax(logits), cells)
    hidden = _dense(params["first"], context)
    centred = hidden - hidden.mean(-1, keepdims=True)
    normed = centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
    hidden = jax.nn.relu(normed * params["norm"]["scale"] + params["norm"]["bias"])
    return x + _dense(params["second"], hidden)[:, None, None]


def _dense(params: dict, x: Float[Array, "*n c"]) -> Float[Array, "*n d"]:
    return x @ params["kernel"] + params["bias"]


def _block(who: str, stride: int) -> str:
    return f"relation_{who}_{stride}"


def zero_reasons(config: Config, metrics: Mapping[str, float]) -> dict[str, str]:
    """Why a term of each kind is 0 in a step with these metrics."""
    del config, metrics
    return dict.fromkeys(("feature", "attention", "relation"), "the maps are equal in all cells that count")

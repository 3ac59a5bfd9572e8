"""Proposals: from the predictions of a region proposal network to its best boxes."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxkd.ops import boxes as box_ops
from jaxkd.ops.anchors import Anchors, inside
from jaxkd.ops.nms import nms


@dataclass(frozen=True)
class Proposals:
    """The best boxes of a region proposal network, highest score first; a record inside one trace."""

    boxes: Float[Array, "b p 4"]
    valid: Bool[Array, "b p"]


def propose(
    anchors: Anchors,
    logits: Sequence[Float[Array, "b _"]],
    deltas: Sequence[Float[Array, "b _ 4"]],
    sizes: Int[Array, "b 2"],
    *,
    extents: Int[Array, "b 2"],
    weights: tuple[float, ...],
    before: int,
    after: int,
    threshold: float,
    min_size: float,
) -> Proposals:
    """The best anchors of each level, moved by their deltas, suppressed level by level; constants to gradients.

    Args:
      anchors: of all levels.
      logits, deltas: of the anchors of each level.
      sizes: height and width in pixels of each picture, to which boxes are clipped.
      extents: the same with the padding that the nets see; an anchor's cell has to begin inside.
      weights: of the box code.
      before: proposals a level before suppression.
      after: proposals a picture after it.
      threshold: IoU above which the lower scored of two proposals of one level is suppressed.
      min_size: proposals with a shorter side, in pixels, are dropped.
    """
    within, levels, start = jax.vmap(inside, (anchors.axes, 0))(anchors, extents), [], 0
    for index, (level_logits, level_deltas) in enumerate(zip(logits, deltas, strict=True)):
        size = level_logits.shape[1]
        span = slice(start, start + size)
        start += size
        scores = jnp.where(within[:, span], jax.lax.stop_gradient(level_logits), -jnp.inf)
        scores, best = jax.lax.top_k(scores, min(before, size))
        moved = jnp.take_along_axis(jax.lax.stop_gradient(level_deltas), best[..., None], axis=1)
        boxes = box_ops.decode(moved, anchors.boxes_at(span, best), weights=weights)
        levels.append((boxes, scores, jnp.full(best.shape, index, jnp.int32)))
    boxes, scores, level = (jnp.concatenate(parts, axis=1) for parts in zip(*levels, strict=True))
    suppress = functools.partial(_suppressed, limit=after, threshold=threshold, min_size=min_size)
    return Proposals(*jax.vmap(suppress)(boxes, scores, level, sizes))


def _suppressed(
    boxes: Float[Array, "p 4"],
    scores: Float[Array, "p"],
    level: Int[Array, "p"],
    size: Int[Array, "2"],
    *,
    limit: int,
    threshold: float,
    min_size: float,
) -> tuple[Float[Array, "{limit} 4"], Bool[Array, "{limit}"]]:
    """The boxes of one picture after suppression, and which of them are valid."""
    boxes = box_ops.clip(boxes, size)
    large = ((boxes[:, 2:] - boxes[:, :2]) >= min_size).all(-1)
    kept = nms(boxes, scores, valid=jnp.isfinite(scores) & large, threshold=threshold, limit=limit, classes=level)
    return jnp.where(kept.valid[:, None], boxes[kept.index], 0.0), kept.valid

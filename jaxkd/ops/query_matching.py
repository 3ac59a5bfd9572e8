"""The one-to-one matching of queries to truths by class and box.

Sources: Carion et al. 2020, DETR (arXiv 2005.12872), section 3.1; the class cost is the focal one of Zhu et al. 2021,
Deformable DETR (arXiv 2010.04159), appendix A.4. Boxes are (centre x, centre y, width, height) in shares of a picture's
sides.
"""

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxkd.ops import assign
from jaxkd.ops import boxes as box_ops

ALPHA, GAMMA, TINY = 0.25, 2.0, 1e-8  # of the focal class cost
CLASS_WEIGHT, L1_WEIGHT, GIOU_WEIGHT = 2.0, 5.0, 2.0


def costs(
    logits: Float[Array, "q k"],
    boxes: Float[Array, "q 4"],
    *,
    truth: Float[Array, "g 4"],
    labels: Int[Array, "g"],
) -> Float[Array, "g q"]:
    """The cost of each truth's match with each query: of its class, of its box's distance, and of its overlap."""
    p = jax.nn.sigmoid(logits.astype(jnp.float32))
    gained = ALPHA * (1.0 - p) ** GAMMA * -jnp.log(p + TINY)
    lost = (1.0 - ALPHA) * p**GAMMA * -jnp.log(1.0 - p + TINY)
    of_class = (gained - lost).T[jnp.clip(labels, 0, logits.shape[-1] - 1)]
    distance = jnp.abs(truth[:, None] - boxes[None]).sum(-1)
    corners, shape = box_ops.corners_of(boxes), boxes.shape
    overlap = jax.vmap(lambda one: box_ops.generalized_iou(corners, jnp.broadcast_to(one, shape)))(
        box_ops.corners_of(truth)
    )
    return CLASS_WEIGHT * of_class + L1_WEIGHT * distance - GIOU_WEIGHT * overlap


def matched(
    logits: Float[Array, "q k"],
    boxes: Float[Array, "q 4"],
    *,
    truth: Float[Array, "g 4"],
    labels: Int[Array, "g"],
    valid: Bool[Array, "g"],
) -> Int[Array, "q"]:
    """The truth of each query, -1 where it has none; every valid truth has one query. No gradient flows.

    Raises:
      ValueError: if there are fewer queries than truths.
    """
    cost = costs(*jax.lax.stop_gradient((logits, boxes)), truth=truth, labels=labels)
    return assign.truth_of_queries(assign.least_total(cost, valid), queries=len(boxes))


def united(truth: Int[Array, "s q"], *, truths: int) -> Int[Array, "q"]:
    """The truth that most of the stages match to each query, -1 where none does (D-FINE's union set).

    Of several with as many votes it is the first; queries may share a truth.

    Args:
      truth: of each query by each stage, -1 for none.
      truths: number of truths, padding included.
    """
    votes = jax.nn.one_hot(truth, truths).sum(0)
    return jnp.where(votes.max(-1) > 0, votes.argmax(-1), assign.NONE).astype(jnp.int32)

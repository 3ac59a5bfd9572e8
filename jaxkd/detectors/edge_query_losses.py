"""Losses of D-FINE: those of a query detector, and those of distributions of edges.

Source: Peng et al. 2024, D-FINE (arXiv 2410.13842), section 4. Boxes of all stages are compared with the truth that
most of them match to a query, the union set; classes with each stage's own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float, Int

from jaxkd.detectors import query_losses
from jaxkd.detectors.query_losses import DENOISING, ENCODER, Pairs, Started, Sums
from jaxkd.nets.query_decoder import Layers, Outputs
from jaxkd.ops import query_matching
from jaxkd.ops.edge_losses import TEMPERATURE, fine_grained_loss, self_distillation_loss, shifts_to
from jaxkd.ranges import NonNegative, Positive
from jaxkd.types import Term

FIRST = "first"  # in names of terms: what is said before a box is a distribution


@dataclass(frozen=True)
class Loss(query_losses.Loss):
    """The losses of every layer and of the encoder's choice; the defaults are those of the paper."""

    edge_weight: NonNegative = 0.15
    """Factor on the fine-grained loss of edges (FGL)."""
    distillation_weight: NonNegative = 1.5
    """Factor on what earlier layers learn of the last one's edges (GO-LSD)."""
    temperature: Positive = TEMPERATURE
    """Temperature of the distributions that they learn of."""


class Shares(NamedTuple):
    """Of queries with a truth and of the others: weights, or losses; one for each picture, or for each layer."""

    matched: Float[Array, "*n"]
    others: Float[Array, "*n"]


class Edges(NamedTuple):
    """What a layer, or every layer of a stack, says of edges."""

    said: Outputs
    bins: Float[Array, "*s b q 4 n"]


def edge_set_losses(layers: Layers, started: Started, loss: Loss, *, classes: int) -> dict[str, Term]:
    """The terms of D-FINE: of each layer, the boxes before the first distribution, and the encoder's choice."""
    denoising, selected = query_losses.parted(layers, started)
    truth, stages = started.truth, _stages(selected) | {ENCODER: started.selected}
    said = query_losses.stacked(stages)
    indices = query_losses.matched(said, truth)
    vote = jax.vmap(lambda found: query_matching.united(found, truths=truth.valid.shape[1]), 1)
    union = query_losses.pairs_of(vote(indices), truth, classes=classes)

    def of_stage(said: Outputs, index: Int[Array, "b q"]) -> Sums:
        pairs = query_losses.pairs_of(index, truth, classes=classes)
        return query_losses.sums_of(said, pairs, truth, loss, boxes=union)

    sums, box_count = jax.vmap(of_stage)(said, indices), union.weights.sum()
    terms = query_losses.stage_terms(stages, sums, loss, count=truth.count, box_count=box_count)
    shares, edges = shares_of(union), _edges(selected)
    terms |= _edge_terms(_numbers(edges), edge_losses(edges, selected, union), loss, count=box_count)
    learned, counts = distilled(edges, union, shares, loss), _counts(union)
    terms |= _distilled_terms(_numbers(edges)[:-1], learned, loss, counts)
    if started.denoised is None:
        return terms
    return terms | _denoising(denoising, started, shares, loss, classes=classes)


def _denoising(layers: Layers, started: Started, shares: Shares, loss: Loss, *, classes: int) -> dict[str, Term]:
    """The terms of all layers on denoising queries, summed over layers."""
    assert started.denoised is not None
    valid, edges = started.denoised.valid, _edges(layers)
    pairs = query_losses.pairs_of(started.denoised.truth, started.truth, classes=classes)
    terms = query_losses.denoising_terms(_stages(layers), pairs, started, loss)
    sums = edge_losses(edges, layers, pairs).sum(keepdims=True)
    terms |= _edge_terms([DENOISING], sums, loss, count=query_losses.denoising_count(started))
    learned = jax.tree.map(lambda parts: parts.sum(keepdims=True), distilled(edges, pairs, shares, loss, valid))
    names = [DENOISING] if len(layers.edges) > 1 else []
    return terms | _distilled_terms(names, learned, loss, _counts(pairs, valid))


def _stages(layers: Layers) -> dict[str, Outputs]:
    assert layers.first is not None
    return query_losses.outputs_of(layers) | {FIRST: layers.first}


def _edges(layers: Layers) -> Edges:
    """What all layers say."""
    return Edges(query_losses.stacked(query_losses.outputs_of(layers)), jnp.stack(layers.edges))


def _numbers(edges: Edges) -> list[str]:
    return [str(index) for index in range(len(edges.bins))]


def edge_losses(edges: Edges, layers: Layers, pairs: Pairs) -> Float[Array, "s"]:
    """Of each layer the sum over the pairs of the losses of their four edges, times the box's IoU (equation 4)."""
    assert layers.first is not None and layers.values is not None and layers.scale is not None
    start, values = lax.stop_gradient((layers.first.boxes, layers.values))
    shifts = jax.vmap(lambda start, boxes, scale: shifts_to(start, boxes, scale=scale))(
        start, pairs.boxes, layers.scale
    )

    def of_layer(edges: Edges) -> Float[Array, ""]:
        losses = jax.vmap(fine_grained_loss)(edges.bins, shifts, values).sum(-1)
        weights = query_losses.overlaps(edges.said, pairs) * pairs.weights
        return jnp.where(pairs.positive, losses * weights, 0.0).sum()

    return jax.vmap(of_layer)(edges)


def shares_of(pairs: Pairs) -> Shares:
    """The roots of the numbers of both kinds of queries in a picture, over their sum."""
    matched, others = (jnp.sqrt(kind.sum(-1).astype(jnp.float32)) for kind in (pairs.positive, ~pairs.positive))
    return Shares(matched / (matched + others), others / (matched + others))


def distilled(edges: Edges, pairs: Pairs, shares: Shares, loss: Loss, valid: Array | None = None) -> Shares:
    """What each layer but the last loses against the last one's edges: weighted sums over both kinds of queries.

    A query with a truth counts by its IoU, another one that is `valid` by its greatest probability in the last layer
    (equation 8). The weights of both kinds are those of their numbers in a picture, so that they do not depend on how
    pictures are divided over devices.
    """
    certainty = lax.stop_gradient(jax.nn.sigmoid(edges.said.logits[-1]).max(-1))
    others = ~pairs.positive if valid is None else ~pairs.positive & valid

    def of_layer(layer: Edges) -> Shares:
        losses = self_distillation_loss(layer.bins, edges.bins[-1], temperature=loss.temperature).mean(-1)
        losses = losses * jnp.where(pairs.positive, query_losses.overlaps(layer.said, pairs), certainty)
        return Shares(
            (shares.matched * jnp.where(pairs.positive, losses, 0.0).sum(-1)).sum(),
            (shares.others * jnp.where(others, losses, 0.0).sum(-1)).sum(),
        )

    return jax.vmap(of_layer)(jax.tree.map(lambda leaf: leaf[:-1], edges))


def _counts(pairs: Pairs, valid: Array | None = None) -> Shares:
    """The number of queries of each kind."""
    others = ~pairs.positive if valid is None else ~pairs.positive & valid
    return Shares(pairs.positive.sum() * 1.0, others.sum() * 1.0)


def _edge_terms(names: Iterable[str], sums: Float[Array, "s"], loss: Loss, *, count: Array) -> dict[str, Term]:
    return {f"edges_{name}": Term(loss.edge_weight * sums[index], count) for index, name in enumerate(names)}


def _distilled_terms(names: Iterable[str], sums: Shares, loss: Loss, counts: Shares) -> dict[str, Term]:
    """The two terms of each layer, divided by the number of their queries."""
    terms, weight = {}, loss.distillation_weight
    for index, name in enumerate(names):
        terms[f"distilled_{name}"] = Term(weight * sums.matched[index], counts.matched)
        terms[f"distilled_others_{name}"] = Term(weight * sums.others[index], counts.others)
    return terms

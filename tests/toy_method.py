"""A method of the teacher's detections: class logits rise on regions that overlap one of its class."""

from dataclasses import dataclass, field

import jax
from jax import lax
from jax import numpy as jnp

from jaxkd.distill import base
from jaxkd.distill.decay import Config as Decay
from jaxkd.ops import boxes as box_ops
from jaxkd.types import Losses, Term


@dataclass(frozen=True)
class Config:
    """The weight of the term and its decay."""

    weight: float = 1.0
    """Weight of the term."""
    decay: Decay = field(default_factory=Decay)
    """See `distill.decay`."""


def region_sources(config):
    return (base.RegionSource(),)


def needs(config):
    return base.Needs(student=frozenset({"box_predictions"}), teacher=frozenset({"detections"}))


def init(config, key, student, teacher):
    return {}


def losses(config, params, inputs):
    logits, detections = inputs.student.predictions.logits, inputs.teacher.detections
    overlap = jax.vmap(box_ops.iou)(inputs.regions.boxes, detections.boxes)  # [b r d]
    overlap = jnp.where(detections.valid[:, None] & inputs.regions.valid[..., None], overlap, 0.0)
    best = overlap.argmax(-1)
    label = jnp.take_along_axis(detections.labels, best, axis=1)
    score = jnp.take_along_axis(detections.scores, best, axis=1)
    pull = lax.stop_gradient(jnp.where(overlap.max(-1) > 0.5, score, 0.0))
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), label[..., None], axis=-1)[..., 0]
    term = Term(-config.weight * (pull * chosen).sum(), pull.sum())
    return Losses(terms={"pull": term}, metrics={})

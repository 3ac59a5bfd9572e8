"""A small made-up moment of training, on which every distillation method can be asked for its losses."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
from jax import numpy as jnp

from jaxkd.distill import fit
from jaxkd.ops import boxes as box_ops
from jaxkd.types import (
    Batch,
    BoxCode,
    Detections,
    DetectorOutputs,
    Features,
    Inputs,
    Losses,
    Predictions,
    Regions,
    Traits,
)

SIDE = 128
CLASSES = ("red", "white", "blue")
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
TRUTH = [[10.0, 12, 41, 61], [30, 20, 75, 66], [3, 9, 125, 126], [0, 0, 0, 0]]
POSITIVE, BACKGROUND, PADDING = 8, 5, 3


class Scene(NamedTuple):
    student: DetectorOutputs
    teacher: DetectorOutputs
    regions: Regions
    batch: Batch


def traits(width, **changes):
    usual = {
        "classes": CLASSES,
        "capabilities": GIVEN,
        "strides": (4, 8),
        "channels": (width, width),
        "backbone_strides": (4, 8),
        "backbone_channels": (width + 1, width + 2),
        "box_code": BoxCode(weights=WEIGHTS),
        "background": len(CLASSES),
    }
    return Traits(**(usual | changes))


GIVEN = frozenset({"features", "box_predictions", "detections"})
DENSE = {
    "background": None,
    "anchors": ("made up",),
    "capabilities": frozenset({"features", "anchor_predictions", "detections"}),
}
KINDS = {"two_stage": {}, "dense": DENSE}  # what a detector of each kind says of itself


def scene(seed=0, *, student=3, teacher=5, kind="two_stage"):
    """Two pictures, four places for truth and 16 for regions, some of them padding; widths of the two necks."""
    rng = np.random.default_rng(seed)
    valid = jnp.array([[True, True, True, False], [False, True, True, False]])
    boxes = jnp.where(valid[..., None], jnp.array([TRUTH, TRUTH]), 0.0)
    labels = jnp.array([[0, 1, 2, 0], [0, 2, 1, 0]])
    batch = Batch(
        images=jnp.zeros((2, SIDE, SIDE, 3), jnp.uint8),
        sizes=jnp.array([[SIDE, SIDE], [100, 111]]),
        boxes=boxes,
        labels=labels,
        valid=valid,
        crowd=jnp.zeros_like(valid),
        ids=jnp.arange(2),
        scales=jnp.ones((2, 2)),
        real=jnp.ones(2, bool),
    )
    regions = _regions(rng, batch)
    views = (
        _view(rng, traits(width, **KINDS[kind]), regions, noise) for width, noise in ((student, 1.5), (teacher, 1.2))
    )
    student_view, teacher_view = views
    return Scene(student_view, teacher_view.replace(detections=_detections(batch, seed)), regions, batch)


def _detections(batch, seed):
    """Of each truth one detection near it, some of another class, and one that is not valid."""
    rng = np.random.default_rng((seed, 1))
    boxes = batch.boxes + jnp.array(rng.uniform(-3, 3, batch.boxes.shape), jnp.float32)
    labels = batch.labels.at[1, 1].set(0)
    scores = jnp.array(rng.uniform(0.3, 1, labels.shape), jnp.float32)
    return Detections(boxes=boxes, scores=scores, labels=labels, valid=batch.valid)


def _regions(rng, batch):
    count = POSITIVE + BACKGROUND + PADDING
    place = np.arange(count)
    positive = jnp.broadcast_to(jnp.array(place < POSITIVE), (2, count))
    valid = jnp.broadcast_to(jnp.array(place < POSITIVE + BACKGROUND), (2, count))
    truth = jnp.array(np.where(place < POSITIVE, 1 + place % 2, 0)[None].repeat(2, 0))
    near = jnp.take_along_axis(batch.boxes, truth[..., None], axis=1)
    near = near + jnp.array(rng.uniform(-9, 9, near.shape), jnp.float32)
    corner, side = rng.uniform(0, 60, (2, count, 2)), rng.uniform(9, 60, (2, count, 2))
    far = jnp.array(np.concatenate([corner, corner + side], -1), jnp.float32)
    boxes = jnp.where(valid[..., None], jnp.where(positive[..., None], near, far), 0.0)
    target = box_ops.encode(jnp.take_along_axis(batch.boxes, truth[..., None], axis=1), boxes, weights=WEIGHTS)
    return Regions(
        boxes=boxes,
        labels=jnp.where(positive, jnp.take_along_axis(batch.labels, truth, axis=1), len(CLASSES)),
        deltas=jnp.where(positive[..., None], target, 0.0),
        truth=truth,
        positive=positive,
        valid=valid,
    )


def _view(rng, traits, regions, noise):
    def draw(*shape, scale=1.0):
        return jnp.array(rng.normal(0, scale, shape), jnp.float32)

    def levels(strides, channels):
        return tuple(draw(2, SIDE // s, SIDE // s, c) for s, c in zip(strides, channels, strict=True))

    classes, dense = len(traits.classes), traits.background is None
    many = regions.labels.shape
    return DetectorOutputs(
        features=Features(
            backbone=levels(traits.backbone_strides, traits.backbone_channels),
            neck=levels(traits.strides, traits.channels),
        ),
        predictions=Predictions(
            logits=draw(*many, classes + (not dense), scale=2.0),
            deltas=regions.deltas[..., None, :] + draw(*many, 1 if dense else classes, 4, scale=noise),
        ),
        traits=traits,
    )


def changed(config, **fields):
    """A copy of a `Config` with other values of these fields; a dict changes fields of a part."""
    values = {
        name: changed(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    return dataclasses.replace(config, **values)


def ask(module, config, params, scene, memory=None) -> Losses:
    memory = remembered(module, config, scene) if memory is None else memory
    return module.losses(config, params, inputs(scene, memory=memory, key=jax.random.key(1)))


def inputs(scene, **more) -> Inputs:
    """What a method is given on the scene; `more` is its memory, its key and reliabilities."""
    return Inputs(**scene._asdict(), **more)


def remembered(module, config, scene):
    """A method's memory of a random past; None for a method without one."""
    if not hasattr(module, "init_memory"):
        return None
    empty = module.init_memory(config, scene.student.traits, scene.teacher.traits)
    rng = np.random.default_rng(3)
    filled = {
        np.dtype("float32"): lambda leaf: jnp.array(rng.normal(0, 1, leaf.shape), jnp.float32),
        np.dtype("int32"): lambda leaf: jnp.zeros_like(leaf),
        np.dtype("bool"): lambda leaf: jnp.ones_like(leaf),
    }
    return jax.tree.map(lambda leaf: filled[np.dtype(leaf.dtype)](leaf), empty)


def parameters(module, config, scene):
    return module.init(config, jax.random.key(0), scene.student.traits, scene.teacher.traits)


def check(config, student, teacher, name="method"):
    """Raises ConfigError where the method does not fit detectors with these traits."""
    fit.check({name: config}, fit.Party("student", student), fit.Party("teacher", teacher))


def with_junk_in_padding(scene):
    """The scene with NaN, infinities and wild indices wherever neither truth nor a region is valid."""

    def spoil(view):
        predictions = view.predictions
        logits = jnp.where(scene.regions.valid[..., None], predictions.logits, jnp.nan)
        deltas = jnp.where(scene.regions.valid[..., None, None], predictions.deltas, jnp.inf)
        return view.replace(predictions=predictions.replace(logits=logits, deltas=deltas))

    batch, regions = scene.batch, scene.regions
    wild = jnp.array([jnp.nan, -jnp.inf, jnp.inf, 1e30])
    batch = batch.replace(
        boxes=jnp.where(batch.valid[..., None], batch.boxes, wild),
        labels=jnp.where(batch.valid, batch.labels, 99),
    )
    regions = regions.replace(
        boxes=jnp.where(regions.valid[..., None], regions.boxes, wild),
        labels=jnp.where(regions.valid, regions.labels, -7),
        deltas=jnp.where(regions.valid[..., None], regions.deltas, jnp.nan),
        truth=jnp.where(regions.valid, regions.truth, 1000),
    )
    return Scene(spoil(scene.student), spoil(scene.teacher), regions, batch)


def without_anything(scene):
    """The scene without truth, without regions, and with pictures of no extent."""
    batch = scene.batch.replace(
        sizes=jnp.zeros_like(scene.batch.sizes),
        boxes=jnp.zeros_like(scene.batch.boxes),
        labels=jnp.zeros_like(scene.batch.labels),
        valid=jnp.zeros_like(scene.batch.valid),
    )
    regions = scene.regions.replace(
        boxes=jnp.zeros_like(scene.regions.boxes),
        labels=jnp.full_like(scene.regions.labels, len(CLASSES)),
        deltas=jnp.zeros_like(scene.regions.deltas),
        truth=jnp.zeros_like(scene.regions.truth),
        positive=jnp.zeros_like(scene.regions.positive),
        valid=jnp.zeros_like(scene.regions.valid),
    )
    return Scene(scene.student, scene.teacher, regions, batch)

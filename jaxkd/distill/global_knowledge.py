"""Global knowledge distillation, GKD (Tang et al. 2022, arXiv 2210.09022).

Prototypes, training objects that represent their class in both feature spaces, are selected before every epoch
(`distill.matching_pursuit`). In training, an instance is projected onto all prototypes: its coordinates are the cosines
to them, in the student's space and in the teacher's. The global term makes the two projections agree, without an
adapter. An instance whose similarity to its class differs between the spaces has a low reliability, which weighs this
term and the two others: imitation of feature maps, foreground and background apart, and distillation of the softened
classes of positive regions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from jaxkd.distill import adapters, base, prototype_space, prototypes
from jaxkd.distill.decay import Config as Decay
from jaxkd.distill.prototypes import Kind, Prototypes
from jaxkd.errors import ConfigError
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.box_mean import box_mean
from jaxkd.ops.masks import box_level, extent_mask, overlay
from jaxkd.ops.roi_align import Pooling, roi_align_batch
from jaxkd.ranges import Count, Natural, NonNegative, Positive, Seed
from jaxkd.types import Batch, Explanation, Features, Inputs, Losses, Regions, Reliability, Term, Traits

LEVEL_EPSILON = 1e-6  # added to a box's relative side before the logarithm of the level rule

ZERO_AT_TEACHER = {"adapter.kind": "identity"}
ONLY_WITH = {  # fields that do nothing unless another one is so; see `train.unused`
    "prototypes.alpha": ("prototypes.method", "matching_pursuit"),
    "relation.reliability": ("relation.weight", True),
    "relation.form": ("relation.weight", True),
    "soft.reliability": ("soft.weight", True),
    "soft.temperature": ("soft.weight", True),
    "imitation.background_area": ("imitation.background_weight", True),
    "adapter.init": ("adapter.kind", adapters.TRAINED),
}


@dataclass(frozen=True)
class Relation:
    """The global term: the objects' coordinates in both spaces."""

    weight: NonNegative = 5.0
    """Factor on the term (lambda_g); 0 leaves it out, and the reliabilities stay."""
    form: Literal["huber", "squared"] = "huber"
    """Distance of the coordinates: the Huber function, or half the square."""
    reliability: bool = True
    """Whether reliabilities weigh the term."""


@dataclass(frozen=True)
class Imitation:
    """Imitation of feature maps, foreground and background apart."""

    foreground_weight: NonNegative = 1.0
    """Factor on the imitation of objects (w_fg)."""
    background_weight: NonNegative = 4.0
    """Factor on the imitation of the rest of the maps (w_bg)."""
    background_area: Literal["picture", "canvas"] = "picture"
    """Where background is imitated: in the "picture", so that the size of its padding does not matter, or on the
    "canvas", padding included, as in the authors' program."""
    overlap: Literal["max", "last"] = "max"
    """Reliability of a cell in several boxes: the greatest, or that of the "last" box."""
    reliability: bool = True
    """Whether reliabilities weigh the foreground."""


@dataclass(frozen=True)
class Soft:
    """Distillation of the softened classes of positive regions; it does not decay."""

    weight: NonNegative = 1.0
    """Factor on the term (w_soft); 0 leaves it out."""
    temperature: Positive = 2.0
    """Temperature of both softmaxes (T)."""
    reliability: bool = True
    """Whether reliabilities weigh the term."""


@dataclass(frozen=True)
class Search:
    """The selection of prototypes; `refresh_every` and `start_epoch` say when."""

    method: Kind = "matching_pursuit"
    """How they are selected: by "matching_pursuit", or for comparison "random", "density" or "class_mean"."""
    count: Count = 10
    """Prototypes of a class on a level (K)."""
    alpha: NonNegative = 10.0
    """Coupling of the two spaces in the matching pursuit."""
    min_side: NonNegative = 30.0
    """Side in pixels of the original picture that both sides of a candidate object must exceed."""
    pictures: Count = 800
    """Most pictures whose objects are candidates of a class."""
    seed: Seed = 1
    """Seed of the draw of these pictures."""


@dataclass(frozen=True)
class Config:
    """GKD; the defaults are those published for Faster R-CNN on COCO."""

    relation: Relation = field(default_factory=Relation)
    """The global term."""
    imitation: Imitation = field(default_factory=Imitation)
    """The imitation of features."""
    soft: Soft = field(default_factory=Soft)
    """The distillation of classes."""
    prototypes: Search = field(default_factory=Search)
    """The selection of prototypes."""
    refresh_every: Count = 1
    """Epochs between two selections."""
    start_epoch: Natural = 0
    """First epoch with a selection; before it the global term is 0 and every reliability is 1."""
    instances: Literal["positives", "truth"] = "positives"
    """The objects of the terms: "positives" of the student's regions, or the "truth"."""
    max_instances: Count = 128
    """Most of these in a picture."""
    levels: Literal["equal", "common"] = "equal"
    """All levels must be "equal" in both detectors, or the "common" ones are used."""
    canonical_scale: Positive = 56.0
    """Side in pixels up to twice which an object lies on the finest level."""
    adapter: adapters.Adapter = field(default_factory=lambda: adapters.Adapter(init="uniform"))
    """The student's adapter in the imitation."""
    decay: Decay = field(default_factory=Decay)
    """Factor on the terms over the run; see `distill.decay`."""


class Instances(NamedTuple):
    """The objects of a batch that the terms are about."""

    boxes: Float[Array, "b n 4"]
    labels: Int[Array, "b n"]
    valid: Bool[Array, "b n"]


class Levels(NamedTuple):
    """The levels that both detectors have, finest first."""

    strides: list[int]
    student: list[Float[Array, "b h w _"]]
    teacher: list[Float[Array, "b h w _"]]


def region_sources(config: Config) -> tuple[base.RegionSource, ...]:
    """The regions sampled for the student's detection loss."""
    del config
    return (base.RegionSource(),)


def needs(config: Config) -> base.Needs:
    """The feature maps of both detectors, which every reliability is about, and class logits for the soft term."""
    both: set[base.Need] = {"features"}
    if config.soft.weight:
        both.add("shared_logits")
    return base.Needs(student=frozenset(both), teacher=frozenset(both), switches={"shared_logits": "soft.weight"})


def init(config: Config, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """One adapter a level.

    Raises ConfigError where the levels do not fit.
    """
    pairs = _pairs(config, student, teacher)
    if not (config.imitation.foreground_weight or config.imitation.background_weight):
        return {}
    return adapters.init_levels(key, pairs, config.adapter)


def init_memory(config: Config, student: Traits, teacher: Traits) -> Prototypes:
    """The state between epochs, before the first of them: no prototypes."""
    pairs = _pairs(config, student, teacher)
    return prototypes.empty(
        classes=len(student.classes),
        count=config.prototypes.count,
        student=tuple(pair.student_channels for pair in pairs),
        teacher=tuple(pair.teacher_channels for pair in pairs),
    )


def select_objects(config: Config, truth: prototypes.Truth, *, pictures: int, classes: int) -> prototypes.Choice:
    """The objects of a training set of so many pictures that are candidates for prototypes."""
    return prototypes.choose(
        truth,
        sources=pictures,
        classes=classes,
        min_side=config.prototypes.min_side,
        pictures=config.prototypes.pictures,
        seed=config.prototypes.seed,
    )


def object_vectors(
    config: Config, student: Traits, teacher: Traits, features: Features, batch: Batch, *, who: base.Who
) -> tuple[Float[Array, "b g _"], ...]:
    """The vector of every truth box on every level, in the space of the student or of the teacher."""
    vectors = []
    for pair in _pairs(config, student, teacher):
        level = features.neck[pair.student if who == "student" else pair.teacher]
        height, width = batch.images.shape[1:3]
        ratio = jnp.asarray([level.shape[1] / height, level.shape[2] / width])
        boxes = jnp.where(batch.valid[..., None], batch.boxes, 0.0)
        vectors.append(jax.vmap(lambda one, boxes, ratio=ratio: box_mean(one, boxes, scale=ratio))(level, boxes))
    return tuple(vectors)


def refresh_memory(config: Config, vectors: prototypes.Vectors, *, classes: int) -> Prototypes:
    """The prototypes of these objects."""
    search = config.prototypes
    return prototypes.find(
        vectors, classes=classes, count=search.count, alpha=search.alpha, kind=search.method, seed=search.seed
    )


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """The terms global, foreground_{stride} and background_{stride}, which decay, and soft, which does not."""
    inputs = inputs.replace(memory=lax.stop_gradient(inputs.memory))
    batch = inputs.batch
    pairs, levels = _levels(config, inputs)
    positives, indices = _positives(config, inputs.regions, batch.sizes)
    instances = positives if config.instances == "positives" else Instances(batch.boxes, batch.labels, batch.valid)
    sigmas, parts = [], []
    for index in range(len(levels.strides)):
        sigma, term = project(config, levels, instances, inputs.memory, index)
        sigmas.append(sigma)
        parts.append(term)
    terms, undecayed = {}, {}
    if config.relation.weight:
        total = config.relation.weight * sum(part.total for part in parts)
        terms["global"] = Term(total, parts[0].count)
    if config.imitation.foreground_weight or config.imitation.background_weight:
        adapted = [
            adapters.apply(params[adapters.of_level(pair)], level, kind=config.adapter.kind)
            for pair, level in zip(pairs, levels.student, strict=True)
        ]
        weights = sigmas if config.imitation.reliability else [jnp.ones_like(sigma) for sigma in sigmas]
        terms |= imitation_terms(config, levels._replace(student=adapted), instances, weights, batch)
    if config.soft.weight:
        weights = jnp.ones(positives.valid.shape)
        if config.soft.reliability:
            weights = _region_reliability(config, inputs, levels, positives)
        both = inputs.student, inputs.teacher
        logits = [jnp.take_along_axis(outputs.predictions.logits, indices[..., None], axis=1) for outputs in both]
        term = prototype_space.soft_term(
            *logits, sigma=weights, valid=positives.valid, temperature=config.soft.temperature
        )
        undecayed = base.scaled({"soft": term}, config.soft.weight)
    count = instances.valid.sum().astype(jnp.float32)
    mean = sum(jnp.where(instances.valid, sigma, 0.0).sum() for sigma in sigmas) / len(sigmas)
    return Losses(terms=terms, metrics={"sigma": Term(mean, count)}, undecayed=undecayed)


def zero_reasons(config: Config, metrics: Mapping[str, float]) -> dict[str, str]:
    """Why a term of each kind is 0 in a step with these metrics."""
    del metrics
    start = f"there are no prototypes before epoch {config.start_epoch + 1} (start_epoch={config.start_epoch})"
    objects = "region with an object" if config.instances == "positives" else "object"
    return {
        "global": start if config.start_epoch else f"no {objects} has prototypes of its class",
        "foreground": f"no {objects} lies there",
        "background": "there is no cell without an object",
        "soft": "no region has an object",
    }


def reliability(config: Config, inputs: Inputs) -> Reliability:
    """The reliability of positive regions and, on every level, the greatest of the truth boxes over a cell."""
    batch, regions = inputs.batch, inputs.regions
    _, levels = _levels(config, inputs)
    student, memory = lax.stop_gradient((levels.student, inputs.memory))
    levels, inputs = levels._replace(student=student), inputs.replace(memory=memory)
    positives, indices = _positives(config, regions, batch.sizes)
    sigma = _region_reliability(config, inputs, levels, positives)
    ones = jnp.ones(regions.positive.shape)
    scattered = jax.vmap(lambda row, index, values: row.at[index].set(values))(
        ones, indices, jnp.where(positives.valid, jnp.maximum(sigma, 0.0), 1.0)
    )
    truth = Instances(batch.boxes, batch.labels, batch.valid)
    maps = {}
    for index, stride in enumerate(levels.strides):
        sigma, _ = project(config, levels, truth, memory, index)
        weight, shape = jnp.where(truth.valid, jnp.maximum(sigma, 0.0), 0.0), student[index].shape[1:3]

        def one_picture(
            boxes: Float[Array, "g 4"],
            weight: Float[Array, "g"],
            valid: Bool[Array, "g"],
            shape: tuple[int, ...] = shape,
            stride: int = stride,
        ) -> Float[Array, "h w"]:
            covered = overlay(boxes, jnp.ones_like(weight), valid=valid, shape=shape, stride=stride)
            return jnp.where(covered > 0, overlay(boxes, weight, valid=valid, shape=shape, stride=stride), 1.0)

        maps[stride] = jax.vmap(one_picture)(truth.boxes, weight, truth.valid)
    return Reliability(regions=scattered, maps=maps)


def explain(config: Config, inputs: Inputs) -> Explanation:
    """The reliability of each cell's object, on the one level where the object is imitated."""
    batch = inputs.batch
    _, levels = _levels(config, inputs)
    instances = Instances(batch.boxes, batch.labels, batch.valid)
    if config.instances == "positives":
        instances, _ = _positives(config, inputs.regions, batch.sizes)
    sigmas = [project(config, levels, instances, inputs.memory, index)[0] for index in range(len(levels.strides))]
    shapes = [level.shape[1:3] for level in levels.student]
    masks = object_masks(config, instances, sigmas, shapes=shapes, strides=levels.strides)
    return Explanation(
        masks={f"sigma_{stride}": mask for stride, mask in zip(levels.strides, masks, strict=True)},
        gates={},
        captions=(("sigma", "reliability of the object in a cell"),),
        empty=f"no {'region with an object' if config.instances == 'positives' else 'object'} lies on this level",
    )


def _pairs(config: Config, student: Traits, teacher: Traits) -> tuple[base.LevelPair, ...]:
    if config.levels == "equal" and student.strides != teacher.strides:
        raise ConfigError(
            f"The student's levels have strides {student.strides}, the teacher's {teacher.strides}; "
            "set levels to 'common' to use those that both have."
        )
    return base.level_pairs(student, teacher, source="neck")


def _levels(config: Config, inputs: Inputs) -> tuple[tuple[base.LevelPair, ...], Levels]:
    """The pairs of levels, and the maps of them; the teacher's without a gradient."""
    student, teacher = inputs.student, inputs.teacher
    pairs = _pairs(config, student.traits, teacher.traits)
    student_maps = [student.features.neck[pair.student] for pair in pairs]
    teacher_maps = [lax.stop_gradient(teacher.features.neck[pair.teacher]) for pair in pairs]
    return pairs, Levels([pair.stride for pair in pairs], student_maps, teacher_maps)


def _positives(config: Config, regions: Regions, sizes: Int[Array, "b 2"]) -> tuple[Instances, Int[Array, "b n"]]:
    """The first positive regions of each picture, cut at its edge, and their places among the regions."""
    count = min(config.max_instances, regions.positive.shape[1])
    is_positive, index = jax.vmap(lambda flags: lax.top_k(flags.astype(jnp.float32), count))(regions.positive)
    valid = is_positive > 0
    boxes = jax.vmap(box_ops.clip)(jnp.take_along_axis(regions.boxes, index[..., None], axis=1), sizes)
    labels = jnp.where(valid, jnp.take_along_axis(regions.labels, index, axis=1), 0)
    return Instances(jnp.where(valid[..., None], boxes, 0.0), labels, valid), index


def project(
    config: Config, levels: Levels, instances: Instances, memory: Prototypes, index: int
) -> tuple[Float[Array, "b n"], Term]:
    """Reliabilities of the objects on the level number `index`, and this level's part of the global term."""
    boxes = jnp.where(instances.valid[..., None], instances.boxes, 0.0)
    mean = jax.vmap(lambda level, boxes: box_mean(level, boxes, scale=1 / levels.strides[index]))
    x = prototype_space.coordinates(mean(levels.student[index], boxes), memory.student[index])
    y = prototype_space.coordinates(mean(levels.teacher[index], boxes), memory.teacher[index])
    sigma = prototype_space.reliability(x, y, instances.labels, known=memory.known)
    weight = sigma if config.relation.reliability else jnp.ones_like(sigma)
    term = prototype_space.global_term(
        x, y, sigma=weight, valid=instances.valid, known=memory.known, form=config.relation.form
    )
    return sigma, term


def level_of(config: Config, boxes: Float[Array, "*n 4"], *, levels: int, wider: float) -> Int[Array, "*n"]:
    """The level of boxes, with `wider` pixels added to their width and height."""
    larger = boxes + jnp.asarray([0.0, 0.0, wider, wider])
    return box_level(
        larger, levels=levels, first=0, canonical_scale=config.canonical_scale, canonical_level=0, epsilon=LEVEL_EPSILON
    )


def object_masks(
    config: Config,
    instances: Instances,
    sigmas: list[Float[Array, "b n"]],
    *,
    shapes: list[tuple[int, ...]],
    strides: list[int],
) -> list[Float[Array, "b h w"]]:
    """The reliability of the object in each cell of each level, 0 where there is none.

    An object lies on one level, and covers the cells from floor(x0 / stride) up to and without floor(x1 / stride); one
    that covers none has the one cell of its first corner.
    """
    level = level_of(config, instances.boxes, levels=len(strides), wider=1.0)
    masks = []
    for index, (shape, stride, sigma) in enumerate(zip(shapes, strides, sigmas, strict=True)):
        on_level = instances.valid & (level == index)
        weight = jnp.where(on_level, jnp.maximum(sigma, 0.0), 0.0)  # a reliability below 0 makes a cell background

        def one_picture(
            boxes: Float[Array, "n 4"],
            weight: Float[Array, "n"],
            valid: Bool[Array, "n"],
            shape: tuple[int, ...] = shape,
            stride: int = stride,
        ) -> Float[Array, "h w"]:
            return overlay(boxes, weight, valid=valid, shape=shape, stride=stride, merge=config.imitation.overlap)

        masks.append(jax.vmap(one_picture)(instances.boxes, weight, on_level))
    return masks


def imitation_terms(
    config: Config, levels: Levels, instances: Instances, weights: list[Float[Array, "b n"]], batch: Batch
) -> dict[str, Term]:
    """Imitation of objects and of background, a mean square each a level.

    The student's maps are adapted ones, as wide as the teacher's.
    """
    strides, shapes = levels.strides, [level.shape[1:3] for level in levels.student]
    masks = object_masks(config, instances, weights, shapes=shapes, strides=strides)
    terms = {}
    for level, target, mask, stride in zip(levels.student, levels.teacher, masks, strides, strict=True):
        area_mask = 1.0
        if config.imitation.background_area == "picture":
            area_mask = extent_mask(batch.sizes, shape=mask.shape[1:], stride=stride)
        areas = {
            "foreground": (mask, config.imitation.foreground_weight),
            "background": (area_mask * (mask == 0), config.imitation.background_weight),
        }
        for name, (area, weight) in areas.items():
            if weight:
                term = base.per_channel(base.masked_square(level, target, area), channels=target.shape[-1])
                terms[f"{name}_{stride}"] = term.replace(total=weight / len(strides) * term.total)
    return terms


def _region_reliability(config: Config, inputs: Inputs, levels: Levels, positives: Instances) -> Float[Array, "b n"]:
    """Reliabilities of positive regions, each on the level from which its head pools it, up to the fourth.

    With a two-stage student the vector is the mean of what RoIAlign samples in the box, with a dense one that of the
    cells under its anchor.
    """
    strides, memory = levels.strides, inputs.memory
    two_stage = "box_predictions" in inputs.student.traits.capabilities
    count = min(4, len(strides)) if two_stage else len(strides)
    level = level_of(config, positives.boxes, levels=count, wider=0.0)
    # One bin of 14 x 14 samples is the mean of RoIAlign's 7 x 7 bins of 2 x 2 samples.
    pooling = Pooling(
        resolution=1, sampling_ratio=14, canonical_scale=config.canonical_scale, canonical_level=0, first_level=0
    )

    def pool(maps: list[Float[Array, "b _ _ c"]]) -> Float[Array, "b n c"]:
        bins = roi_align_batch(
            maps[:count], positives.boxes, strides=strides[:count], extents=inputs.batch.sizes, pooling=pooling
        )
        return bins[:, :, 0, 0].astype(jnp.float32)

    def average(maps: list[Float[Array, "b _ _ c"]], index: int) -> Float[Array, "b n c"]:
        return jax.vmap(lambda level, boxes: box_mean(level, boxes, scale=1 / strides[index]))(
            maps[index], positives.boxes
        )

    student_maps, teacher_maps = lax.stop_gradient((levels.student, levels.teacher))
    pooled = (pool(student_maps), pool(teacher_maps)) if two_stage else None
    sigma = jnp.ones(positives.valid.shape)
    for index in range(count):
        vectors = pooled or (average(student_maps, index), average(teacher_maps, index))
        x = prototype_space.coordinates(vectors[0], memory.student[index])
        y = prototype_space.coordinates(vectors[1], memory.teacher[index])
        level_sigma = prototype_space.reliability(x, y, positives.labels, known=memory.known)
        sigma = jnp.where(level == index, level_sigma, sigma)
    return sigma

"""Task-adaptive regularisation, TAR (Sun et al. 2020, arXiv 2006.13108).

Both heads predict for the same regions. Features are imitated under a Gaussian around each object, classes on
positive regions where the teacher gives the truth a higher probability, boxes where the teacher's refined box is closer
to the truth than the proposal; all terms decay as training goes on. What the paper leaves open is a field of `Config`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Key

from jaxkd.distill import adapters, base
from jaxkd.distill.decay import Config as Decay
from jaxkd.distill.gated import box_gate, box_term, class_gate, class_term
from jaxkd.ops import box_codes
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.masks import box_level, extent_mask, gaussian_mask
from jaxkd.ranges import Finite, Natural, NonNegative, Positive, Whole
from jaxkd.types import Batch, Explanation, Inputs, Losses, Term, Traits

ZERO_AT_TEACHER = {"adapter.kind": "identity"}
ONLY_WITH = {  # fields that do nothing unless another one is so; see `train.unused`
    **{f"feature.{name}": ("feature.weight", True) for name in ("source", "levels", "level_assign", "sigma_sq")},
    **{f"feature.{name}": ("feature.weight", True) for name in ("mask_grid", "mask_merge", "norm", "level_reduce")},
    **{
        f"classification.{name}": ("classification.weight", True)
        for name in ("form", "reduce", "subset", "gate", "norm")
    },
    **{f"box.{name}": ("box.weight", True) for name in ("gate", "form", "norm")},
    "adapter.kind": ("feature.weight", True),
    "adapter.init": ("adapter.kind", adapters.TRAINED),
    "feature.canonical_scale": ("feature.level_assign", "roi"),
    "feature.canonical_level": ("feature.level_assign", "roi"),
    "classification.temperature": ("classification.form", ("kl", "ce")),
    "box.margin": ("box.gate", ("teacher_vs_proposal", "teacher_vs_student", "both")),
    "box.smooth_l1_beta": ("box.form", "smooth_l1"),
}


@dataclass(frozen=True)
class Sharing:
    """The regions for which both heads predict."""

    source: Literal["student", "teacher", "both"] = "student"
    """The detector whose regions are shared; "both" averages the losses on either set."""
    stage: Literal["sampled", "rpn_topk"] = "sampled"
    """The regions that detector samples for its own loss, or its best proposals ("rpn_topk")."""


@dataclass(frozen=True)
class Feature:
    """Imitation of features under Gaussian masks (paper section 3)."""

    weight: NonNegative = 0.01
    """Factor on the term (lambda_f); 0 leaves it out."""
    source: Literal["neck", "c2c5"] = "neck"
    """Maps that are imitated: of the "neck" (feature pyramid) or of the backbone ("c2c5")."""
    levels: Natural = 0
    """How many of the common levels, finest first; 0 for all."""
    level_assign: Literal["roi", "all"] = "roi"
    """Levels of an object's mask: the one by the rule of region pooling ("roi"), or "all"."""
    canonical_scale: Positive = 224.0
    """Side in pixels of a square box that the rule puts on `canonical_level`."""
    canonical_level: Whole = 4
    """Number of that level; its stride is 2^canonical_level."""
    sigma_sq: Positive = 2.0
    """Squared spread of the Gaussian, in squared half sides of the box."""
    mask_grid: Literal["center", "legacy_int"] = "center"
    """Where cells are measured: at their "center", or "legacy_int" (integer crop, from its corner)."""
    mask_merge: Literal["max", "sum_clip"] = "max"
    """Mask where boxes overlap: the "max", or the sum clipped to 1 ("sum_clip")."""
    norm: Literal["spatial", "elements"] = "spatial"
    """Divisor: the mask's sum over space ("spatial"), or over space and channels ("elements")."""
    level_reduce: Literal["mean", "pooled"] = "mean"
    """The "mean" of levels that are divided one by one, or their "pooled" sum, divided once."""


@dataclass(frozen=True)
class Classification:
    """Distillation of the regions' classes (paper section 4)."""

    weight: NonNegative = 10.0
    """Factor on the term (lambda_c); 0 leaves it out."""
    form: Literal["bce", "kl", "ce"] = "bce"
    """Class by class cross-entropy ("bce"), Kullback-Leibler ("kl") or soft cross-entropy ("ce")."""
    reduce: Literal["mean", "sum"] = "mean"
    """Reduction over the classes of a region."""
    temperature: Positive = 1.0
    """Temperature of both softmaxes."""
    subset: Literal["positives", "all"] = "positives"
    """Regions that enter the loss."""
    gate: Literal["none", "teacher_correct", "teacher_better"] = "teacher_better"
    """Further condition on them: none, the teacher's best class is the truth ("teacher_correct"), or the teacher gives
    the truth a higher probability than the student does ("teacher_better")."""
    norm: Literal["subset", "gated"] = "subset"
    """Divisor: the number of regions in the "subset", or of those that pass the gate ("gated")."""


@dataclass(frozen=True)
class Box:
    """Distillation of the positive regions' boxes (paper section 5)."""

    weight: NonNegative = 1.0
    """Factor on the term (lambda_r); 0 leaves it out."""
    gate: Literal["teacher_vs_proposal", "teacher_vs_student", "both", "none"] = "teacher_vs_proposal"
    """Condition on the teacher's box: better than the proposal, than the student's, than both, or none."""
    margin: Finite = 0.0
    """Least improvement in IoU."""
    form: Literal["smooth_l1", "l1", "l2"] = "smooth_l1"
    """Distance of the deltas; "l2" is half the square, as smooth L1 has it below a `smooth_l1_beta` of 1."""
    smooth_l1_beta: NonNegative = 1.0
    """Difference at which smooth L1 becomes linear."""
    norm: Literal["num_pos", "gated", "num_rois"] = "num_pos"
    """Divisor: the number of positive regions, of those that pass the gate, or of all regions ("num_rois")."""


@dataclass(frozen=True)
class Config:
    """TAR; choices that the paper does not specify are fields."""

    feature: Feature = field(default_factory=Feature)
    """The imitation of features."""
    classification: Classification = field(default_factory=Classification)
    """The distillation of classes."""
    box: Box = field(default_factory=Box)
    """The distillation of boxes."""
    sharing: Sharing = field(default_factory=Sharing)
    """The regions on which classes and boxes are distilled."""
    adapter: adapters.Adapter = field(default_factory=adapters.Adapter)
    """The student's adapter before features are compared."""
    reliability_from: str = ""
    """Name of a method of the recipe whose reliabilities weight the objects; empty for weights of 1."""
    decay: Decay = field(default_factory=Decay)
    """Schedule of the factor on all terms; see `distill.decay`."""


def region_sources(config: Config) -> tuple[base.RegionSource, ...]:
    """One set of regions, or two where their source is "both"."""
    stage = "proposals" if config.sharing.stage == "rpn_topk" else "sampled"
    sources = ("student", "teacher") if config.sharing.source == "both" else (config.sharing.source,)
    return tuple(base.RegionSource(source, stage) for source in sources)


def needs(config: Config) -> base.Needs:
    """Of both detectors the feature maps, and class logits and box deltas for shared regions, each where it counts."""
    switches: dict[base.Need, str] = {
        "features": "feature.weight",
        "shared_logits": "classification.weight",
        "shared_deltas": "box.weight",
    }
    both = frozenset[base.Need](need for need, field in switches.items() if attrgetter(field)(config))
    return base.Needs(student=both, teacher=both, switches=switches)


def init(config: Config, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """One adapter a level.

    Raises ConfigError where no stride is common.
    """
    if not config.feature.weight:
        return {}
    pairs = _pairs(config, student, teacher)
    return adapters.init_levels(key, pairs, config.adapter)


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """The terms feature_{stride}, class and box, already weighted and not yet decayed."""
    reliability = inputs.reliability
    weights = jnp.ones(inputs.regions.valid.shape) if reliability is None else lax.stop_gradient(reliability.regions)
    outcomes = []
    if config.feature.weight:
        outcomes.append(_feature(config, params, inputs))
    if config.classification.weight:
        outcomes.append(_class(config, inputs, weights))
    if config.box.weight:
        outcomes.append(_box(config, inputs, weights))
    return Losses(
        terms={name: term for outcome in outcomes for name, term in outcome.terms.items()},
        metrics={name: term for outcome in outcomes for name, term in outcome.metrics.items()},
    )


def zero_reasons(config: Config, metrics: Mapping[str, float]) -> dict[str, str]:
    """Why a term of each kind is 0 in a step with these metrics."""
    equal = ", or the maps are equal" if config.adapter.kind == "identity" else ""
    closed = {
        "class_gate": f"no region passes classification.gate={config.classification.gate!r}",
        "box_gate": f"no region with an object passes box.gate={config.box.gate!r}",
    }
    passed = "student and teacher agree in all regions that pass the gate"
    return {
        "feature": f"no object lies there{equal}",
        "class": passed if metrics.get("class_gate") else closed["class_gate"],
        "box": passed if metrics.get("box_gate") else closed["box_gate"],
    }


def explain(config: Config, inputs: Inputs) -> Explanation:
    """The Gaussian masks of the levels, and the regions whose class and whose box are distilled."""
    student, teacher, regions = inputs.student, inputs.teacher, inputs.regions
    pairs, source = _pairs(config, student.traits, teacher.traits), _source(config)
    shapes = [base.maps(student.features, source)[pair.student].shape[1:3] for pair in pairs]
    masks = level_masks(config, inputs.batch, shapes=shapes, strides=[pair.stride for pair in pairs])
    gates = {}
    if config.classification.weight:
        gates["class_gate"] = _class_gate(config, inputs) & regions.positive
    if config.box.weight:
        gates["box_gate"] = _deltas_and_gate(config, inputs)[2] & regions.positive
    return Explanation(
        masks={f"mask_{pair.stride}": mask for pair, mask in zip(pairs, masks, strict=True)},
        gates=gates,
        captions=(
            ("mask", "where features are compared, and how much"),
            ("class_gate", "regions whose class the teacher teaches"),
            ("box_gate", "regions whose box the teacher teaches"),
        ),
        empty="no object lies on this level",
    )


def _pairs(config: Config, student: Traits, teacher: Traits) -> tuple[base.LevelPair, ...]:
    return base.level_pairs(student, teacher, source=_source(config), limit=config.feature.levels)


def _source(config: Config) -> base.Source:
    return "neck" if config.feature.source == "neck" else "backbone"


def level_masks(
    config: Config, batch: Batch, *, shapes: list[tuple[int, ...]], strides: list[int]
) -> list[Float[Array, "b h w"]]:
    """The Gaussian mask of each level, [b h_l w_l] (paper section 3: M_l)."""
    level = box_level(
        batch.boxes,
        levels=len(strides),
        first=_level_number(strides[0]),
        canonical_scale=config.feature.canonical_scale,
        canonical_level=config.feature.canonical_level,
    )
    masks = []
    for index, (shape, stride) in enumerate(zip(shapes, strides, strict=True)):
        on_level = batch.valid if config.feature.level_assign == "all" else batch.valid & (level == index)

        def one_picture(
            boxes: Float[Array, "g 4"],
            valid: Bool[Array, "g"],
            shape: tuple[int, ...] = shape,
            stride: int = stride,
        ) -> Float[Array, "h w"]:
            return gaussian_mask(
                boxes,
                valid=valid,
                shape=shape,
                stride=stride,
                sigma_sq=config.feature.sigma_sq,
                grid=config.feature.mask_grid,
                merge=config.feature.mask_merge,
            )

        masks.append(jax.vmap(one_picture)(batch.boxes, on_level))
    return masks


def _level_number(stride: int) -> int:
    return stride.bit_length() - 1


def _feature(config: Config, params: dict, inputs: Inputs) -> Losses:
    student, teacher, batch = inputs.student, inputs.teacher, inputs.batch
    reliability = {} if inputs.reliability is None else inputs.reliability.maps
    pairs, source = _pairs(config, student.traits, teacher.traits), _source(config)
    student_maps = [base.maps(student.features, source)[pair.student] for pair in pairs]
    teacher_maps = [base.maps(teacher.features, source)[pair.teacher] for pair in pairs]
    masks = level_masks(
        config, batch, shapes=[level.shape[1:3] for level in student_maps], strides=[pair.stride for pair in pairs]
    )
    terms = {}
    for pair, level, target, mask in zip(pairs, student_maps, teacher_maps, masks, strict=True):
        adapted = adapters.apply(params[adapters.of_level(pair)], level, kind=config.adapter.kind)
        weighted_mask = mask * reliability.get(pair.stride, 1.0)
        terms[f"feature_{pair.stride}"] = feature_term(adapted, target, weighted_mask, norm=config.feature.norm)
    mass = sum(mask.sum() for mask in masks)
    cells = sum(
        extent_mask(batch.sizes, shape=mask.shape[1:], stride=pair.stride).sum()
        for pair, mask in zip(pairs, masks, strict=True)
    )
    if config.feature.level_reduce == "pooled":
        terms = {"feature": base.pooled(list(terms.values()))}
    return Losses(
        terms=base.scaled(terms, config.feature.weight / len(terms)), metrics={"mask_mass": Term(mass, cells)}
    )


def _class(config: Config, inputs: Inputs, weights: Float[Array, "b r"]) -> Losses:
    regions = inputs.regions
    selected = regions.positive if config.classification.subset == "positives" else regions.valid
    gate = _class_gate(config, inputs)
    term, floor = class_term(
        inputs.student.predictions.logits,
        inputs.teacher.predictions.logits,
        selected=selected,
        gate=gate,
        weights=weights,
        form=config.classification.form,
        reduce=config.classification.reduce,
        temperature=config.classification.temperature,
        norm=config.classification.norm,
        softmax=inputs.student.traits.background is not None,
    )
    count = selected.sum().astype(jnp.float32)
    return Losses(
        terms=base.scaled({"class": term}, config.classification.weight),
        metrics={
            "class_gate": Term((gate & selected).sum().astype(jnp.float32), count),
            "class_excess": Term(lax.stop_gradient(term.total) - floor, term.count),
        },
    )


def _box(config: Config, inputs: Inputs, weights: Float[Array, "b r"]) -> Losses:
    regions = inputs.regions
    student_deltas, teacher_deltas, gate = _deltas_and_gate(config, inputs)
    term = box_term(
        student_deltas,
        teacher_deltas,
        positive=regions.positive,
        valid=regions.valid,
        gate=gate,
        weights=weights,
        form=config.box.form,
        beta=config.box.smooth_l1_beta,
        norm=config.box.norm,
    )
    positives = regions.positive.sum().astype(jnp.float32)
    return Losses(
        terms=base.scaled({"box": term}, config.box.weight),
        metrics={"box_gate": Term((gate & regions.positive).sum().astype(jnp.float32), positives)},
    )


def _class_gate(config: Config, inputs: Inputs) -> Bool[Array, "b r"]:
    """The gate of the class loss: the regions whose class is distilled."""
    return class_gate(
        inputs.student.predictions.logits,
        inputs.teacher.predictions.logits,
        inputs.regions.labels,
        kind=config.classification.gate,
        background=inputs.student.traits.background,
    )


def _deltas_and_gate(
    config: Config, inputs: Inputs
) -> tuple[Float[Array, "b r 4"], Float[Array, "b r 4"], Bool[Array, "b r"]]:
    """Both detectors' deltas for each region's class, in the student's box code, and the gate of the box loss."""
    student, teacher, regions = inputs.student, inputs.teacher, inputs.regions
    code = student.traits.box_code
    student_deltas = box_ops.of_class(student.predictions.deltas, regions.labels)
    teacher_deltas = box_ops.of_class(teacher.predictions.deltas, regions.labels)
    teacher_deltas = box_codes.converted(teacher_deltas, regions.boxes, source=teacher.traits.box_code, target=code)
    truth = jnp.take_along_axis(inputs.batch.boxes, regions.truth[..., None], axis=1)
    gate = box_gate(
        student_deltas,
        teacher_deltas,
        regions.boxes,
        truth,
        code=code,
        kind=config.box.gate,
        margin=config.box.margin,
    )
    return student_deltas, teacher_deltas, gate


def feature_term(
    student: Float[Array, "b h w c"],
    teacher: Float[Array, "b h w c"],
    mask: Float[Array, "b h w"],
    *,
    norm: Literal["spatial", "elements"] = "spatial",
) -> Term:
    """Half the squared distance, weighted by the mask and divided by its sum (paper section 3).

    With "elements" the divisor is the mask's sum times the channels, and at least 1 / 2.
    """
    term = base.masked_square(student, teacher, mask)
    return base.per_channel(term, channels=student.shape[-1]) if norm == "elements" else term

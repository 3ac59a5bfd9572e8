"""Task-adaptive regularisation, TAR (Sun et al. 2020, arXiv 2006.13108).

Both heads answer about the same regions. Features are imitated under a Gaussian around each object, classes on
positive regions where the teacher is surer of the truth, boxes where the teacher's refined box beats the proposal;
all of it fades as training goes on. What the paper leaves open is a field of `Config`.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Bool, Float, Key

from jaxkd.distill import adapters, base
from jaxkd.distill.decay import Config as Decay
from jaxkd.distill.gated import box_gate, box_term, class_gate, class_term
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.masks import box_level, extent_mask, gaussian_mask
from jaxkd.ranges import Finite, Natural, NonNegative, Positive, Whole
from jaxkd.types import Batch, Explanation, Inputs, Losses, Term, Traits

ZERO_AT_TEACHER = {"adapter": "identity"}
ONLY_WITH = {  # fields that do nothing unless another one is so; see `train.unused`
    **dict.fromkeys(("feat_source", "levels", "feat_norm", "feat_levels", "adapter"), ("w_feat", True)),
    **dict.fromkeys(("level_assign", "sigma_sq", "mask_grid", "mask_merge"), ("w_feat", True)),
    **dict.fromkeys(("cls_form", "cls_reduce", "cls_subset", "cls_gate", "cls_norm"), ("w_cls", True)),
    **dict.fromkeys(("reg_gate", "reg_form", "reg_norm"), ("w_reg", True)),
    "level_scale": ("level_assign", "roi"),
    "level_canonical": ("level_assign", "roi"),
    "adapter_init": ("adapter", adapters.TRAINED),
    "temperature": ("cls_form", ("kl", "ce")),
    "reg_margin": ("reg_gate", ("teacher_vs_proposal", "teacher_vs_student", "both")),
    "reg_beta": ("reg_form", "smooth_l1"),
}


@dataclass(frozen=True)
class Config:
    """Switches of TAR. In the paper's symbols w_feat, w_cls, w_reg are lambda_f, lambda_c, lambda_r.

    Attributes:
      w_feat, w_cls, w_reg: weights of the three terms; 0 leaves a term out.
      share_from: whose regions both heads look at; "both" averages the losses on either set.
      share_stage: the regions sampled for the student's own loss, or the best proposals ("rpn_topk").
      feat_source: maps that are imitated: "neck" (feature pyramid) or "c2c5" (backbone).
      levels: how many of the common levels, finest first; 0 for all.
      level_assign: an object's mask lies on the one level of the region rule ("roi") or on "all".
      level_scale, level_canonical: that rule's square side in pixels, and the level it goes to.
      sigma_sq: spread of the Gaussian in half sides of the box, squared.
      mask_grid: where cells are measured: at their "center", or "legacy_int" (integer crop, from its corner).
      mask_merge: what a cell in several boxes gets: the "max" or the sum up to 1.
      feat_norm: divide by the mask's mass over space ("spatial") or over space and channels ("elements").
      feat_levels: divide level by level and take the "mean", or divide the "pooled" sum once.
      adapter, adapter_init: the student's adapter and its start.
      cls_form: class by class cross-entropy ("bce"), Kullback-Leibler ("kl") or soft cross-entropy ("ce").
      cls_reduce: "mean" or "sum" over the classes of a region.
      temperature: of both softmaxes.
      cls_subset: regions that count: "positives" or "all".
      cls_gate: further condition: none, the teacher's best class is the truth ("teacher_correct"), or the teacher is
        surer of it than the student ("teacher_better").
      cls_norm: divide by the whole "subset" or by the "gated" regions.
      reg_gate: condition on the teacher's box: better than the proposal, than the student's, than both, or none.
      reg_margin: by how much IoU it must be better.
      reg_form, reg_beta: distance of the deltas, and where smooth L1 turns linear; "l2" is half the square, as smooth
        L1 has it below a `reg_beta` of 1.
      reg_norm: divide by positives ("num_pos"), "gated" regions, or all regions ("num_rois").
      reliability_from: a method of the recipe that gives the reliability of each object (`reliability`); empty for 1.
      decay: see `distill.decay`.
    """

    w_feat: NonNegative = 0.01
    w_cls: NonNegative = 10.0
    w_reg: NonNegative = 1.0
    share_from: Literal["student", "teacher", "both"] = "student"
    share_stage: Literal["sampled", "rpn_topk"] = "sampled"
    feat_source: Literal["neck", "c2c5"] = "neck"
    levels: Natural = 0
    level_assign: Literal["roi", "all"] = "roi"
    level_scale: Positive = 224.0
    level_canonical: Whole = 4
    sigma_sq: Positive = 2.0
    mask_grid: Literal["center", "legacy_int"] = "center"
    mask_merge: Literal["max", "sum_clip"] = "max"
    feat_norm: Literal["spatial", "elements"] = "spatial"
    feat_levels: Literal["mean", "pooled"] = "mean"
    adapter: adapters.Kind = "conv3"
    adapter_init: adapters.Init = "small"
    cls_form: Literal["bce", "kl", "ce"] = "bce"
    cls_reduce: Literal["mean", "sum"] = "mean"
    temperature: Positive = 1.0
    cls_subset: Literal["positives", "all"] = "positives"
    cls_gate: Literal["none", "teacher_correct", "teacher_better"] = "teacher_better"
    cls_norm: Literal["subset", "gated"] = "subset"
    reg_gate: Literal["teacher_vs_proposal", "teacher_vs_student", "both", "none"] = "teacher_vs_proposal"
    reg_margin: Finite = 0.0
    reg_form: Literal["smooth_l1", "l1", "l2"] = "smooth_l1"
    reg_beta: NonNegative = 1.0
    reg_norm: Literal["num_pos", "gated", "num_rois"] = "num_pos"
    reliability_from: str = ""
    decay: Decay = field(default_factory=Decay)


def sharing(config: Config) -> tuple[base.Sharing, ...]:
    """One set of regions, or two where `share_from` is "both"."""
    stage = "proposals" if config.share_stage == "rpn_topk" else "sampled"
    sources = ("student", "teacher") if config.share_from == "both" else (config.share_from,)
    return tuple(base.Sharing(source, stage) for source in sources)


def init(config: Config, key: Key[Array, ""], student: Traits, teacher: Traits) -> dict:
    """One adapter a level.

    Raises ConfigError where the heads' answers cannot be compared, or no stride is common.
    """
    if config.w_cls or config.w_reg:
        remedy = "set w_cls to 0" if config.w_cls and not config.w_reg else "set w_cls and w_reg to 0"
        base.check_predictions(student, teacher, sharing=sharing(config), logits=bool(config.w_cls), remedy=remedy)
    if not config.w_feat:
        return {}
    return adapters.init_levels(key, _pairs(config, student, teacher), kind=config.adapter, start=config.adapter_init)


def losses(config: Config, params: dict, inputs: Inputs) -> Losses:
    """The terms feature_{stride}, class and box, already weighted and not yet decayed."""
    reliability = inputs.reliability
    weights = jnp.ones(inputs.regions.valid.shape) if reliability is None else lax.stop_gradient(reliability.regions)
    outcomes = []
    if config.w_feat:
        outcomes.append(_feature(config, params, inputs))
    if config.w_cls:
        outcomes.append(_class(config, inputs, weights))
    if config.w_reg:
        outcomes.append(_box(config, inputs, weights))
    return Losses(
        terms={name: term for outcome in outcomes for name, term in outcome.terms.items()},
        metrics={name: term for outcome in outcomes for name, term in outcome.metrics.items()},
    )


def explain(config: Config, inputs: Inputs) -> Explanation:
    """The Gaussian masks of the levels, and the regions whose class and whose box are distilled."""
    student, teacher, regions = inputs.student, inputs.teacher, inputs.regions
    pairs, source = _pairs(config, student.traits, teacher.traits), _source(config)
    shapes = [base.maps(student.features, source)[pair.student].shape[1:3] for pair in pairs]
    masks = level_masks(config, inputs.batch, shapes=shapes, strides=[pair.stride for pair in pairs])
    gates = {}
    if config.w_cls:
        gates["class_gate"] = _class_gate(config, inputs) & regions.positive
    if config.w_reg:
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
    return base.level_pairs(student, teacher, source=_source(config), limit=config.levels)


def _source(config: Config) -> base.Source:
    return "neck" if config.feat_source == "neck" else "backbone"


def level_masks(
    config: Config, batch: Batch, *, shapes: list[tuple[int, ...]], strides: list[int]
) -> list[Float[Array, "b h w"]]:
    """The Gaussian mask of each level, [b h_l w_l] (paper section 3: M_l)."""
    level = box_level(
        batch.boxes,
        levels=len(strides),
        first=_level_number(strides[0]),
        canonical_scale=config.level_scale,
        canonical_level=config.level_canonical,
    )
    masks = []
    for index, (shape, stride) in enumerate(zip(shapes, strides, strict=True)):
        on_level = batch.valid if config.level_assign == "all" else batch.valid & (level == index)

        def draw(
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
                sigma_sq=config.sigma_sq,
                grid=config.mask_grid,
                merge=config.mask_merge,
            )

        masks.append(jax.vmap(draw)(batch.boxes, on_level))
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
        adapted = adapters.apply(params[adapters.of_level(pair)], level, kind=config.adapter)
        weighted = mask * reliability.get(pair.stride, 1.0)
        terms[f"feature_{pair.stride}"] = feature_term(adapted, target, weighted, norm=config.feat_norm)
    mass = sum(mask.sum() for mask in masks)
    cells = sum(
        extent_mask(batch.sizes, shape=mask.shape[1:], stride=pair.stride).sum()
        for pair, mask in zip(pairs, masks, strict=True)
    )
    if config.feat_levels == "pooled":
        terms = {"feature": base.pooled(list(terms.values()))}
    return Losses(terms=base.scaled(terms, config.w_feat / len(terms)), metrics={"mask_mass": Term(mass, cells)})


def _class(config: Config, inputs: Inputs, weights: Float[Array, "b r"]) -> Losses:
    regions = inputs.regions
    selected = regions.positive if config.cls_subset == "positives" else regions.valid
    gate = _class_gate(config, inputs)
    term, floor = class_term(
        inputs.student.predictions.logits,
        inputs.teacher.predictions.logits,
        selected=selected,
        gate=gate,
        weights=weights,
        form=config.cls_form,
        reduce=config.cls_reduce,
        temperature=config.temperature,
        norm=config.cls_norm,
        softmax=inputs.student.traits.background is not None,
    )
    count = selected.sum().astype(jnp.float32)
    return Losses(
        terms=base.scaled({"class": term}, config.w_cls),
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
        form=config.reg_form,
        beta=config.reg_beta,
        norm=config.reg_norm,
    )
    positives = regions.positive.sum().astype(jnp.float32)
    return Losses(
        terms=base.scaled({"box": term}, config.w_reg),
        metrics={"box_gate": Term((gate & regions.positive).sum().astype(jnp.float32), positives)},
    )


def _class_gate(config: Config, inputs: Inputs) -> Bool[Array, "b r"]:
    """The gate of the class loss: the regions whose class is distilled."""
    return class_gate(
        inputs.student.predictions.logits,
        inputs.teacher.predictions.logits,
        inputs.regions.labels,
        kind=config.cls_gate,
        background=inputs.student.traits.background,
    )


def _deltas_and_gate(
    config: Config, inputs: Inputs
) -> tuple[Float[Array, "b r 4"], Float[Array, "b r 4"], Bool[Array, "b r"]]:
    """Both detectors' deltas for each region's class, in the student's box code, and the gate of the box loss."""
    student, teacher, regions = inputs.student, inputs.teacher, inputs.regions
    weights = student.traits.box_weights
    student_deltas = box_ops.of_class(student.predictions.deltas, regions.labels)
    teacher_deltas = box_ops.of_class(teacher.predictions.deltas, regions.labels)
    if teacher.traits.box_weights != weights:
        refined = box_ops.decode(teacher_deltas, regions.boxes, weights=teacher.traits.box_weights)
        teacher_deltas = box_ops.encode(refined, regions.boxes, weights=weights)
    truth = jnp.take_along_axis(inputs.batch.boxes, regions.truth[..., None], axis=1)
    gate = box_gate(
        student_deltas,
        teacher_deltas,
        regions.boxes,
        truth,
        weights=weights,
        kind=config.reg_gate,
        margin=config.reg_margin,
    )
    return student_deltas, teacher_deltas, gate


def feature_term(
    student: Float[Array, "b h w c"],
    teacher: Float[Array, "b h w c"],
    mask: Float[Array, "b h w"],
    *,
    norm: Literal["spatial", "elements"] = "spatial",
) -> Term:
    """Half the squared distance under the mask, divided by the mask's mass (paper section 3).

    With "elements" by the mass times the channels, of which twice counts for at least 1.
    """
    term = base.masked_square(student, teacher, mask)
    return base.per_channel(term, channels=student.shape[-1]) if norm == "elements" else term

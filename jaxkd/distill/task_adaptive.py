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
from jaxtyping import Bool, Float, Int, Key

from jaxkd.distill import adapt as adapters
from jaxkd.distill import base
from jaxkd.distill.decay import Config as Decay
from jaxkd.ops import boxes as box_ops
from jaxkd.ops.masks import box_level, gaussian_mask
from jaxkd.types import Batch, Outcome, Regions, Term, Traits, View


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
      adapt, adapt_init: the student's adapter and its start.
      cls_form: class by class cross-entropy ("bce"), Kullback-Leibler ("kl") or soft cross-entropy ("ce").
      cls_reduce: "mean" or "sum" over the classes of a region.
      temperature: of both softmaxes.
      cls_subset: regions that count: "positives" or "all".
      cls_gate: further condition: none, the teacher's best class is the truth ("teacher_correct"), or the teacher is
        surer of it than the student ("teacher_better").
      cls_norm: divide by the whole "subset" or by the "gated" regions.
      reg_gate: condition on the teacher's box: better than the proposal, than the student's, than both, or none.
      reg_margin: by how much IoU it must be better.
      reg_form, reg_beta: distance of the deltas, and where smooth L1 turns linear.
      reg_norm: divide by positives ("num_pos"), "gated" regions, or all regions ("num_rois").
      decay: see `distill.decay`.
    """

    w_feat: float = 0.01
    w_cls: float = 10.0
    w_reg: float = 1.0
    share_from: Literal["student", "teacher", "both"] = "student"
    share_stage: Literal["sampled", "rpn_topk"] = "sampled"
    feat_source: Literal["neck", "c2c5"] = "neck"
    levels: int = 0
    level_assign: Literal["roi", "all"] = "roi"
    level_scale: float = 224.0
    level_canonical: int = 4
    sigma_sq: float = 2.0
    mask_grid: Literal["center", "legacy_int"] = "center"
    mask_merge: Literal["max", "sum_clip"] = "max"
    feat_norm: Literal["spatial", "elements"] = "spatial"
    feat_levels: Literal["mean", "pooled"] = "mean"
    adapt: adapters.Kind = "conv3"
    adapt_init: adapters.Init = "small"
    cls_form: Literal["bce", "kl", "ce"] = "bce"
    cls_reduce: Literal["mean", "sum"] = "mean"
    temperature: float = 1.0
    cls_subset: Literal["positives", "all"] = "positives"
    cls_gate: Literal["none", "teacher_correct", "teacher_better"] = "teacher_better"
    cls_norm: Literal["subset", "gated"] = "subset"
    reg_gate: Literal["teacher_vs_proposal", "teacher_vs_student", "both", "none"] = "teacher_vs_proposal"
    reg_margin: float = 0.0
    reg_form: Literal["smooth_l1", "l1", "l2"] = "smooth_l1"
    reg_beta: float = 1.0
    reg_norm: Literal["num_pos", "gated", "num_rois"] = "num_pos"
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
        base.check_answers(student, teacher, sharing=sharing(config), logits=bool(config.w_cls), remedy=remedy)
    if not config.w_feat:
        return {}
    return adapters.init_levels(key, _pairs(config, student, teacher), kind=config.adapt, start=config.adapt_init)


def losses(
    config: Config,
    params: dict,
    student: View,
    teacher: View,
    regions: Regions,
    batch: Batch,
    memory: None,
    key: Key[Array, ""],
) -> Outcome:
    """The terms feature_{stride}, class and box, already weighted and not yet decayed."""
    del memory, key
    outcomes = []
    if config.w_feat:
        outcomes.append(_feature(config, params, student, teacher, batch))
    if config.w_cls:
        outcomes.append(_class(config, student, teacher, regions))
    if config.w_reg:
        outcomes.append(_box(config, student, teacher, regions, batch))
    return Outcome(
        terms={name: term for outcome in outcomes for name, term in outcome.terms.items()},
        metrics={name: term for outcome in outcomes for name, term in outcome.metrics.items()},
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
        here = batch.valid if config.level_assign == "all" else batch.valid & (level == index)

        def draw(boxes: Array, valid: Array, shape: tuple[int, ...] = shape, stride: int = stride) -> Array:
            return gaussian_mask(
                boxes,
                valid=valid,
                shape=shape,
                stride=stride,
                sigma_sq=config.sigma_sq,
                grid=config.mask_grid,
                merge=config.mask_merge,
            )

        masks.append(jax.vmap(draw)(batch.boxes, here))
    return masks


def _level_number(stride: int) -> int:
    return stride.bit_length() - 1


def _feature(config: Config, params: dict, student: View, teacher: View, batch: Batch) -> Outcome:
    pairs, source = _pairs(config, student.traits, teacher.traits), _source(config)
    mine = [base.maps(student.features, source)[pair.student] for pair in pairs]
    theirs = [base.maps(teacher.features, source)[pair.teacher] for pair in pairs]
    masks = level_masks(
        config, batch, shapes=[level.shape[1:3] for level in mine], strides=[pair.stride for pair in pairs]
    )
    terms = {}
    for pair, level, target, mask in zip(pairs, mine, theirs, masks, strict=True):
        adapted = adapters.apply(params[adapters.of_level(pair)], level, kind=config.adapt)
        terms[f"feature_{pair.stride}"] = feature_term(adapted, target, mask, norm=config.feat_norm)
    mass = sum(mask.sum() for mask in masks)
    cells = jnp.asarray(sum(mask.size for mask in masks), jnp.float32)
    if config.feat_levels == "pooled":
        terms = {"feature": Term(sum(t.total for t in terms.values()), sum(t.count for t in terms.values()))}
    return Outcome(terms=base.scaled(terms, config.w_feat / len(terms)), metrics={"mask_mass": Term(mass, cells)})


def _class(config: Config, student: View, teacher: View, regions: Regions) -> Outcome:
    chosen = regions.positive if config.cls_subset == "positives" else regions.valid
    open_ = class_gate(
        student.answers.logits,
        teacher.answers.logits,
        regions.labels,
        kind=config.cls_gate,
        background=student.traits.background,
    )
    term, floor = class_term(
        student.answers.logits,
        teacher.answers.logits,
        chosen=chosen,
        gate=open_,
        form=config.cls_form,
        reduce=config.cls_reduce,
        temperature=config.temperature,
        norm=config.cls_norm,
        softmax=student.traits.background is not None,
    )
    count = chosen.sum().astype(jnp.float32)
    return Outcome(
        terms=base.scaled({"class": term}, config.w_cls),
        metrics={
            "class_gate": Term((open_ & chosen).sum().astype(jnp.float32), count),
            "class_excess": Term(lax.stop_gradient(term.total) - floor, term.count),
        },
    )


def _box(config: Config, student: View, teacher: View, regions: Regions, batch: Batch) -> Outcome:
    weights = student.traits.box_weights
    mine = box_ops.of_class(student.answers.deltas, regions.labels)
    theirs = box_ops.of_class(teacher.answers.deltas, regions.labels)
    if teacher.traits.box_weights != weights:
        refined = box_ops.decode(theirs, regions.boxes, weights=teacher.traits.box_weights)
        theirs = box_ops.encode(refined, regions.boxes, weights=weights)
    truth = jnp.take_along_axis(batch.boxes, regions.truth[..., None], axis=1)
    open_ = box_gate(
        mine, theirs, regions.boxes, truth, weights=weights, kind=config.reg_gate, margin=config.reg_margin
    )
    term = box_term(
        mine,
        theirs,
        positive=regions.positive,
        valid=regions.valid,
        gate=open_,
        form=config.reg_form,
        beta=config.reg_beta,
        norm=config.reg_norm,
    )
    positives = regions.positive.sum().astype(jnp.float32)
    return Outcome(
        terms=base.scaled({"box": term}, config.w_reg),
        metrics={"box_gate": Term((open_ & regions.positive).sum().astype(jnp.float32), positives)},
    )


def feature_term(
    student: Float[Array, "b h w c"],
    teacher: Float[Array, "b h w c"],
    mask: Float[Array, "b h w"],
    *,
    norm: Literal["spatial", "elements"] = "spatial",
) -> Term:
    """Half the squared distance under the mask, divided by the mask's mass (paper section 3)."""
    term = base.masked_square(student, teacher, mask)
    return Term(term.total, term.count * student.shape[-1]) if norm == "elements" else term


def class_gate(
    student: Float[Array, "*r k"],
    teacher: Float[Array, "*r k"],
    labels: Int[Array, "*r"],
    *,
    kind: Literal["none", "teacher_correct", "teacher_better"],
    background: int | None,
) -> Bool[Array, "*r"]:
    """The regions whose class the teacher is let to teach."""
    if kind == "none":
        return jnp.ones(labels.shape, bool)
    if kind == "teacher_correct":
        correct = teacher.argmax(-1) == labels
        return correct if background is not None else jnp.where(labels < teacher.shape[-1], correct, False)
    mine, theirs = (_truth_probability(logits, labels, background) for logits in (student, teacher))
    return lax.stop_gradient(theirs > mine)


def _truth_probability(logits: Array, labels: Array, background: int | None) -> Array:
    if background is not None:
        return jnp.take_along_axis(jax.nn.softmax(logits), labels[..., None], axis=-1)[..., 0]
    probability = jax.nn.sigmoid(logits)
    column = jnp.minimum(labels, logits.shape[-1] - 1)
    own = jnp.take_along_axis(probability, column[..., None], axis=-1)[..., 0]
    return jnp.where(labels < logits.shape[-1], own, 1.0 - probability.max(-1))


def class_term(
    student: Float[Array, "*r k"],
    teacher: Float[Array, "*r k"],
    *,
    chosen: Bool[Array, "*r"],
    gate: Bool[Array, "*r"],
    form: Literal["bce", "kl", "ce"] = "bce",
    reduce: Literal["mean", "sum"] = "mean",
    temperature: float = 1.0,
    norm: Literal["subset", "gated"] = "subset",
    softmax: bool = True,
) -> tuple[Term, Float[Array, ""]]:
    """The class term (paper section 4) and its total where student and teacher agree, which is not 0 for bce and ce.

    Args:
      student, teacher: logits.
      chosen: regions that count.
      gate: regions of these that the teacher is let to teach.
      form, reduce, temperature, norm: see `Config`.
      softmax: whether the classes of a region exclude each other; if not, each has its own sigmoid and the form
        "ce" is the same as "bce".
    """
    taught = chosen & gate
    # Rows that do not count may hold NaN, which would reach their gradient through the softmax.
    mine = jnp.where(taught[..., None], student, 0.0) / temperature
    theirs = lax.stop_gradient(teacher / temperature)

    def value(logits: Array) -> Array:
        per_class = _divergence(logits, theirs, form, softmax)
        per_region = per_class.mean(-1) if reduce == "mean" else per_class.sum(-1)
        return jnp.where(taught, per_region, 0.0).sum() * temperature**2

    count = (chosen if norm == "subset" else taught).sum().astype(jnp.float32)
    return Term(value(mine), count), value(theirs)


def _divergence(mine: Array, theirs: Array, form: str, softmax: bool) -> Array:
    """What each class of each region contributes."""
    if softmax:
        log_p, log_not_p = jax.nn.log_softmax(mine), log_one_minus_softmax(mine)
        log_q, log_not_q = jax.nn.log_softmax(theirs), log_one_minus_softmax(theirs)
    else:
        log_p, log_not_p = jax.nn.log_sigmoid(mine), jax.nn.log_sigmoid(-mine)
        log_q, log_not_q = jax.nn.log_sigmoid(theirs), jax.nn.log_sigmoid(-theirs)
    q, not_q = jnp.exp(log_q), jnp.exp(log_not_q)
    if form == "kl":
        return q * (log_q - log_p) + (0.0 if softmax else not_q * (log_not_q - log_not_p))
    if form == "ce" and softmax:
        return -q * log_p
    return -(q * log_p + not_q * log_not_p)


def log_one_minus_softmax(logits: Float[Array, "*r k"]) -> Float[Array, "*r k"]:
    """log(1 - softmax), exact also where one class has all the probability."""
    log_p = jax.nn.log_softmax(logits)
    winner = jax.nn.one_hot(lax.stop_gradient(logits).argmax(-1), logits.shape[-1], dtype=bool)
    # 1 - p of the winner is the sum of the others, which a subtraction would lose.
    others = jax.nn.logsumexp(jnp.where(winner, -jnp.inf, log_p), axis=-1, keepdims=True)
    return jnp.where(winner, others, jnp.log1p(-jnp.exp(jnp.where(winner, -1.0, log_p))))


def box_gate(
    student: Float[Array, "*r 4"],
    teacher: Float[Array, "*r 4"],
    boxes: Float[Array, "*r 4"],
    truth: Float[Array, "*r 4"],
    *,
    weights: tuple[float, ...],
    kind: Literal["teacher_vs_proposal", "teacher_vs_student", "both", "none"] = "teacher_vs_proposal",
    margin: float = 0.0,
) -> Bool[Array, "*r"]:
    """The regions whose box the teacher is let to teach: its refined box is nearer the truth, strictly."""
    if kind == "none":
        return jnp.ones(boxes.shape[:-1], bool)

    def quality(refined: Array) -> Array:
        return box_ops.paired_iou(refined, truth)

    theirs = quality(box_ops.decode(teacher, boxes, weights=weights))
    over_proposal = theirs > quality(boxes) + margin
    over_student = theirs > quality(box_ops.decode(lax.stop_gradient(student), boxes, weights=weights)) + margin
    chosen = {
        "teacher_vs_proposal": over_proposal,
        "teacher_vs_student": over_student,
        "both": over_proposal & over_student,
    }[kind]
    return lax.stop_gradient(chosen)


def box_term(
    student: Float[Array, "*r 4"],
    teacher: Float[Array, "*r 4"],
    *,
    positive: Bool[Array, "*r"],
    valid: Bool[Array, "*r"],
    gate: Bool[Array, "*r"],
    form: Literal["smooth_l1", "l1", "l2"] = "smooth_l1",
    beta: float = 1.0,
    norm: Literal["num_pos", "gated", "num_rois"] = "num_pos",
) -> Term:
    """Distance of normalised deltas on gated positive regions, the four summed (paper section 5)."""
    taught = positive & gate
    gap = jnp.where(taught[..., None], student - lax.stop_gradient(teacher), 0.0)
    size = 0.5 * gap**2 if form == "l2" else box_ops.smooth_l1(gap, beta=beta if form == "smooth_l1" else 0.0)
    count = {"num_pos": positive, "gated": taught, "num_rois": valid}[norm]
    return Term(size.sum(), count.sum().astype(jnp.float32))

"""One training step: detection terms, distillation terms, one update."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import optax
from flax import struct
from jax import lax
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Key

from jaxkd.config import module_of
from jaxkd.detectors.base import Detector, Stage, Teacher
from jaxkd.distill import base, classes, fit
from jaxkd.errors import ConfigError
from jaxkd.train import view
from jaxkd.train.balance import balanced
from jaxkd.train.dependence import depends_on_first
from jaxkd.train.mesh import AXIS, over_batch
from jaxkd.train.schedules import Scheduled
from jaxkd.train.state import State, Tree, join, moving_average, split
from jaxkd.types import (
    Batch,
    Capability,
    Detections,
    DetectorOutputs,
    Features,
    Inputs,
    Losses,
    Predictions,
    Regions,
    Reliability,
    Term,
    Traits,
)

STUDENT_REGIONS = base.RegionSource()  # the regions sampled for the student's detection loss
Counts = dict[str, jax.Array]  # by name of a term, the count by which it is divided


@dataclass(frozen=True)
class Pair:
    """Everything static about a step: the student, its teacher, the methods and the optimizer.

    Two that are equal share their compiled programs.
    """

    student: Detector
    teacher: Teacher | None
    methods: dict[str, Any] = dataclasses.field(hash=False)  # their Configs, by the names that the recipe gives them
    optimizer: optax.GradientTransformation  # with `apply_if_finite` outermost; its `update` takes learning_rate
    ema_decay: float = 0.0
    teacher_columns: tuple[int, ...] = ()  # the teacher's index of each student class; () for equal or disjoint lists
    accumulate: int = 1  # micro-batches of a batch, computed one after another
    own_canvas: bool = False  # whether the batch has the teacher's own canvas (`Batch.teacher`)
    bilinear: bool = False  # whether the teacher's feature maps are interpolated there, to the student's grid

    @functools.cached_property
    def teacher_traits(self) -> Traits:
        """The teacher's traits as methods see them: with the student's class list where there are `teacher_columns`.

        Anchors on another canvas are not the student's.
        """
        assert self.teacher is not None
        traits, classes = self.teacher.traits, self.student.classes
        if self.own_canvas and traits.anchors is not None:
            traits = dataclasses.replace(traits, anchors=(base.OWN_CANVAS, *traits.anchors))
        if not self.teacher_columns:
            return traits
        background = None if traits.background is None else len(classes)
        return dataclasses.replace(traits, classes=classes, background=background)

    def taught_from(self, capability: Capability) -> bool:
        """Whether the teacher gives this, and some method needs it of the teacher."""
        if self.teacher is None or capability not in self.teacher.traits.capabilities:
            return False
        return any(capability in module_of(config).needs(config).teacher for config in self.methods.values())

    def trainable(self, path: tuple[str, ...]) -> bool:
        """Whether the leaf at `path` of State.params is trained."""
        return path[0] == "distill" or self.student.trainable(path[1:])


class StepInputs(struct.PyTreeNode):
    """Arguments of `forward` that are constant within a micro-batch."""

    batch: Batch
    teacher_params: Tree  # {} without a teacher
    teacher_features: Features | None = None  # stop-gradient; see `teacher_features`
    teacher_detections: Detections | None = None  # see `teacher_detections`
    memory: dict[str, Any] = struct.field(default_factory=dict)  # method state that is kept between epochs, by method
    key: Any = None  # scalar, the random key of the step
    decay: dict[str, Any] = struct.field(default_factory=dict)  # by method, the factor on its decaying terms
    warmup: dict[str, Any] = struct.field(default_factory=dict)  # by method that has one, the factor on its other terms
    balance: dict[str, Any] = struct.field(default_factory=dict)  # by METHOD/KIND, the factor on terms of this kind


def step_inputs(state: State, teacher_params: Tree, scheduled: Scheduled, batch: Batch) -> StepInputs:
    """The inputs of the next step of `state`, without the teacher's outputs."""
    key = jax.random.fold_in(state.key, state.step)
    return StepInputs(
        batch=batch,
        teacher_params=teacher_params,
        memory=state.memory,
        key=key,
        decay=scheduled.decay,
        warmup=scheduled.warmup,
        balance=scheduled.balance,
    )


def initial_state(pair: Pair, detector_params: Tree, key: jax.Array) -> State:
    """The initial state; the methods' parameters are initialised with `key`.

    Raises ConfigError where a method does not fit the two detectors.
    """
    method_params, memory = {}, {}
    check_reliability(pair)
    check_fit(pair)
    for index, (name, config) in enumerate(pair.methods.items()):
        assert pair.teacher is not None
        traits, module = (pair.student.traits, pair.teacher_traits), module_of(config)
        method_params[name] = module.init(config, jax.random.fold_in(jax.random.fold_in(key, 1), index), *traits)
        if hasattr(module, "init_memory"):
            memory[name] = module.init_memory(config, *traits)
    params = {"detector": detector_params, "distill": method_params}
    trainable, _ = split(params, pair.trainable)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=pair.optimizer.init(trainable),
        ema=jax.tree.map(jnp.copy, detector_params) if pair.ema_decay else {},
        key=jax.random.fold_in(key, 0),
        memory=memory,
    )


def check_fit(pair: Pair) -> None:
    """Raises ConfigError where a method needs what the student or the teacher does not give."""
    if pair.methods:
        assert pair.teacher is not None
        student = fit.party("student", pair.student, pair.student.traits)
        fit.check(pair.methods, student, fit.party("teacher", pair.teacher, pair.teacher_traits))


def check_reliability(pair: Pair) -> None:
    """Raises ConfigError where a method's `reliability_from` names no method of the recipe that gives reliabilities."""
    available = sorted(name for name, config in pair.methods.items() if hasattr(module_of(config), "reliability"))
    for name, config in pair.methods.items():
        source = getattr(config, "reliability_from", "")
        if source and source not in available:
            raise ConfigError(
                f"distill.{name}.reliability_from is '{source}', which is no method of the recipe that has "
                f"reliabilities; there are {available}."
            )


@functools.lru_cache(maxsize=4)
def make_step(pair: Pair, mesh: Mesh) -> Callable[[State, Tree, Scheduled, Batch], tuple[State, dict[str, jax.Array]]]:
    """The compiled step (state, teacher's parameters, schedules' values, batch) -> (state, metrics).

    Equal pairs get the same function, with what it has compiled: a second run in the same process, of another seed or
    one that goes on, compiles nothing.

    The state is donated. The teacher's forward pass is outside of jax.grad, so none of its activations are saved for
    the backward pass. Terms are summed over devices before they are divided, so results do not depend on the number of
    devices.

    With `Pair.accumulate` above 1 the batch is split into micro-batches, computed one after another in the memory of
    one. A term is divided by the count of the whole batch where that count follows from truth and anchors alone, as
    all counts of a dense detector do: the gradient is then that of the whole batch. Other counts (of sampled
    proposals, of gates) are known only after the last micro-batch's forward pass; there each micro-batch divides by
    its own count over all devices, and the gradient is the mean over micro-batches. `count_spread` reports, for these
    terms, the largest standard deviation of the micro-batches' counts over their mean. Counts of a micro-batch, one
    number a term, are summed over devices one micro-batch at a time; gradients once, at the end. All other metrics
    are of the whole batch.
    """

    def step(
        state: State, teacher_params: Tree, scheduled: Scheduled, batch: Batch
    ) -> tuple[State, dict[str, jax.Array]]:
        batch_inputs = step_inputs(state, teacher_params, scheduled, batch)
        trainable, frozen = split(state.params, pair.trainable)
        batch_counts = whole_batch_counts(pair, state.params, batch_inputs) if pair.accumulate > 1 else {}

        def gradient(part: Batch) -> tuple[Tree, tuple[Losses, Counts]]:
            inputs = with_teacher_outputs(pair, batch_inputs.replace(batch=part))

            def loss(trainable: Tree) -> tuple[jax.Array, tuple[Losses, Counts]]:
                params = join(trainable, frozen)
                student_features = pair.student.features(params["detector"], part)
                losses = forward(pair, params, student_features, inputs)
                counts = micro_batch_counts(losses, batch_counts)
                squares = {name: count**2 for name, count in counts.items()} if pair.accumulate > 1 else {}
                return total_loss(losses, batch_counts, counts, parts=pair.accumulate), (losses, squares)

            return jax.grad(loss, has_aux=True)(trainable)

        grads, (losses, squares) = over_micro_batches(gradient, batch, parts=pair.accumulate)
        grads, losses = lax.psum((grads, losses), AXIS)
        opt_state: Any
        rate = scheduled.learning_rate
        update = optax.with_extra_args_support(pair.optimizer).update
        updates, opt_state = update(grads, state.opt_state, trainable, learning_rate=rate)
        params = join(optax.apply_updates(trainable, updates), frozen)
        ema = state.ema
        if pair.ema_decay:
            moved = moving_average(ema, params["detector"], decay=pair.ema_decay, step=state.step)
            ema = jax.tree.map(lambda new, old: jnp.where(opt_state.last_finite, new, old), moved, ema)
        metrics = {name: term.mean() for name, term in (losses.terms | losses.metrics).items()}
        metrics["loss"] = sum((term.mean() for term in losses.terms.values()), jnp.zeros(()))
        if squares:
            metrics["count_spread"] = count_spread(losses.terms, squares, parts=pair.accumulate)
        metrics["learning_rate"] = rate
        metrics["gradient_norm"] = optax.tree.norm(grads)
        metrics["skipped_steps"] = opt_state.total_notfinite.astype(jnp.float32)
        metrics["skipped_in_a_row"] = opt_state.notfinite_count.astype(jnp.float32)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema), metrics

    return jax.jit(over_batch(step, mesh, replicated=3), donate_argnums=0)


def over_micro_batches(function: Callable[[Batch], Tree], batch: Batch, *, parts: int) -> Tree:
    """The sum of `function` over `parts` equal micro-batches, computed one after another.

    Micro-batch i has the pictures i, i + parts, i + 2 parts, ..., so that it does not depend on the number of devices.
    """
    if parts == 1:
        return function(batch)
    stacked = jax.tree.map(lambda rows: jnp.moveaxis(rows.reshape(-1, parts, *rows.shape[1:]), 1, 0), batch)
    shapes = jax.eval_shape(function, jax.tree.map(lambda rows: rows[0], stacked))

    def add(sums: Tree, part: Batch) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, sums, function(part)), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return lax.scan(add, zeros, stacked)[0]


def with_teacher_outputs(pair: Pair, inputs: StepInputs) -> StepInputs:
    """The inputs with the teacher's feature maps and detections of the batch."""
    return inputs.replace(
        teacher_features=teacher_features(pair, inputs.teacher_params, inputs.batch),
        teacher_detections=teacher_detections(pair, inputs.teacher_params, inputs.batch),
    )


def teacher_features(pair: Pair, teacher_params: Tree, batch: Batch) -> Features | None:
    """The teacher's feature maps of its own canvas, without a gradient; None without a method, or if it gives none."""
    if pair.teacher is None or not pair.methods or "features" not in pair.teacher.traits.capabilities:
        return None
    return lax.stop_gradient(cast(Detector, pair.teacher).features(teacher_params, batch.as_teacher_sees()))


def teacher_maps(pair: Pair, features: Features, batch: Batch) -> Features:
    """The teacher's feature maps as methods see them: on the student's grid."""
    assert pair.teacher is not None
    return view.on_student_grid(features, pair.teacher.traits, batch, bilinear=pair.bilinear)


def teacher_detections(pair: Pair, teacher_params: Tree, batch: Batch) -> Detections | None:
    """The teacher's detections with the student's labels, without a gradient; None where no method needs them."""
    if not pair.taught_from("detections"):
        return None
    teacher = cast(Detector, pair.teacher)
    detections = lax.stop_gradient(view.to_student(teacher.detect(teacher_params, batch.as_teacher_sees()), batch))
    if pair.teacher_columns:
        return classes.relabelled(detections, pair.teacher_columns, classes=len(teacher.classes))
    return detections


def forward(pair: Pair, params: Tree, student_features: Features, inputs: StepInputs) -> Losses:
    """All terms of this device's shard of the batch; those of the methods are already multiplied by their factors.

    Args:
      pair: student, teacher and methods.
      params: parameters of the student and of the methods, as in `State.params`.
      student_features: feature maps of the batch.
      inputs: all other arguments.
    """
    student, student_params, batch = pair.student, params["detector"], inputs.batch
    keys = image_keys(inputs)
    regions, terms = student.sample_regions(student_params, student_features, batch, keys)
    predictions = student.predict(student_params, student_features, regions.boxes, batch)
    terms = terms | student.losses(predictions, regions)
    metrics = {"positives": Term(regions.positive.sum() * 1.0, regions.valid.sum() * 1.0)}
    if pair.methods:
        outputs = DetectorOutputs(features=student_features, predictions=predictions, traits=student.traits)
        shared = with_teacher(pair, inputs, outputs, regions, owner=student.traits)
        distilled = distill(pair, params, inputs, shared, keys=keys)
        terms, metrics = terms | distilled.terms, metrics | distilled.metrics
    return Losses(terms=terms, metrics=lax.stop_gradient(metrics))


def distill(pair: Pair, params: Tree, inputs: StepInputs, shared: Inputs, *, keys: Key[Array, "b"]) -> Losses:
    """The terms of all methods, multiplied by their factors, and their metrics; their names are METHOD/NAME.

    `shared` has the outputs of both detectors on the regions of the student's detection loss.
    """
    student_features = shared.student.features
    by_source: dict[base.RegionSource, Inputs] = {STUDENT_REGIONS: shared}
    terms, metrics = {}, {}
    for index, (name, config) in enumerate(pair.methods.items()):
        module, key, outcomes = module_of(config), jax.random.fold_in(inputs.key, index), []
        for source in module.region_sources(config):
            if source not in by_source:  # when first needed: this keeps the order in which gradients are summed
                by_source[source] = on_regions(
                    pair, params["detector"], student_features, inputs, source=source, keys=keys
                )
            method_inputs = by_source[source].replace(memory=inputs.memory.get(name), key=key)
            method_inputs = method_inputs.replace(reliability=_reliability(pair, config, method_inputs, inputs.memory))
            outcomes.append(module.losses(config, params["distill"][name], method_inputs))
        losses, factor = base.summed(outcomes), inputs.decay[name]
        method_terms = base.factored(losses, decay=factor, warmup=inputs.warmup.get(name))
        method_metrics = losses.metrics | {"decay": Term(factor, jnp.ones(()))}
        terms |= {f"{name}/{part}": term for part, term in method_terms.items()}
        metrics |= {f"{name}/{part}": term for part, term in method_metrics.items()}
    return Losses(terms=balanced(terms, inputs.balance), metrics=metrics)


def image_keys(inputs: StepInputs) -> Key[Array, "b"]:
    """A random key for each picture, which depends on the step and on the picture's id alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(inputs.key, inputs.batch.ids)


def on_regions(
    pair: Pair,
    student_params: Tree,
    student_features: Features,
    inputs: StepInputs,
    *,
    source: base.RegionSource,
    keys: Key[Array, "b"],
) -> Inputs:
    """The outputs of both detectors on a set of regions; memory, key and reliability of a method are still to be set.

    Args:
      pair: student and teacher.
      student_params: parameters of the student.
      student_features: its feature maps of the batch.
      inputs: all other arguments, with the teacher's outputs.
      source: the detector that proposes the regions, and whether they are sampled.
      keys: of `image_keys`.
    """
    student = pair.student
    if source.detector == "teacher":
        owner = pair.teacher_traits
        regions = _teacher_regions(pair, inputs, stage=source.stage, keys=keys)
    else:
        owner = student.traits
        regions, _ = student.sample_regions(student_params, student_features, inputs.batch, keys, stage=source.stage)
    regions = lax.stop_gradient(regions)
    # A teacher's label of background is its own number of classes.
    if source.detector == "teacher" and pair.teacher_columns:
        regions = regions.replace(labels=jnp.where(regions.positive, regions.labels, len(student.classes)))
    predictions = None
    if base.can_predict(student.traits, owner):
        predictions = student.predict(student_params, student_features, regions.boxes, inputs.batch)
    outputs = DetectorOutputs(features=student_features, predictions=predictions, traits=student.traits)
    return with_teacher(pair, inputs, outputs, regions, owner=owner)


def _teacher_regions(pair: Pair, inputs: StepInputs, *, stage: Stage, keys: Key[Array, "b"]) -> Regions:
    """The teacher's own regions, in pixels of the student's canvas; neither IoUs nor target deltas depend on that."""
    teacher, features, batch = cast(Detector, pair.teacher), inputs.teacher_features, inputs.batch
    assert features is not None
    regions, _ = teacher.sample_regions(inputs.teacher_params, features, batch.as_teacher_sees(), keys, stage=stage)
    return regions if batch.teacher is None else regions.replace(boxes=batch.teacher.to_student(regions.boxes))


def with_teacher(
    pair: Pair, inputs: StepInputs, student: DetectorOutputs, regions: Regions, *, owner: Traits
) -> Inputs:
    """The student's outputs on the `regions` of `owner`, and the teacher's on the same regions (proposal sharing).

    A teacher on its own canvas predicts for the boxes there. Its deltas are measured in sides of the boxes, so they
    are the same on both canvases, also where these scale height and width by different factors.
    """
    teacher, features, batch = cast(Detector, pair.teacher), inputs.teacher_features, inputs.batch
    predictions = None
    if features is not None and base.can_predict(pair.teacher_traits, owner):
        boxes = regions.boxes if batch.teacher is None else batch.teacher.from_student(regions.boxes)
        predictions = teacher.predict(inputs.teacher_params, features, boxes, batch.as_teacher_sees())
        predictions = lax.stop_gradient(predictions)
        if pair.teacher_columns and student.predictions is not None:
            predictions = _in_student_classes(pair, predictions, student.predictions)
    if features is not None and batch.teacher is not None:
        # Maps that no method needs do not have to fit the student's grid.
        features = teacher_maps(pair, features, batch) if pair.taught_from("features") else None
    outputs = DetectorOutputs(
        features=features,
        predictions=predictions,
        traits=pair.teacher_traits,
        detections=inputs.teacher_detections,
    )
    return Inputs(student=student, teacher=outputs, regions=regions, batch=batch)


def _reliability(pair: Pair, config: Any, inputs: Inputs, memory: dict[str, Any]) -> Reliability | None:
    """The reliability of each object by the method that `config.reliability_from` names; None where it names none."""
    source = getattr(config, "reliability_from", "")
    if not source:
        return None
    other = pair.methods[source]
    return lax.stop_gradient(module_of(other).reliability(other, inputs.replace(memory=memory.get(source))))


def _in_student_classes(pair: Pair, teacher: Predictions, student: Predictions) -> Predictions:
    """The teacher's predictions in the student's class order; unchanged where one head is softmax and one sigmoid."""
    assert pair.teacher is not None
    student_traits, teacher_traits = pair.student.traits, pair.teacher.traits
    if (student_traits.background is None) != (teacher_traits.background is None):
        return teacher
    delta_scale = [a / b for a, b in zip(teacher_traits.box_weights, student_traits.box_weights, strict=True)]
    background = student_traits.background is not None
    return classes.translated(teacher, student, pair.teacher_columns, background=background, code=delta_scale)


def whole_batch_counts(pair: Pair, params: Tree, inputs: StepInputs) -> Counts:
    """The counts of the whole batch over all devices, of the terms whose count does not depend on parameters."""

    def counts(params: tuple[Tree, Tree], part: Batch) -> Counts:
        student_params, teacher_params = params
        part_inputs = with_teacher_outputs(pair, inputs.replace(batch=part, teacher_params=teacher_params))
        features = pair.student.features(student_params["detector"], part)
        terms = forward(pair, student_params, features, part_inputs).terms
        return {name: term.count for name, term in terms.items()}

    all_params = (params, inputs.teacher_params)
    depends_on_params = depends_on_first(counts, all_params, inputs.batch)

    def constant_counts(part: Batch) -> Counts:
        return {name: count for name, count in counts(all_params, part).items() if not depends_on_params[name]}

    # XLA removes both forward passes as dead code.
    return lax.psum(over_micro_batches(constant_counts, inputs.batch, parts=pair.accumulate), AXIS)


def micro_batch_counts(losses: Losses, batch_counts: Counts) -> Counts:
    """The counts of a micro-batch over all devices, of the terms that are not in `batch_counts`."""
    counts = {name: term.count for name, term in losses.terms.items() if name not in batch_counts}
    return lax.psum(lax.stop_gradient(counts), AXIS)


def total_loss(losses: Losses, batch_counts: Counts, counts: Counts, *, parts: int) -> jax.Array:
    """What this device adds to the total loss with one of `parts` micro-batches.

    A term is divided by its count in `batch_counts`, or by the micro-batch's in `counts` times `parts`.
    """
    means = [
        term.replace(count=batch_counts[name]).mean()
        if name in batch_counts
        else term.replace(count=counts[name]).mean() / parts
        for name, term in losses.terms.items()
    ]
    return jnp.stack(means).sum()


def count_spread(terms: dict[str, Term], squares: Counts, *, parts: int) -> jax.Array:
    """The coefficient of variation of the micro-batches' counts, of the term where it is largest.

    `terms` hold the sums of the counts over micro-batches, `squares` the sums of their squares.
    """
    ratios = [Term(parts * square, terms[name].count ** 2).mean() for name, square in squares.items()]
    return jnp.sqrt(jnp.maximum(jnp.stack(ratios).max() - 1.0, 0.0))

"""One training step: detection terms, distillation terms, one update."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax import lax
from jax import numpy as jnp
from jax.sharding import Mesh

from jaxkd.config import module_of
from jaxkd.detectors.base import Moments, predict_regions
from jaxkd.nets.norm import running
from jaxkd.train.dependence import depends_on_first
from jaxkd.train.lesson import (
    Lesson,
    StepInputs,
    check_fit,
    check_reliability,
    distill,
    image_keys,
    with_outputs,
    with_teacher,
)
from jaxkd.train.mesh import AXIS, over_batch
from jaxkd.train.schedules import Scheduled
from jaxkd.train.state import State, Tree, join, moving_average, split
from jaxkd.types import (
    Batch,
    DetectorOutputs,
    Features,
    Losses,
    Term,
)

Counts = dict[str, jax.Array]  # by name of a term, the count by which it is divided


@dataclass(frozen=True)
class Pair(Lesson):
    """Everything static about a step: the student, its teacher, the methods and the optimizer.

    Two that are equal share their compiled programs.
    """

    optimizer: optax.GradientTransformation  # with `apply_if_finite` outermost; its `update` takes learning_rate
    ema_decay: float = 0.0
    ema_warmup: float = 0.0  # see `state.moving_average`
    accumulate: int = 1  # micro-batches of a batch, computed one after another
    further: dict[str, Lesson] = dataclasses.field(default_factory=dict, hash=False)  # of other teachers, by name

    @property
    def lessons(self) -> dict[str, Lesson]:
        """Each teacher with its methods, by name; "" is that of the pair itself."""
        own: dict[str, Lesson] = {"": self} if self.methods else {}
        return own | self.further

    @property
    def all_methods(self) -> dict[str, Any]:
        """The methods of all teachers; their names are distinct."""
        return {name: config for lesson in self.lessons.values() for name, config in lesson.methods.items()}

    def lesson_of(self, method: str) -> tuple[str, Lesson]:
        """The name of the teacher that a method is of, and the lesson."""
        return next((name, lesson) for name, lesson in self.lessons.items() if method in lesson.methods)

    def params_of(self, name: str, teacher_params: Tree) -> Tree:
        """One teacher's parameters among those of all: with one teacher these are its own."""
        return teacher_params[name] if self.further else teacher_params

    def trainable(self, path: tuple[str, ...]) -> bool:
        """Whether the leaf at `path` of State.params is trained."""
        return path[0] == "distill" or self.student.trainable(path[1:])


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
    for lesson in pair.lessons.values():
        check_reliability(lesson)
        check_fit(lesson)
    for index, (name, config) in enumerate(pair.all_methods.items()):
        _, lesson = pair.lesson_of(name)
        traits, module = (pair.student.traits, lesson.teacher_traits), module_of(config)
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

        def gradient(part: Batch) -> tuple[Tree, tuple[Losses, Counts, Moments]]:
            inputs = with_teacher_outputs(pair, batch_inputs.replace(batch=part))

            def loss(trainable: Tree) -> tuple[jax.Array, tuple[Losses, Counts, Moments]]:
                params = join(trainable, frozen)
                student_features, moments = pair.student.training_features(params["detector"], part)
                losses = forward(pair, params, student_features, inputs)
                counts = micro_batch_counts(losses, batch_counts)
                squares = {name: count**2 for name, count in counts.items()} if pair.accumulate > 1 else {}
                return total_loss(losses, batch_counts, counts, parts=pair.accumulate), (losses, squares, moments)

            return jax.grad(loss, has_aux=True)(trainable)

        grads, (losses, squares, moments) = over_micro_batches(gradient, batch, parts=pair.accumulate)
        grads, losses, moments = lax.psum((grads, losses, moments), AXIS)
        opt_state: Any
        rate = scheduled.learning_rate
        update = optax.with_extra_args_support(pair.optimizer).update
        updates, opt_state = update(grads, state.opt_state, trainable, learning_rate=rate)
        params = join(optax.apply_updates(trainable, updates), frozen)
        params["detector"] = running(params["detector"], moments, finite=opt_state.last_finite)
        ema = state.ema
        if pair.ema_decay:
            decay, warmup = pair.ema_decay, pair.ema_warmup
            moved = moving_average(ema, params["detector"], decay=decay, step=state.step, warmup=warmup)
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
    """The inputs with the feature maps and detections of the batch, of every teacher."""
    outputs = {}
    for name, lesson in pair.lessons.items():
        params, batch = pair.params_of(name, inputs.teacher_params), inputs.batch.for_teacher(name)
        outputs[name] = with_outputs(lesson, inputs.replace(teacher_params=params, batch=batch))
    own = outputs.pop("", inputs)
    return own.replace(further=outputs)


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
    predictions = predict_regions(student, student_params, student_features, regions, batch)
    terms = terms | student.losses(predictions, regions)
    metrics = {"positives": Term(regions.positive.sum() * 1.0, regions.valid.sum() * 1.0)}
    first = 0
    for name, lesson in pair.lessons.items():
        lesson_inputs = inputs.further.get(name, inputs)
        outputs = DetectorOutputs(features=student_features, predictions=predictions, traits=student.traits)
        shared = with_teacher(lesson, lesson_inputs, outputs, regions.replace(queries=None), owner=student.traits)
        distilled = distill(lesson, params, lesson_inputs, shared, keys=keys, first=first)
        terms, metrics = terms | distilled.terms, metrics | distilled.metrics
        first += len(lesson.methods)
    return Losses(terms=terms, metrics=lax.stop_gradient(metrics))


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

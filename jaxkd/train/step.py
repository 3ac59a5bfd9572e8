"""One training step: detection terms, distillation terms, one update."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax
from flax import struct
from jax import lax
from jax import numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Key

from jaxkd.config import module_of
from jaxkd.detectors.base import Detector
from jaxkd.distill import base, classes
from jaxkd.errors import ConfigError
from jaxkd.train.dependence import needs_first
from jaxkd.train.mesh import AXIS, over_batch
from jaxkd.train.schedules import Scheduled
from jaxkd.train.state import State, Tree, join, moving_average, split
from jaxkd.types import Answers, Batch, Features, Inputs, Outcome, Regions, Term, Traits, Trust, View

OWN = base.Sharing()
Counts = dict[str, jax.Array]  # what the terms of these names are divided by


@dataclass(frozen=True)
class Pair:
    """Everything static about a step: who learns, who teaches, how."""

    student: Detector
    teacher: Detector | None
    methods: dict[str, Any]  # a name of the recipe's choice -> the method's Config
    optimizer: optax.GradientTransformation  # whose `update` takes a learning_rate
    ema_decay: float = 0.0
    columns: tuple[int, ...] = ()  # of the teacher, for each class of the student; empty where their lists are equal
    accumulate: int = 1  # parts of a batch that a step looks at one after another

    @functools.cached_property
    def teacher_traits(self) -> Traits:
        """The teacher's traits, as methods see them: with the student's classes, where it knows any."""
        assert self.teacher is not None
        traits, classes = self.teacher.traits, self.student.classes
        if not self.columns:
            return traits
        background = None if traits.background is None else len(classes)
        return dataclasses.replace(traits, classes=classes, background=background)

    def trainable(self, path: tuple[str, ...]) -> bool:
        """Whether the leaf at `path` of State.params is to be trained."""
        return path[0] == "distill" or self.student.trainable(path[1:])


class StepInputs(struct.PyTreeNode):
    """What `forward` needs beside the student: a batch, or a part of it, and all that is fixed in a step."""

    batch: Batch
    frozen: Tree  # the teacher's parameters; {} without one
    teacher_features: Features | None = None  # of the batch, without a gradient; None where no method asks for them
    memory: dict[str, Any] = struct.field(default_factory=dict)  # by the methods that have one
    key: Any = None  # [] of the step
    decay: dict[str, Any] = struct.field(default_factory=dict)  # the factor [] of each method


def step_inputs(state: State, frozen: Tree, scheduled: Scheduled, batch: Batch) -> StepInputs:
    """The inputs of the next step of `state`, without the teacher's features."""
    key = jax.random.fold_in(state.key, state.step)
    return StepInputs(batch=batch, frozen=frozen, memory=state.memory, key=key, decay=scheduled.decay)


def initial_state(pair: Pair, detector_params: Tree, key: jax.Array) -> State:
    """The state before step 1, with the methods' own parameters drawn from `key`."""
    own, memory = {}, {}
    check_trust(pair)
    for index, (name, config) in enumerate(pair.methods.items()):
        assert pair.teacher is not None
        traits, module = (pair.student.traits, pair.teacher_traits), module_of(config)
        own[name] = module.init(config, jax.random.fold_in(jax.random.fold_in(key, 1), index), *traits)
        if hasattr(module, "memory"):
            memory[name] = module.memory(config, *traits)
    params = {"detector": detector_params, "distill": own}
    learned, _ = split(params, pair.trainable)
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=pair.optimizer.init(learned),
        ema=jax.tree.map(jnp.copy, detector_params) if pair.ema_decay else {},
        key=jax.random.fold_in(key, 0),
        memory=memory,
    )


def check_trust(pair: Pair) -> None:
    """Raises ConfigError where a method's `sigma_from` names no method that could say how far objects are relied on."""
    able = sorted(name for name, config in pair.methods.items() if hasattr(module_of(config), "trust"))
    for name, config in pair.methods.items():
        source = getattr(config, "sigma_from", "")
        if source and source not in able:
            raise ConfigError(
                f"distill.{name}.sigma_from is '{source}', which is no method of the recipe that has reliabilities; "
                f"there are {able}."
            )


def make_step(pair: Pair, mesh: Mesh) -> Callable[[State, Tree, Scheduled, Batch], tuple[State, dict[str, jax.Array]]]:
    """The compiled step (state, teacher's parameters, schedules' values, batch) -> (state, metrics).

    The state is given away.

    The teacher is asked with nothing that carries a gradient, so the backward pass keeps none of its activations.
    Terms are summed over devices before they are divided, so the number of devices changes no result.

    With `Pair.accumulate` above 1 the batch is looked at in so many parts, one after another, with the memory of one.
    Terms are divided by the counts of the whole batch where those follow from truth and anchors alone, as all of a
    dense detector's do: their gradient is that of the whole batch. Other counts (of sampled proposals, of gates) are
    known only behind the last part's forward pass; there each part divides by its own over all devices, and the
    gradient is the mean of the parts', in which an object counts for more in a part that has few. `count_spread` is
    reported of these: the standard deviation of the parts' counts over their mean, for the term where it is greatest.
    The counts of a part, one number a term, are added over devices part by part; gradients once, at the end. All other
    metrics are of the whole batch.
    """

    def step(state: State, frozen: Tree, scheduled: Scheduled, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        whole = step_inputs(state, frozen, scheduled, batch)
        learned, fixed = split(state.params, pair.trainable)
        known = known_counts(pair, state.params, whole) if pair.accumulate > 1 else {}

        def gradient(part: Batch) -> tuple[Tree, tuple[Outcome, Counts]]:
            inputs = whole.replace(batch=part, teacher_features=teacher_features(pair, frozen, part))

            def objective(learned: Tree) -> tuple[jax.Array, tuple[Outcome, Counts]]:
                params = join(learned, fixed)
                features = pair.student.features(params["detector"], part)
                outcome = forward(pair, params, features, inputs)
                own = part_counts(outcome, known)
                squares = {name: count**2 for name, count in own.items()} if pair.accumulate > 1 else {}
                return total_loss(outcome, known, own, parts=pair.accumulate), (outcome, squares)

            return jax.grad(objective, has_aux=True)(learned)

        grads, (outcome, squares) = in_parts(gradient, batch, parts=pair.accumulate)
        grads, outcome = lax.psum((grads, outcome), AXIS)
        opt_state: Any
        rate = scheduled.learning_rate
        update = optax.with_extra_args_support(pair.optimizer).update
        updates, opt_state = update(grads, state.opt_state, learned, learning_rate=rate)
        params = join(optax.apply_updates(learned, updates), fixed)
        ema = state.ema
        if pair.ema_decay:
            moved = moving_average(ema, params["detector"], decay=pair.ema_decay, step=state.step)
            ema = jax.tree.map(lambda new, old: jnp.where(opt_state.last_finite, new, old), moved, ema)
        metrics = {name: term.mean() for name, term in (outcome.terms | outcome.metrics).items()}
        metrics["loss"] = sum((term.mean() for term in outcome.terms.values()), jnp.zeros(()))
        if squares:
            metrics["count_spread"] = count_spread(outcome.terms, squares, parts=pair.accumulate)
        metrics["learning_rate"] = rate
        metrics["gradient_norm"] = optax.tree.norm(grads)
        metrics["skipped_steps"] = opt_state.total_notfinite.astype(jnp.float32)
        metrics["skipped_in_a_row"] = opt_state.notfinite_count.astype(jnp.float32)
        new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)
        return new, metrics

    return jax.jit(over_batch(step, mesh, replicated=3), donate_argnums=0)


def in_parts(function: Callable[[Batch], Tree], batch: Batch, *, parts: int) -> Tree:
    """The sum of what `function` makes of so many equal parts of the batch, one after another.

    A part is every `parts`-th picture, counted from its first, so that it holds the same pictures whatever the number
    of devices that the batch is spread over.
    """
    if parts == 1:
        return function(batch)
    stacked = jax.tree.map(lambda rows: jnp.moveaxis(rows.reshape(-1, parts, *rows.shape[1:]), 1, 0), batch)
    shapes = jax.eval_shape(function, jax.tree.map(lambda rows: rows[0], stacked))

    def add(sums: Tree, part: Batch) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, sums, function(part)), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return lax.scan(add, zeros, stacked)[0]


def teacher_features(pair: Pair, frozen: Tree, batch: Batch) -> Features | None:
    """The teacher's feature maps without a gradient; None where nobody asks for them."""
    if pair.teacher is None or not pair.methods:
        return None
    return lax.stop_gradient(pair.teacher.features(frozen, batch))


def forward(pair: Pair, params: Tree, features: Features, inputs: StepInputs) -> Outcome:
    """Every term of this device's part of the batch, the methods' already decayed.

    Args:
      pair: who learns, who teaches, how.
      params: the student's and the methods', as in `State.params`.
      features: the student's, of the batch.
      inputs: all else.
    """
    student, batch, traits = params["detector"], inputs.batch, pair.student.traits
    keys = image_keys(inputs)
    regions, terms = pair.student.regions(student, features, batch, keys)
    answers = pair.student.answer(student, features, regions, batch)
    terms = terms | pair.student.losses(answers, regions)
    metrics = {"positives": Term(regions.positive.sum() * 1.0, regions.valid.sum() * 1.0)}
    if inputs.teacher_features is not None:
        view = View(features=features, answers=answers, traits=traits)
        own = _beside_teacher(pair, inputs, view, regions, owner=traits)
        taught = _taught(pair, params, inputs, own, keys=keys)
        terms, metrics = terms | taught.terms, metrics | taught.metrics
    return Outcome(terms=terms, metrics=lax.stop_gradient(metrics))


def _taught(pair: Pair, params: Tree, inputs: StepInputs, own: Inputs, *, keys: Key[Array, "b"]) -> Outcome:
    """The terms of all methods, decayed where they decay, and their metrics, by METHOD/NAME.

    `own` are both detectors on the regions of the student's own loss.
    """
    shared: dict[base.Sharing, Inputs] = {OWN: own}
    terms, metrics = {}, {}
    for index, (name, config) in enumerate(pair.methods.items()):
        module, key, outcomes = module_of(config), jax.random.fold_in(inputs.key, index), []
        for sharing in module.sharing(config):
            if sharing not in shared:  # not earlier: gradients are added up in the reverse order of their uses
                features = own.student.features
                shared[sharing] = on_regions(pair, params["detector"], features, inputs, sharing=sharing, keys=keys)
            given = shared[sharing].replace(memory=inputs.memory.get(name), key=key)
            given = given.replace(trust=_trust(pair, config, given, inputs.memory))
            outcomes.append(module.losses(config, params["distill"][name], given))
        outcome, factor = base.summed(outcomes), inputs.decay[name]
        decayed = base.scaled(outcome.terms, factor) | outcome.steady
        reported = outcome.metrics | {"decay": Term(factor, jnp.ones(()))}
        terms |= {f"{name}/{part}": term for part, term in decayed.items()}
        metrics |= {f"{name}/{part}": term for part, term in reported.items()}
    return Outcome(terms=terms, metrics=metrics)


def image_keys(inputs: StepInputs) -> Key[Array, "b"]:
    """A key for each picture, the same wherever in the batch it lies."""
    return jax.vmap(jax.random.fold_in, (None, 0))(inputs.key, inputs.batch.ids)


def on_regions(
    pair: Pair, params: Tree, features: Features, inputs: StepInputs, *, sharing: base.Sharing, keys: Key[Array, "b"]
) -> Inputs:
    """Both detectors on a set of regions, to which a method's memory, key and trust are added; a teacher is needed.

    Args:
      pair: who learns and who teaches.
      params: the student's.
      features: the student's, of the batch.
      inputs: all else, with the teacher's features.
      sharing: whose regions, and which.
      keys: what `image_keys` gives.
    """
    student, teacher = pair.student, pair.teacher
    assert teacher is not None and inputs.teacher_features is not None
    if sharing.source == "teacher":
        owner, seen = teacher, (inputs.frozen, inputs.teacher_features)
    else:
        owner, seen = student, (params, features)
    regions, _ = owner.regions(*seen, inputs.batch, keys, stage=sharing.stage)
    regions = lax.stop_gradient(regions)
    if sharing.source == "teacher" and pair.columns:  # the teacher counts another background
        regions = regions.replace(labels=jnp.where(regions.positive, regions.labels, len(student.classes)))
    answers = None
    if base.answers_about(student.traits, owner.traits):
        answers = student.answer(params, features, regions, inputs.batch)
    view = View(features=features, answers=answers, traits=student.traits)
    return _beside_teacher(pair, inputs, view, regions, owner=owner.traits)


def _beside_teacher(pair: Pair, inputs: StepInputs, student: View, regions: Regions, *, owner: Traits) -> Inputs:
    """The student's view on the `regions` of `owner`, and the teacher's beside it."""
    teacher, features = pair.teacher, inputs.teacher_features
    assert teacher is not None and features is not None
    answers = None
    if base.answers_about(teacher.traits, owner):
        answers = lax.stop_gradient(teacher.answer(inputs.frozen, features, regions, inputs.batch))
        if pair.columns and student.answers is not None:
            answers = _translated(pair, answers, student.answers)
    view = View(features=features, answers=answers, traits=pair.teacher_traits)
    return Inputs(student=student, teacher=view, regions=regions, batch=inputs.batch)


def _trust(pair: Pair, config: Any, inputs: Inputs, memory: dict[str, Any]) -> Trust | None:
    """How far the method that `config` names in `sigma_from` relies on each object; None where it names none."""
    source = getattr(config, "sigma_from", "")
    if not source:
        return None
    other = pair.methods[source]
    return lax.stop_gradient(module_of(other).trust(other, inputs.replace(memory=memory.get(source))))


def _translated(pair: Pair, replies: Answers, answers: Answers) -> Answers:
    """The teacher's replies in the student's classes; as they are where the two heads could not be compared anyway."""
    assert pair.teacher is not None
    mine, theirs = pair.student.traits, pair.teacher.traits
    if (mine.background is None) != (theirs.background is None):
        return replies
    code = [own / other for own, other in zip(theirs.box_weights, mine.box_weights, strict=True)]
    return classes.translated(replies, answers, pair.columns, background=mine.background is not None, code=code)


def known_counts(pair: Pair, params: Tree, inputs: StepInputs) -> Counts:
    """Over all devices, the whole batch's counts of the terms that need no net to look at the pictures for them."""

    def counts(nets: tuple[Tree, Tree], part: Batch) -> Counts:
        params, frozen = nets
        target = teacher_features(pair, frozen, part)
        features = pair.student.features(params["detector"], part)
        given = inputs.replace(batch=part, frozen=frozen, teacher_features=target)
        terms = forward(pair, params, features, given).terms
        return {name: term.count for name, term in terms.items()}

    nets = (params, inputs.frozen)
    needing = needs_first(counts, nets, inputs.batch)

    def known(part: Batch) -> Counts:
        return {name: count for name, count in counts(nets, part).items() if not needing[name]}

    # The compiler leaves out what these counts do not need: all of the nets.
    return lax.psum(in_parts(known, inputs.batch, parts=pair.accumulate), AXIS)


def part_counts(outcome: Outcome, known: Counts) -> Counts:
    """Over all devices, the counts of a part of the batch, of the terms whose counts of the whole are not `known`."""
    own = {name: term.count for name, term in outcome.terms.items() if name not in known}
    return lax.psum(lax.stop_gradient(own), AXIS)


def total_loss(outcome: Outcome, known: Counts, own: Counts, *, parts: int) -> jax.Array:
    """The share that this device has, for one of so many parts of the batch, in the sum of all terms' means.

    A term is divided by its `known` count of the whole batch or, as a part's share in the mean, by the part's `own`.
    """
    means = [
        term.replace(count=known[name]).mean() if name in known else term.replace(count=own[name]).mean() / parts
        for name, term in outcome.terms.items()
    ]
    return jnp.stack(means).sum()


def count_spread(terms: dict[str, Term], squares: Counts, *, parts: int) -> jax.Array:
    """The standard deviation of the parts' counts over their mean, for the term where that is greatest.

    `terms` hold the counts' sums over the parts, `squares` the sums of their squares.
    """
    ratios = [Term(parts * square, terms[name].count ** 2).mean() for name, square in squares.items()]
    return jnp.sqrt(jnp.maximum(jnp.stack(ratios).max() - 1.0, 0.0))

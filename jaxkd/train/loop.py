"""A run from its recipe to its student: the one place where all parts meet."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.data.base import Source
from jaxkd.detectors.base import Detector, Params
from jaxkd.distill import decay
from jaxkd.errors import ConfigError, DivergedError, JaxkdError, WeightsError
from jaxkd.evaluation.run import Evaluation
from jaxkd.train import build, checkpoint, look, mesh, optimizer, prepare
from jaxkd.train.clock import Clock
from jaxkd.train.log import Log
from jaxkd.train.probe import make_probe
from jaxkd.train.refresh import Refresh
from jaxkd.train.state import State
from jaxkd.train.step import Pair, initial_state, make_step


@dataclass(frozen=True)
class Config:
    """How long, how often, on what.

    Attributes:
      seed: decides initial weights, order of data and sampling.
      batch: pictures a step, over all devices.
      steps: length of the run.
      accumulate: parts of a batch that a step looks at one after another, with the memory of one; see `train.step`.
      devices: devices to use; 0 for all.
      report_every: steps between two lines in the log.
      evaluate_every: steps between two evaluations on `data.val`; 0 for one at the end.
      evaluate_limit: pictures an evaluation looks at; 0 for all.
      evaluate_batch: pictures at once in an evaluation.
      checkpoint_every: steps between two checkpoints; 0 for one at the end.
      keep: last checkpoints that are kept beside the best.
      probe_every: steps between two measurements of gradient ratios; 0 for none.
      ema_decay: of the moving average of the student that is evaluated and kept; 0 for none.
      teacher_check: validation pictures that the teacher is scored on before step 1; 0 for none.
    """

    seed: int = 0
    batch: int = 16
    steps: int = 90000
    accumulate: int = 1
    devices: int = 0
    report_every: int = 50
    evaluate_every: int = 0
    evaluate_limit: int = 0
    evaluate_batch: int = 16
    checkpoint_every: int = 1000
    keep: int = 2
    probe_every: int = 0
    ema_decay: float = 0.0
    teacher_check: int = 64


@dataclass(frozen=True)
class Finished:
    """What a run leaves behind, beside its folder."""

    evaluation: Evaluation  # of the last step
    best_ap: float
    seconds: float  # of training, compilation and evaluation taken out
    steps: int  # done by this process
    wait_share: float  # of `seconds`, spent waiting for data
    compilations: int  # of the step


def run(recipe: configs.Recipe, workdir: Path, *, quiet: bool = False) -> Finished:
    """Trains `recipe` in `workdir`, from its last checkpoint if there is one.

    Raises ConfigError (also for a workdir of another recipe), DataError, WeightsError, StorageError, or
    DivergedError where too many steps in a row are not finite.
    """
    config: Config = configs.build(recipe.train)
    _check_numbers(config)
    prepare.refuse_other(workdir, recipe)
    devices = mesh.make_mesh(config.devices)
    _check_batch(config, devices)
    sources = {name: prepare.load_source(recipe.data[name]) for name in ("train", "val")}
    classes = sources["train"].classes
    prepare.check_classes(sources["val"].classes, classes)
    student = build.detector(recipe.student, classes)
    teacher = prepare.load_teacher(recipe)
    feeding = configs.build(recipe.data.loader)
    batches = loader.train_batches(
        sources["train"],
        feeding,
        seed=config.seed,
        steps=config.steps,
        batch=config.batch,
        process=jax.process_index(),
        processes=jax.process_count(),
    )
    pair = make_pair(recipe, config, student, teacher, pictures=len(sources["train"].records))
    key = jax.random.key(config.seed)
    params, origin = build.initial_params(student, jax.random.fold_in(key, 0), recipe.initial)
    params, inherited = build.inherit(params, teacher, recipe.inherit, classes=classes)
    state = mesh.put_replicated(initial_state(pair, params, jax.random.fold_in(key, 1)), devices)
    saved = checkpoint.Checkpoints(workdir / "checkpoints", keep=config.keep)
    best_ap, start = -1.0, saved.latest
    if start is not None:
        state, best_ap = saved.restore(start, state, batches.iterator)
    log = Log(workdir, steps=config.steps, start=start or 0, quiet=quiet)
    try:
        _introduce(log, sources, classes, f"{origin} {inherited}".strip(), start)
        if teacher is not None and (said := prepare.shared_classes(teacher.detector.classes, classes)[1]):
            log.say(said)

        def score(detector: look.Finder, weights: Params, limit: int) -> Evaluation:
            return look.score_on(detector, weights, sources["val"], feeding, devices, config.evaluate_batch, limit)

        if teacher is not None and config.teacher_check and start is None:
            finder = look.Renamed(teacher.detector, pair.columns) if pair.columns else teacher.detector
            claimed = None if pair.columns else teacher.scores.get("AP")
            _check_teacher(log, claimed, score(finder, teacher.params, config.teacher_check))
        prepare.claim(workdir, recipe)
        refresh = Refresh(
            pair,
            sources["train"],
            feeding,
            devices,
            batch=config.batch,
            steps_per_epoch=epoch_steps(len(sources["train"].records), config),
        )
        training = _Training(recipe, config, workdir, pair, devices, saved, log, score, refresh)
        frozen = mesh.put_replicated(teacher.params if teacher else {}, devices)
        finished = training.go(state, frozen, batches, best_ap)
        if batches.skipped:
            log.say(f"{len(batches.skipped)} pictures could not be read and were replaced by others.")
        return finished
    finally:
        saved.close()
        log.close()
        batches.close()


def make_pair(
    recipe: configs.Recipe, config: Config, student: Detector, teacher: build.Loaded | None, *, pictures: int
) -> Pair:
    """The static side of a step, for a recipe and what was built from it; `pictures` is the length of an epoch."""
    methods = {name: configs.build(method) for name, method in recipe.distill.items()} if teacher else {}
    per_epoch = epoch_steps(pictures, config)
    return Pair(
        student=student,
        teacher=teacher.detector if teacher else None,
        methods=methods,
        decays={
            name: decay.schedule(method.decay, steps=config.steps, steps_per_epoch=per_epoch)
            for name, method in methods.items()
        },
        optimizer=optimizer.build(configs.build(recipe.optimizer), steps=config.steps),
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
        columns=prepare.shared_classes(teacher.detector.classes, student.classes)[0] if teacher else (),
    )


def epoch_steps(pictures: int, config: Config) -> int:
    """Steps of an epoch over so many pictures."""
    return max(pictures // config.batch, 1)


class _Training:
    """The loop over steps, with what it needs on the way."""

    def __init__(
        self,
        recipe: configs.Recipe,
        config: Config,
        workdir: Path,
        pair: Pair,
        devices: Mesh,
        saved: checkpoint.Checkpoints,
        log: Log,
        score: Callable[[look.Finder, Params, int], Evaluation],
        refresh: Refresh,
    ):
        self.recipe, self.config, self.workdir, self.pair, self.devices = recipe, config, workdir, pair, devices
        self.saved, self.log, self.score, self.refresh = saved, log, score, refresh
        self.step = make_step(pair, devices)
        self.probe = make_probe(pair, devices) if config.probe_every and pair.methods else None
        self.best_ap = -1.0

    def go(self, state: State, frozen: Params, batches: loader.Loader, best_ap: float) -> Finished:
        """Steps until the end; reports, evaluates and saves on the way."""
        config, self.best_ap = self.config, best_ap
        start = done = int(state.step)
        evaluation, clock = None, Clock()
        pending: list[dict[str, jax.Array]] = []
        while done < config.steps:
            if due := self.refresh.due(done):
                state = clock.paused(self._refreshed, state, frozen, due)
            batch = mesh.put_batch(clock.waited(batches), self.devices)
            ratios = {}
            if self.probe is not None and done % config.probe_every == 0:
                ratios = clock.paused(self.probe, state, frozen, batch)
            state, metrics = clock.stepped(self.step, state, frozen, batch)
            if pending:
                jax.block_until_ready(pending[-1])  # one step in flight: the wait for data is then seen as such
            pending.append(metrics | ratios)
            done += 1
            if done % config.report_every == 0 or done == config.steps:
                self._report(done, pending, clock)
                pending = []
            evaluation = None
            if done == config.steps or (config.evaluate_every and done % config.evaluate_every == 0):
                evaluation = clock.paused(self._evaluated, state, batches, done)
            if evaluation or (config.checkpoint_every and done % config.checkpoint_every == 0):
                clock.paused(self._save, state, batches, evaluation)
        if evaluation is None:  # the run was finished before this process began
            self.log.say(f"The run was finished at step {done}; there is nothing left to train.")
            if self.best_ap < 0:  # but never scored
                evaluation = self._evaluate(state, done)
            else:
                evaluation = self.score(self.pair.student, self._student(state), config.evaluate_limit)
        return Finished(
            evaluation, self.best_ap, clock.seconds, done - start, clock.wait_share, self.step._cache_size()
        )

    def _refreshed(self, state: State, frozen: Params, due: list[str]) -> State:
        began = time.monotonic()
        state = self.refresh(state, frozen, due)
        self.log.refreshed(int(state.step), due, seconds=time.monotonic() - began)
        return state

    def _report(self, done: int, pending: list[dict[str, jax.Array]], clock: "Clock") -> None:
        values = _means(jax.device_get(pending))
        wait, seconds = clock.lap(len(pending))
        self.log.report(done, values, wait_share=wait, step_seconds=seconds)
        limit = configs.build(self.recipe.optimizer).skip_nonfinite
        if values["skipped_in_a_row"] >= limit:
            raise DivergedError(
                f"Losses or gradients were not finite for {limit} steps in a row before step {done}; lower "
                "optimizer.learning_rate or set optimizer.clip_norm; the last finite checkpoint is kept."
            )

    def _student(self, state: State) -> Params:
        return state.ema if self.pair.ema_decay else state.params["detector"]

    def _evaluated(self, state: State, batches: loader.Loader, done: int) -> Evaluation:
        """The scores after `done` steps; where they cannot be had, the steps are kept before that is said."""
        try:
            return self._evaluate(state, done)
        except JaxkdError:
            self._save(state, batches, None)
            raise

    def _evaluate(self, state: State, done: int) -> Evaluation:
        evaluation = self.score(self.pair.student, self._student(state), self.config.evaluate_limit)
        summary = evaluation.summary
        self.log.scores(done, summary)
        ap = summary["AP"] if np.isfinite(summary["AP"]) else 0.0
        if ap >= self.best_ap:
            self.best_ap = ap
            build.save(
                self.workdir / prepare.STUDENT,
                self._student(state),
                config=self.recipe.student,
                classes=self.pair.student.classes,
                scores=summary,
                sizes={name: self.recipe.data.loader[name] for name in build.SIZES},
            )
        return evaluation

    def _save(self, state: State, batches: loader.Loader, evaluation: Evaluation | None) -> None:
        scores = {"AP": float(np.nan_to_num(evaluation.scores.summary["AP"]))} if evaluation else None
        self.saved.save(state, batches.iterator, best_ap=self.best_ap, scores=scores)


def _means(rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The mean of each metric over the steps that have it."""
    seen: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            seen.setdefault(name, []).append(float(value))
    means = {name: float(np.mean(values)) for name, values in seen.items()}
    return means | {name: seen[name][-1] for name in ("skipped_steps", "skipped_in_a_row")}


def _check_numbers(config: Config) -> None:
    positive = ("batch", "steps", "accumulate", "report_every", "evaluate_batch")
    natural = ("seed", "evaluate_every", "evaluate_limit", "checkpoint_every", "keep", "probe_every", "teacher_check")
    for least, fields in ((1, positive), (0, natural)):
        for name in fields:
            if getattr(config, name) < least:
                raise ConfigError(f"train.{name} must be at least {least}, not {getattr(config, name)}.")
    if not 0 <= config.ema_decay < 1:
        raise ConfigError(f"train.ema_decay must be in [0, 1), not {config.ema_decay}.")


def _check_batch(config: Config, devices: Mesh) -> None:
    if config.batch % (devices.size * config.accumulate):
        parts = f" in {config.accumulate} parts (train.accumulate)" if config.accumulate > 1 else ""
        raise ConfigError(f"train.batch={config.batch} does not divide over {devices.size} devices{parts}.")


def _check_teacher(log: Log, claimed: float | None, evaluation: Evaluation) -> None:
    measured = evaluation.scores.summary["AP"]
    said = f", {100 * claimed:.1f} where it was trained" if claimed is not None else ""
    log.say(f"The teacher scores AP {100 * measured:.1f} on {evaluation.pictures} validation pictures{said}.")
    if claimed is not None and measured < 0.5 * claimed:
        raise WeightsError(
            f"The teacher scores AP {100 * measured:.1f} on this data and {100 * claimed:.1f} where it was trained; "
            "check data and picture sizes, or set config.train.teacher_check=0 to go on."
        )


def _introduce(log: Log, sources: dict[str, Source], classes: tuple[str, ...], origin: str, start: int | None) -> None:
    counts = ", ".join(f"{len(source.records)} pictures to {name}" for name, source in sources.items())
    log.say(f"{len(classes)} classes, {counts} ({jax.device_count()} {jax.default_backend()} device(s)).")
    for name, source in sources.items():
        if source.repairs:
            log.say(f"Repairs in {name}: " + ", ".join(f"{fault} {n}" for fault, n in source.repairs.items()))
    log.say(origin if start is None else f"Going on from the checkpoint at step {start}.")

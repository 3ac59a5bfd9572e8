"""The loop over training steps, with reports, evaluations and checkpoints between them."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh

from jaxkd import config as configs
from jaxkd.data import loader, pictures
from jaxkd.data.base import Source
from jaxkd.detectors.base import Params
from jaxkd.errors import DivergedError, JaxkdError, StoppedError, WeightsError
from jaxkd.evaluation.run import Evaluation
from jaxkd.loading import build, stored_teacher
from jaxkd.train import checkpoint, compiling, evaluate, first_step, hosts, memory, mesh
from jaxkd.train.balance import Balance, Balancer
from jaxkd.train.clock import Clock
from jaxkd.train.lesson import Lesson
from jaxkd.train.log import Log
from jaxkd.train.probe import PREFIX, make_probe
from jaxkd.train.refresh import Refresh
from jaxkd.train.samples import SamplePictures
from jaxkd.train.schedules import Scheduled, Schedules
from jaxkd.train.state import State
from jaxkd.train.step import Pair, make_step
from jaxkd.train.stop import Stop
from jaxkd.types import Batch

UNSCORED = -1.0  # stands for an AP that was not measured
LEAST_SHARE = 0.5  # of the AP that a teacher had on its own data; with less, data or picture sizes are wrong


@dataclass(frozen=True)
class RunResult:
    """The result of a run, beside the files in its workdir."""

    evaluation: Evaluation  # of the last step
    best_ap: float  # UNSCORED where the validation pictures have no object
    seconds: float  # of training, without compilation and evaluation
    steps: int  # done by this process
    wait_share: float  # of `seconds`, spent waiting for data
    compilations: int  # of the step


@dataclass(kw_only=True, eq=False)
class Training:
    """The loop over training steps, and all that it uses."""

    recipe: configs.Recipe  # complete and locked
    workdir: Path
    pair: Pair
    schedules: Schedules
    devices: Mesh
    checkpoints: checkpoint.Checkpoints
    log: Log
    val: Source  # what the student is scored on
    refresh: Refresh
    stop: Stop
    facts: dict[str, str]  # what has to be the same when the run goes on
    reading: pictures.Config  # how the files of the training data are decoded
    loader_config: loader.Config  # with the canvases of the teachers
    check_memory: bool = False  # whether a step that needs much of the memory is refused before it is made

    def __post_init__(self):
        self.config = configs.build(self.recipe.train)
        self.step = make_step(self.pair, self.devices)
        self.programs: dict[tuple[int, ...], Callable] = {}  # the step, compiled, by the shape of its pictures
        probe_every, balance, taught = self.config.probe_every, self.config.balance, bool(self.pair.all_methods)
        has_probe = taught and (probe_every or balance.target)
        self.probe = make_probe(self.pair, self.devices) if has_probe else None
        self.probed = range(0, self.config.steps, probe_every) if taught and probe_every else ()
        self.balancer = Balancer(balance if taught else Balance(), steps=self.config.steps, say=self.log.say)
        self.unchecked = dict(self.pair.all_methods)  # methods whose terms were not looked at yet; see `_check_terms`
        self.vote = hosts.Vote(self.devices)
        self.samples = SamplePictures(self.val, limit=self.config.evaluate_limit)
        self.best_ap = UNSCORED
        self.spread_reported = False

    def check_teacher(self, teacher: build.Loaded, lesson: Lesson, name: str = "") -> None:
        """Scores a teacher on some validation pictures, where it gives detections of the student's classes.

        Raises WeightsError where its AP is below half of that on its own validation data.
        """
        who = f"The teacher {name}".strip()
        if "detections" not in teacher.detector.traits.capabilities:
            self.log.say(f"{who} gives no detections, so it is not scored before the first step.")
            return
        if teacher.stored and not stored_teacher.covers(self.val):
            self.log.say(f"{who}'s file has detections on few validation pictures, so it is not scored.")
            return
        if not lesson.teacher_columns and teacher.detector.classes != lesson.student.classes:
            return  # it knows none of the classes, which is said where the run is introduced
        detector = evaluate.as_student(teacher.detector, lesson.teacher_columns, own_canvas=lesson.own_canvas)
        expected_ap = None if lesson.teacher_columns else teacher.scores.get("AP")
        try:
            evaluation = self._score(detector, teacher.params, self.config.teacher_check, teacher=name)
        except evaluate.Interrupted:
            raise StoppedError(f"Stopped by {self._stop_signal()} before the first step.") from None
        _check_teacher(self.log, who, expected_ap, evaluation)

    def run(
        self, state: State, teacher_params: Params, batches: loader.Loader, resumed: checkpoint.Metadata | None
    ) -> RunResult:
        """Trains until the last step, with reports, evaluations and checkpoints.

        Raises StoppedError, with the steps saved, where a process gets a signal to stop.
        """
        config, clock = self.config, Clock()
        start = done = int(state.step)
        evaluation, pending = None, []
        if resumed:
            self.best_ap, self.unchecked = resumed.best_ap, {}
            self.balancer.factors = dict(resumed.balance)
            if self._evaluation_due(start) and resumed.ap is None:  # the evaluation was interrupted
                evaluation = clock.paused("evaluating", self._evaluated, state, batches, done)
        while done < config.steps:
            if self.vote.cast(bool(self.stop.signal)):
                self._end(state, batches, done, start)
            if due := self.refresh.due(done):
                state = clock.paused("refreshing", self._refreshed, state, teacher_params, due)
            if self.balancer.due(done):
                clock.paused("balancing", self._balance, state, teacher_params, batches, done)
            batch = mesh.put_batch(clock.next_batch(batches), self.devices)
            scheduled = self.schedules.at(done).replace(balance=self.balancer.scheduled())
            arguments = (teacher_params, scheduled, batch)
            with _memory_advice(done + 1, batch.images.shape, self.devices.size):
                ratios = clock.paused("probing", self._ratios, state, *arguments) if done in self.probed else {}
                if batch.images.shape not in self.programs:
                    clock.paused("compiling", self._compile, state, arguments, batches, done, start)
                state, metrics = self.programs[batch.images.shape](state, *arguments)
                if pending:
                    jax.block_until_ready(pending[-1])  # one step in flight: waiting for data is measured
            measured = {f"{PREFIX}/{kind}": ratio for kind, ratio in ratios.items()}
            pending.append(metrics | measured | self.balancer.reported())
            done += 1
            if self.unchecked:
                self._check_terms(done, scheduled, pending[-1])
            if done % config.report_every == 0 or done == config.steps:
                self._report(done, pending, clock)
                pending = []
            evaluation = None
            if self._evaluation_due(done):
                evaluation = clock.paused("evaluating", self._evaluated, state, batches, done)
            if evaluation or (config.checkpoint_every and done % config.checkpoint_every == 0):
                clock.paused("saving", self._save, state, batches, evaluation, done == config.steps)
        if evaluation is None:  # the run was finished before this process began
            evaluation = self._evaluate_finished(state, batches, done)
        self.log.say(f"Where the time went: {clock.shares()}.")
        return RunResult(evaluation, self.best_ap, clock.seconds, done - start, clock.wait_share, len(self.programs))

    def _ratios(self, state: State, teacher_params: Params, scheduled: Scheduled, batch: Batch) -> dict[str, Any]:
        """The gradient ratios of a batch, by METHOD/KIND, times the factors, which the probe is without."""
        assert self.probe is not None
        ratios = jax.device_get(self.probe(state, teacher_params, scheduled.replace(balance={}), batch))
        kinds = {name.removeprefix(f"{PREFIX}/"): ratio for name, ratio in ratios.items()}
        return {kind: ratio * scheduled.balance.get(kind, 1) for kind, ratio in kinds.items()}

    def _balance(self, state: State, teacher_params: Params, batches: loader.Loader, done: int) -> None:
        """Measures gradients on the next batches, which stay to be trained on."""
        position = batches.get_state()
        upcoming = [next(batches) for _ in range(min(self.config.balance.batches, self.config.steps - done))]
        batches.set_state(position)
        scheduled = self.schedules.at(done)
        scheduled = jax.tree.map(np.ones_like, scheduled)  # gradients as they are without decay and warm-up
        alike = [batch for batch in upcoming if batch.images.shape == upcoming[0].images.shape]
        with _memory_advice(done + 1, upcoming[0].images.shape, self.devices.size):
            ratios = [
                self._ratios(state, teacher_params, scheduled, mesh.put_batch(batch, self.devices)) for batch in alike
            ]
        self.balancer.measure(done, ratios)

    def _check_terms(self, done: int, scheduled: Scheduled, values: Mapping[str, Any]) -> None:
        """Says which terms of a method teach nothing in the first step in which its decay is not 0."""
        due = {name: config for name, config in self.unchecked.items() if scheduled.decay[name] > 0}
        if due:
            numbers = {name: float(value) for name, value in jax.device_get(dict(values)).items()}
            for sentence in first_step.sentences(due, numbers, step=done):
                self.log.say(sentence)
            self.unchecked = {name: config for name, config in self.unchecked.items() if name not in due}

    def _evaluate_finished(self, state: State, batches: loader.Loader, done: int) -> Evaluation:
        """The scores of a run that was finished before."""
        self.log.say(f"The run was finished at step {done}; there is nothing left to train.")
        try:
            return self._score(self.pair.student, self._student_params(state), self.config.evaluate_limit)
        except evaluate.Interrupted:
            self._end(state, batches, done, done)

    def _evaluation_due(self, done: int) -> bool:
        every = self.config.evaluate_every
        return done == self.config.steps or bool(every and done % every == 0)

    def _compile(
        self, state: State, arguments: tuple[Params, Scheduled, Batch], batches: loader.Loader, done: int, start: int
    ) -> None:
        """Compiles the step for pictures of a new size; a signal to stop meanwhile saves and ends the run.

        Several processes compile together and have to stop together, so none of them stops while it compiles.
        """
        shape = arguments[-1].images.shape
        pictures, height, width = shape[:3]
        number, total = len(self.programs) + 1, len(batches.sizes)
        self.log.say(
            f"Compiling the training step for {pictures} pictures of {height}x{width}: program {number} of {total}, "
            "some minutes each unless it is cached."
        )
        began = time.monotonic()
        try:
            stopped = (lambda: bool(self.stop.signal)) if jax.process_count() == 1 else (lambda: False)
            program = compiling.compiled(self.step, state, *arguments, stopped=stopped)
        except compiling.Interrupted:
            self._end(state, batches, done, start, compiling=True)
        if self.check_memory:
            memory.check(program, self.devices.devices.flat[0], shape=shape, devices=self.devices.size)
        self.programs[shape] = program
        self.log.say(f"Compiled in {time.monotonic() - began:.0f} s.")

    def _end(self, state: State, batches: loader.Loader, done: int, start: int, *, compiling: bool = False) -> NoReturn:
        """Saves the steps done since `start`, and raises StoppedError."""
        if done == 0:
            raise StoppedError(f"Stopped by {self._stop_signal()} before the first step.", compiling=compiling)
        if done > start:
            self._save(state, batches, None, True)
        raise StoppedError(
            f"Stopped by {self._stop_signal()} after step {done}, which is saved; the same command goes on from there.",
            compiling=compiling,
        )

    def _stop_signal(self) -> str:
        return self.stop.signal or "another process's signal"

    def _score(
        self, detector: evaluate.HasDetect, params: Params, limit: int, *, teacher: str | None = None
    ) -> Evaluation:
        """The scores of a detector; `teacher` is the name of a teacher, which sees its own canvas."""
        return evaluate.evaluate_source(
            detector,
            params,
            self.val,
            self.loader_config if teacher is None else self.loader_config.for_teacher(teacher),
            self.devices,
            batch=self.config.evaluate_batch,
            limit=limit,
            teacher=teacher is not None,
            stopped=lambda: self.vote.cast(bool(self.stop.signal)),
        )

    def _refreshed(self, state: State, teacher_params: Params, due: list[str]) -> State:
        began = time.monotonic()
        state = self.refresh(state, teacher_params, due)
        self.log.refreshed(int(state.step), due, seconds=time.monotonic() - began)
        return state

    def _report(self, done: int, pending: list[dict[str, Any]], clock: Clock) -> None:
        values = _means(jax.device_get(pending))
        wait, seconds = clock.lap(len(pending))
        config, left = self.config, self.config.steps - done
        evaluations = -(-left // config.evaluate_every) if config.evaluate_every else int(left > 0)
        remaining = clock.remaining(left, evaluations=evaluations)
        self.log.report(done, values, wait_share=wait, step_seconds=seconds, left=remaining)
        if "count_spread" in values and not self.spread_reported:
            self.spread_reported = True
            self.log.say(
                f"A step in {self.config.accumulate} parts (train.accumulate) is not quite that of the whole batch: "
                f"what a term is divided by differs from part to part, by up to {values['count_spread']:.0%} of its "
                "mean (count_spread in the log, a standard deviation)."
            )
        limit = configs.build(self.recipe.optimizer).skip_nonfinite
        if values["skipped_in_a_row"] >= limit:
            raise DivergedError(
                f"Losses or gradients were not finite for {limit} steps in a row before step {done}; lower "
                "optimizer.learning_rate or set optimizer.clip_norm; the last finite checkpoint is kept."
            )

    def _student_params(self, state: State) -> Params:
        return state.ema if self.pair.ema_decay else state.params["detector"]

    def _evaluated(self, state: State, batches: loader.Loader, done: int) -> Evaluation:
        """The scores after `done` steps; where the evaluation fails, the steps are saved before the error goes on."""
        try:
            return self._evaluate(state, done)
        except evaluate.Interrupted:
            self._end(state, batches, done, -1)
        except JaxkdError:
            self._save(state, batches, None, True)
            raise

    def _evaluate(self, state: State, done: int) -> Evaluation:
        evaluation = self._score(self.pair.student, self._student_params(state), self.config.evaluate_limit)
        summary = evaluation.summary
        self.log.scores(done, summary)
        self.log.pictures(done, partial(self.samples, evaluation.results))
        ap = summary["AP"] if np.isfinite(summary["AP"]) else UNSCORED
        if ap >= self.best_ap:
            self.best_ap = ap
            if hosts.is_first():
                build.save(
                    self.workdir / build.STUDENT,
                    self._student_params(state),
                    config=self.recipe.student,
                    classes=self.pair.student.classes,
                    scores=summary,
                    sizes={name: self.recipe.data.loader[name] for name in build.SIZES},
                    reading=self.reading,
                )
        return evaluation

    def _save(self, state: State, batches: loader.Loader, evaluation: Evaluation | None, wait: bool) -> None:
        """Saves the state with its scores; with `wait`, it is on the disk when this returns."""
        ap = float(np.nan_to_num(evaluation.scores.summary["AP"])) if evaluation else None
        metadata = checkpoint.Metadata(
            int(state.step), self.best_ap, batches.get_state(), self.facts, ap, balance=dict(self.balancer.factors)
        )
        if hosts.is_first():
            self.checkpoints.save(state, metadata, wait=wait)
        if wait:
            hosts.wait("saved")


@contextlib.contextmanager
def _memory_advice(step: int, shape: tuple[int, ...], devices: int):
    """Turns an out-of-memory error of a step into a JaxkdError that says what to do."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        batch, height, width = shape[:3]
        raise JaxkdError(
            f"Out of memory at step {step}, with {batch} pictures of {height} x {width} over {devices} "
            f"device(s); try --config.train.accumulate=2, --config.student.remat=convolutions, or "
            f"--config.train.batch={max(batch // 2, 1)}."
        ) from error


def _means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of each metric over the steps that have it."""
    by_name: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            by_name.setdefault(name, []).append(float(value))
    means = {name: float(np.mean(values)) for name, values in by_name.items()}
    return means | {name: by_name[name][-1] for name in ("skipped_steps", "skipped_in_a_row")}


def _check_teacher(log: Log, who: str, expected_ap: float | None, evaluation: Evaluation) -> None:
    measured = evaluation.scores.summary["AP"]
    elsewhere = f", {100 * expected_ap:.1f} where it was trained" if expected_ap is not None else ""
    log.say(f"{who} scores AP {100 * measured:.1f} on {evaluation.pictures} validation pictures{elsewhere}.")
    if expected_ap is not None and measured < LEAST_SHARE * expected_ap:
        raise WeightsError(
            f"{who} scores AP {100 * measured:.1f} on this data and {100 * expected_ap:.1f} where it was "
            "trained; check data and picture sizes, or set config.train.teacher_check=0 to go on."
        )

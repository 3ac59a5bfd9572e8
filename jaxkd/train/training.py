"""The loop over steps: reports, evaluations and checkpoints on the way, and how it ends."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
from jax.sharding import Mesh

from jaxkd import config as configs
from jaxkd.data import loader, pictures
from jaxkd.data.base import Source
from jaxkd.detectors.base import Params
from jaxkd.errors import DivergedError, JaxkdError, StoppedError, WeightsError
from jaxkd.evaluation.run import Evaluation
from jaxkd.loading import build
from jaxkd.train import checkpoint, compiling, evaluate, hosts, mesh
from jaxkd.train.clock import Clock
from jaxkd.train.log import Log
from jaxkd.train.probe import make_probe
from jaxkd.train.refresh import Refresh
from jaxkd.train.samples import SamplePictures
from jaxkd.train.schedules import Scheduled, Schedules
from jaxkd.train.state import State
from jaxkd.train.step import Pair, make_step
from jaxkd.train.stop import Stop
from jaxkd.types import Batch

UNSCORED = -1.0  # in the place of an AP that nobody measured


@dataclass(frozen=True)
class Finished:
    """What a run leaves behind, beside its folder."""

    evaluation: Evaluation  # of the last step
    best_ap: float  # UNSCORED where there was no object to score on
    seconds: float  # of training, compilation and evaluation taken out
    steps: int  # done by this process
    wait_share: float  # of `seconds`, spent waiting for data
    compilations: int  # of the step


@dataclass(kw_only=True, eq=False)
class Training:
    """The loop over steps, with what it needs on the way."""

    recipe: configs.Recipe  # a whole one, locked
    workdir: Path
    pair: Pair
    schedules: Schedules
    devices: Mesh
    saved: checkpoint.Checkpoints
    log: Log
    split: Source  # what the student is scored on
    refresh: Refresh
    stop: Stop
    facts: dict[str, str]  # what has to be the same when the run goes on
    reading: pictures.Config  # how files became the pictures of the training data

    def __post_init__(self):
        self.config = configs.build(self.recipe.train)
        self.step = make_step(self.pair, self.devices)
        self.programs: dict[tuple[int, ...], Callable] = {}  # the step, compiled, by the shape of its pictures
        probed = self.config.probe_every and self.pair.methods
        self.probe = make_probe(self.pair, self.devices) if probed else None
        self.vote = hosts.Vote(self.devices)
        self.samples = SamplePictures(self.split, limit=self.config.evaluate_limit)
        self.best_ap = UNSCORED
        self.spread_said = False

    def check_teacher(self, teacher: build.Loaded) -> None:
        """Scores the teacher on some validation pictures; raises WeightsError where it is far from what it was."""
        finder = (
            evaluate.RelabelledDetector(teacher.detector, self.pair.teacher_columns)
            if self.pair.teacher_columns
            else teacher.detector
        )
        claimed = None if self.pair.teacher_columns else teacher.scores.get("AP")
        try:
            evaluation = self._score(finder, teacher.params, self.config.teacher_check)
        except evaluate.Interrupted:
            raise StoppedError(f"Stopped by {self._asked()} before the first step.") from None
        _check_teacher(self.log, claimed, evaluation)

    def go(
        self, state: State, teacher_params: Params, batches: loader.Loader, found: checkpoint.About | None
    ) -> Finished:
        """Steps until the end; reports, evaluates and saves on the way.

        Raises StoppedError, with the steps saved, where a process is asked to stop.
        """
        config, clock = self.config, Clock()
        start = done = int(state.step)
        evaluation, pending = None, []
        if found:
            self.best_ap = found.best_ap
            if self._evaluation_due(start) and found.ap is None:  # it was stopped in between
                evaluation = clock.paused("evaluating", self._evaluated, state, batches, done)
        while done < config.steps:
            if self.vote.cast(bool(self.stop.asked)):
                self._end(state, batches, done, start)
            if due := self.refresh.due(done):
                state = clock.paused("refreshing", self._refreshed, state, teacher_params, due)
            batch = mesh.put_batch(clock.waited(batches), self.devices)
            arguments = (teacher_params, self.schedules.at(done), batch)
            ratios = {}
            if self.probe is not None and done % config.probe_every == 0:
                ratios = clock.paused("probing", self.probe, state, *arguments)
            with _explained(done + 1, batch.images.shape, self.devices.size):
                if batch.images.shape not in self.programs:
                    clock.paused("compiling", self._compile, state, arguments, batches, done, start)
                state, metrics = self.programs[batch.images.shape](state, *arguments)
                if pending:
                    jax.block_until_ready(pending[-1])  # one step in flight: the wait for data is then seen as such
            pending.append(metrics | ratios)
            done += 1
            if done % config.report_every == 0 or done == config.steps:
                self._report(done, pending, clock)
                pending = []
            evaluation = None
            if self._evaluation_due(done):
                evaluation = clock.paused("evaluating", self._evaluated, state, batches, done)
            if evaluation or (config.checkpoint_every and done % config.checkpoint_every == 0):
                clock.paused("saving", self._save, state, batches, evaluation, done == config.steps)
        if evaluation is None:  # the run was finished before this process began
            self.log.say(f"The run was finished at step {done}; there is nothing left to train.")
            try:
                evaluation = self._score(self.pair.student, self._student(state), config.evaluate_limit)
            except evaluate.Interrupted:
                self._end(state, batches, done, start)
        self.log.say(f"Where the time went: {clock.shares()}.")
        return Finished(evaluation, self.best_ap, clock.seconds, done - start, clock.wait_share, len(self.programs))

    def _evaluation_due(self, done: int) -> bool:
        every = self.config.evaluate_every
        return done == self.config.steps or bool(every and done % every == 0)

    def _compile(
        self, state: State, others: tuple[Params, Scheduled, Batch], batches: loader.Loader, done: int, start: int
    ) -> None:
        """Compiles the step for pictures of another size than before; a stop meanwhile saves and ends the run.

        Several processes compile together and stop together, so none of them listens while it does.
        """
        shape = others[-1].images.shape
        pictures, height, width = shape[:3]
        number, of = len(self.programs) + 1, len(batches.sizes)
        self.log.say(
            f"Compiling the training step for {pictures} pictures of {height}x{width}: program {number} of {of}, "
            "some minutes each unless it is cached."
        )
        began = time.monotonic()
        try:
            stopped = (lambda: bool(self.stop.asked)) if jax.process_count() == 1 else (lambda: False)
            program = compiling.compiled(self.step, state, *others, stopped=stopped)
        except compiling.Interrupted:
            self._end(state, batches, done, start, compiling=True)
        self.programs[shape] = program
        self.log.say(f"Compiled in {time.monotonic() - began:.0f} s.")

    def _end(self, state: State, batches: loader.Loader, done: int, start: int, *, compiling: bool = False) -> NoReturn:
        """Saves what was done, and says that the run stops."""
        if done == 0:
            raise StoppedError(f"Stopped by {self._asked()} before the first step.", compiling=compiling)
        if done > start:
            self._save(state, batches, None, True)
        raise StoppedError(
            f"Stopped by {self._asked()} after step {done}, which is saved; the same command goes on from there.",
            compiling=compiling,
        )

    def _asked(self) -> str:
        return self.stop.asked or "another process's signal"

    def _score(self, detector: evaluate.HasDetect, weights: Params, limit: int) -> Evaluation:
        return evaluate.evaluate_source(
            detector,
            weights,
            self.split,
            configs.build(self.recipe.data.loader),
            self.devices,
            batch=self.config.evaluate_batch,
            limit=limit,
            stopped=lambda: self.vote.cast(bool(self.stop.asked)),
        )

    def _refreshed(self, state: State, teacher_params: Params, due: list[str]) -> State:
        began = time.monotonic()
        state = self.refresh(state, teacher_params, due)
        self.log.refreshed(int(state.step), due, seconds=time.monotonic() - began)
        return state

    def _report(self, done: int, pending: list[dict[str, jax.Array]], clock: Clock) -> None:
        values = _means(jax.device_get(pending))
        wait, seconds = clock.lap(len(pending))
        config, left = self.config, self.config.steps - done
        ahead = -(-left // config.evaluate_every) if config.evaluate_every else int(left > 0)
        remaining = clock.left(left, evaluations=ahead)
        self.log.report(done, values, wait_share=wait, step_seconds=seconds, left=remaining)
        if "count_spread" in values and not self.spread_said:
            self.spread_said = True
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

    def _student(self, state: State) -> Params:
        return state.ema if self.pair.ema_decay else state.params["detector"]

    def _evaluated(self, state: State, batches: loader.Loader, done: int) -> Evaluation:
        """The scores after `done` steps; where they cannot be had, the steps are kept before that is said."""
        try:
            return self._evaluate(state, done)
        except evaluate.Interrupted:
            self._end(state, batches, done, -1)
        except JaxkdError:
            self._save(state, batches, None, True)
            raise

    def _evaluate(self, state: State, done: int) -> Evaluation:
        evaluation = self._score(self.pair.student, self._student(state), self.config.evaluate_limit)
        summary = evaluation.summary
        self.log.scores(done, summary)
        self.log.pictures(done, partial(self.samples, evaluation.results))
        ap = summary["AP"] if np.isfinite(summary["AP"]) else UNSCORED
        if ap >= self.best_ap:
            self.best_ap = ap
            if hosts.is_first():
                build.save(
                    self.workdir / build.STUDENT,
                    self._student(state),
                    config=self.recipe.student,
                    classes=self.pair.student.classes,
                    scores=summary,
                    sizes={name: self.recipe.data.loader[name] for name in build.SIZES},
                    reading=self.reading,
                )
        return evaluation

    def _save(self, state: State, batches: loader.Loader, evaluation: Evaluation | None, must: bool) -> None:
        """Saves the state with its scores; with `must`, it is on the disk when this returns."""
        ap = float(np.nan_to_num(evaluation.scores.summary["AP"])) if evaluation else None
        about = checkpoint.About(int(state.step), self.best_ap, batches.get_state(), self.facts, ap)
        if hosts.is_first():
            self.saved.save(state, about, must=must)
        if must:
            hosts.wait("saved")


@contextlib.contextmanager
def _explained(step: int, shape: tuple[int, ...], devices: int):
    """Says what to do where a step finds too little memory."""
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


def _means(rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The mean of each metric over the steps that have it."""
    seen: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            seen.setdefault(name, []).append(float(value))
    means = {name: float(np.mean(values)) for name, values in seen.items()}
    return means | {name: seen[name][-1] for name in ("skipped_steps", "skipped_in_a_row")}


def _check_teacher(log: Log, claimed: float | None, evaluation: Evaluation) -> None:
    measured = evaluation.scores.summary["AP"]
    said = f", {100 * claimed:.1f} where it was trained" if claimed is not None else ""
    log.say(f"The teacher scores AP {100 * measured:.1f} on {evaluation.pictures} validation pictures{said}.")
    if claimed is not None and measured < 0.5 * claimed:
        raise WeightsError(
            f"The teacher scores AP {100 * measured:.1f} on this data and {100 * claimed:.1f} where it was trained; "
            "check data and picture sizes, or set config.train.teacher_check=0 to go on."
        )

"""A run from its recipe to its student: the one place where all parts meet."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.data.base import Source, digest
from jaxkd.detectors.base import Detector
from jaxkd.distill import decay
from jaxkd.errors import ConfigError, DataError
from jaxkd.ranges import Count, Natural, PartShare, Seed
from jaxkd.train import build, checkpoint, hosts, initial, mesh, optimizer, prepare
from jaxkd.train.lock import Lock, token
from jaxkd.train.log import Log
from jaxkd.train.refresh import Refresh
from jaxkd.train.sinks.base import Sink
from jaxkd.train.step import Pair, initial_state
from jaxkd.train.stop import Stop
from jaxkd.train.training import Finished, Training
from jaxkd.version import VERSION

CHECKPOINTS = "checkpoints"  # the folder of a workdir


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

    seed: Seed = 0
    batch: Count = 16
    steps: Count = 90000
    accumulate: Count = 1
    devices: Natural = 0
    report_every: Count = 50
    evaluate_every: Natural = 0
    evaluate_limit: Natural = 0
    evaluate_batch: Count = 16
    checkpoint_every: Natural = 1000
    keep: Natural = 2
    probe_every: Natural = 0
    ema_decay: PartShare = 0.0
    teacher_check: Natural = 64


def run(recipe: configs.Recipe, workdir: Path, *, quiet: bool = False, sinks: Sequence[Sink] = ()) -> Finished:
    """Trains `recipe` in `workdir`, from its last checkpoint if there is one; `sinks` are shown what is logged.

    Raises ConfigError (also for a workdir of another recipe), DataError, WeightsError, StorageError, or
    DivergedError where too many steps in a row are not finite.
    """
    config: Config = configs.build(recipe.train)
    prepare.refuse_other(workdir, recipe)
    devices = mesh.make_mesh(config.devices)
    _check_batch(config, devices)
    with contextlib.ExitStack() as stack:
        log = Log(workdir, steps=config.steps, quiet=quiet, silent=not hosts.is_first(), sinks=sinks)
        stack.callback(log.close)
        stop = stack.enter_context(Stop())
        if hosts.is_first():
            lock = Lock(workdir, say=log.say)
            lock.take()
            stack.callback(lock.release)
        sources = {name: prepare.load_source(recipe.data[name]) for name in ("train", "val")}
        facts = _agreed(recipe, workdir, sources)
        classes = sources["train"].classes
        student, teacher = build.detector(recipe.student, classes), prepare.load_teacher(recipe)
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
        stack.callback(batches.close)
        pair = make_pair(recipe, config, student, teacher, pictures=len(sources["train"].records))
        key = jax.random.key(config.seed)
        params, origin = initial.params(student, jax.random.fold_in(key, 0), recipe.initial)
        params, inherited = initial.inherit(params, teacher, recipe.inherit, classes=classes)
        state = initial_state(pair, params, jax.random.fold_in(key, 1))
        saved = checkpoint.Checkpoints(workdir / CHECKPOINTS, keep=config.keep, say=log.say)
        stack.callback(saved.close)
        if found := saved.shared():
            _check_data(found, facts)
            batches.set_state(found.data)
            state = checkpoint.restore(workdir / CHECKPOINTS, found, state)
        origin = f"Going on from the checkpoint at step {found.step}." if found else f"{origin} {inherited}".strip()
        _introduce(log, sources, classes, origin, devices)
        if teacher is not None and (said := prepare.shared_classes(teacher.detector.classes, classes)[1]):
            log.say(said)
        refresh = Refresh(
            pair,
            sources["train"],
            feeding,
            devices,
            batch=config.batch,
            steps_per_epoch=epoch_steps(len(sources["train"].records), config),
        )
        training = Training(recipe, workdir, pair, devices, saved, log, sources["val"], refresh, stop, facts)
        if teacher is not None and config.teacher_check and not found:
            training.check_teacher(teacher)
        if hosts.is_first():
            prepare.claim(workdir, recipe)
        log.begin(found.step if found else 0, scored=found is None or found.ap is not None)
        log.text("recipe", configs.dump(recipe))
        frozen = mesh.put_replicated(teacher.params if teacher else {}, devices)
        finished = training.go(mesh.put_replicated(state, devices), frozen, batches, found)
        if batches.skipped:
            log.say(f"{len(batches.skipped)} pictures could not be read and were replaced by others.")
        return finished


def _agreed(recipe: configs.Recipe, workdir: Path, sources: dict[str, Source]) -> dict[str, str]:
    """What has to be the same when the run goes on; all processes hold it, and see one workdir."""
    hosts.wait("the workdir is locked")
    facts = {
        "classes": json.dumps(sources["train"].classes),
        "training data": digest(sources["train"]),
        "validation data": digest(sources["val"]),
    }
    prepare.check_classes(sources["val"].classes, sources["train"].classes)
    bound = json.dumps(prepare.binding(json.loads(configs.dump(recipe))), sort_keys=True)
    versions = {"version of jaxkd": VERSION, "version of jax": jax.__version__}
    hosts.agree(versions | {"recipe": bound} | facts | {"folder as --workdir": token(workdir)})
    return facts


def _check_data(found: checkpoint.About, facts: dict[str, str]) -> None:
    """Raises DataError where the run began with other data."""
    changed = [name for name, value in facts.items() if found.facts.get(name, value) != value]
    if changed:
        raise DataError(f"The {changed[0]} of this run changed since it began; take a new --workdir, or the old data.")


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


def _check_batch(config: Config, devices: Mesh) -> None:
    if config.batch % (devices.size * config.accumulate):
        parts = f" in {config.accumulate} parts (train.accumulate)" if config.accumulate > 1 else ""
        raise ConfigError(f"train.batch={config.batch} does not divide over {devices.size} devices{parts}.")


def _introduce(log: Log, sources: dict[str, Source], classes: tuple[str, ...], origin: str, devices: Mesh) -> None:
    counts = ", ".join(f"{len(source.records)} pictures to {name}" for name, source in sources.items())
    log.say(f"{len(classes)} classes, {counts} ({devices.size} {jax.default_backend()} device(s)).")
    for name, source in sources.items():
        if source.repairs:
            log.say(f"Repairs in {name}: " + ", ".join(f"{fault} {n}" for fault, n in source.repairs.items()))
    log.say(origin)

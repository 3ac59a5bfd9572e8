"""Training from a recipe to a student: builds data, detectors, optimizer and checkpoints, and runs the loop."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.data import loader, pictures, survey
from jaxkd.data.base import Source, digest
from jaxkd.distill import decay
from jaxkd.errors import ConfigError
from jaxkd.loading import build, initial, prepare
from jaxkd.ranges import Count, Natural, NonNegative, PartShare, Seed
from jaxkd.train import checkpoint, hosts, length, mesh, optimizer, ownership, pairing, pseudo_labels, unused
from jaxkd.train.balance import Balance
from jaxkd.train.lock import Lock, token
from jaxkd.train.log import Log
from jaxkd.train.refresh import Refresh
from jaxkd.train.schedules import Schedules
from jaxkd.train.sinks.base import Sink
from jaxkd.train.state import State
from jaxkd.train.step import Pair, initial_state
from jaxkd.train.stop import Stop
from jaxkd.train.training import RunResult, Training
from jaxkd.version import VERSION

CHECKPOINTS = "checkpoints"  # the folder of a workdir
SAMPLED = 8  # pictures of each source that are opened before the first step
ONLY_WITH = {  # fields that do nothing unless another one is so; see `train.unused`
    "balance.batches": ("balance.target", True),
    "balance.again": ("balance.target", True),
    "ema_warmup": ("ema_decay", True),
}


@dataclass(frozen=True)
class Config:
    """Length of the run, batch, reports, evaluations and checkpoints."""

    seed: Seed = 0
    """Decides initial weights, order of data and sampling."""
    batch: Count = 16
    """Pictures a step, over all devices."""
    steps: Natural = 90000
    """Length of the run; 0 where `epochs` says it."""
    epochs: Natural = 0
    """Length of the run in passes over the training pictures, of which `steps` follows; 0 where `steps` says it."""
    accumulate: Count = 1
    """Micro-batches of a batch, computed one after another in the memory of one; see `train.step`."""
    devices: Natural = 0
    """Devices to use; 0 for all."""
    report_every: Count = 50
    """Steps between two lines in the log."""
    evaluate_every: Natural = 0
    """Steps between two evaluations on `data.val`; 0 for one at the end."""
    evaluate_limit: Natural = 0
    """Pictures of an evaluation; 0 for all."""
    evaluate_batch: Count = 16
    """Pictures of a batch in an evaluation."""
    checkpoint_every: Natural = 1000
    """Steps between two checkpoints; 0 for one at the end."""
    keep: Natural = 2
    """Last checkpoints that are kept beside the best."""
    probe_every: Natural = 0
    """Steps between two measurements of gradient ratios; 0 for none."""
    balance: Balance = field(default_factory=Balance)
    """Weights of the methods' terms by their measured gradients; see `train.balance`."""
    ema_decay: PartShare = 0.0
    """Decay of the moving average of the student that is evaluated and kept; 0 for none."""
    ema_warmup: NonNegative = 0.0
    """Steps over which that decay grows as 1 - exp(-step / ema_warmup); 0 for (1 + step) / (10 + step)."""
    teacher_check: Natural = 64
    """Validation pictures that the teacher is scored on before step 1; 0 for none."""


def run(
    recipe: configs.Recipe,
    workdir: Path,
    *,
    quiet: bool = False,
    sinks: Sequence[Sink] = (),
    check_memory: bool = False,
) -> RunResult:
    """Trains `recipe` in `workdir`, from its last checkpoint if there is one; what is logged goes to `sinks` too.

    Raises ConfigError (also for a workdir of another recipe), DataError, WeightsError, StorageError,
    DivergedError where too many steps in a row are not finite, or, with `check_memory`, what `memory.check` raises.
    """
    recipe = configs.with_absolute_paths(recipe).lock()
    config: Config = configs.build(recipe.train)
    length.check(recipe)
    ownership.refuse_other(workdir, recipe)
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
        sources = prepare.load_sources(recipe.data)
        recipe, said = length.resolved(recipe, pictures=len(sources["train"].records))
        config = configs.build(recipe.train)
        facts = _agreed_facts(recipe, workdir, sources)
        classes = sources["train"].classes
        student = build.student(recipe.student, classes)
        loaded = prepare.load_teachers(recipe, sources["train"])
        teachers = pairing.teachers_of(recipe, loaded)
        loader_config = pairing.loader_config_of(recipe, teachers)
        sources, matched = pairing.with_detections(teachers, sources, limit=loader_config.max_objects)
        pair = pairing.make_pair(recipe, config, student, teachers)
        checkpoints = checkpoint.Checkpoints(workdir / CHECKPOINTS, keep=config.keep, say=log.say)
        stack.callback(checkpoints.close)
        resumed = checkpoints.latest_on_all_hosts()
        if resumed:
            ownership.check_facts(resumed.facts, facts)
        teaching = pseudo_labels.Teaching(teachers, pair, loader_config, devices, log.say, stop)
        more = pseudo_labels.pseudo_labelled(recipe, sources, teaching, facts=facts, workdir=workdir)
        batches = _train_batches(recipe, loader_config, sources["train"], more)
        stack.callback(batches.close)
        for source in filter(None, (sources["train"], more)):
            pairing.check_view(pair, loader_config, source)
        schedules = make_schedules(recipe, config, pair.all_methods, pictures=len(sources["train"].records))
        state, origin = _initial_state(recipe, config, pair, loaded.get(""), resumed=resumed is not None)
        if resumed:
            batches.set_state(resumed.data)
            state = checkpoint.restore(workdir / CHECKPOINTS, resumed, state)
            origin = f"Going on from the checkpoint at step {resumed.step}."
        _introduce(log, sources, classes, origin, devices)
        if said:
            log.say(said)
            log.lasts(config.steps)
        for sentence in (
            *unused.sentences(recipe),
            *_notes(recipe, pair, teachers, matched, more),
            *_on_norms(recipe.student, devices=devices.size),
        ):
            log.say(sentence)
        refresh = Refresh(
            pair,
            sources["train"],
            loader_config,
            devices,
            batch=config.batch,
            steps_per_epoch=epoch_steps(len(sources["train"].records), config),
        )
        training = Training(
            recipe=recipe,
            workdir=workdir,
            pair=pair,
            schedules=schedules,
            devices=devices,
            checkpoints=checkpoints,
            log=log,
            val=sources["val"],
            refresh=refresh,
            stop=stop,
            facts=facts,
            check_memory=check_memory,
            reading=pictures.reading_of(sources["train"]),
            loader_config=loader_config,
        )
        scored = sources["val"].records[: config.evaluate_limit or None]
        if not any((~record.crowd).any() for record in scored):
            log.say(f"There is no object on the {len(scored)} validation pictures, so no student can be scored.")
        elif config.teacher_check and not resumed:
            for name, teacher in teachers.items():
                training.check_teacher(teacher, pair.lessons[name], name)
        if hosts.is_first():
            ownership.claim(workdir, recipe)
        log.begin(resumed.step if resumed else 0, scored=resumed is None or resumed.ap is not None)
        log.text("recipe", configs.dump(recipe))
        teacher_params = mesh.put_replicated(pairing.params_of(teachers), devices)
        result = training.run(mesh.put_replicated(state, devices), teacher_params, batches, resumed)
        if batches.skipped:
            log.say(f"Could not be read, and replaced by others: {phrases.counted(len(batches.skipped), 'picture')}.")
        return result


def _notes(
    recipe: configs.Recipe,
    pair: Pair,
    teachers: Mapping[str, build.Loaded],
    matched: Sequence[str],
    more: Source | None,
) -> Iterator[str]:
    """Sentences on teachers, on the rows of a file of detections, and on pictures without labels."""
    for name, teacher in teachers.items():
        if note := prepare.class_columns(teacher.detector.classes, pair.student.classes)[1]:
            yield f"{name}: {note}" if name else note
    yield from pairing.canvas_notes(recipe, teachers)
    yield from matched
    if more is not None:
        number = phrases.counted(len(more.records), "picture")
        yield f"Of each batch {recipe.data.unlabelled.share:.0%} are from {number} without labels."
    if not pair.all_methods and recipe.train.balance.target:
        yield "There is no teacher to teach, so train.balance has no effect."


def _on_norms(student: configs.Recipe, *, devices: int) -> Iterator[str]:
    """A sentence where batch norms see the pictures of one device and there are several."""
    if devices > 1 and _has_norm(student, "batch"):
        yield (
            f"Batch norms see the pictures of one device, here of {devices}, so results depend on their number; "
            'with norm="sync_batch" they do not.'
        )


def _has_norm(part: configs.Recipe, kind: str) -> bool:
    """Whether a component, or one in it, has norms of this kind."""
    return part.get("norm") == kind or any(_has_norm(inner, kind) for inner in part.values() if hasattr(inner, "items"))


def _train_batches(
    recipe: configs.Recipe, loader_config: loader.Config, source: Source, more: Source | None
) -> loader.Loader:
    """This process's batches of the run, mixed with `more` pictures where there are some."""
    config = configs.build(recipe.train)
    mixed = {} if more is None else {"unlabelled": more, "share": recipe.data.unlabelled.share}
    return loader.train_batches(
        source,
        loader_config,
        seed=config.seed,
        steps=config.steps,
        batch=config.batch,
        process=jax.process_index(),
        processes=jax.process_count(),
        **mixed,
    )


def _initial_state(
    recipe: configs.Recipe, config: Config, pair: Pair, teacher: build.Loaded | None, *, resumed: bool
) -> tuple[State, str]:
    """The state before step 1, and a sentence on where the student's parameters are from.

    `teacher` is the one to inherit from. Where the run is `resumed`, no weights are read: only the structure is needed.
    """
    key, classes = jax.random.key(config.seed), pair.student.classes
    source, parts = ("", "none") if resumed else (recipe.initial, recipe.inherit)
    params, origin = initial.params(pair.student, jax.random.fold_in(key, 0), source)
    params, inherited = initial.inherit(params, teacher, parts, classes=classes)
    with prepare.naming_teacher(recipe, teacher if recipe.distill else None, classes):
        state = initial_state(pair, params, jax.random.fold_in(key, 1))
    return state, f"{origin} {inherited}".strip()


def _agreed_facts(recipe: configs.Recipe, workdir: Path, sources: dict[str, Source]) -> dict[str, str]:
    """What has to be the same when the run goes on.

    Raises ConfigError where the processes differ in it, in recipe, versions or workdir.
    """
    hosts.wait("the workdir is locked")
    facts = {
        "classes": json.dumps(sources["train"].classes),
        "training data": digest(sources["train"]),
        "validation data": digest(sources["val"]),
        "teacher": ownership.teacher_digest(recipe),
    }
    if pseudo_labels.UNLABELLED in recipe.data:
        facts[pseudo_labels.OF_UNLABELLED] = digest(prepare.load_unlabelled(recipe.data, sources["train"], warn=False))
    bound = json.dumps(ownership.binding(json.loads(configs.dump(recipe))), sort_keys=True)
    versions = {"version of jaxkd": VERSION, "version of jax": jax.__version__}
    hosts.agree(versions | {"recipe": bound} | facts | {"folder as --workdir": token(workdir)})
    return facts


def make_schedules(recipe: configs.Recipe, config: Config, methods: dict[str, Any], *, pictures: int) -> Schedules:
    """The learning rate and the decay of each method over a run with so many training pictures."""
    per_epoch = epoch_steps(pictures, config)
    decays = {
        name: decay.schedule(method.decay, steps=config.steps, steps_per_epoch=per_epoch)
        for name, method in methods.items()
    }
    warmups = {name: decay.warmup(method.decay) for name, method in methods.items() if method.decay.warmup_steps}
    rate = optimizer.learning_rate(configs.build(recipe.optimizer), steps=config.steps)
    return Schedules(rate, decays, steps=config.steps, warmups=warmups)


def epoch_steps(pictures: int, config: Config) -> int:
    """Steps of an epoch over so many pictures."""
    return max(pictures // config.batch, 1)


def _check_batch(config: Config, devices: Mesh) -> None:
    if config.batch % (devices.size * config.accumulate):
        parts = f" in {config.accumulate} parts (train.accumulate)" if config.accumulate > 1 else ""
        raise ConfigError(f"train.batch={config.batch} does not divide over {devices.size} devices{parts}.")


def _introduce(log: Log, sources: dict[str, Source], classes: tuple[str, ...], origin: str, devices: Mesh) -> None:
    counts = ", ".join(
        f"{phrases.counted(len(source.records), 'picture')} to {name}" for name, source in sources.items()
    )
    where = phrases.counted(devices.size, f"{jax.default_backend()} device")
    log.say(f"{phrases.counted(len(classes), 'class')}, {counts} ({where}).")
    samples = {name: survey.sample(source, limit=SAMPLED) for name, source in sources.items()}
    for name, sample in samples.items():
        for sentence in survey.picture_remarks(name, sample):
            log.say(sentence)
    survey.refuse_unreadable(samples)
    log.say(origin)

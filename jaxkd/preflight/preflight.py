"""Memory, operations and collectives of a step, from its compiled program, and the largest batch that fits."""

import dataclasses
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.data.base import Source
from jaxkd.data.rows import Canvas, blank
from jaxkd.errors import ConfigError, DataError
from jaxkd.loading import build, prepare, stored_teacher
from jaxkd.loading.published import BY_NUMBER
from jaxkd.preflight import collectives, largest
from jaxkd.preflight.chips import Chip
from jaxkd.preflight.requirements import Memory, Plan, Probe, Program
from jaxkd.preflight.teachers import has_class_scores
from jaxkd.preflight.teachers import load as load_teachers
from jaxkd.train import loop, mesh, pairing, pseudo_labels, schedules
from jaxkd.train.state import State, Tree, split
from jaxkd.train.step import Pair, initial_state, make_step
from jaxkd.types import Batch

SIZE = r"([\d.]+)([KMG]?)"
REFUSALS = (  # by a TPU's compiler: bytes needed, bytes available
    re.compile(rf"Used {SIZE} of {SIZE} hbm"),
    re.compile(rf"\({SIZE}\) exceeds available HBM \({SIZE}\)"),
)
REPEATED = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]*\.remat[\w.\-]* = ", re.MULTILINE)
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Subject:
    """A step with shapes in place of arrays: student, teacher, state and loader."""

    pair: Pair
    state: State  # of shapes
    teacher_params: Tree  # of shapes
    loader_config: loader.Config
    batch: int  # of the recipe
    trainable: int  # bytes of the parameters that are trained
    classes: str  # a sentence on their origin
    teacher: str  # a sentence on the origin of each, a line for each
    canvas: Canvas  # what its batches have, for the first bucket


@dataclass(frozen=True)
class Preflight:
    """The results for one recipe and one set of devices."""

    devices: int
    chip: Chip
    probes: tuple[Probe, ...]  # of the requested batch, one for each bucket area, the largest first; then the search
    plans: tuple[Plan, ...]  # of the search, or, where nothing was compiled, of the requested batch
    largest: int | None  # pictures a chip that fit; None without a search
    overhead: int | None  # bytes that the requested batch needs above its plan; None without plans in the search
    skipped: tuple[tuple[int, int], ...]  # buckets of an area that another has, which were not compiled

    @property
    def requested(self) -> Probe | Plan:
        """The requested batch, at the largest bucket."""
        return self.probes[0] if self.probes else self.plans[0]


def subject(recipe: configs.Recipe, *, teachers: Mapping[str, Any] | None = None, classes: int = 80) -> Subject:
    """The step of a recipe in shapes; the data is read where it is available.

    Args:
      recipe: complete.
      teachers: in place of the recipe's, by name, as `teachers.load` takes them.
      classes: their number where the data is not available.

    Raises ConfigError where the teacher is missing or not needed, and what the parts of the recipe raise.
    """
    config: loop.Config = configs.build(recipe.train)
    if config.accumulate < 1:
        raise ConfigError(f"train.accumulate must be at least 1, not {config.accumulate}.")
    source, names, classes_note = _classes(recipe, classes)
    student = build.student(recipe.student, names)
    loaded, teacher_note = load_teachers(recipe, teachers or {}, source=source, classes=names)
    pair = pairing.make_pair(recipe, config, student, loaded)
    loader_config = pairing.loader_config_of(recipe, loaded)
    key = jax.eval_shape(lambda: jax.random.key(config.seed))
    state = jax.eval_shape(lambda key: initial_state(pair, dict(student.init(key)), key), key)
    trained, _ = split(state.params, pair.trainable)
    return Subject(
        pair=pair,
        state=state,
        teacher_params=pairing.params_of(loaded),
        loader_config=loader_config,
        batch=config.batch,
        trainable=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trained)),
        classes=classes_note,
        teacher=teacher_note,
        canvas=dataclasses.replace(
            loader_config.canvas(0),
            teacher_boxes=any(map(stored_teacher.is_stored, loaded.values())),
            class_scores=len(names) if any(map(has_class_scores, loaded.values())) else 0,
            weights=pseudo_labels.UNLABELLED in recipe.data and bool(loaded),
        ),
    )


def run(
    subject: Subject,
    devices: Mesh,
    chip: Chip,
    *,
    batch: int = 0,
    search: bool = True,
    planner: largest.Planner | None = None,
) -> Preflight:
    """Compiles the step for these devices, at `batch` or the recipe's, and searches for the largest batch that fits.

    The search uses the plans of `planner`; without one it compiles complete steps.

    Raises ConfigError where the batch does not divide over the devices, and what the planner raises.
    """
    parts = subject.pair.accumulate
    pictures = _share(batch or subject.batch, devices, parts=parts)
    buckets, skipped = areas(subject.loader_config)
    probes = [probe(subject, devices, chip, bucket=bucket, pictures=pictures) for bucket in buckets]
    plans, most, overhead = [], None, None
    if search and planner:
        most, overhead, plans = largest.planned(planner, probes[0], parts=parts)
    elif search:
        most, others = largest.fitting(
            lambda number: probe(subject, devices, chip, bucket=buckets[0], pictures=number), probes[0], parts=parts
        )
        probes += others
    return Preflight(devices.size, chip, tuple(probes), tuple(plans), most, overhead, skipped)


def outline(subject: Subject, devices: Mesh, chip: Chip, *, planner: largest.Planner, batch: int = 0) -> Preflight:
    """The plans alone, at `batch` or the recipe's.

    Raises ConfigError where the batch does not divide over the devices, and what the planner raises.
    """
    pictures = _share(batch or subject.batch, devices, parts=subject.pair.accumulate)
    buckets, skipped = areas(subject.loader_config)
    plans = [planner(bucket=bucket, pictures=pictures) for bucket in buckets]
    return Preflight(devices.size, chip, (), tuple(plans), None, None, skipped)


def areas(loader_config: loader.Config) -> tuple[list[tuple[int, int]], tuple[tuple[int, int], ...]]:
    """The first bucket of each area (height x width), the largest first, and the others."""
    by_area: dict[int, tuple[int, int]] = {}
    for height, width in loader_config.buckets:
        by_area.setdefault(height * width, (height, width))
    first = [by_area[area] for area in sorted(by_area, reverse=True)]
    return first, tuple(bucket for bucket in dict.fromkeys(loader_config.buckets) if bucket not in first)


def probe(
    subject: Subject,
    devices: Mesh,
    chip: Chip,
    *,
    bucket: tuple[int, int],
    pictures: int,
    options: dict[str, Any] | None = None,
) -> Probe:
    """The step compiled for so many pictures a chip; `options` are the compiler's."""
    batch = shapes(dataclasses.replace(subject.canvas, bucket=bucket), pictures=pictures * devices.size)
    replicated, over_batch = NamedSharding(devices, P()), NamedSharding(devices, P(mesh.AXIS))
    step = make_step(subject.pair, devices)
    constant = (
        _with_sharding(subject.teacher_params, replicated),
        _with_sharding(schedules.shapes(subject.pair.all_methods), replicated),
    )
    lowered = step.lower(_with_sharding(subject.state, replicated), *constant, _with_sharding(batch, over_batch))
    began = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed, limit = _needed_and_limit(str(error))
        return Probe(bucket, pictures, needed, limit or chip.memory, False, time.monotonic() - began, None)
    seconds = time.monotonic() - began
    program = _program(compiled)
    needed = program.memory.total
    return Probe(bucket, pictures, needed, chip.memory, needed <= chip.memory, seconds, program)


def shapes(canvas: Canvas, *, pictures: int) -> Batch:
    """The shapes of a batch of so many rows, which the loader pads to this canvas."""
    row = blank(canvas)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((pictures, *leaf.shape), leaf.dtype), row)


def repeated(text: str) -> int:
    """The number of instructions of an optimised program that are rematerialised or packed so that it fits."""
    return len(REPEATED.findall(text))


def _classes(recipe: configs.Recipe, number: int) -> tuple[Source | None, tuple[str, ...], str]:
    """The training data, None where it is not here, the names of the classes, and a sentence on their origin."""
    try:
        source = prepare.load_source(recipe.data.train)
    except DataError as error:
        names = BY_NUMBER.get(number, tuple(f"class {place}" for place in range(number)))
        return None, names, f"{number} classes, as --classes says, since the data is not here: {error}"
    return source, source.classes, f"{len(source.classes)} classes, those of the recipe's data."


def _share(batch: int, devices: Mesh, *, parts: int) -> int:
    """Pictures a device of a batch that is split in so many parts."""
    least = devices.size * parts
    if batch < 1 or batch % least:
        nearest = max(round(batch / least), 1) * least
        in_parts = f" in {parts} parts (train.accumulate)" if parts > 1 else ""
        raise ConfigError(
            f"A batch of {batch} does not divide over {devices.size} devices{in_parts}; give --batch={nearest}."
        )
    return batch // devices.size


def _with_sharding(tree: Tree, sharding: NamedSharding) -> Tree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def _program(compiled: Any) -> Program:
    plan, cost, text = compiled.memory_analysis(), compiled.cost_analysis() or {}, compiled.as_text()
    return Program(
        memory=Memory(
            arguments=plan.argument_size_in_bytes,
            outputs=plan.output_size_in_bytes,
            temporaries=plan.temp_size_in_bytes,
            alias=plan.alias_size_in_bytes,
            program=plan.generated_code_size_in_bytes,
        ),
        flops=float(cost.get("flops", float("nan"))),
        accessed=float(cost.get("bytes accessed", float("nan"))),
        collectives=collectives.count(text),
        repeated=repeated(text),
    )


def _needed_and_limit(message: str) -> tuple[int, int]:
    """Bytes needed and available in the message with which a TPU's compiler gives up; zeros where it has none."""
    for pattern in REFUSALS:
        if match := pattern.search(message):
            needed, unit, limit, limit_unit = match.groups()
            return int(float(needed) * UNITS[unit]), int(float(limit) * UNITS[limit_unit])
    return 0, 0

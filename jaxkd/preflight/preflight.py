"""What a step needs, from its compiled program: memory, operations and collectives."""

import dataclasses
import re
import time
from dataclasses import dataclass
from typing import Any

import jax
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxkd import config as configs
from jaxkd.data import loader
from jaxkd.errors import ConfigError, DataError
from jaxkd.loading import build, prepare
from jaxkd.loading.published import BY_NUMBER
from jaxkd.paths import path_of
from jaxkd.preflight import collectives, largest
from jaxkd.preflight.chips import Chip
from jaxkd.preflight.needs import Memory, Plan, Probe, Program
from jaxkd.train import loop, mesh, schedules
from jaxkd.train.state import State, Tree, split
from jaxkd.train.step import Pair, initial_state, make_step
from jaxkd.types import Batch
from jaxkd.weights import parts

SIZE = r"([\d.]+)([KMG]?)"
REFUSALS = (  # of a TPU's compiler: bytes needed, bytes there
    re.compile(rf"Used {SIZE} of {SIZE} hbm"),
    re.compile(rf"\({SIZE}\) exceeds available HBM \({SIZE}\)"),
)
REPEATED = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]*\.remat[\w.\-]* = ", re.MULTILINE)
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Subject:
    """A step with nothing of full size: who learns and teaches, and the shapes of what they carry."""

    pair: Pair
    state: State  # of shapes
    teacher_params: Tree  # of shapes
    feeding: loader.Config
    batch: int  # of the recipe
    trainable: int  # bytes of the parameters that are trained
    classes: str  # a sentence on where they are from
    teacher: str  # a sentence on who it is


@dataclass(frozen=True)
class Preflight:
    """All that was found for one recipe and one set of devices."""

    devices: int
    chip: Chip
    probes: tuple[Probe, ...]  # the batch asked for, one for each area of a bucket, the largest first; then the search
    plans: tuple[Plan, ...]  # those of the search, or, where nothing was compiled, of the batch asked for
    largest: int | None  # pictures a chip that fit; None where it was not looked for
    beside: int | None  # bytes that the batch asked for needs beside its plan; None where the search saw no plans
    skipped: tuple[tuple[int, int], ...]  # buckets of an area that another has, which were not compiled

    @property
    def asked(self) -> Probe | Plan:
        """The batch asked for, at the bucket that decides."""
        return self.probes[0] if self.probes else self.plans[0]


def subject(recipe: configs.Recipe, *, teacher: Any = "", classes: int = 80) -> Subject:
    """The step of a recipe in shapes; its data is read where it is there.

    Args:
      recipe: a whole one.
      teacher: a folder or a published file in place of the recipe's, or the component of a detector like it.
      classes: their number where the data is not there.

    Raises ConfigError where the teacher is not there or not needed, and what the parts of the recipe raise.
    """
    config: loop.Config = configs.build(recipe.train)
    if config.accumulate < 1:
        raise ConfigError(f"train.accumulate must be at least 1, not {config.accumulate}.")
    names, said = _classes(recipe, classes)
    student = build.detector(recipe.student, names)
    teaching, who = _teacher(recipe, teacher, names)
    pair = loop.make_pair(recipe, config, student, teaching)
    key = jax.eval_shape(lambda: jax.random.key(config.seed))
    state = jax.eval_shape(lambda key: initial_state(pair, dict(student.init(key)), key), key)
    learned, _ = split(state.params, pair.trainable)
    return Subject(
        pair=pair,
        state=state,
        teacher_params=teaching.params if teaching else {},
        feeding=configs.build(recipe.data.loader),
        batch=config.batch,
        trainable=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(learned)),
        classes=said,
        teacher=who,
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
    """Compiles the step for these devices, at the recipe's `batch` or another, and looks for the largest that fits.

    Where there is a planner the search looks at its plans, and compiles whole steps elsewhere.

    Raises ConfigError where the batch does not divide over the devices, and what the planner raises.
    """
    parts = subject.pair.accumulate
    pictures = _share(batch or subject.batch, devices, parts=parts)
    buckets, skipped = areas(subject.feeding)
    probes = [probe(subject, devices, chip, bucket=bucket, pictures=pictures) for bucket in buckets]
    plans, found, beside = [], None, None
    if search and planner:
        found, beside, plans = largest.planned(planner, probes[0], parts=parts)
    elif search:
        found, more = largest.fitting(
            lambda number: probe(subject, devices, chip, bucket=buckets[0], pictures=number), probes[0], parts=parts
        )
        probes += more
    return Preflight(devices.size, chip, tuple(probes), tuple(plans), found, beside, skipped)


def outline(subject: Subject, devices: Mesh, chip: Chip, *, planner: largest.Planner, batch: int = 0) -> Preflight:
    """The plans alone, at the recipe's `batch` or another.

    Raises ConfigError where the batch does not divide over the devices, and what the planner raises.
    """
    pictures = _share(batch or subject.batch, devices, parts=subject.pair.accumulate)
    buckets, skipped = areas(subject.feeding)
    plans = [planner(bucket=bucket, pictures=pictures) for bucket in buckets]
    return Preflight(devices.size, chip, (), tuple(plans), None, None, skipped)


def areas(feeding: loader.Config) -> tuple[list[tuple[int, int]], tuple[tuple[int, int], ...]]:
    """The first bucket of each area, the largest first, and the others."""
    chosen: dict[int, tuple[int, int]] = {}
    for height, width in feeding.buckets:
        chosen.setdefault(height * width, (height, width))
    first = [chosen[area] for area in sorted(chosen, reverse=True)]
    return first, tuple(bucket for bucket in dict.fromkeys(feeding.buckets) if bucket not in first)


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
    batch = shapes(subject.feeding, bucket=bucket, pictures=pictures * devices.size)
    whole, parts = NamedSharding(devices, P()), NamedSharding(devices, P(mesh.AXIS))
    step = make_step(subject.pair, devices)
    constant = (_laid(subject.teacher_params, whole), _laid(schedules.shapes(subject.pair.methods), whole))
    lowered = step.lower(_laid(subject.state, whole), *constant, _laid(batch, parts))
    began = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed, limit = _used(str(error))
        return Probe(bucket, pictures, needed, limit or chip.memory, False, time.monotonic() - began, None)
    seconds = time.monotonic() - began
    program = _program(compiled)
    needed = program.memory.total
    return Probe(bucket, pictures, needed, chip.memory, needed <= chip.memory, seconds, program)


def shapes(feeding: loader.Config, *, bucket: tuple[int, int], pictures: int) -> Batch:
    """The shapes of a batch."""
    b, g, (height, width) = pictures, feeding.max_objects, bucket
    of = jax.ShapeDtypeStruct
    return Batch(
        images=of((b, height, width, 3), jnp.uint8),
        sizes=of((b, 2), jnp.int32),
        boxes=of((b, g, 4), jnp.float32),
        labels=of((b, g), jnp.int32),
        valid=of((b, g), jnp.bool),
        crowd=of((b, g), jnp.bool),
        ids=of((b,), jnp.int32),
        scales=of((b, 2), jnp.float32),
        real=of((b,), jnp.bool),
    )


def repeated(text: str) -> int:
    """Instructions of an optimised program that are repeated, or whose results are packed, so that it fits."""
    return len(REPEATED.findall(text))


def _classes(recipe: configs.Recipe, number: int) -> tuple[tuple[str, ...], str]:
    """Names of the classes, and a sentence on where they are from."""
    try:
        source = prepare.load_source(recipe.data.train)
    except DataError as error:
        names = BY_NUMBER.get(number, tuple(f"class {place}" for place in range(number)))
        return names, f"{number} classes, as --classes says, since the data is not here: {error}"
    return source.classes, f"{len(source.classes)} classes, those of the recipe's data."


def _teacher(recipe: configs.Recipe, given: Any, classes: tuple[str, ...]) -> tuple[build.Loaded | None, str]:
    """The teacher with the shapes of its parameters, and a sentence on it."""
    if not recipe.distill:
        if given:
            raise ConfigError("The recipe teaches nothing, so there is no use for --teacher.")
        return None, "Nothing is taught."
    if given and not isinstance(given, str):
        detector = build.detector(given, classes)
        params = jax.eval_shape(detector.init, jax.random.key(0))
        found = build.Loaded(detector, params, given, {}, {})
        return prepare.beside(found, recipe.student), "The teacher has the shape of a recipe's student."
    name = given or recipe.teacher
    place = path_of(name)
    folder = place / build.STUDENT if (place / build.RECIPE).is_file() else place
    if name and build.file_of(folder, build.ABOUT).is_file():
        found = prepare.beside(build.described(folder), recipe.student)
        return found, f"The teacher is described in {folder / build.ABOUT}."
    if name and parts.split(place)[0].is_file():
        found = prepare.load_detector(name)
        found = dataclasses.replace(found, params=jax.eval_shape(lambda: found.params))
        return prepare.beside(found, recipe.student), f"The teacher is in {name}."
    raise ConfigError(
        f"The teacher {name or 'of the recipe'} is not here; give --teacher=RECIPE, such as coco:faster_rcnn-r101, for "
        "one whose student has its shape, or --teacher=FOLDER with its detector.json."
    )


def _share(batch: int, devices: Mesh, *, parts: int) -> int:
    """Pictures a device of a batch, which it looks at in so many parts."""
    least = devices.size * parts
    if batch < 1 or batch % least:
        near = max(round(batch / least), 1) * least
        said = f" in {parts} parts (train.accumulate)" if parts > 1 else ""
        raise ConfigError(f"A batch of {batch} does not divide over {devices.size} devices{said}; give --batch={near}.")
    return batch // devices.size


def _laid(tree: Tree, sharding: NamedSharding) -> Tree:
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


def _used(message: str) -> tuple[int, int]:
    """Bytes needed and bytes there, as a TPU's compiler says them when it gives up; zeros where it does not."""
    for pattern in REFUSALS:
        if found := pattern.search(message):
            needed, unit, limit, limit_unit = found.groups()
            return int(float(needed) * UNITS[unit]), int(float(limit) * UNITS[limit_unit])
    return 0, 0

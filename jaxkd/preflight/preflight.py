"""Memory, operations and collectives of a step, from its compiled program, and the largest batch that fits."""

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
from jaxkd.loading import build, foundation, hub, prepare
from jaxkd.loading.published import BY_NUMBER
from jaxkd.paths import path_of
from jaxkd.preflight import collectives, largest
from jaxkd.preflight.chips import Chip
from jaxkd.preflight.requirements import Memory, Plan, Probe, Program
from jaxkd.train import loop, mesh, pairing, schedules
from jaxkd.train.state import State, Tree, split
from jaxkd.train.step import Pair, initial_state, make_step
from jaxkd.types import Batch, TeacherView
from jaxkd.weights import parts

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
    teacher: str  # a sentence on its origin


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


def subject(recipe: configs.Recipe, *, teacher: Any = "", classes: int = 80) -> Subject:
    """The step of a recipe in shapes; the data is read where it is available.

    Args:
      recipe: complete.
      teacher: a folder or a published file in place of the recipe's, or the component of a detector like it.
      classes: their number where the data is not available.

    Raises ConfigError where the teacher is missing or not needed, and what the parts of the recipe raise.
    """
    config: loop.Config = configs.build(recipe.train)
    if config.accumulate < 1:
        raise ConfigError(f"train.accumulate must be at least 1, not {config.accumulate}.")
    if "teachers" in recipe:
        raise ConfigError("Steps with several teachers are not measured here; give a recipe without config.teachers.")
    names, classes_note = _classes(recipe, classes)
    student = build.student(recipe.student, names)
    loaded_teacher, teacher_note = _teacher(recipe, teacher, names)
    teachers = {"": loaded_teacher} if loaded_teacher else {}
    pair = pairing.make_pair(recipe, config, student, teachers)
    key = jax.eval_shape(lambda: jax.random.key(config.seed))
    state = jax.eval_shape(lambda key: initial_state(pair, dict(student.init(key)), key), key)
    trained, _ = split(state.params, pair.trainable)
    return Subject(
        pair=pair,
        state=state,
        teacher_params=loaded_teacher.params if loaded_teacher else {},
        loader_config=pairing.loader_config_of(recipe, teachers),
        batch=config.batch,
        trainable=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trained)),
        classes=classes_note,
        teacher=teacher_note,
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
    batch = shapes(subject.loader_config, bucket=bucket, pictures=pictures * devices.size)
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


def shapes(loader_config: loader.Config, *, bucket: tuple[int, int], pictures: int) -> Batch:
    """The shapes of a batch."""
    b, g, (height, width) = pictures, loader_config.max_objects, bucket
    array = jax.ShapeDtypeStruct
    further = {
        name: TeacherView(
            images=array((b, *view.size, 3), jnp.uint8),
            sizes=array((b, 2), jnp.int32),
            scales=array((b, 2), jnp.float32),
        )
        for name, view in loader_config.views.items()
    }
    return Batch(
        images=array((b, height, width, 3), jnp.uint8),
        sizes=array((b, 2), jnp.int32),
        boxes=array((b, g, 4), jnp.float32),
        labels=array((b, g), jnp.int32),
        valid=array((b, g), jnp.bool),
        crowd=array((b, g), jnp.bool),
        ids=array((b,), jnp.int32),
        scales=array((b, 2), jnp.float32),
        real=array((b,), jnp.bool),
        teacher=further.pop("", None),
        further=further,
    )


def repeated(text: str) -> int:
    """The number of instructions of an optimised program that are rematerialised or packed so that it fits."""
    return len(REPEATED.findall(text))


def _classes(recipe: configs.Recipe, number: int) -> tuple[tuple[str, ...], str]:
    """Names of the classes, and a sentence on their origin."""
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
        loaded = build.Loaded(detector, build.param_shapes(detector), given, {}, {})
        return prepare.match_dtype(loaded, recipe.student), "The teacher has the shape of a recipe's student."
    name = given or recipe.teacher
    path = path_of(name)
    folder = build.folder_of(path)
    if name and build.file_of(folder, build.ABOUT).is_file():
        loaded = prepare.match_dtype(build.load_shapes(folder), recipe.student)
        return loaded, f"The teacher is described in {folder / build.ABOUT}."
    if name and (parts.split(path)[0].is_file() or foundation.is_one(path) or hub.is_one(path)):
        loaded = prepare.load_network(name)
        loaded = dataclasses.replace(loaded, params=jax.eval_shape(lambda: loaded.params))
        return prepare.match_dtype(loaded, recipe.student), f"The teacher is in {name}."
    raise ConfigError(
        f"The teacher {name or 'of the recipe'} is not here; give --teacher=RECIPE, such as coco:faster_rcnn-r101, for "
        "one whose student has its shape, or --teacher=FOLDER with its detector.json."
    )


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

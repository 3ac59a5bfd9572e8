"""`jaxkd preflight --config=RECIPE[:ARG] --topology=v5e:16x16`: a training step's needs, without the devices."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jaxkd import json_values, phrases, storage
from jaxkd.cli.flags import define_path, define_paths, parse, recipe
from jaxkd.errors import ConfigError, TooLargeError
from jaxkd.paths import path_of

if TYPE_CHECKING:
    from jaxkd.preflight.chips import Chip
    from jaxkd.preflight.preflight import Preflight, Subject
    from jaxkd.preflight.requirements import Plan, Probe, Program, Requirement


def define(values: flags.FlagValues) -> None:
    """Defines the flags beside --config."""
    flags.DEFINE_string(
        "topology", "here", "A slice of TPUs, such as v5e:16x16, or here for the devices that are.", flag_values=values
    )
    flags.DEFINE_integer("batch", 0, "Pictures a step; 0 for the recipe's.", flag_values=values, lower_bound=0)
    define_paths(
        "teacher", "A teacher's folder, or a recipe whose student it is like; NAME=THAT for one of several, again for "
        "another.", values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "classes", 80, "Number of classes where the data is not here.", flag_values=values, lower_bound=1
    )
    flags.DEFINE_bool("search", True, "Look for the largest batch that fits.", flag_values=values)
    flags.DEFINE_bool(
        "plan", False, "Memory and collectives alone, of TPUs, in a minute; no search.", flag_values=values
    )
    define_path("out", "", "JSON file to write.", values=values)


def run(argv: Sequence[str]) -> int:
    """Prints the needs of the step; returns 0 where it fits, else raises TooLargeError."""
    if "--help" in argv or "-h" in argv:
        parse("preflight", ["--help"], define, with_recipe=True)
    config, rest = recipe(argv)
    values, _ = parse("preflight", rest, define)
    on_topology = values.topology != "here"
    if values.plan and not on_topology:
        raise ConfigError("--plan is of a slice of TPUs; give one, such as --topology=v5e:2x4, or leave out --plan.")
    # Imported late: jax is slow to load, and --help and wrong flags do not need it.
    from jaxkd.cli.workdir import check_file
    from jaxkd.preflight import chips, plan, preflight, topology

    if values.out:
        check_file(Path(values.out))  # compiling takes minutes
    if on_topology:
        topology.compile_only()
    devices = topology.mesh_of(values.topology, devices=config.train.devices)
    chip = chips.chip_of(devices.devices.flat[0], sharing=devices.size)
    teachers = _teachers(values.teacher, config)
    subject = preflight.subject(config, teachers=teachers, classes=values.classes)
    planner = functools.partial(plan.plan, plan.Step(config, values.topology, teachers, values.classes))
    if values.plan:
        result = preflight.outline(subject, devices, chip, batch=values.batch, planner=planner)
    else:
        planner = planner if on_topology else None
        result = preflight.run(subject, devices, chip, batch=values.batch, search=values.search, planner=planner)
    print(table(subject, result, topology=values.topology))
    if values.out:
        record = as_dict(subject, result, topology=values.topology)
        storage.write(Path(values.out), f"{json_values.dumps(record, indent=2)}\n")
    if not result.requested.fits:
        raise TooLargeError(_refusal(result, parts=subject.pair.accumulate))
    return 0


def as_dict(subject: "Subject", result: "Preflight", *, topology: str) -> dict[str, Any]:
    """The record as JSON values, with the bounds that follow from it."""
    record = dataclasses.asdict(result)
    for probe, entry in zip(result.probes, record["probes"], strict=True):
        bound = probe.bound(result.chip)
        entry["bound"] = dataclasses.asdict(bound) | {"seconds": bound.seconds} if bound else None
    header = {"topology": topology, "classes": subject.classes, "teacher": subject.teacher}
    return header | {"trainable": subject.trainable} | record


def table(subject: "Subject", result: "Preflight", *, topology: str) -> str:
    """The record as text."""
    lines = [f"{topology}: {result.devices} x {_chip(result.chip)}", subject.classes, subject.teacher]
    n_buckets = len({requirement.bucket for requirement in result.probes or result.plans})
    if result.probes:
        blocks = [_probe(probe, subject, result) for probe in result.probes[:n_buckets]]
    else:
        blocks = [_plan(plan, subject, result) for plan in result.plans[:n_buckets]]
    lines += [line for block in blocks for line in ("", *block)]
    if result.skipped:
        names = ", ".join(f"{height}x{width}" for height, width in result.skipped)
        lines += ["", f"Not compiled, since a bucket above has as many pixels: {names}."]
    if result.largest is not None:
        lines += ["", f"Largest batch that fits: {result.largest} a chip, {result.largest * result.devices} in all."]
        lines += _search(result)
    return "\n".join(lines)


def _search(result: "Preflight") -> list[str]:
    """Lines on the search for the largest batch."""
    if result.overhead is None:
        probes = [probe for probe in result.probes if probe.bucket == result.requested.bucket]
        seconds = sum(probe.seconds for probe in result.probes)
        return [f"Compiled for {_numbers(probes)} pictures a chip, {seconds:.0f} s in all."]
    seconds = sum(plan.seconds for plan in result.plans)
    limit = _bytes(min(plan.limit for plan in result.plans))
    lines = [
        f"Planned for {_numbers(result.plans)} pictures a chip, {seconds:.0f} s in all: the compiler does not refuse "
        f"what fits, and its plan stays within {limit}",
    ]
    if result.probes[0].program:
        lines[0] += f" with the {_bytes(result.overhead)} that the step above takes beside its own, for code above all."
    else:
        lines[0] += "; what code takes beside is not known, since that of the step above was not written."
    if result.largest and result.largest != result.requested.pictures:
        lines.append(f"--batch={result.largest * result.devices} --nosearch compiles it to the end.")
    return lines


def _numbers(requirements: "Sequence[Requirement]") -> str:
    return ", ".join(f"{requirement.pictures}" for requirement in requirements)


def _chip(chip: "Chip") -> str:
    peaks = ""
    if chip.peak and chip.bandwidth:
        peaks = f", {chip.peak / 1e12:.0f} TFLOP/s in bfloat16, {chip.bandwidth / 1e9:.0f} GB/s"
    return f"{chip.name}, {_bytes(chip.memory)}{peaks} ({chip.source})"


def _probe(probe: "Probe", subject: "Subject", result: "Preflight") -> list[str]:
    lines = [
        _head(probe, result),
        f"  memory a chip   {_memory(probe)}: {_verdict(probe)}",
    ]
    if program := probe.program:
        memory = program.memory
        lines += [
            f"                  arguments {_bytes(memory.arguments)}, temporaries {_bytes(memory.temporaries)}, "
            f"outputs {_bytes(memory.outputs)}, of which {_bytes(memory.alias)} in the place of arguments",
            f"  a step, a chip  {program.flops / 1e12:.3f} TFLOP, {program.accessed / 1e9:.2f} GB accessed",
            *_program_lines(program, subject),
        ]
    if bound := probe.bound(result.chip):
        rate = probe.pictures * result.devices / bound.seconds
        lines += [
            f"  lower bound     {1e3 * bound.seconds:.1f} ms a step, so at most {rate:.0f} pictures/s: operations "
            f"{1e3 * bound.operations:.1f} ms, memory {1e3 * bound.memory:.1f} ms",
            "                  (no prediction; what is in a loop counts once, what stays on the chip counts as memory)",
        ]
    return [*lines, f"  compiled in     {probe.seconds:.0f} s"]


def _plan(plan: "Plan", subject: "Subject", result: "Preflight") -> list[str]:
    memory = f"{_memory(plan)}, with the code to come beside: {_verdict(plan)}"
    lines = [_head(plan, result), f"  memory a chip   {memory}", *_program_lines(plan, subject)]
    return [*lines, f"  planned in      {plan.seconds:.0f} s"]


def _head(requirement: "Requirement", result: "Preflight") -> str:
    (height, width), pictures = requirement.bucket, phrases.counted(requirement.pictures, "picture")
    return f"{height}x{width}, {pictures} a chip, {requirement.pictures * result.devices} in all:"


def _memory(requirement: "Requirement") -> str:
    """The memory that is needed and that there is; a compiler that gives up does not always say how much."""
    return (
        f"{_bytes(requirement.needed)} of {_bytes(requirement.limit)}"
        if requirement.needed
        else f"more than {_bytes(requirement.limit)}"
    )


def _verdict(requirement: "Requirement") -> str:
    return "fits" if requirement.fits else "does not fit"


def _program_lines(program: "Program | Plan", subject: "Subject") -> list[str]:
    """Lines on the collectives and repeated instructions of a program."""
    collectives = program.collectives.items()
    summary = (
        ", ".join(f"{collective.count} {kind} of {collective.bytes / 1e6:.3f} MB" for kind, collective in collectives)
        or "none"
    )
    lines = [f"  collectives     {summary}; trainable parameters have {subject.trainable / 1e6:.3f} MB"]
    if program.repeated:
        lines.append(f"  to fit          {program.repeated} instructions are repeated or packed, which takes time")
    return lines


def _bytes(number: int) -> str:
    """A number of bytes as text."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**29 else f"{number / 2**20:.2f} MiB"


def _refusal(result: "Preflight", *, parts: int) -> str:
    text = (
        f"A step with {phrases.counted(result.requested.pictures, 'picture')} a chip needs {_memory(result.requested)}"
    )
    if result.largest is None:
        flag = "--nosearch" if result.probes else "--plan"
        return f"{text}; leave out {flag} to find the batch that fits."
    if not result.largest:
        least = f"{parts} pictures a chip fit" if parts > 1 else "1 picture a chip fits"
        return f"{text}, and not even {least}; take smaller pictures, bfloat16 or a larger chip."
    return f"{text}; {result.largest} a chip fit: --batch={result.largest * result.devices}."


def _teachers(given: Sequence[str], config: Any) -> dict[str, Any]:
    """What --teacher gives in place of the recipe's teachers, by name; "" is `config.teacher`."""
    teachers: dict[str, Any] = {}
    for text in given:
        name, equals, place = text.partition("=")
        name, place = (name, place) if equals and name in config.get("teachers", {}) else ("", text)
        if name in teachers:
            raise ConfigError(f"--teacher={text} is the second one for the same teacher; give one.")
        if place:
            teachers[name] = _teacher(place)
    return teachers


def _teacher(name: str) -> Any:
    """A file or folder of weights as it is named, or the student of a recipe."""
    from jaxkd.loading import build  # late, as in `run`

    path = path_of(name)
    is_weights = any(file.is_file() for file in (build.file_of(path, build.ABOUT), path / build.RECIPE))
    if is_weights or (path.is_file() and path.suffix != ".py"):
        return name
    try:
        return recipe([f"--config={name}"])[0].student
    except ConfigError as error:
        problem = f"holds no {build.ABOUT}, and is no recipe" if path.is_dir() else "is neither here nor a recipe"
        raise ConfigError(f"--teacher={name} {problem}. {error}") from error

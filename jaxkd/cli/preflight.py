"""`jaxkd preflight --config=RECIPE[:ARG] --topology=v5e:16x16`: what a training step needs, without the devices."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jaxkd import json_values, storage, words
from jaxkd.cli.flags import define_path, parse, recipe
from jaxkd.errors import ConfigError, TooLargeError
from jaxkd.paths import path_of

if TYPE_CHECKING:
    from jaxkd.preflight.chips import Chip
    from jaxkd.preflight.needs import Plan, Probe, Program, Size
    from jaxkd.preflight.preflight import Preflight, Subject


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string(
        "topology", "here", "A slice of TPUs, such as v5e:16x16, or here for the devices that are.", flag_values=values
    )
    flags.DEFINE_integer("batch", 0, "Pictures a step; 0 for the recipe's.", flag_values=values, lower_bound=0)
    define_path("teacher", "", "A teacher's folder, or a recipe whose student it is like.", values=values)
    flags.DEFINE_integer(
        "classes", 80, "Number of classes where the data is not here.", flag_values=values, lower_bound=1
    )
    flags.DEFINE_bool("search", True, "Look for the largest batch that fits.", flag_values=values)
    flags.DEFINE_bool(
        "plan", False, "Memory and collectives alone, of TPUs, in a minute; no search.", flag_values=values
    )
    define_path("out", "", "JSON file to write.", values=values)


def run(argv: Sequence[str]) -> int:
    """Prints what the step needs; 0 where it fits, TooLargeError's exit code where it does not."""
    if "--help" in argv or "-h" in argv:
        parse("preflight", ["--help"], define, with_recipe=True)
    config, rest = recipe(argv)
    values, _ = parse("preflight", rest, define)
    slices = values.topology != "here"
    if values.plan and not slices:
        raise ConfigError("--plan is of a slice of TPUs; give one, such as --topology=v5e:2x4, or leave out --plan.")
    # Late, for jax is slow to load: --help and a wrong flag are answered without it.
    from jaxkd.cli.workdir import check_file
    from jaxkd.preflight import chips, plan, preflight, topology

    if values.out:
        check_file(Path(values.out))  # compiling takes minutes
    if slices:
        topology.compile_only()
    devices = topology.mesh_of(values.topology, devices=config.train.devices)
    chip = chips.chip_of(devices.devices.flat[0], sharing=devices.size)
    teacher = _teacher(values.teacher)
    subject = preflight.subject(config, teacher=teacher, classes=values.classes)
    planner = functools.partial(plan.plan, plan.Step(config, values.topology, teacher, values.classes))
    if values.plan:
        found = preflight.outline(subject, devices, chip, batch=values.batch, planner=planner)
    else:
        planner = planner if slices else None
        found = preflight.run(subject, devices, chip, batch=values.batch, search=values.search, planner=planner)
    print(table(subject, found, topology=values.topology))
    if values.out:
        record = as_dict(subject, found, topology=values.topology)
        storage.write(Path(values.out), f"{json_values.dumps(record, indent=2)}\n")
    if not found.asked.fits:
        raise TooLargeError(_refusal(found, parts=subject.pair.accumulate))
    return 0


def as_dict(subject: "Subject", found: "Preflight", *, topology: str) -> dict[str, Any]:
    """The record as JSON holds it, with what is derived from it."""
    told = dataclasses.asdict(found)
    for probe, line in zip(found.probes, told["probes"], strict=True):
        bound = probe.bound(found.chip)
        line["bound"] = dataclasses.asdict(bound) | {"seconds": bound.seconds} if bound else None
    about = {"topology": topology, "classes": subject.classes, "teacher": subject.teacher}
    return about | {"trainable": subject.trainable} | told


def table(subject: "Subject", found: "Preflight", *, topology: str) -> str:
    """The record as lines to read."""
    lines = [f"{topology}: {found.devices} x {_chip(found.chip)}", subject.classes, subject.teacher]
    areas = len({size.bucket for size in found.probes or found.plans})
    if found.probes:
        said = [_probe(probe, subject, found) for probe in found.probes[:areas]]
    else:
        said = [_plan(plan, subject, found) for plan in found.plans[:areas]]
    lines += [line for block in said for line in ("", *block)]
    if found.skipped:
        names = ", ".join(f"{height}x{width}" for height, width in found.skipped)
        lines += ["", f"Not compiled, since a bucket above has as many pixels: {names}."]
    if found.largest is not None:
        lines += ["", f"Largest batch that fits: {found.largest} a chip, {found.largest * found.devices} in all."]
        lines += _search(found)
    return "\n".join(lines)


def _search(found: "Preflight") -> list[str]:
    """How the largest batch was looked for."""
    if found.beside is None:
        tried = [probe for probe in found.probes if probe.bucket == found.asked.bucket]
        seconds = sum(probe.seconds for probe in found.probes)
        return [f"Compiled for {_numbers(tried)} pictures a chip, {seconds:.0f} s in all."]
    seconds = sum(plan.seconds for plan in found.plans)
    limit = _bytes(min(plan.limit for plan in found.plans))
    lines = [
        f"Planned for {_numbers(found.plans)} pictures a chip, {seconds:.0f} s in all: the compiler does not refuse "
        f"what fits, and its plan stays within {limit}",
    ]
    if found.probes[0].program:
        lines[0] += f" with the {_bytes(found.beside)} that the step above takes beside its own, for code above all."
    else:
        lines[0] += "; what code takes beside is not known, since that of the step above was not written."
    if found.largest and found.largest != found.asked.pictures:
        lines.append(f"--batch={found.largest * found.devices} --nosearch compiles it to the end.")
    return lines


def _numbers(sizes: "Sequence[Size]") -> str:
    return ", ".join(f"{size.pictures}" for size in sizes)


def _chip(chip: "Chip") -> str:
    peaks = ""
    if chip.peak and chip.bandwidth:
        peaks = f", {chip.peak / 1e12:.0f} TFLOP/s in bfloat16, {chip.bandwidth / 1e9:.0f} GB/s"
    return f"{chip.name}, {_bytes(chip.memory)}{peaks} ({chip.source})"


def _probe(probe: "Probe", subject: "Subject", found: "Preflight") -> list[str]:
    lines = [
        _head(probe, found),
        f"  memory a chip   {_memory(probe)}: {_verdict(probe)}",
    ]
    if program := probe.program:
        memory = program.memory
        lines += [
            f"                  arguments {_bytes(memory.arguments)}, temporaries {_bytes(memory.temporaries)}, "
            f"outputs {_bytes(memory.outputs)}, of which {_bytes(memory.alias)} in the place of arguments",
            f"  a step, a chip  {program.flops / 1e12:.3f} TFLOP, {program.accessed / 1e9:.2f} GB accessed",
            *_read(program, subject),
        ]
    if bound := probe.bound(found.chip):
        rate = probe.pictures * found.devices / bound.seconds
        lines += [
            f"  lower bound     {1e3 * bound.seconds:.1f} ms a step, so at most {rate:.0f} pictures/s: operations "
            f"{1e3 * bound.operations:.1f} ms, memory {1e3 * bound.memory:.1f} ms",
            "                  (no prediction; what is in a loop counts once, what stays on the chip counts as memory)",
        ]
    return [*lines, f"  compiled in     {probe.seconds:.0f} s"]


def _plan(plan: "Plan", subject: "Subject", found: "Preflight") -> list[str]:
    memory = f"{_memory(plan)}, with the code to come beside: {_verdict(plan)}"
    lines = [_head(plan, found), f"  memory a chip   {memory}", *_read(plan, subject)]
    return [*lines, f"  planned in      {plan.seconds:.0f} s"]


def _head(size: "Size", found: "Preflight") -> str:
    (height, width), pictures = size.bucket, words.counted(size.pictures, "picture")
    return f"{height}x{width}, {pictures} a chip, {size.pictures * found.devices} in all:"


def _memory(size: "Size") -> str:
    """What is needed of what there is; a compiler that gives up does not always say how much."""
    return f"{_bytes(size.needed)} of {_bytes(size.limit)}" if size.needed else f"more than {_bytes(size.limit)}"


def _verdict(size: "Size") -> str:
    return "fits" if size.fits else "does not fit"


def _read(program: "Program | Plan", subject: "Subject") -> list[str]:
    """What is read from the text of a program."""
    kinds = program.collectives.items()
    said = ", ".join(f"{of.count} {kind} of {of.bytes / 1e6:.3f} MB" for kind, of in kinds) or "none"
    lines = [f"  collectives     {said}; trainable parameters have {subject.trainable / 1e6:.3f} MB"]
    if program.repeated:
        lines.append(f"  to fit          {program.repeated} instructions are repeated or packed, which takes time")
    return lines


def _bytes(number: int) -> str:
    """So many bytes, to read."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**29 else f"{number / 2**20:.2f} MiB"


def _refusal(found: "Preflight", *, parts: int) -> str:
    text = f"A step with {words.counted(found.asked.pictures, 'picture')} a chip needs {_memory(found.asked)}"
    if found.largest is None:
        flag = "--nosearch" if found.probes else "--plan"
        return f"{text}; leave out {flag} to find the batch that fits."
    if not found.largest:
        least = f"{parts} pictures a chip fit" if parts > 1 else "1 picture a chip fits"
        return f"{text}, and not even {least}; take smaller pictures, bfloat16 or a larger chip."
    return f"{text}; {found.largest} a chip fit: --batch={found.largest * found.devices}."


def _teacher(name: str) -> Any:
    """What --teacher names: weights as they stand, or a folder that describes some; else the student of a recipe."""
    from jaxkd.loading import build  # late, as in `run`

    place = path_of(name)
    described = any(file.is_file() for file in (build.file_of(place, build.ABOUT), place / build.RECIPE))
    if not name or described or (place.is_file() and place.suffix != ".py"):
        return name
    try:
        return recipe([f"--config={name}"])[0].student
    except ConfigError as error:
        said = f"holds no {build.ABOUT}, and is no recipe" if place.is_dir() else "is neither here nor a recipe"
        raise ConfigError(f"--teacher={name} {said}. {error}") from error

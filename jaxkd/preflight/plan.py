"""A step's memory and collectives as a TPU's compiler plans them, before it generates code.

Generating the code takes much longer than all that comes before, and no option leaves it out. So the compiler runs in
its own process, which is ended once the compiler has written its report into a folder.
"""

import multiprocessing
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jaxkd import config as configs
from jaxkd.errors import JaxkdError, first_line
from jaxkd.preflight import chips, collectives, preflight, requirements, topology

LONGEST = 3600.0  # seconds
PAUSE = 0.2  # seconds between two checks of the folder
# Files that libtpu writes there, in this order, the last only where the step fits:
TEXT = "*.after_optimizations.txt"
REPORT = "*.after_optimizations-memory-usage-report.txt"
ACCEPTED = "*.after_optimizations_after_buffer_assignment.txt"
TOTAL = re.compile(r"Memory Space: default.*\nTotal bytes: (\d+)")


@dataclass(frozen=True)
class Step:
    """The description of a step from which another process builds it again."""

    recipe: configs.Recipe
    topology: str  # of TPUs, as `topology.mesh_of` takes it
    teachers: Mapping[str, Any] = field(default_factory=dict)  # as `preflight.subject` takes them
    classes: int = 80


@dataclass(frozen=True)
class Task:
    """One compilation, as a record that is sent to a process."""

    step: Step
    bucket: tuple[int, int]
    pictures: int
    folder: str  # for the compiler's reports


def plan(step: Step, *, bucket: tuple[int, int], pictures: int) -> requirements.Plan:
    """The plan of a step for so many pictures a chip.

    Raises what `topology.mesh_of` and `preflight.subject` raise, and JaxkdError where the compiler fails otherwise or
    takes longer than LONGEST.
    """
    began = time.monotonic()
    memory = chips.chip_of(topology.mesh_of(step.topology).devices.flat[0]).memory
    with tempfile.TemporaryDirectory(prefix="jaxkd-plan-", ignore_cleanup_errors=True) as folder:
        task = Task(step, bucket, pictures, folder)
        probe = _run_compiler(task)
        reports, texts = (
            [file.read_text(encoding="utf-8") for file in Path(folder).glob(pattern)] for pattern in (REPORT, TEXT)
        )
    seconds = time.monotonic() - began
    total = TOTAL.search(reports[0]) if reports and texts else None
    if total:
        values = int(total[1]), collectives.count(texts[0]), preflight.repeated(texts[0])
    elif probe and probe.program:  # a libtpu that writes no such report compiles to the end
        program = probe.program
        values = program.memory.total - program.memory.program, program.collectives, program.repeated
    elif probe:  # the compiler gave up before there was a plan
        values = probe.needed, {}, 0
    else:
        raise JaxkdError(f"libtpu left no report of the memory for {step.topology} that can be read; give --nosearch.")
    needed, kinds, repeated = values
    limit, fits = (probe.limit, probe.fits) if probe else (memory, True)
    return requirements.Plan(bucket, pictures, needed, limit, fits, seconds, kinds, repeated)


def _run_compiler(task: Task) -> requirements.Probe | None:
    """The result of the compiler, run in a process; None where it went on to code, and was stopped."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_compile, args=(task, sender), daemon=True)
    process.start()
    sender.close()
    try:
        return _receive_result(receiver, task)
    finally:
        process.kill()
        process.join()
        process.close()
        receiver.close()


def _receive_result(receiver: Connection, task: Task) -> requirements.Probe | None:
    """The result that the process sends; None once the compiler goes on to code."""
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        if any(Path(task.folder).glob(ACCEPTED)):
            return None
        if receiver.poll(PAUSE):
            try:
                result = receiver.recv()
            except EOFError as error:
                raise JaxkdError(
                    f"The process that compiled for {task.step.topology} ended without a word, as it does where the "
                    "machine has too little memory; the papers' steps take some 5 GB."
                ) from error
            if isinstance(result, JaxkdError):
                raise result
            return result
    raise JaxkdError(f"There is no plan for {task.step.topology} after {LONGEST / 60:.0f} minutes; give --nosearch.")


def _compile(task: Task, sender: Connection) -> None:
    """Compiles to the end, unless it is stopped, and sends the result."""
    threading.Thread(target=_end_with_parent, args=(task.folder,), daemon=True).start()
    topology.compile_only()
    options = {"xla_dump_to": task.folder, "xla_dump_hlo_as_text": True}
    try:
        subject = preflight.subject(task.step.recipe, teachers=task.step.teachers, classes=task.step.classes)
        devices = topology.mesh_of(task.step.topology)
        chip = chips.chip_of(devices.devices.flat[0])
        sender.send(
            preflight.probe(subject, devices, chip, bucket=task.bucket, pictures=task.pictures, options=options)
        )
    except JaxkdError as error:
        sender.send(error)
    except Exception as error:  # any error of the compiler
        sender.send(JaxkdError(f"Compiling for {task.step.topology} failed: {first_line(error)}."))


def _end_with_parent(folder: str) -> None:
    """Ends this process, and removes its folder, once its parent has ended; a compiler runs for minutes."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

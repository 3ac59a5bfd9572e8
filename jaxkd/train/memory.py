"""What a compiled step needs of a device's memory, and what there is of it."""

import os
from pathlib import Path
from typing import Any

from jaxkd.errors import TooLargeError

SHARE = 0.6  # of a device's memory that a step may plan for; data, evaluations and other programs need some too
MEMINFO = Path("/proc/meminfo")
GROUP_LIMIT, GROUP_USED = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))


class StepTooLargeError(TooLargeError):
    """A step of `batch` pictures that plans for more than SHARE of a device's memory."""

    def __init__(self, text: str, *, batch: int):
        super().__init__(text)
        self.batch = batch


def planned(program: Any) -> int:
    """Bytes a device of a compiled program: arguments, outputs and temporaries, none of them twice."""
    plan = program.memory_analysis()
    sizes = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return int(sizes - plan.alias_size_in_bytes)


def check(program: Any, device: Any, *, shape: tuple[int, ...], devices: int) -> None:
    """Raises StepTooLargeError where a step for pictures of this shape [b h w c] needs more than SHARE of a device.

    `devices` share the step and, where they are CPU devices, the machine's memory. Where a device does not report its
    memory, nothing is checked.
    """
    needed = planned(program)
    there = free() // devices if device.platform == "cpu" else usable(device)
    if there and needed > SHARE * there:
        batch, height, width = shape[:3]
        raise StepTooLargeError(
            f"A step of {batch} pictures of {height}x{width} needs {_gigabytes(needed)} a device, which is more than "
            f"{SHARE:.0%} of {_gigabytes(there)}",
            batch=batch,
        )


def usable(device: Any) -> int:
    """Bytes that JAX may use of an accelerator; 0 where it does not report them."""
    try:
        return int((device.memory_stats() or {}).get("bytes_limit", 0))
    except Exception:  # raised for the device of a topology, by each platform in another way
        return 0


def free() -> int:
    """Bytes of the machine's memory that programs can still take, within its control group's limit.

    Where the system does not say, all memory that there is.
    """
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for line in _text(MEMINFO).splitlines():
        if line.startswith("MemAvailable:"):
            available = 1024 * int(line.split()[1])
    limit, used = _text(GROUP_LIMIT).strip(), _text(GROUP_USED).strip()
    return min(available, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else available


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.2g} GB"

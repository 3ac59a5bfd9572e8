"""Published specifications of accelerators: memory, peak and bandwidth."""

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

from jaxkd.train import memory

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device, as JAX counts devices."""

    name: str
    memory: int  # bytes
    peak: float | None  # operations a second on dense bfloat16 matrices; None where nothing is published
    bandwidth: float | None  # bytes a second between the chip and its memory; None where nothing is published
    source: str  # of these numbers


GOOGLE = "Google, Cloud TPU documentation, page of the version"
NVIDIA = "NVIDIA, data sheet of the product, without sparsity"

# By the prefix of `device_kind`; the longest that fits counts. A TPU7x is two devices, each with half of its numbers.
TABLE = {
    "TPU v4": Chip("TPU v4", 32 * GIB, 275e12, 1200e9, GOOGLE),
    "TPU v5 lite": Chip("TPU v5e", 16 * GIB, 197e12, 819e9, GOOGLE),
    "TPU v5": Chip("TPU v5p", 95 * GIB, 459e12, 2765e9, GOOGLE),
    "TPU v6 lite": Chip("TPU v6e", 32 * GIB, 918e12, 1638e9, GOOGLE),
    "TPU7x": Chip("TPU7x, one half", 96 * GIB, 2307e12 / 2, 7380e9 / 2, GOOGLE),
    "NVIDIA A100-SXM4-40GB": Chip("A100 40 GB", 40 * GIB, 312e12, 1555e9, NVIDIA),
    "NVIDIA A100-PCIE-40GB": Chip("A100 40 GB", 40 * GIB, 312e12, 1555e9, NVIDIA),
    "NVIDIA A100-SXM4-80GB": Chip("A100 80 GB", 80 * GIB, 312e12, 2039e9, NVIDIA),
    "NVIDIA A100 80GB PCIe": Chip("A100 80 GB PCIe", 80 * GIB, 312e12, 1935e9, NVIDIA),
    "NVIDIA H100 80GB HBM3": Chip("H100 SXM", 80 * GIB, 989e12, 3350e9, NVIDIA),
    "NVIDIA H100 PCIe": Chip("H100 PCIe", 80 * GIB, 756e12, 2000e9, NVIDIA),
    "NVIDIA H200": Chip("H200", 141 * 10**9, 989e12, 4800e9, NVIDIA),
    "NVIDIA L4": Chip("L4", 24 * GIB, 121e12, 300e9, NVIDIA),
    "Tesla T4": Chip("T4, float16", 16 * GIB, 65e12, 320e9, NVIDIA),
}


def chip_of(device: Any, *, sharing: int = 1) -> Chip:
    """The chip that a device is.

    Its memory is what JAX may use of it, where the device is there and reports that, or else the published one. A CPU
    has its share of the machine's memory; it and chips that the table lacks have no peak and no bandwidth.

    Args:
      device: of JAX, or a topology's.
      sharing: CPU devices that share the machine.
    """
    kind = device.device_kind
    prefixes = [name for name in TABLE if kind == name or kind.startswith((f"{name} ", f"{name}-"))]
    chip = TABLE[max(prefixes, key=len)] if prefixes else Chip(kind, 0, None, None, "none")
    if device.platform == "cpu":
        return Chip("CPU", _machine_memory() // sharing, None, None, "this machine")
    usable = memory.usable(device)
    return dataclasses.replace(chip, memory=usable) if usable else chip


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

"""What the benchmarks share: turns and medians, memory, the peer, the machine, and a teacher's part of a step."""

import ctypes
import gc
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jax import numpy as jnp

from jaxkd.detectors.base import Detector
from jaxkd.train.schedules import Scheduled
from jaxkd.train.step import Pair
from jaxkd.types import Batch

LEARNING_RATE = 1e-4  # small enough for any number of steps to stay finite
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "torchvision")


def alternated(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 2,
    seconds: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call in each round, in which all take their turn, so that a busy machine slows all alike.

    Args:
      calls: each returns when its work is done, or what jax is still working on.
      rounds: how often each takes its turn.
      warm_up: turns before the clock runs.
      seconds: after which no further round begins, once there were three.
      clock: what counts; `time.process_time` is the processor's time, of all threads together.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for turn in range(-warm_up, rounds):
        if turn >= 3 and time.perf_counter() - start > seconds:
            break
        for name, call in calls.items():
            time.sleep(0.01)  # else one library's threads still spin while the other's clock runs
            begin = clock()
            jax.block_until_ready(call())
            if turn >= 0:
                taken[name].append(clock() - begin)
    return taken


def medians(taken: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each call's times."""
    return {name: statistics.median(times) for name, times in taken.items()}


def scheduled(pair: Pair) -> Scheduled:
    """What a benchmark's steps are given for the schedules' values."""
    return Scheduled(np.float32(LEARNING_RATE), dict.fromkeys(pair.methods, np.float32(1)))


def resident(call: Callable) -> float | None:
    """By how many megabytes the process's resident memory rises during the call; None where Linux is not there."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else the call is served from what an earlier one gave back
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = high_water()
    call()
    return high_water() - before


def high_water() -> float:
    """The peak of resident memory since the last reset, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def find_peer(shim: str | None) -> tuple[Any, Any] | None:
    """(torch, torchvision), or None where they are not installed; `shim` is a file that defines load_peer()."""
    if shim:
        spec = importlib.util.spec_from_file_location("peer_shim", shim)
        if spec is None or spec.loader is None:
            raise SystemExit(f"--peer-shim={shim} is no Python file; give one that defines load_peer().")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.load_peer()
    try:
        import torch  # pyright: ignore[reportMissingImports]
        import torchvision  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return torch, torchvision


def machine() -> dict[str, Any]:
    """The device and the versions that a figure belongs to."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def teacher_pass(pair: Pair, weights: Any, batch: Batch) -> Any:
    """The teacher's part of a taught step: feature maps, and predictions for as many regions as the student samples.

    A student of one stage asks a teacher of two for feature maps only, and any student a backbone for the coarsest.
    """
    teacher = cast(Detector, pair.teacher)
    features = teacher.features(weights, batch)
    if set(teacher.traits.capabilities) == {"features"}:
        return features.backbone[-1]
    if "anchor_predictions" in pair.student.traits.capabilities:
        return features
    count = pair.student.config.rois.samples  # pyright: ignore[reportAttributeAccessIssue]
    boxes = jnp.take(batch.boxes, jnp.arange(count) % batch.boxes.shape[1], axis=1)
    return teacher.predict(weights, features, boxes, batch).logits

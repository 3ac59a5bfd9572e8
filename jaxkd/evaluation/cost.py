"""What a detector costs: parameters, operations and time for one picture."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxkd.types import Batch, Detections


@dataclass(frozen=True)
class Cost:
    """Of one picture at a time."""

    parameters: int
    gflops: float  # as XLA's cost analysis counts them
    milliseconds: float  # median wall clock


def measure(detect: Callable[[Any, Batch], Detections], params: Any, batch: Batch, *, repeats: int = 30) -> Cost:
    """The cost of `detect(params, batch)` on the default device; the batch holds one picture."""
    compiled = jax.jit(detect).lower(params, batch).compile()
    analysis = compiled.cost_analysis() or {}
    seconds = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        jax.block_until_ready(compiled(params, batch))
        seconds.append(time.perf_counter() - start)
    return Cost(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        gflops=float(analysis.get("flops", float("nan"))) / 1e9,
        milliseconds=1e3 * float(np.median(seconds[3:])),
    )

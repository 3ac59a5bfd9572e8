"""The cost of a detector: parameters, operations and time for a batch of pictures."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxkd.types import Batch, Detections

WARMUP_CALLS = 3  # calls before the measurement
MIN_CALLS = 3  # measured calls, however long they take
SECONDS = 5.0  # after which no further call begins


@dataclass(frozen=True)
class Cost:
    """Parameters, operations and times of a detector, for batches of one size."""

    parameters: int
    gflops: float  # per picture, from XLA's cost analysis
    milliseconds: float  # per batch, median wall-clock time
    p90: float  # 90th percentile, in milliseconds
    pictures: int = 1  # per batch

    @property
    def per_second(self) -> float:
        """Pictures per second, one batch after another."""
        return 1e3 * self.pictures / self.milliseconds


def measure(
    detect: Callable[[Any, Batch], Detections],
    params: Any,
    batch: Batch,
    *,
    repeats: int = 30,
    seconds: float | None = None,
) -> Cost:
    """The cost of `detect(params, batch)` on the default device, all pictures of the batch at once.

    Of `repeats` calls, those after `seconds`, or with None after SECONDS, are left out.
    """
    limit = SECONDS if seconds is None else seconds
    compiled = jax.jit(detect).lower(params, batch).compile()
    analysis = compiled.cost_analysis() or {}
    pictures, durations = len(batch.ids), []
    for call in range(WARMUP_CALLS + repeats):
        if call >= WARMUP_CALLS + MIN_CALLS and sum(durations) > limit:
            break
        start = time.perf_counter()
        jax.block_until_ready(compiled(params, batch))
        durations.append(time.perf_counter() - start)
    median, p90 = np.percentile(durations[WARMUP_CALLS:], [50, 90])
    return Cost(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        gflops=float(analysis.get("flops", float("nan"))) / 1e9 / pictures,
        milliseconds=1e3 * float(median),
        p90=1e3 * float(p90),
        pictures=pictures,
    )

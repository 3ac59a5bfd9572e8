"""What a detector costs: parameters, operations and time for a batch of pictures."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxkd.types import Batch, Detections

WARMING = 3  # calls that do not count
LEAST = 3  # calls that always do


@dataclass(frozen=True)
class Cost:
    """Of batches of one size."""

    parameters: int
    gflops: float  # a picture, as XLA's cost analysis counts them
    milliseconds: float  # a batch, median wall clock
    p90: float  # milliseconds that nine of ten batches do not exceed
    pictures: int = 1  # of a batch

    @property
    def per_second(self) -> float:
        """Pictures a second, one batch after another."""
        return 1e3 * self.pictures / self.milliseconds


def measure(
    detect: Callable[[Any, Batch], Detections], params: Any, batch: Batch, *, repeats: int = 30, seconds: float = 30.0
) -> Cost:
    """The cost of `detect(params, batch)` on the default device, all pictures of the batch at once.

    Fewer than `repeats` count where they would take longer than `seconds`.
    """
    compiled = jax.jit(detect).lower(params, batch).compile()
    analysis = compiled.cost_analysis() or {}
    pictures, taken = len(batch.ids), []
    for turn in range(WARMING + repeats):
        if turn >= WARMING + LEAST and sum(taken) > seconds:
            break
        start = time.perf_counter()
        jax.block_until_ready(compiled(params, batch))
        taken.append(time.perf_counter() - start)
    median, p90 = np.percentile(taken[WARMING:], [50, 90])
    return Cost(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        gflops=float(analysis.get("flops", float("nan"))) / 1e9 / pictures,
        milliseconds=1e3 * float(median),
        p90=1e3 * float(p90),
        pictures=pictures,
    )

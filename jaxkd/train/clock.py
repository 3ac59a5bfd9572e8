"""A clock that divides the time of a run into training, waiting for data, and pauses."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxkd.types import Batch


class Clock:
    """Seconds of training, and how many of them the loop waited for data; time in `paused` is counted apart."""

    def __init__(self) -> None:
        self.seconds = self.waiting = 0.0
        self._paused_seconds: dict[str, float] = {}  # by activity
        self._began = time.monotonic()
        self._lap_waiting = self._lap_seconds = self._lap_step = 0.0
        self._laps = 0
        self._mark = time.monotonic()
        self._pause_counts: dict[str, int] = {}  # by activity

    @property
    def wait_share(self) -> float:
        """Share of the training time so far that was spent waiting for data."""
        return self.waiting / self.seconds if self.seconds else 0.0

    def next_batch(self, batches: Iterable[Batch]) -> Batch:
        """The next batch; the time until it comes counts as waiting for data."""
        before = time.monotonic()
        batch = next(iter(batches))
        self.waiting += time.monotonic() - before
        return batch

    def paused(self, activity: str, function: Callable, *args: Any) -> Any:
        """The function's result; its time counts for `activity`, not for training."""
        self._tick()
        try:
            return jax.block_until_ready(function(*args))
        finally:
            now = time.monotonic()
            self._paused_seconds[activity] = self._paused_seconds.get(activity, 0.0) + now - self._mark
            self._pause_counts[activity] = self._pause_counts.get(activity, 0) + 1
            self._mark = now

    def shares(self) -> str:
        """The shares of each activity in the time since the beginning, as text."""
        total = max(time.monotonic() - self._began, 1e-9)
        parts = {"training": self.seconds - self.waiting, "waiting for data": self.waiting, **self._paused_seconds}
        return ", ".join(f"{activity} {seconds / total:.0%}" for activity, seconds in parts.items())

    def remaining(self, steps: int, *, evaluations: int) -> float | None:
        """Estimated seconds of so many steps and evaluations, by the last lap; None after the first lap.

        The first lap contains an unknown amount of warming up.
        """
        if self._laps < 2:
            return None
        evaluation_seconds = self._paused_seconds.get("evaluating", 0.0) / max(
            self._pause_counts.get("evaluating", 0), 1
        )
        return steps * self._lap_step + evaluations * evaluation_seconds

    def lap(self, steps: int) -> tuple[float, float]:
        """Share of waiting for data, and seconds a step, since the last lap."""
        self._tick()
        seconds, waiting = self.seconds - self._lap_seconds, self.waiting - self._lap_waiting
        self._lap_seconds, self._lap_waiting = self.seconds, self.waiting
        self._laps, self._lap_step = self._laps + 1, seconds / steps
        return (waiting / seconds if seconds else 0.0), self._lap_step

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._mark
        self._mark = now

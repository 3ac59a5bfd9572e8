"""Where the time of a run goes."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxkd.types import Batch


class Clock:
    """Seconds of training, and how many of them went into waiting for data; what is `paused` does not count."""

    def __init__(self) -> None:
        self.seconds = self.waiting = 0.0
        self._off: dict[str, float] = {}  # seconds by what they went into
        self._began = time.monotonic()
        self._lap_waiting = self._lap_seconds = self._lap_step = 0.0
        self._laps = 0
        self._mark = time.monotonic()
        self._times: dict[str, int] = {}  # of pauses, by what they were for

    @property
    def wait_share(self) -> float:
        """Waiting over training, so far."""
        return self.waiting / self.seconds if self.seconds else 0.0

    def waited(self, batches: Iterable[Batch]) -> Batch:
        """The next batch."""
        before = time.monotonic()
        batch = next(iter(batches))
        self.waiting += time.monotonic() - before
        return batch

    def paused(self, what: str, function: Callable, *args: Any) -> Any:
        """The function's result, off the clock; its time counts as that of `what`."""
        self._tick()
        try:
            return jax.block_until_ready(function(*args))
        finally:
            now = time.monotonic()
            self._off[what] = self._off.get(what, 0.0) + now - self._mark
            self._times[what] = self._times.get(what, 0) + 1
            self._mark = now

    def shares(self) -> str:
        """Where the time since the beginning went, in words."""
        whole = max(time.monotonic() - self._began, 1e-9)
        parts = {"training": self.seconds - self.waiting, "waiting for data": self.waiting, **self._off}
        return ", ".join(f"{what} {seconds / whole:.0%}" for what, seconds in parts.items())

    def left(self, steps: int, *, evaluations: int) -> float | None:
        """Seconds that so many steps and evaluations will take, by the last lap; None after the first one.

        Of the first lap nobody knows yet how much of it was warming up.
        """
        if self._laps < 2:
            return None
        of_one = self._off.get("evaluating", 0.0) / max(self._times.get("evaluating", 0), 1)
        return steps * self._lap_step + evaluations * of_one

    def lap(self, steps: int) -> tuple[float, float]:
        """Share of waiting and seconds a step since the last lap."""
        self._tick()
        seconds, waiting = self.seconds - self._lap_seconds, self.waiting - self._lap_waiting
        self._lap_seconds, self._lap_waiting = self.seconds, self.waiting
        self._laps, self._lap_step = self._laps + 1, seconds / steps
        return (waiting / seconds if seconds else 0.0), self._lap_step

    def _tick(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._mark
        self._mark = now

"""The progress of a command through pictures or other items."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 5.0  # seconds between two lines where there is no terminal


class Steps:
    """A bar on a terminal, a line every few seconds elsewhere; the end of its `with` removes the bar.

    `total` is the number of items, as far as known.
    """

    def __init__(self, what: str, *, total: int):
        self._what, self._total = what, total
        self._done, self._began = 0, time.monotonic()
        self._printed = self._began
        console = Console(file=sys.stdout)
        self._bar = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> "Steps":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self) -> None:
        """Counts one more item as done."""
        self._done += 1
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, total=max(self._total, self._done))
        elif now - self._printed >= EVERY:
            self._printed = now
            speed = self._done / (now - self._began)
            print(f"{self._done} of {max(self._total, self._done)} {self._what}, {speed:.1f} a second", flush=True)

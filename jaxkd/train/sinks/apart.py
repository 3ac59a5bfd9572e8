"""A sink in a thread of its own: what it does, or fails to do, never holds up the training."""

import contextlib
import queue
import threading
from collections.abc import Callable

from jaxkd.errors import first_line
from jaxkd.train.sinks.base import Sink

WAITING = 256  # calls that may wait beside the end; a sink that is so far behind is given up
PATIENCE = 45.0  # seconds that a sink may take to come to its end


class Apart:
    """Makes the calls of a sink one after another, in a thread.

    The first failure is said, in one line, and ends it. What it has to say to people goes to `say`.
    """

    def __init__(self, sink: Sink, *, say: Callable[[str], None] = print, patience: float = PATIENCE):
        self.sink, self._say, self._patience = sink, say, patience
        self._calls: queue.SimpleQueue[Callable[[], str | None] | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name=sink.name, daemon=True)
        self._thread.start()

    def hand(self, call: Callable[[], str | None]) -> None:
        """Lets the thread make a call of the sink, and say what it returns; nothing once the sink is over."""
        if self._over.is_set():
            return
        if self._calls.qsize() >= WAITING:
            self._give_up(f"it is {WAITING} reports behind")
        else:
            self._calls.put(call)

    def close(self) -> None:
        """Returns when the sink is closed, or has had its time."""
        if self._over.is_set():
            return
        self._calls.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._give_up(f"it did not come to its end in {self._patience:g} s")

    def _work(self) -> None:
        try:
            while (call := self._calls.get()) is not None and not self._over.is_set():
                if said := call():
                    self._say(said)
            self.sink.close()
        except Exception as error:
            self._give_up(first_line(error))
            with contextlib.suppress(Exception):
                self.sink.close()

    def _give_up(self, reason: str) -> None:
        if not self._over.is_set():
            self._over.set()
            self._say(f"{self.sink.name} is left out from here on: {reason}. Nothing else is lost.")

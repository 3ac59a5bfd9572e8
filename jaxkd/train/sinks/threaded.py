"""A sink in its own thread, so that a slow or failing sink never delays the training."""

import contextlib
import queue
import threading
from collections.abc import Callable

from jaxkd.errors import first_line
from jaxkd.train.sinks.base import Sink

WAITING = 256  # calls in the queue; a sink that is further behind is given up
PATIENCE = 45.0  # seconds that a sink may take to close


class ThreadedSink:
    """Makes the calls of a sink one after another, in a thread.

    The first failure is reported in one line, and ends it. Messages for people go to `say`.
    """

    def __init__(self, sink: Sink, *, say: Callable[[str], None] = print, patience: float = PATIENCE):
        self.sink, self._say, self._patience = sink, say, patience
        self._calls: queue.SimpleQueue[Callable[[], str | None] | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=sink.name, daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], str | None]) -> None:
        """Queues a call of the sink, whose return value is a message or None; ignored once the sink has ended."""
        if self._ended.is_set():
            return
        if self._calls.qsize() >= WAITING:
            self._give_up(f"it is {WAITING} reports behind")
        else:
            self._calls.put(call)

    def close(self) -> None:
        """Returns when the sink is closed, or `patience` seconds are over."""
        if self._ended.is_set():
            return
        self._calls.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._give_up(f"it did not come to its end in {self._patience:g} s")

    def _run(self) -> None:
        try:
            while (call := self._calls.get()) is not None and not self._ended.is_set():
                if message := call():
                    self._say(message)
            self.sink.close()
        except Exception as error:
            self._give_up(first_line(error))
            with contextlib.suppress(Exception):
                self.sink.close()

    def _give_up(self, reason: str) -> None:
        if not self._ended.is_set():
            self._ended.set()
            self._say(f"{self.sink.name} is left out from here on: {reason}. Nothing else is lost.")

"""Stopping a run by a signal, after the current step."""

import os
import signal
import sys
import threading
from types import FrameType

from jaxkd.cluster.signals import STOP_SIGNALS


class Stop:
    """Records the first signal that asks the run to stop; a second Ctrl-C ends the process at once.

    A context manager that handles the signals inside, where it is entered in the main thread, and restores the handlers
    at its end. A signal that is ignored stays so: `nohup` ignores that of a closed terminal.
    """

    def __init__(self) -> None:
        self.signal = ""  # the first signal's name, "" before it
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for name in STOP_SIGNALS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._handlers = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal == name == "SIGINT":
            os.write(sys.stderr.fileno(), b"Stopped at once; what was saved before is kept.\n")
            os._exit(130)
        self.signal = self.signal or name

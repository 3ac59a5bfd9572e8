"""How a run is asked to stop: by a signal, after the step under way."""

import os
import signal
import sys
import threading
from types import FrameType

from jaxkd.cluster.signals import ASKING


class Stop:
    """Notes the first signal that asks to stop; a second Ctrl-C ends the process at once.

    As a context manager it handles the signals inside, where it is entered in the main thread, and gives them back. One
    that is ignored stays so: `nohup` ignores that of a closed terminal.
    """

    def __init__(self) -> None:
        self.asked = ""  # the signal's name
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():
            for name in ASKING:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.asked == name == "SIGINT":
            os.write(sys.stderr.fileno(), b"Stopped at once; what was saved before is kept.\n")
            os._exit(130)
        self.asked = self.asked or name

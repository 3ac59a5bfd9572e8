"""A process that keeps a run's process on this host: it starts it once all are there, and ends it when one is lost.

JAX ends a process by an abort, or leaves it waiting for ever, when another one of its run is gone. The supervisor,
which does not import it, turns both into a sentence and an exit code.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from jaxkd.cluster.heartbeat import Heartbeat
from jaxkd.cluster.signals import ASKING
from jaxkd.errors import HostLostError, StoppedError

PIPE = "JAXKD_SUPERVISOR"  # the environment's name for the file descriptor that ends when the supervisor does
GRACE = 60.0  # seconds that a process has to end by itself after another one ended with a word
HEARSAY = 10.0  # seconds in which the cause of an unexplained end may become known
INTERNAL = 70
MEANT = {0, *range(64, 78), 130} - {INTERNAL}  # exit codes by which a process says why it ends


def keep(call: Heartbeat, command: Sequence[str], *, grace: float = GRACE) -> int:
    """Runs `command` among the gathered processes of a call; returns the exit code of this host's part of the run.

    That is the command's own, where it ends by itself with one that means something; that of another process which
    ended so; 77 where one was lost, or ended in another way.
    """
    call.gather()
    read, write = os.pipe()
    child = subprocess.Popen(command, env=os.environ | {PIPE: str(read)}, pass_fds=(read,), start_new_session=True)
    os.close(read)
    before = {number: signal.signal(number, lambda n, _: _pass_on(child, n)) for number in _numbers()}
    try:
        code = _watched(call, child, grace)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write)
        if child.poll() is None:
            child.kill()
            child.wait()
    call.leave(code)
    return code


def guard() -> None:
    """Ends this process when its supervisor does; nothing where it has none."""
    if PIPE not in os.environ:
        return
    descriptor = int(os.environ.pop(PIPE))

    def wait() -> None:
        os.read(descriptor, 1)  # nothing is ever written; it returns when the other end is closed
        os._exit(HostLostError.exit_code)

    threading.Thread(target=wait, daemon=True).start()


def is_kept() -> bool:
    """Whether this process was started by a supervisor."""
    return PIPE in os.environ


def _watched(call: Heartbeat, child: subprocess.Popen, grace: float) -> int:
    """The exit code, after the child's end or bad news."""
    end, verdict = float("inf"), 0
    while time.monotonic() < end:
        code = child.poll()
        if code is not None and code in MEANT and not verdict:
            return code
        if code is not None and end == float("inf"):  # a crash here, which may be the first sign of a loss elsewhere
            end = time.monotonic() + HEARSAY
        with contextlib.suppress(queue.Empty):
            news = call.news.get(timeout=0.2)
            if news.code != 0:
                print(f"jaxkd: {news}; this process ends too.", file=sys.stderr, flush=True)
                verdict = news.code if news.code in MEANT | {INTERNAL} else HostLostError.exit_code
                end = min(end, time.monotonic() + (0.0 if news.code is None or code is not None else grace))
        if verdict and child.poll() is not None:
            break
    code = child.poll()
    if code == StoppedError.exit_code:
        return StoppedError.exit_code
    return verdict or (HostLostError.exit_code if code is None or code < 0 else INTERNAL)


def _pass_on(child: subprocess.Popen, number: int) -> None:
    if child.poll() is None:
        child.send_signal(number)


def _numbers() -> list[signal.Signals]:
    known = [getattr(signal, name) for name in ASKING if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) != signal.SIG_IGN]

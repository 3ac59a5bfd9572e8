"""Starts the run's process on this host once all processes are there, and ends it when one is lost.

JAX aborts a process, or leaves it waiting for ever, when another one of its run is lost. The supervisor, which does not
import JAX, turns both into a message and an exit code.
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
from jaxkd.cluster.signals import STOP_SIGNALS
from jaxkd.errors import HostLostError, StoppedError

PIPE = "JAXKD_SUPERVISOR"  # environment variable: a file descriptor that closes when the supervisor ends
GRACE = 60.0  # seconds for a process to end by itself after another one ended with an exit code
CAUSE_DELAY = 10.0  # seconds in which the cause of a crash may become known
INTERNAL = 70
EXPLAINED = {0, *range(64, 78), 130} - {INTERNAL}  # exit codes that say why a process ended


def supervise(heartbeat: Heartbeat, command: Sequence[str], *, grace: float = GRACE) -> int:
    """Runs `command` once all processes are there; returns the exit code of this host's part of the run.

    That is the command's exit code, where it is one of EXPLAINED; that of another process which ended with one of them;
    77 where a process was lost, or ended in another way.
    """
    heartbeat.gather()
    read, write = os.pipe()
    child = subprocess.Popen(command, env=os.environ | {PIPE: str(read)}, pass_fds=(read,), start_new_session=True)
    os.close(read)
    handlers = {number: signal.signal(number, lambda n, _: _forward(child, n)) for number in _handled_signals()}
    try:
        code = _watch(heartbeat, child, grace)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(write)
        if child.poll() is None:
            child.kill()
            child.wait()
    heartbeat.leave(code)
    return code


def guard() -> None:
    """Ends this process when its supervisor does; does nothing where it has none."""
    if PIPE not in os.environ:
        return
    descriptor = int(os.environ.pop(PIPE))

    def wait() -> None:
        os.read(descriptor, 1)  # nothing is ever written; it returns when the other end is closed
        os._exit(HostLostError.exit_code)

    threading.Thread(target=wait, daemon=True).start()


def is_supervised() -> bool:
    """Whether this process was started by a supervisor."""
    return PIPE in os.environ


def _watch(heartbeat: Heartbeat, child: subprocess.Popen, grace: float) -> int:
    """The exit code, once the child has ended or another process has."""
    end, verdict = float("inf"), 0
    while time.monotonic() < end:
        code = child.poll()
        if code is not None and code in EXPLAINED and not verdict:
            return code
        if code is not None and end == float("inf"):  # a crash, perhaps because another process is lost
            end = time.monotonic() + CAUSE_DELAY
        with contextlib.suppress(queue.Empty):
            news = heartbeat.news.get(timeout=0.2)
            if news.code != 0:
                print(f"jaxkd: {news}; this process ends too.", file=sys.stderr, flush=True)
                verdict = news.code if news.code in EXPLAINED | {INTERNAL} else HostLostError.exit_code
                end = min(end, time.monotonic() + (0.0 if news.code is None or code is not None else grace))
        if verdict and child.poll() is not None:
            break
    code = child.poll()
    if code == StoppedError.exit_code:
        return StoppedError.exit_code
    return verdict or (HostLostError.exit_code if code is None or code < 0 else INTERNAL)


def _forward(child: subprocess.Popen, number: int) -> None:
    if child.poll() is None:
        child.send_signal(number)


def _handled_signals() -> list[signal.Signals]:
    known = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) != signal.SIG_IGN]

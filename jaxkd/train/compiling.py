"""Compiling beside the main thread, which goes on hearing signals."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any

POLL = 0.2  # seconds between two looks at whether the run is asked to stop


class Interrupted(Exception):
    """A compilation that nobody waits for any more; it goes on until it is done or the process ends."""


def compiled(function: Any, *arguments: Any, stopped: Callable[[], bool]) -> Callable[..., Any]:
    """A function of `jax.jit`, compiled for arguments of these shapes; they are not given away yet.

    Raises Interrupted once `stopped` says so, and whatever compiling raises.
    """
    done: Future[Callable[..., Any]] = Future()

    def work() -> None:
        try:
            done.set_result(function.lower(*arguments).compile())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # a daemon: the process may end before it
    while True:
        with contextlib.suppress(NotYet):
            return done.result(POLL)
        if stopped():
            raise Interrupted

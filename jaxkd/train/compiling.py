"""Compilation in a thread, so that the main thread can react to signals."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

POLL = 0.2  # seconds between two checks for a signal to stop


class Interrupted(Exception):
    """The wait for a compilation was stopped; the thread goes on until it is done or the process ends."""


def compiled(function: Any, *arguments: Any, stopped: Callable[[], bool]) -> Callable[..., Any]:
    """A function of `jax.jit`, compiled for arguments of these shapes; none of them is donated yet.

    Raises Interrupted once `stopped` returns True, and whatever compiling raises.
    """
    program: Future[Callable[..., Any]] = Future()

    def compile_in_thread() -> None:
        try:
            program.set_result(function.lower(*arguments).compile())
        except BaseException as error:
            program.set_exception(error)

    threading.Thread(target=compile_in_thread, daemon=True).start()  # a daemon: the process may end before it
    while True:
        with contextlib.suppress(FutureTimeout):
            return program.result(POLL)
        if stopped():
            raise Interrupted

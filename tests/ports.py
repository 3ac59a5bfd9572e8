"""Ports for processes that meet on this machine."""

import socket


def free_port():
    """A port that is free together with the next one."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("localhost", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("localhost", port + 1))
            except OSError:
                continue
            return port

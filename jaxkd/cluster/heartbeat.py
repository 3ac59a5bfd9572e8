"""Connections from process 0 to all others, to see that all processes start and stay alive."""

import contextlib
import json
import queue
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from jaxkd.cluster.process_info import ProcessInfo
from jaxkd.errors import ConfigError, HostLostError
from jaxkd.version import VERSION

PATIENCE = 120.0  # seconds until all processes have to be connected
BEAT, SILENCE = 5.0, 60.0  # seconds between two heartbeats, and without one until a process counts as lost


@dataclass(frozen=True)
class Ended:
    """A process that ended or was lost."""

    process: int
    host: str
    code: int | None  # its exit code; None where it was lost

    def __str__(self) -> str:
        how = "was lost" if self.code is None else f"ended with exit code {self.code}"
        return f"process {self.process} on {self.host} {how}"


class Heartbeat:
    """The processes of a run on the port after the coordinator's; `gather` first, then `news` until `leave`.

    Process 0 listens to all others and passes on what they send; each of the others listens to process 0.
    """

    def __init__(self, info: ProcessInfo, *, patience: float = PATIENCE, beat: float = BEAT, silence: float = SILENCE):
        self._info, self._patience, self._beat, self._silence = info, patience, beat, silence
        self._host = socket.gethostname()
        self._connections: dict[int, socket.socket] = {}  # to each process that this one listens to
        self._hosts = {info.process: self._host}
        self._lock = threading.Lock()
        self._left = threading.Event()
        self.news: queue.Queue[Ended] = queue.Queue()

    def gather(self) -> dict[int, str]:
        """The host of every process, once all are there.

        Raises HostLostError naming those that did not come in time, ConfigError where one runs another jaxkd.
        """
        deadline = time.monotonic() + self._patience
        try:
            hosts = self._accept_all(deadline) if self._info.process == 0 else self._connect(deadline)
        except BaseException:
            self._close()
            raise
        self._hosts = hosts
        for process, connection in self._connections.items():
            connection.settimeout(self._silence)
            threading.Thread(target=self._listen, args=(process, connection), daemon=True).start()
        threading.Thread(target=self._send_heartbeats, daemon=True).start()
        return hosts

    def leave(self, code: int) -> None:
        """Tells the others that this process ends, and how."""
        self._left.set()
        self._send_to_all(Ended(self._info.process, self._host, code))
        self._close()

    def _accept_all(self, deadline: float) -> dict[int, str]:
        port = self._info.address[1] + 1
        try:
            server = socket.create_server(("", port))
        except OSError as error:
            raise HostLostError(f"Port {port} is needed by the heartbeat and not free: {error.strerror}.") from error
        hosts, count = dict(self._hosts), self._info.processes
        with server:
            while len(hosts) < count and (left := deadline - time.monotonic()) > 0:
                server.settimeout(left)
                try:
                    connection, _ = server.accept()
                except OSError:
                    continue
                try:
                    connection.settimeout(max(min(left, 10.0), 0.1))
                    hello = _receive(connection)
                    process = hello["process"]
                except (OSError, ValueError, KeyError, TypeError):
                    connection.close()  # not a process of a run, or one that is gone
                    continue
                if hello.get("version") != VERSION or hello.get("processes") != count or process in hosts:
                    fault = _mismatch(hello, count, self._host)
                    self._connections[-1] = connection
                    self._refuse(fault)
                    raise ConfigError(fault)
                hosts[process] = str(hello.get("host"))
                self._connections[process] = connection
        if len(hosts) < count:
            missing = ", ".join(str(process) for process in range(count) if process not in hosts)
            names = ", ".join(f"{process} on {name}" for process, name in sorted(hosts.items()))
            fault = f"Of {count} processes, {missing} did not come within {self._patience:.0f} s; there are {names}."
            self._refuse(fault, late=True)
            raise HostLostError(fault)
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                _send(connection, {"hosts": hosts})
        return hosts

    def _refuse(self, fault: str, *, late: bool = False) -> None:
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                _send(connection, {"late" if late else "refused": fault})

    def _connect(self, deadline: float) -> dict[int, str]:
        host, port = self._info.address
        hello = {
            "process": self._info.process,
            "processes": self._info.processes,
            "host": self._host,
            "version": VERSION,
        }
        problem = "no answer"
        while (left := deadline - time.monotonic()) > 0:
            try:
                connection = self._connections[0] = socket.create_connection((host, port + 1), timeout=min(left, 10.0))
                connection.settimeout(left + 5)  # process 0 may have started to wait later
                _send(connection, hello)
                reply = _receive(connection)
            except (OSError, ValueError) as error:
                problem = getattr(error, "strerror", None) or str(error) or type(error).__name__
                for connection in self._connections.values():
                    connection.close()
                time.sleep(min(0.5, max(left, 0)))
                continue
            if "refused" in reply:
                raise ConfigError(reply["refused"])
            if "late" in reply:
                raise HostLostError(reply["late"])
            return {int(process): name for process, name in reply["hosts"].items()}
        raise HostLostError(
            f"Process {self._info.process} on {self._host} could not reach process 0 at {host}, port {port + 1}, "
            f"within {self._patience:.0f} s ({problem})."
        )

    def _listen(self, process: int, connection: socket.socket) -> None:
        """Reports the processes that end, as they are received over a connection, until it closes."""
        ended = Ended(process, self._hosts[process], None)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            while True:
                message = _receive(connection)
                if "ended" in message:
                    news = Ended(*message["ended"])
                    self._report(news)
                    if news.process == process:
                        return
        self._report(ended)

    def _report(self, ended: Ended) -> None:
        if self._left.is_set():
            return
        self.news.put(ended)
        if self._info.process == 0:
            self._send_to_all(ended)

    def _send_heartbeats(self) -> None:
        while not self._left.wait(self._beat):
            self._send_to_all(None)

    def _send_to_all(self, ended: Ended | None) -> None:
        message = {} if ended is None else {"ended": [ended.process, ended.host, ended.code]}
        with self._lock:
            for connection in list(self._connections.values()):
                with contextlib.suppress(OSError):
                    _send(connection, message)

    def _close(self) -> None:
        self._left.set()
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def _mismatch(hello: dict[str, Any], count: int, host: str) -> str:
    """Why a process cannot belong to this run, as a sentence."""
    sender = f"Process {hello.get('process')} on {hello.get('host')}"
    if hello.get("version") != VERSION:
        return f"{sender} runs jaxkd {hello.get('version')} and process 0 on {host} {VERSION}; install the same."
    if hello.get("processes") != count:
        return f"{sender} counts {hello.get('processes')} processes and process 0 on {host} {count}; give all the same."
    return f"{sender} came twice; give each process a number of its own."


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket) -> dict[str, Any]:
    """The next message; raises ConnectionError where the connection is closed, ValueError for any other text."""
    text = bytearray()
    while not text.endswith(b"\n"):
        part = connection.recv(1)
        if not part:
            raise ConnectionError("the connection has ended")
        text += part
        if len(text) > 1 << 20:
            raise ValueError("that is no message")
    message = json.loads(text)
    if not isinstance(message, dict):
        raise ValueError("that is no message")
    return message

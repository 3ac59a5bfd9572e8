"""A line between process 0 and each other one: that all came, and that all are still there."""

import contextlib
import json
import queue
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from jaxkd.cluster.place import Place
from jaxkd.errors import ConfigError, HostLostError
from jaxkd.version import VERSION

PATIENCE = 120.0  # seconds until all have to be there
BEAT, SILENCE = 5.0, 60.0  # seconds between two signs of life, and without one until a process counts as lost


@dataclass(frozen=True)
class Ended:
    """A process that is no longer there."""

    process: int
    host: str
    code: int | None  # its exit code; None where it was lost

    def __str__(self) -> str:
        how = "was lost" if self.code is None else f"ended with exit code {self.code}"
        return f"process {self.process} on {self.host} {how}"


class Heartbeat:
    """The processes of a run on the port after the coordinator's; `gather` first, then `news` until `leave`.

    Process 0 hears all others and tells them what it hears; each of the others hears process 0.
    """

    def __init__(self, place: Place, *, patience: float = PATIENCE, beat: float = BEAT, silence: float = SILENCE):
        self._place, self._patience, self._beat, self._silence = place, patience, beat, silence
        self._host = socket.gethostname()
        self._lines: dict[int, socket.socket] = {}  # to each process that this one hears
        self._hosts = {place.process: self._host}
        self._lock = threading.Lock()
        self._left = threading.Event()
        self.news: queue.Queue[Ended] = queue.Queue()

    def gather(self) -> dict[int, str]:
        """The host of every process, once all are there.

        Raises HostLostError naming those that did not come in time, ConfigError where one runs another jaxkd.
        """
        deadline = time.monotonic() + self._patience
        try:
            hosts = self._call(deadline) if self._place.process == 0 else self._answer(deadline)
        except BaseException:
            self._close()
            raise
        self._hosts = hosts
        for process, line in self._lines.items():
            line.settimeout(self._silence)
            threading.Thread(target=self._hear, args=(process, line), daemon=True).start()
        threading.Thread(target=self._give_signs, daemon=True).start()
        return hosts

    def leave(self, code: int) -> None:
        """Tells the others that this process ends, and how."""
        self._left.set()
        self._tell(Ended(self._place.process, self._host, code))
        self._close()

    def _call(self, deadline: float) -> dict[int, str]:
        port = self._place.address[1] + 1
        try:
            server = socket.create_server(("", port))
        except OSError as error:
            raise HostLostError(f"Port {port} is needed by the roll call and not free: {error.strerror}.") from error
        hosts, wanted = dict(self._hosts), self._place.processes
        with server:
            while len(hosts) < wanted and (left := deadline - time.monotonic()) > 0:
                server.settimeout(left)
                try:
                    line, _ = server.accept()
                except OSError:
                    continue
                try:
                    line.settimeout(max(min(left, 10.0), 0.1))
                    hello = _received(line)
                    process = hello["process"]
                except (OSError, ValueError, KeyError, TypeError):
                    line.close()  # nobody of ours, or nobody any more
                    continue
                if hello.get("version") != VERSION or hello.get("processes") != wanted or process in hosts:
                    fault = _unlike(hello, wanted, self._host)
                    self._lines[-1] = line
                    self._refuse(fault)
                    raise ConfigError(fault)
                hosts[process] = str(hello.get("host"))
                self._lines[process] = line
        if len(hosts) < wanted:
            missing = ", ".join(str(process) for process in range(wanted) if process not in hosts)
            came = ", ".join(f"{process} on {name}" for process, name in sorted(hosts.items()))
            fault = f"Of {wanted} processes, {missing} did not come within {self._patience:.0f} s; there are {came}."
            self._refuse(fault, late=True)
            raise HostLostError(fault)
        for line in self._lines.values():
            with contextlib.suppress(OSError):
                _send(line, {"hosts": hosts})
        return hosts

    def _refuse(self, fault: str, *, late: bool = False) -> None:
        for line in self._lines.values():
            with contextlib.suppress(OSError):
                _send(line, {"late" if late else "refused": fault})

    def _answer(self, deadline: float) -> dict[int, str]:
        host, port = self._place.address
        hello = {
            "process": self._place.process,
            "processes": self._place.processes,
            "host": self._host,
            "version": VERSION,
        }
        said = "no answer"
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._lines[0] = socket.create_connection((host, port + 1), timeout=min(left, 10.0))
                line.settimeout(left + 5)  # process 0 may have begun to wait later
                _send(line, hello)
                answer = _received(line)
            except (OSError, ValueError) as error:
                said = getattr(error, "strerror", None) or str(error) or type(error).__name__
                for line in self._lines.values():
                    line.close()
                time.sleep(min(0.5, max(left, 0)))
                continue
            if "refused" in answer:
                raise ConfigError(answer["refused"])
            if "late" in answer:
                raise HostLostError(answer["late"])
            return {int(process): name for process, name in answer["hosts"].items()}
        raise HostLostError(
            f"Process {self._place.process} on {self._host} could not reach process 0 at {host}, port {port + 1}, "
            f"within {self._patience:.0f} s ({said})."
        )

    def _hear(self, process: int, line: socket.socket) -> None:
        """Passes on what comes over a line until it ends."""
        ended = Ended(process, self._hosts[process], None)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            while True:
                said = _received(line)
                if "ended" in said:
                    news = Ended(*said["ended"])
                    self._note(news)
                    if news.process == process:
                        return
        self._note(ended)

    def _note(self, ended: Ended) -> None:
        if self._left.is_set():
            return
        self.news.put(ended)
        if self._place.process == 0:
            self._tell(ended)

    def _give_signs(self) -> None:
        while not self._left.wait(self._beat):
            self._tell(None)

    def _tell(self, ended: Ended | None) -> None:
        message = {} if ended is None else {"ended": [ended.process, ended.host, ended.code]}
        with self._lock:
            for line in list(self._lines.values()):
                with contextlib.suppress(OSError):
                    _send(line, message)

    def _close(self) -> None:
        self._left.set()
        for line in self._lines.values():
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            line.close()


def _unlike(hello: dict[str, Any], wanted: int, host: str) -> str:
    """Why a process cannot belong to this run."""
    who = f"Process {hello.get('process')} on {hello.get('host')}"
    if hello.get("version") != VERSION:
        return f"{who} runs jaxkd {hello.get('version')} and process 0 on {host} {VERSION}; install the same."
    if hello.get("processes") != wanted:
        return f"{who} counts {hello.get('processes')} processes and process 0 on {host} {wanted}; give all the same."
    return f"{who} came twice; give each process a number of its own."


def _send(line: socket.socket, message: dict[str, Any]) -> None:
    line.sendall(json.dumps(message).encode() + b"\n")


def _received(line: socket.socket) -> dict[str, Any]:
    """The next message; raises ConnectionError at the end of the line, ValueError for what is none."""
    text = bytearray()
    while not text.endswith(b"\n"):
        part = line.recv(1)
        if not part:
            raise ConnectionError("the line has ended")
        text += part
        if len(text) > 1 << 20:
            raise ValueError("that is no message")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("that is no message")
    return found

"""The lock of a workdir, so that one run at a time uses it; it names its holder, and ends with the holder."""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from jaxkd.errors import StorageError

NAME = "lock.json"
BEAT = 15.0  # seconds between two heartbeats
SILENCE = 60.0  # seconds without a heartbeat after which a holder on another host counts as dead


class Lock:
    """The lock of a folder, held from `take` to `release`.

    On one host the kernel releases the lock of a process that dies. Of a holder on another host, whose lock not every
    shared file system shows, the modification time of the file is the heartbeat.
    """

    def __init__(
        self, folder: Path, *, say: Callable[[str], None] = print, beat: float = BEAT, silence: float = SILENCE
    ):
        self._path, self._say, self._beat, self._silence = folder / NAME, say, beat, silence
        self._file: IO[str] | None = None
        self._released = threading.Event()
        self.token = ""  # written into the file, for other processes to compare

    def take(self) -> None:
        """Takes the lock; waits where a holder on another host may be dead.

        Raises StorageError where another run holds it, or the file cannot be written.
        """
        file = self._open_locked()
        while file is None:  # its holder deleted it meanwhile
            file = self._open_locked()
        holder = _read(self._path)
        if holder and holder.get("host") != socket.gethostname() and self._is_alive(holder):
            file.close()
            raise StorageError(self._refusal(holder))
        if holder:
            self._say(f"The run of {_describe(holder)} ended without unlocking the workdir; this one takes it over.")
        self.token = secrets.token_hex(8)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        content = {"host": socket.gethostname(), "pid": os.getpid(), "since": now, "token": self.token}
        file.truncate(0)
        file.write(json.dumps(content))
        file.flush()
        self._file = file
        threading.Thread(target=self._heartbeat, daemon=True).start()

    def _open_locked(self) -> IO[str] | None:
        """The file, locked on this host; None where it was deleted or replaced meanwhile."""
        try:
            file = self._path.open("a+")
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written: {error.strerror}.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise StorageError(self._refusal(_read(self._path))) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                return file
        file.close()
        return None

    def release(self) -> None:
        """Releases the lock."""
        self._released.set()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._file.close()
            self._file = None

    def _refusal(self, holder: dict[str, Any]) -> str:
        return (
            f"The workdir is in use by {_describe(holder)}; wait for that run, take a new --workdir, or delete "
            f"{self._path} if it is not running."
        )

    def _is_alive(self, holder: dict[str, Any]) -> bool:
        """Whether a holder on another host gives a heartbeat within `silence` seconds of its last."""
        last_beat = self._path.stat().st_mtime
        rest = last_beat + self._silence - time.time()
        if rest <= 0:
            return False
        self._say(
            f"The workdir was in use by {_describe(holder)} {self._silence - rest:.0f} s ago; waiting {rest:.0f} s."
        )
        end = time.monotonic() + rest
        while time.monotonic() < end:
            time.sleep(min(1.0, rest))
            if self._path.stat().st_mtime != last_beat:
                return True
        return False

    def _heartbeat(self) -> None:
        while not self._released.wait(self._beat):
            with contextlib.suppress(OSError):
                os.utime(self._path)


def token(folder: Path) -> str:
    """The token of the lock in a folder, "" where there is none."""
    return str(_read(folder / NAME).get("token", ""))


def _read(path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _describe(holder: dict[str, Any]) -> str:
    if not holder:
        return "another run"
    return f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"

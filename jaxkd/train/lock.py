"""One run a workdir: a lock that names its holder, and that a dead holder cannot keep."""

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
BEAT = 15.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one, after which a holder on another host counts as gone


class Lock:
    """The lock of a folder, held from `take` to `release`.

    On one host the kernel knows whether the holder lives. Of a holder on another host, which not every shared file
    system knows of, the file's time is the sign of life.
    """

    def __init__(
        self, folder: Path, *, say: Callable[[str], None] = print, beat: float = BEAT, silence: float = SILENCE
    ):
        self._path, self._say, self._beat, self._silence = folder / NAME, say, beat, silence
        self._file: IO[str] | None = None
        self._released = threading.Event()
        self.token = ""  # what stands in the file, for others to read

    def take(self) -> None:
        """Holds the lock; waits where a holder on another host may be gone.

        Raises StorageError where another run holds it, or the file cannot be written.
        """
        file = self._locked()
        while file is None:  # its holder took it away in between
            file = self._locked()
        holder = _read(self._path)
        if holder and holder.get("host") != socket.gethostname() and self._lives(holder):
            file.close()
            raise StorageError(self._refusal(holder))
        if holder:
            self._say(f"The run of {_called(holder)} ended without unlocking the workdir; this one takes it over.")
        self.token = secrets.token_hex(8)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": now, "token": self.token}
        file.truncate(0)
        file.write(json.dumps(mine))
        file.flush()
        self._file = file
        threading.Thread(target=self._stay, daemon=True).start()

    def _locked(self) -> IO[str] | None:
        """The file, locked on this host; None where it is no longer the one in the folder."""
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
        """Gives the lock back."""
        self._released.set()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._file.close()
            self._file = None

    def _refusal(self, holder: dict[str, Any]) -> str:
        return (
            f"The workdir is in use by {_called(holder)}; wait for that run, take a new --workdir, or delete "
            f"{self._path} if it is not running."
        )

    def _lives(self, holder: dict[str, Any]) -> bool:
        """Whether a holder on another host gives a sign of life until it would have to."""
        seen = self._path.stat().st_mtime
        rest = seen + self._silence - time.time()
        if rest <= 0:
            return False
        self._say(
            f"The workdir was in use by {_called(holder)} {self._silence - rest:.0f} s ago; waiting {rest:.0f} s."
        )
        end = time.monotonic() + rest
        while time.monotonic() < end:
            time.sleep(min(1.0, rest))
            if self._path.stat().st_mtime != seen:
                return True
        return False

    def _stay(self) -> None:
        while not self._released.wait(self._beat):
            with contextlib.suppress(OSError):
                os.utime(self._path)


def token(folder: Path) -> str:
    """What the holder's lock says, "" where the folder shows none."""
    return str(_read(folder / NAME).get("token", ""))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _called(holder: dict[str, Any]) -> str:
    if not holder:
        return "another run"
    return f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"

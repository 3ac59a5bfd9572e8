"""Output streams of the commands: a failed write never ends a command, and any encoding can show the text."""

import errno
import io
import logging
import os
import sys
from typing import IO, Any

from jaxkd.errors import StorageError

READER_GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)  # the reader has ended, or the terminal is closed


class SafeStream(io.TextIOWrapper):
    r"""A text stream on a file descriptor that never raises. Failed writes are dropped and counted; characters that the
    encoding lacks are written as escapes, such as `\u732b`.
    """

    def __init__(self, descriptor: int, *, encoding: str):
        raw = io.FileIO(descriptor, "w", closefd=False)
        super().__init__(raw, encoding=encoding, errors="backslashreplace", write_through=True)  # pyright: ignore[reportArgumentType]
        self.dropped = 0  # failed writes
        self.fault: OSError | None = None  # the error of the first of them

    def write(self, text: str, /) -> int:
        """Writes the text, or drops it where that fails."""
        try:
            return super().write(text)
        except OSError as error:
            self.dropped += 1
            self.fault = self.fault or error
            return len(text)

    def flush(self) -> None:
        """Does nothing: writes are not buffered."""


def protect_streams() -> None:
    """Makes stdout and stderr streams on which writing never fails, and logs warnings of jaxkd as plain sentences.

    A stream that is closed already writes to the null device.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: IO[Any] | None = getattr(sys, name)
        if stream is None:  # closed by the parent: the next opened file must not get its number
            null = os.open(os.devnull, os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        setattr(sys, name, SafeStream(number, encoding=getattr(stream, "encoding", None) or "utf-8"))
    log = logging.getLogger("jaxkd")
    log.addHandler(logging.StreamHandler(sys.stderr))  # without the logger's name before it
    log.propagate = False


def final_code(command: str, code: int) -> int:
    """The exit code of a command that ended with `code`; lost output is reported on stderr.

    Output that its reader did not wait for is no loss. On a full disk the code is StorageError's, but not for commands
    that train: their results are in their folder.
    """
    out = sys.stdout
    if not isinstance(out, SafeStream) or out.fault is None or out.fault.errno in READER_GONE:
        return code
    reason = out.fault.strerror or out.fault
    print(f"jaxkd {command}: some of its output could not be written: {reason}.", file=sys.stderr)
    return code if code or command in ("train", "quickstart") else StorageError.exit_code


def restart_in_utf8() -> None:
    """Restarts the program in UTF-8 mode where file names are not UTF-8, as in a C locale; else few could be opened.

    The encoding of the output stays as it is.
    """
    if os.name != "posix" or sys.flags.utf8_mode or sys.getfilesystemencoding().lower() in ("utf-8", "utf8"):
        return
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": encoding}
    os.execv(sys.executable, sys.orig_argv)

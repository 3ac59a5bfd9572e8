"""What a command prints: never the reason for which it ends, and readable in whatever encoding the output has."""

import errno
import io
import logging
import os
import sys
from typing import IO, Any

from jaxkd.errors import StorageError

GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)  # whoever read the output went away, or closed the terminal


class Steady(io.TextIOWrapper):
    r"""A text stream on a file descriptor. What cannot be written is dropped and counted; what the encoding lacks is
    written as an escape, such as `\u732b`.
    """

    def __init__(self, descriptor: int, *, encoding: str):
        raw = io.FileIO(descriptor, "w", closefd=False)
        super().__init__(raw, encoding=encoding, errors="backslashreplace", write_through=True)  # pyright: ignore[reportArgumentType]
        self.dropped = 0  # writes
        self.fault: OSError | None = None  # of the first of them

    def write(self, text: str, /) -> int:
        """Writes, or drops the text."""
        try:
            return super().write(text)
        except OSError as error:
            self.dropped += 1
            self.fault = self.fault or error
            return len(text)

    def flush(self) -> None:
        """Does nothing: what was written is out."""


def settle() -> None:
    """Makes stdout and stderr streams on which writing never fails, and has warnings said as they are.

    What is closed already leads nowhere.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream: IO[Any] | None = getattr(sys, name)
        if stream is None:  # closed by whoever started the process: the next file to be opened must not take its place
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        setattr(sys, name, Steady(number, encoding=getattr(stream, "encoding", None) or "utf-8"))
    log = logging.getLogger("jaxkd")
    log.addHandler(logging.StreamHandler(sys.stderr))  # a sentence is a sentence, without its module before it
    log.propagate = False


def close(command: str, code: int) -> int:
    """The exit code of a command that ended with `code`, once it is said on stderr that output was lost.

    A reader that went away wanted no more; of a full disk the code is StorageError's, unless the command trains: its
    results are in its folder.
    """
    out = sys.stdout
    if not isinstance(out, Steady) or out.fault is None or out.fault.errno in GONE:
        return code
    what = out.fault.strerror or out.fault
    print(f"jaxkd {command}: some of its output could not be written: {what}.", file=sys.stderr)
    return code if code or command in ("train", "quickstart") else StorageError.exit_code


def in_utf8() -> None:
    """Starts the program anew where file names are not taken for UTF-8, as in a C locale: it could not open most.

    What it prints stays in the encoding that the output has.
    """
    if os.name != "posix" or sys.flags.utf8_mode or sys.getfilesystemencoding().lower() in ("utf-8", "utf8"):
        return
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": encoding}
    os.execv(sys.executable, sys.orig_argv)

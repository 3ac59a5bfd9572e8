"""Atomic writes: a reader gets the earlier file or the new one, never a part."""

import contextlib
import os
from pathlib import Path

from jaxkd.errors import StorageError


def write(file: Path, content: str | bytes) -> None:
    """Writes `content` to a file, text as UTF-8, and makes its folder where that is missing.

    A process that dies meanwhile leaves the earlier file as it was. Raises StorageError where writing fails.
    """
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)
        scratch.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise cannot_write(file, error) from error


def cannot_write(file: Path | str, error: OSError) -> StorageError:
    """The error for a file that could not be written."""
    return StorageError(f"{file} cannot be written: {error.strerror or error}.")

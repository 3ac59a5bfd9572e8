"""Files written whole: a reader finds the earlier one or the new one, and nothing between."""

import contextlib
import os
from pathlib import Path

from jaxkd.errors import StorageError


def write(file: Path, content: str | bytes) -> None:
    """Puts `content` into a file, text as UTF-8; its folder is made where it is missing.

    A process that dies on the way leaves the earlier file as it was. Raises StorageError where it cannot be written.
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
    """The sentence for a file that could not be written."""
    return StorageError(f"{file} cannot be written: {error.strerror or error}.")

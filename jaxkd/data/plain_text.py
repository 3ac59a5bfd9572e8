"""A reader of small text files in UTF-8."""

from pathlib import Path

from jaxkd.errors import DataError

MAX_BYTES = 2**20  # of a file that people write


def read(file: Path, *, limit: int = MAX_BYTES) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
      DataError: where it is missing, no plain file, longer than `limit` bytes, or in another encoding.
    """
    try:
        if file.exists() and not file.is_file():
            raise DataError(f"{file} is not a plain file; it has to be text.")
        with file.open("rb") as stream:
            content = stream.read(limit + 1)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {file}; correct its path.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); it has to be text.") from error
    if len(content) > limit:
        raise DataError(f"{file} is larger than {limit / 2**20:g} MiB, too large for its kind; replace it.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{file} is not UTF-8 in line {line}; save it as UTF-8.") from error

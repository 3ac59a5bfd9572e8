"""Long JSON files read item by item, in bounded memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from jaxkd.errors import DataError

CHUNK = 1 << 20  # characters that are read at once
LONGEST = 1 << 26  # characters of one item, beyond which the file is refused
SPACE = " \t\r\n"
AFTER = {*SPACE, ",", ":", "]", "}"}  # what may follow a value


def items(file: Path) -> Iterator[tuple[str, Any]]:
    """The items of a file that holds a list, or an object with lists: each with the key of its list, "" without one.

    A value that is no list is one item.

    Raises DataError where the file cannot be read, or is no such JSON.
    """
    try:
        with file.open(encoding="utf-8-sig") as stream:
            yield from _Reader(stream, file).items()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text ({error}); give a JSON file in UTF-8.") from error


class _Reader:
    """The text of a stream, of which as much is kept as one item takes."""

    def __init__(self, stream: IO[str], file: Path):
        self._stream, self._file, self._decoder = stream, file, json.JSONDecoder()
        self._text, self._place, self._read = "", 0, 0  # the kept text, the place in it, characters before it
        self._ended = False

    def items(self) -> Iterator[tuple[str, Any]]:
        """See `items`."""
        opening = self._peek()
        if opening == "[":
            yield from self._list("")
        elif opening == "{":
            yield from self._object()
        else:
            raise self._error("it is neither a list nor an object")
        if self._peek():
            raise self._error("something follows its end")

    def _object(self) -> Iterator[tuple[str, Any]]:
        self._place += 1
        while self._peek() != "}":
            key = self._value()
            if not isinstance(key, str) or self._peek() != ":":
                raise self._error("a key is missing")
            self._place += 1
            if self._peek() == "[":
                yield from self._list(key)
            else:
                yield key, self._value()
            self._separator("}")
        self._place += 1

    def _list(self, key: str) -> Iterator[tuple[str, Any]]:
        self._place += 1
        while self._peek() != "]":
            yield key, self._value()
            self._separator("]")
        self._place += 1

    def _separator(self, closing: str) -> None:
        """Passes a comma, behind which something else than `closing` has to come."""
        following = self._peek()
        if following == ",":
            self._place += 1
            if self._peek() != closing:
                return
        elif following == closing:
            return
        raise self._error("a comma is missing, or is one too many")

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
                if self._ended or self._text[end : end + 1] in AFTER:  # a number may go on
                    self._place = end
                    return value
            except json.JSONDecodeError as error:
                if self._ended:
                    raise self._error(error.msg) from error
            except RecursionError as error:
                raise self._error("it is nested too deeply") from error
            self._more()

    def _peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in SPACE:
                self._place += 1
            if self._place < len(self._text):
                return self._text[self._place]
            if self._ended:
                return ""
            self._more()

    def _more(self) -> None:
        """Reads on; doubles what is kept while an item is longer."""
        self._read += self._place
        kept = self._text[self._place :]
        if len(kept) > LONGEST:
            raise self._error(f"an item is longer than {LONGEST} characters")
        text = self._stream.read(max(CHUNK, len(kept)))
        self._ended = not text
        self._text, self._place = kept + text, 0

    def _error(self, words: str) -> DataError:
        return DataError(f"{self._file} is no JSON that can be used, at character {self._read + self._place}: {words}.")

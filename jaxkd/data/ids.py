"""Ids of annotation files, which programs write as 1, as 1.0 or as "1"."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxkd.data.base import shown
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError


def whole(value: Any) -> int | None:
    """The whole number that a value of JSON is: 3 of 3, 3.0 and "3"; None of all else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    return value if isinstance(value, int) else None


class Ids:
    """The numbers that stand for ids of one kind, whatever they are written as.

    Text that is no number gets one that no other id has, where `text` is allowed. Raises DataError for what is no id,
    and for one that occurs again; `of` what list of what `file` they are stands in messages.
    """

    def __init__(self, values: Iterable[Any], repairs: Repairs, *, of: str, file: Path | str, text: bool):
        self._texts: dict[str, int] = {}
        self._repairs = repairs
        self.numbers: list[int] = []
        seen: dict[int, Any] = {}
        raw = list(values)
        spare = max((number for value in raw if (number := whole(value)) is not None), default=0)
        for place, value in enumerate(raw):
            number = whole(value)
            if number is None and text and isinstance(value, str) and value:
                spare += 1
                number = self._texts.setdefault(value, spare)
                repairs.add("ids_numbered_anew", example=shown(value))
            elif number is None:
                raise DataError(f"{file}: entry {place} of {of} has id = {shown(value)}; it has to be a whole number.")
            if number in seen:
                count = sum(whole(other) == number for other in raw)
                written = " and ".join(dict.fromkeys((shown(seen[number]), shown(value))))
                raise DataError(f"{file} has {count} {of} with the id {written}; make the ids different.")
            seen[number] = value
            self.numbers.append(number)
        self._kinds = {number: type(value) for number, value in seen.items()}

    def find(self, value: Any) -> int | None:
        """The number of an id that refers to one of these; None where it is none of them."""
        number = self._texts.get(value) if isinstance(value, str) else None
        if number is None:
            number = whole(value)
        if number not in self._kinds:
            return None
        if (isinstance(value, str) or self._kinds[number] is str) and type(value) is not self._kinds[number]:
            self._repairs.add("ids_as_numbers", example=f"{shown(value)} for {number}")
        return number

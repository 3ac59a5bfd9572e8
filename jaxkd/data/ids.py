"""The ids of an annotation file as integers; programs write them as 1, as 1.0 or as "1"."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxkd.data.base import short_repr
from jaxkd.data.repairs import Repairs
from jaxkd.errors import DataError


def as_int(value: Any) -> int | None:
    """The integer that a JSON value stands for: 3 for 3, 3.0 and "3"; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    return value if isinstance(value, int) else None


class Ids:
    """The ids of one list of an annotation file, as integers.

    Text that is no number is numbered after the greatest id, where `text` is allowed. Raises DataError for a value that
    is no id, and for an id that occurs again; `of` is the name of the list and `file` the file, for messages.
    """

    def __init__(self, values: Iterable[Any], repairs: Repairs, *, of: str, file: Path | str, text: bool):
        self._texts: dict[str, int] = {}
        self._repairs = repairs
        self.numbers: list[int] = []
        raw_by_number: dict[int, Any] = {}
        raw = list(values)
        greatest = max((number for value in raw if (number := as_int(value)) is not None), default=0)
        for position, value in enumerate(raw):
            number = as_int(value)
            if number is None and text and isinstance(value, str) and value:
                greatest += 1
                number = self._texts.setdefault(value, greatest)
                repairs.add("ids_numbered_anew", example=short_repr(value))
            elif number is None:
                raise DataError(
                    f"{file}: entry {position} of {of} has id = {short_repr(value)}; it has to be a whole number."
                )
            if number in raw_by_number:
                count = sum(as_int(other) == number for other in raw)
                spellings = " and ".join(dict.fromkeys((short_repr(raw_by_number[number]), short_repr(value))))
                raise DataError(f"{file} has {count} {of} with the id {spellings}; make the ids different.")
            raw_by_number[number] = value
            self.numbers.append(number)
        self._kinds = {number: type(value) for number, value in raw_by_number.items()}

    def find(self, value: Any) -> int | None:
        """The integer of the id that `value` refers to; None where the list does not have it."""
        number = self._texts.get(value) if isinstance(value, str) else None
        if number is None:
            number = as_int(value)
        if number not in self._kinds:
            return None
        if (isinstance(value, str) or self._kinds[number] is str) and type(value) is not self._kinds[number]:
            self._repairs.add("ids_as_numbers", example=f"{short_repr(value)} for {number}")
        return number

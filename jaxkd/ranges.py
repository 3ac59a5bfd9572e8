"""Ranges of numbers as types of a `Config`'s fields: `config.build` refuses values outside, or not finite.

`steps: Count = 90000` is an int to type checkers; its range is part of the annotation.

* `Whole`, `Natural`, `Count`: an int; any, at least 0, at least 1. A `Seed` has 32 bits, all that jax makes a key of.
* `Finite`, `NonNegative`, `Positive`: a float; any, at least 0, above 0.
* `Share`: a float from 0 to 1; `SomeShare` without 0, `PartShare` without 1, `Probability` without both.
"""

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`, both included unless `without_low` or `without_high`."""

    low: int | float = -math.inf
    high: int | float = math.inf
    without_low: bool = False
    without_high: bool = False

    def __contains__(self, number: int | float) -> bool:
        above_low = number > self.low if self.without_low else number >= self.low
        below_high = number < self.high if self.without_high else number <= self.high
        return math.isfinite(number) and above_low and below_high

    def __str__(self) -> str:
        """The range in words, such as "at least 1" or "above 0 and at most 1"."""
        low = "" if self.low == -math.inf else f"{'above' if self.without_low else 'at least'} {_plain(self.low)}"
        high = "" if self.high == math.inf else f"{'below' if self.without_high else 'at most'} {_plain(self.high)}"
        return " and ".join(part for part in (low, high) if part) or "finite"


def _plain(number: int | float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


Whole = Annotated[int, Range()]
Natural = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]

Finite = Annotated[float, Range()]
NonNegative = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, without_low=True)]

Share = Annotated[float, Range(0, 1)]
SomeShare = Annotated[float, Range(0, 1, without_low=True)]
PartShare = Annotated[float, Range(0, 1, without_high=True)]
Probability = Annotated[float, Range(0, 1, without_low=True, without_high=True)]

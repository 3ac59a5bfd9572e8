"""Ranges of numbers as types of a `Config`'s fields: `config.build` refuses what lies outside, or is not finite.

`steps: Count = 90000` is an int, and to type checkers nothing else; what it may be stands in its type.

* `Whole`, `Natural`, `Count`: an int; any, at least 0, at least 1. A `Seed` has 32 bits, all that jax makes a key of.
* `Finite`, `NonNegative`, `Positive`: a float; any, at least 0, above 0.
* `Share`: a float from 0 to 1; `SomeShare` without 0, `PartShare` without 1, `Probability` without both.
"""

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """The finite numbers from `low` to `high`, both of them among these unless they are left out."""

    low: int | float = -math.inf
    high: int | float = math.inf
    without_low: bool = False
    without_high: bool = False

    def __contains__(self, number: int | float) -> bool:
        above = number > self.low if self.without_low else number >= self.low
        below = number < self.high if self.without_high else number <= self.high
        return math.isfinite(number) and above and below

    def __str__(self) -> str:
        """Such as "at least 1" or "above 0 and at most 1"."""
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

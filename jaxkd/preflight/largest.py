"""The search for the largest batch that fits a chip, with few compilations."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from jaxkd.preflight.requirements import Plan, Probe, Requirement

MAX_PICTURES = 1024  # a chip, at which the search ends

R = TypeVar("R", bound=Requirement)
Planner = Callable[..., Plan]  # called with `bucket` and `pictures`, such as `plan.plan` of a recipe


def planned(planner: Planner, compiled: Probe, *, parts: int = 1) -> tuple[int, int, list[Plan]]:
    """The largest number of pictures a chip that fits, the bytes that `compiled` needs above its plan, and all plans.

    A number fits where the compiler goes on to generate code, and where its plan and these bytes, which are about equal
    for all numbers, stay within the memory that the compiler has. The bytes are 0 where `compiled` has no program; one
    that was compiled and does not fit has them. For `parts` see `fitting`.
    """
    first = planner(bucket=compiled.bucket, pictures=compiled.pictures)
    overhead = max(compiled.needed - first.needed, 0) if compiled.program else 0
    measure = functools.partial(planner, bucket=compiled.bucket)
    number, others = fitting(lambda number: measure(pictures=number), first, overhead=overhead, parts=parts)
    return number, overhead, [first, *others]


def fitting(measure: Callable[[int], R], first: R, *, overhead: int = 0, parts: int = 1) -> tuple[int, list[R]]:
    """The largest number of pictures a chip that fits, 0 for none, and the other sizes that were measured.

    A compiler refuses what does not fit long before it has generated the code of what does, and reports how much memory
    was needed, and of how much. So the search approaches the limit from above: it takes twice what the first size
    promises, then one more than where the line through the two sizes nearest to the limit reaches it, until one number
    fits and the next does not.

    Args:
      measure: compiles or plans for a number of pictures.
      first: a size that is known.
      overhead: bytes that every number of pictures needs beside its plan.
      parts: every number is a multiple of it, as that of `first` is.
    """
    known = {first.pictures: first}
    most = MAX_PICTURES // parts * parts
    while True:
        limit = min(size.limit for size in known.values()) - overhead
        small = {n for n, size in known.items() if size.fits and size.needed <= limit}
        low, high = max(small, default=0), min(known.keys() - small, default=most + parts)
        refused = any(not size.fits for size in known.values())  # which alone says what a compiler can use of the limit
        if high - low <= parts and (refused or high > most):
            return low, [size for n, size in known.items() if n != first.pictures]
        guess = 2 * max(known)
        if high - low > parts:
            guess = _guess(list(known.values()), limit, low=low, high=high, parts=parts)
        known[guess] = measure(guess)


def _guess(sizes: Sequence[Requirement], limit: int, *, low: int, high: int, parts: int) -> int:
    """The number to try next, a multiple of `parts` between `low`, which fits, and `high`, which does not."""
    nearest = sorted((size for size in sizes if size.needed), key=lambda size: abs(size.needed - limit))[:2]
    slope = 0.0
    if len(nearest) == 2:
        slope = (nearest[0].needed - nearest[1].needed) / (nearest[0].pictures - nearest[1].pictures)
    if slope > 0:
        guess = int(nearest[0].pictures + (limit - nearest[0].needed) // slope) // parts * parts
        guess += parts if guess + parts < high else 0
    elif len(nearest) == 1:
        guess = int(limit * nearest[0].pictures / nearest[0].needed) * (2 if low else 1)
    else:
        guess = 0
    if high <= MAX_PICTURES and (not guess or len(sizes) > 4):  # close to the limit, memory may follow no line
        guess = (low + high) // 2
    return min(max((guess or 2 * low) // parts * parts, low + parts), high - parts)

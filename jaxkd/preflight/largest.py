"""The search for the largest batch that fits a chip, by as few compilations as it takes."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

from jaxkd.preflight.needs import Plan, Probe, Size

MOST = 1024  # pictures a chip; no search goes further

Sized = TypeVar("Sized", bound=Size)
Planner = Callable[..., Plan]  # called with `bucket` and `pictures`, such as `plan.plan` of a recipe


def planned(planner: Planner, whole: Probe, *, parts: int = 1) -> tuple[int, int, list[Plan]]:
    """The largest number of pictures a chip that fits, the bytes that `whole` needs beside its plan, and all plans.

    A number fits where the compiler goes on to write its code, and where its plan with these bytes, of which there are
    much the same for all numbers, stays within the memory that the compiler has. They are 0 where `whole` has no
    program; one that was compiled and does not fit has them. For `parts` see `fitting`.
    """
    first = planner(bucket=whole.bucket, pictures=whole.pictures)
    beside = max(whole.needed - first.needed, 0) if whole.program else 0
    sized = functools.partial(planner, bucket=whole.bucket)
    number, more = fitting(lambda number: sized(pictures=number), first, beside=beside, parts=parts)
    return number, beside, [first, *more]


def fitting(sized: Callable[[int], Sized], first: Sized, *, beside: int = 0, parts: int = 1) -> tuple[int, list[Sized]]:
    """The largest number of pictures a chip that fits, 0 for none, and the sizes looked at beside the first.

    A compiler refuses what does not fit long before it has written the code of what does, and says how much was
    needed, and of how much. So the limit is looked for from above: twice what the first size promises, then one more
    than where the line through the two sizes nearest to the limit reaches it, until one number fits and the next does
    not.

    Args:
      sized: compiles or plans for a number of pictures.
      first: a size that is known.
      beside: bytes that all sizes need beside theirs.
      parts: every number is a multiple of it, as that of `first` is.
    """
    known = {first.pictures: first}
    most = MOST // parts * parts
    while True:
        limit = min(size.limit for size in known.values()) - beside
        small = {n for n, size in known.items() if size.fits and size.needed <= limit}
        low, high = max(small, default=0), min(known.keys() - small, default=most + parts)
        refused = any(not size.fits for size in known.values())  # which alone says what a compiler can use of the limit
        if high - low <= parts and (refused or high > most):
            return low, [size for n, size in known.items() if n != first.pictures]
        guess = 2 * max(known)
        if high - low > parts:
            guess = _guess(list(known.values()), limit, low=low, high=high, parts=parts)
        known[guess] = sized(guess)


def _guess(sizes: Sequence[Size], limit: int, *, low: int, high: int, parts: int) -> int:
    """The number to try next, a multiple of `parts` between `low`, which fits, and `high`, which does not."""
    near = sorted((size for size in sizes if size.needed), key=lambda size: abs(size.needed - limit))[:2]
    slope = 0.0
    if len(near) == 2:
        slope = (near[0].needed - near[1].needed) / (near[0].pictures - near[1].pictures)
    if slope > 0:
        guess = int(near[0].pictures + (limit - near[0].needed) // slope) // parts * parts
        guess += parts if guess + parts < high else 0
    elif len(near) == 1:
        guess = int(limit * near[0].pictures / near[0].needed) * (2 if low else 1)
    else:
        guess = 0
    if high <= MOST and (not guess or len(sizes) > 4):  # memory that a compiler saves near the limit follows no line
        guess = (low + high) // 2
    return min(max((guess or 2 * low) // parts * parts, low + parts), high - parts)

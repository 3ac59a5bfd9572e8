"""How large pictures are and which way up, as the heads of their files say, held against what annotations say."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from jaxkd.data import pictures
from jaxkd.data.pictures import Head
from jaxkd.data.repairs import Repairs

SLACK = 2  # pixels of a side by which a picture may differ from its annotated size without a word
BEYOND = 0.05  # share of pictures with boxes beyond the annotated size, from which that is taken to be wrong
Size = tuple[int, int]  # height and width
# How sizes go together, and what that is counted as; "wrong" is a "scaled" whose boxes fit the real size.
COUNTED = {
    "undecided": "exif_undecided",
    "missing": "sizes_missing",
    "scaled": "sizes_scaled",
    "wrong": "sizes_wrong",
    "exchanged": "sizes_exchanged",
    "other": "sizes_other",
}
NO_FAULT = ("equal", "undecided", "missing")


@dataclasses.dataclass(frozen=True)
class Described:
    """What annotations say of a picture."""

    file: str
    where: str  # they stand, for messages
    size: Size | None  # None where they do not say
    extent: tuple[float, float] = (0.0, 0.0)  # the farthest bottom and right side of its boxes


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How the size in a file's head goes together with the annotated one."""

    kind: Literal["equal", "undecided", "scaled", "wrong", "exchanged", "other", "missing"]
    size: Size  # as the picture will be read


def judge(annotated: Size | None, head: Head, *, turns: bool) -> Verdict:
    """How sizes go together; `turns` decides where an EXIF tag and the sizes leave it open."""
    seen = head.turned if turns else head.stored
    if annotated is None:
        return Verdict("missing", seen)
    if annotated in (head.stored, head.turned):
        open_ = head.turn != 1 and head.stored == head.turned
        return Verdict("undecided" if open_ else "equal", annotated)
    for size in dict.fromkeys((seen, head.turned, head.stored)):
        if np.abs(np.subtract(annotated, size)).max() <= SLACK:
            return Verdict("equal", size)
        if _is_scaled(annotated, size):
            return Verdict("scaled", size)
    return Verdict("exchanged" if annotated[::-1] == seen else "other", seen)


def decided(reading: pictures.Config, annotated: Sequence[Described], heads: Mapping[int, Head]) -> pictures.Config:
    """The reading with "auto" decided by those pictures whose size says whether EXIF was followed."""
    if reading.exif != "auto":
        return reading
    turned = Counter(
        annotated[place].size == head.turned
        for place, head in heads.items()
        if head.turned != head.stored and annotated[place].size in (head.turned, head.stored)
    )
    return dataclasses.replace(reading, exif="ignore" if turned[False] > turned[True] else "turn")


def judged(annotated: Sequence[Described], heads: Mapping[int, Head], *, turns: bool) -> dict[int, Verdict]:
    """The verdict on every picture whose head is known; "scaled" is "wrong" where boxes leave the annotated size."""
    found = {place: judge(annotated[place].size, head, turns=turns) for place, head in heads.items()}
    scaled = [place for place, verdict in found.items() if verdict.kind == "scaled"]
    fit = [_fits_real_alone(annotated[place], found[place].size) for place in scaled]
    if scaled and np.mean(fit) > BEYOND:
        found |= {place: Verdict("wrong", found[place].size) for place in scaled}
    return found


def count(
    annotated: Sequence[Described],
    heads: Mapping[int, Head],
    verdicts: Mapping[int, Verdict],
    repairs: Repairs,
    *,
    turns: bool,
    strict: bool,
) -> None:
    """Counts what differs from the annotations, with an example; DataError in strict mode for what is a fault."""

    def example(place: int) -> str:
        one, verdict = annotated[place], verdicts[place]
        if verdict.kind == "undecided":
            done = "turned by it" if turns else "left as it is stored"
            return f"{one.file} (orientation {heads[place].turn}), {done}; reading.exif='turn' or 'ignore' decides"
        if one.size is None:
            return f"{one.file}, {text(verdict.size)}"
        return f"{one.file}, {text(verdict.size)} in place of {text(one.size)}"

    places = sorted(verdicts)
    for kind, name in COUNTED.items():
        mask = np.array([verdicts[place].kind == kind for place in places], bool)
        repairs.add_faults(
            {name: mask},
            file=repairs.title,
            strict=strict and kind not in NO_FAULT,
            example=lambda which: example(places[which]),
        )


def text(size: Sequence[int]) -> str:
    """A size as people say it: width first."""
    return f"{size[1]}x{size[0]}"


def _is_scaled(annotated: Size, size: Size) -> bool:
    """Whether both sides differ by one factor, up to the rounding of a side to whole pixels."""
    factor = max(size) / max(annotated)
    if (size[0] >= size[1]) != (annotated[0] >= annotated[1]):
        return False
    return bool(np.abs(np.subtract(size, np.multiply(annotated, factor))).max() <= max(1.0, factor))


def _fits_real_alone(one: Described, real: Size) -> bool:
    """Whether a picture's boxes leave its annotated size and stay inside the real one."""
    assert one.size is not None
    return bool(np.any(np.subtract(one.extent, one.size) > 1) and np.all(np.subtract(one.extent, real) <= 1))

"""The sizes and EXIF orientations in the headers of picture files, compared with the annotated sizes."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from jaxkd.data import pictures
from jaxkd.data.pictures import Header
from jaxkd.data.repairs import Repairs

TOLERANCE = 2  # pixels of a side; differences from the annotated size of at most this are not counted
WRONG_SHARE = 0.05  # share of scaled pictures with boxes beyond the annotated size, above which that size is wrong
Size = tuple[int, int]  # height and width
# The name in `repairs` of each kind of difference; "wrong" is "scaled" where the boxes fit the real size.
REPAIR_NAMES = {
    "undecided": "exif_undecided",
    "missing": "sizes_missing",
    "scaled": "sizes_scaled",
    "wrong": "sizes_wrong",
    "exchanged": "sizes_exchanged",
    "other": "sizes_other",
}
NO_FAULT = ("equal", "undecided", "missing")


@dataclasses.dataclass(frozen=True)
class AnnotatedPicture:
    """A picture as its annotations describe it."""

    file: str
    where: str  # place in the annotations, for messages
    size: Size | None  # None where it is not annotated
    extent: tuple[float, float] = (0.0, 0.0)  # greatest y1 and x1 of its boxes


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How the size of a picture file differs from the annotated size."""

    kind: Literal["equal", "undecided", "scaled", "wrong", "exchanged", "other", "missing"]
    size: Size  # height and width of the decoded picture


def compare(annotated: Size | None, header: Header, *, turns: bool) -> Comparison:
    """How the size of a file differs from `annotated`; `turns` decides where the sizes leave the orientation open."""
    default = header.turned_size if turns else header.stored_size
    if annotated is None:
        return Comparison("missing", default)
    if annotated in (header.stored_size, header.turned_size):
        undecided = header.orientation != 1 and header.stored_size == header.turned_size
        return Comparison("undecided" if undecided else "equal", annotated)
    for size in dict.fromkeys((default, header.turned_size, header.stored_size)):
        if np.abs(np.subtract(annotated, size)).max() <= TOLERANCE:
            return Comparison("equal", size)
        if _is_scaled(annotated, size):
            return Comparison("scaled", size)
    return Comparison("exchanged" if annotated[::-1] == default else "other", default)


def resolve_exif(
    reading: pictures.Config, annotated: Sequence[AnnotatedPicture], headers: Mapping[int, Header]
) -> pictures.Config:
    """`reading` with exif="auto" decided by the pictures whose annotated size tells whether EXIF was followed."""
    if reading.exif != "auto":
        return reading
    turned = Counter(
        annotated[index].size == header.turned_size
        for index, header in headers.items()
        if header.turned_size != header.stored_size
        and annotated[index].size in (header.turned_size, header.stored_size)
    )
    return dataclasses.replace(reading, exif="ignore" if turned[False] > turned[True] else "turn")


def compare_all(
    annotated: Sequence[AnnotatedPicture], headers: Mapping[int, Header], *, turns: bool
) -> dict[int, Comparison]:
    """The comparison of each picture with a header; "scaled" becomes "wrong" where boxes exceed the annotated size."""
    comparisons = {index: compare(annotated[index].size, header, turns=turns) for index, header in headers.items()}
    scaled = [index for index, comparison in comparisons.items() if comparison.kind == "scaled"]
    fits_real_size = [_only_fits_real_size(annotated[index], comparisons[index].size) for index in scaled]
    if scaled and np.mean(fits_real_size) > WRONG_SHARE:
        comparisons |= {index: Comparison("wrong", comparisons[index].size) for index in scaled}
    return comparisons


def count_differences(
    annotated: Sequence[AnnotatedPicture],
    headers: Mapping[int, Header],
    comparisons: Mapping[int, Comparison],
    repairs: Repairs,
    *,
    turns: bool,
    strict: bool,
) -> None:
    """Counts the differences in `repairs`, with an example; DataError in strict mode for those that are faults."""

    def example(index: int) -> str:
        picture, comparison = annotated[index], comparisons[index]
        if comparison.kind == "undecided":
            action = "turned by it" if turns else "left as it is stored"
            return (
                f"{picture.file} (orientation {headers[index].orientation}), {action}; "
                "reading.exif='turn' or 'ignore' decides"
            )
        if picture.size is None:
            return f"{picture.file}, {size_text(comparison.size)}"
        return f"{picture.file}, {size_text(comparison.size)} in place of {size_text(picture.size)}"

    indices = sorted(comparisons)
    for kind, name in REPAIR_NAMES.items():
        mask = np.array([comparisons[index].kind == kind for index in indices], bool)
        repairs.add_faults(
            {name: mask},
            file=repairs.title,
            strict=strict and kind not in NO_FAULT,
            example=lambda which: example(indices[which]),
        )


def size_text(size: Sequence[int]) -> str:
    """A size (height, width) as text, such as "640x480": width first."""
    return f"{size[1]}x{size[0]}"


def _is_scaled(annotated: Size, size: Size) -> bool:
    """Whether both sides differ by the same factor, up to rounding to whole pixels."""
    factor = max(size) / max(annotated)
    if (size[0] >= size[1]) != (annotated[0] >= annotated[1]):
        return False
    return bool(np.abs(np.subtract(size, np.multiply(annotated, factor))).max() <= max(1.0, factor))


def _only_fits_real_size(picture: AnnotatedPicture, real: Size) -> bool:
    """Whether the boxes of a picture exceed its annotated size and fit into the real one."""
    assert picture.size is not None
    return bool(
        np.any(np.subtract(picture.extent, picture.size) > 1) and np.all(np.subtract(picture.extent, real) <= 1)
    )

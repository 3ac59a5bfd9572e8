"""Counts, lists of names and times as parts of a sentence."""

from collections.abc import Sequence

PLURALS = {"class": "classes", "box": "boxes", "leaf": "leaves", "batch": "batches"}


def counted(number: int, noun: str) -> str:
    """The number and its noun, given in the singular: "1 object", "2 objects", "0 classes"."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a noun; of several words the last one changes."""
    rest, space, last = noun.rpartition(" ")
    return f"{rest}{space}{PLURALS.get(last, f'{last}s')}"


def listed(names: Sequence[str], *, last: str = "and") -> str:
    """All names joined: "a, b and c", or with another word before the last."""
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def some(names: Sequence[str], *, most: int = 5) -> str:
    """The first names joined, and the number of the others: "a, b, c, d, e and 3 more"."""
    others = len(names) - most
    return f"{', '.join(names[:most])} and {others} more" if others > 0 else listed(names)


def duration(seconds: float) -> str:
    """Seconds as text, in s, min or h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"

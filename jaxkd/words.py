"""Numbers and lists as parts of a sentence."""

from collections.abc import Sequence

PLURALS = {"class": "classes", "box": "boxes", "leaf": "leaves"}


def counted(number: int, noun: str) -> str:
    """The number and its noun, which is given for one: "1 object", "2 objects", "0 classes"."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The noun for several; of several words the last one changes."""
    rest, space, last = noun.rpartition(" ")
    return f"{rest}{space}{PLURALS.get(last, f'{last}s')}"


def listed(names: Sequence[str]) -> str:
    """All names in a row: "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def some(names: Sequence[str], *, most: int = 5) -> str:
    """The first names in a row, and how many more there are: "a, b, c, d, e and 3 more"."""
    left = len(names) - most
    return f"{', '.join(names[:most])} and {left} more" if left > 0 else listed(names)

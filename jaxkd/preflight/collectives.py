"""The collectives of a step, counted in the text of its compiled program."""

import math
import re
from dataclasses import dataclass

SHAPE = re.compile(r"\b([a-z]+\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\]")
TYPE = r"(?:\((?:[^()]|\([^()]*\))*\)|\S+)"  # a tuple with its layouts, or a single array
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
LINE = re.compile(rf"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<type>{TYPE}) (?P<kind>{KINDS})(?P<start>-start)?\(", re.MULTILINE)
BITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Collectives:
    """The collectives of one kind."""

    count: int
    bytes: int  # of their results, on one device


def count(text: str) -> dict[str, Collectives]:
    """By kind, the collectives in the text of a compiled program (HLO).

    A collective in a loop is counted once. An asynchronous one has a start and a done, of which the start is counted.
    """
    counts: dict[str, Collectives] = {}
    for match in LINE.finditer(text):
        before = counts.get(match["kind"], Collectives(0, 0))
        size = _bytes(match["type"], started=match["start"] is not None and match["kind"] != "all-reduce")
        counts[match["kind"]] = Collectives(before.count + 1, before.bytes + size)
    return counts


def _bytes(kind: str, *, started: bool) -> int:
    """Bytes of a result type; one that is `started` has the operands in its type too, which do not count."""
    sizes = []
    for name, sides in SHAPE.findall(kind):
        bits = BITS.search(name)
        sizes.append(math.prod(int(side) for side in sides.split(",") if side) * (int(bits[0]) if bits else 8) // 8)
    if started:
        while len(sizes) % 2 == 0 and len(sizes) > 2 and sizes[-1] <= 4:
            sizes = sizes[:-2]  # contexts, in pairs
        sizes = sizes[len(sizes) // 2 :]
    return sum(sizes)

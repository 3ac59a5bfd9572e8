"""What leaves a device in a step, read from the text of its compiled program."""

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

    One that stands in a loop is counted once. What is asynchronous has a start and a done; the start counts.
    """
    found: dict[str, Collectives] = {}
    for match in LINE.finditer(text):
        before = found.get(match["kind"], Collectives(0, 0))
        size = _bytes(match["type"], started=match["start"] is not None and match["kind"] != "all-reduce")
        found[match["kind"]] = Collectives(before.count + 1, before.bytes + size)
    return found


def _bytes(kind: str, *, started: bool) -> int:
    """Bytes of a type; of what is started and returns its operands too, those of the results."""
    sizes = []
    for name, sides in SHAPE.findall(kind):
        bits = BITS.search(name)
        sizes.append(math.prod(int(side) for side in sides.split(",") if side) * (int(bits[0]) if bits else 8) // 8)
    if started:
        while len(sizes) % 2 == 0 and len(sizes) > 2 and sizes[-1] <= 4:
            sizes = sizes[:-2]  # contexts, in pairs
        sizes = sizes[len(sizes) // 2 :]
    return sum(sizes)

"""Records of what a step needs of a chip: compiled completely, or planned."""

from dataclasses import dataclass

from jaxkd.preflight.chips import Chip
from jaxkd.preflight.collectives import Collectives


@dataclass(frozen=True)
class Memory:
    """Bytes of a chip, as the compiler plans them."""

    arguments: int
    outputs: int
    temporaries: int
    alias: int  # of outputs that share the memory of arguments
    program: int

    @property
    def total(self) -> int:
        """Bytes in use at once."""
        return self.arguments + self.outputs - self.alias + self.temporaries + self.program


@dataclass(frozen=True)
class Program:
    """The compiler's analysis of a program on one chip; operations in a loop may be counted once."""

    memory: Memory
    flops: float
    accessed: float  # bytes
    collectives: dict[str, Collectives]
    repeated: int  # instructions, as `preflight.repeated` counts them


@dataclass(frozen=True)
class Bound:
    """Seconds of a step at the chip's published peaks (its roofline); a bound and no prediction.

    The compiler counts operations in a loop once, so they may be too few, and it counts bytes that stay on the chip
    between two operations as memory traffic, so they may be too many.
    """

    operations: float
    memory: float

    @property
    def seconds(self) -> float:
        """The longer of the two."""
        return max(self.operations, self.memory)


@dataclass(frozen=True)
class Requirement:
    """The memory that one number of pictures a chip needs."""

    bucket: tuple[int, int]  # height and width
    pictures: int  # a chip
    needed: int  # bytes; 0 where the compiler gave up and did not report them
    limit: int  # bytes
    fits: bool  # of a plan, whether the compiler went on to generate code
    seconds: float  # of compiling; of a plan, of the whole process


@dataclass(frozen=True)
class Probe(Requirement):
    """The step compiled for one size."""

    program: Program | None  # None where the compiler gave up

    def bound(self, chip: Chip) -> Bound | None:
        """The lower bound of its time; None where the chip's peaks are unknown or the compiler gave up."""
        if self.program is None or not chip.peak or not chip.bandwidth:
            return None
        return Bound(operations=self.program.flops / chip.peak, memory=self.program.accessed / chip.bandwidth)


@dataclass(frozen=True)
class Plan(Requirement):
    """The step planned for one size: a TPU's compiler has assigned memory, without the code, which needs some more."""

    collectives: dict[str, Collectives]
    repeated: int  # instructions, as `preflight.repeated` counts them

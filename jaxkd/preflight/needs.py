"""What a step needs of a chip, as records: compiled whole, or planned."""

from dataclasses import dataclass

from jaxkd.preflight.chips import Chip
from jaxkd.preflight.collectives import Collectives


@dataclass(frozen=True)
class Memory:
    """Bytes of a chip, as the compiler plans them."""

    arguments: int
    outputs: int
    temporaries: int
    alias: int  # of the outputs, in the place of arguments
    program: int

    @property
    def total(self) -> int:
        """What is there at once."""
        return self.arguments + self.outputs - self.alias + self.temporaries + self.program


@dataclass(frozen=True)
class Program:
    """What the compiler says of a program on one chip; what stands in a loop may be counted once."""

    memory: Memory
    flops: float
    accessed: float  # bytes
    collectives: dict[str, Collectives]
    repeated: int  # instructions, as `preflight.repeated` counts them


@dataclass(frozen=True)
class Bound:
    """Seconds of a step at the chip's published peaks, as its roofline has them; a bound and no prediction.

    The compiler counts what stands in a loop once, so the operations may be too few; and bytes that stay on the chip
    between two operations as if they went through its memory, so these may be too many.
    """

    operations: float
    memory: float

    @property
    def seconds(self) -> float:
        """The longer of the two."""
        return max(self.operations, self.memory)


@dataclass(frozen=True)
class Size:
    """What one number of pictures a chip needs."""

    bucket: tuple[int, int]  # height and width
    pictures: int  # a chip
    needed: int  # bytes; 0 where the compiler gave up without a word on them
    limit: int  # bytes
    fits: bool  # of a plan, whether the compiler went on to write code
    seconds: float  # of compiling; of a plan, of the whole process


@dataclass(frozen=True)
class Probe(Size):
    """The step compiled for one size."""

    program: Program | None  # None where the compiler gave up

    def bound(self, chip: Chip) -> Bound | None:
        """What its time cannot be below; None where the chip's peaks are unknown or the compiler gave up."""
        if self.program is None or not chip.peak or not chip.bandwidth:
            return None
        return Bound(operations=self.program.flops / chip.peak, memory=self.program.accessed / chip.bandwidth)


@dataclass(frozen=True)
class Plan(Size):
    """One size as a TPU's compiler plans it: memory is assigned, and the code, which takes some beside, not written."""

    collectives: dict[str, Collectives]
    repeated: int  # instructions, as `preflight.repeated` counts them

"""Formulations of one computation that take turns in one process; part of the other benchmarks."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
from turns import resident


@dataclass
class Entrant:
    """One formulation of one case: calls that return only when the work is done."""

    name: str
    calls: dict[str, Callable]  # "forward", and "forward+backward" where there is a gradient
    temporary: dict[str, int]  # bytes that XLA plans beside arguments and results; empty for the peer


@dataclass
class Row:
    """What was measured of one call of one entrant."""

    case: str
    name: str
    call: str
    milliseconds: float
    over_ours: float  # this time over that of the case's first entrant
    temporary_megabytes: float | None
    resident_megabytes: float | None  # growth of the process's resident memory, at its peak


def compiled(function, *arguments):
    """A call that waits for its result, and the bytes of temporary memory that it plans."""
    program = jax.jit(function).lower(*arguments).compile()
    analysis = program.memory_analysis()
    return lambda: jax.block_until_ready(program(*arguments)), analysis.temp_size_in_bytes if analysis else 0


def ours(name, functions, arguments) -> Entrant:
    """An entrant of ours from {call: function of the arguments}."""
    built = {call: compiled(function, *arguments) for call, function in functions.items()}
    return Entrant(name, {c: run for c, (run, _) in built.items()}, {c: size for c, (_, size) in built.items()})


def race(case: str, entrants: Sequence[Entrant], rounds: int) -> list[Row]:
    """A row for each call of each entrant; they take turns, with a short pause before each."""
    rows = []
    for call in entrants[0].calls:
        times: list[list[float]] = [[] for _ in entrants]
        for _ in range(rounds):
            for entrant, own in zip(entrants, times, strict=True):
                time.sleep(0.01)  # else one library's threads still spin while the other's clock runs
                start = time.perf_counter()
                entrant.calls[call]()
                own.append(time.perf_counter() - start)
        first = statistics.median(times[0])
        for entrant, own in zip(entrants, times, strict=True):
            median = statistics.median(own)
            temporary = entrant.temporary.get(call)
            rows.append(
                Row(
                    case=case,
                    name=entrant.name,
                    call=call,
                    milliseconds=median * 1e3,
                    over_ours=median / first,
                    temporary_megabytes=None if temporary is None else temporary / 1e6,
                    resident_megabytes=resident(entrant.calls[call]),
                )
            )
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| case | formulation | call | ms | over ours | XLA temporary MB | peak resident MB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        memory = ("" if x is None else f"{x:.1f}" for x in (row.temporary_megabytes, row.resident_megabytes))
        cells = (row.case, row.name, row.call, f"{row.milliseconds:.3g}", f"{row.over_ours:.2f}x", *memory)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)

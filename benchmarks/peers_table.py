"""What is measured beside a peer, and how it is shown: cases, rows and the table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """What both sides do."""

    what: str
    detector: str  # "" where none takes part
    precision: str
    batch: int
    size: tuple[int, int]  # height, width


@dataclass
class Row:
    """What was measured of one case, by name of the entrant; ours is the first."""

    case: Case
    milliseconds: dict[str, float]
    over_ours: dict[str, float]  # this time over ours; above 1 we are faster
    planned_megabytes: dict[str, float]  # XLA's plan: arguments, results and temporary memory
    peak_megabytes: dict[str, float]  # of a call: on a GPU torch's allocator, on a CPU growth of resident memory
    notes: dict[str, Any] = field(default_factory=dict)


def label(case: Case) -> str:
    """The case in a few words."""
    what = " ".join(part for part in (case.what, case.detector) if part)
    return f"{what}, {case.precision}, batch {case.batch}, {case.size[0]}x{case.size[1]}"


def line(row: Row) -> str:
    """The row for somebody who waits."""
    parts = (f"{name} {ms:.4g} ms ({row.over_ours[name]:.2f}x)" for name, ms in row.milliseconds.items())
    return f"{label(row.case)}: {', '.join(parts)}"


def table(rows: Sequence[Row], left_out: dict[str, str], about: dict[str, Any]) -> str:
    """All of it as Markdown."""
    said = ", ".join(f"{name} {value}" for name, value in about.items() if value is not None)
    lines = [
        f"Measured with {said}.",
        "",
        "| case | precision | batch | size | entrant | ms | over ours | planned MB | peak MB |",
        "| --- | --- | ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        case = row.case
        for name, ms in row.milliseconds.items():
            memory = (kind.get(name) for kind in (row.planned_megabytes, row.peak_megabytes))
            cells = [
                f"{case.what} {case.detector}".strip(),
                case.precision,
                str(case.batch),
                f"{case.size[0]}x{case.size[1]}",
                name,
                f"{ms:.4g}",
                f"{row.over_ours[name]:.2f}x",
                *("" if value is None else f"{value:.0f}" for value in memory),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    ratios = {label(row.case): row.notes.get("taught over student and teacher") for row in rows}
    lines += [
        f"\n{name}: {ratio:.2f} x (student's step + teacher's forward pass)" for name, ratio in ratios.items() if ratio
    ]
    if left_out:
        lines += ["", "Left out:", "", *(f"* {name}: {reason}" for name, reason in left_out.items())]
    return "\n".join(lines) + "\n"

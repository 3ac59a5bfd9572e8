"""The report of the quickstart: a table, the same as JSON and Markdown, and pictures side by side."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from jaxkd import __version__, draw, json_values, storage
from jaxkd.cli import terminal
from jaxkd.comparison import costs, tables
from jaxkd.data import loader
from jaxkd.data.base import Source
from jaxkd.evaluation import cost
from jaxkd.evaluation.coco import Scores
from jaxkd.loading import build

PICTURES = 4


@dataclass(frozen=True)
class Row:
    """One detector of the table."""

    name: str
    scores: Scores
    cost: cost.Cost


@dataclass(frozen=True)
class Summary:
    """The content of the report."""

    rows: Sequence[Row]
    seed: int
    steps: int
    seconds: float
    wait_share: float

    @property
    def gain(self) -> float:
        """AP of the taught student over the one alone, in points."""
        ap = {row.name: row.scores.summary["AP"] for row in self.rows}
        return 100 * (ap["taught"] - ap["alone"])


def costs_of(
    detectors: Mapping[str, build.Loaded], source: Source, loader_config: loader.Config
) -> dict[str, cost.Cost]:
    """Each detector's cost on the first picture of a source; equal detectors are measured once."""
    subjects = {
        name: costs.Subject(loaded.detector, loaded.params, loader_config) for name, loaded in detectors.items()
    }
    return costs.costs_of(subjects, source, batch=1)


def cells(row: Row) -> dict[str, str]:
    """The cells of a row, by column."""
    columns = {"detector": row.name}
    columns |= {name: tables.points(row.scores.summary[name]) for name in ("AP", "AP50", "AP75")}
    columns |= {f"AP {name}": tables.points(numbers["AP"]) for name, numbers in row.scores.per_class.items()}
    return columns | {
        "parameters": tables.million(row.cost.parameters),
        "GFLOPs": f"{row.cost.gflops:.2f}",
        "ms/image": f"{row.cost.milliseconds:.1f}",
    }


def show(summary: Summary) -> None:
    """Prints the table."""
    terminal.show([cells(row) for row in summary.rows], title="Blood cells (BCCD), validation split")
    print(
        f"The teacher gave the student {summary.gain:+.1f} AP ({summary.steps} steps, {summary.seconds:.0f} s in all)."
    )


def write(folder: Path, summary: Summary) -> None:
    """Writes report.json and report.md."""
    content = {
        "jaxkd": __version__,
        "jax": jax.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        "seed": summary.seed,
        "steps": summary.steps,
        "seconds": round(summary.seconds, 1),
        "data_wait_share": summary.wait_share,
        "gain_ap": summary.gain,
        "detectors": {
            row.name: {
                "scores": row.scores.summary,
                "per_class": row.scores.per_class,
                "parameters": row.cost.parameters,
                "gflops": row.cost.gflops,
                "ms_per_image": row.cost.milliseconds,
            }
            for row in summary.rows
        },
    }
    storage.write(folder / "report.json", f"{json_values.dumps(content, indent=2)}\n")
    storage.write(folder / "report.md", _markdown(summary, machine=content["machine"]))


def _markdown(summary: Summary, *, machine: str) -> str:
    wait_text = f"{summary.wait_share:.1%} of training went into waiting for data"
    lines = [
        "# Quickstart: blood cells (BCCD), validation split",
        "",
        *tables.lines_of([cells(row) for row in summary.rows]),
        "",
        f"The teacher gave the student {summary.gain:+.1f} AP: seed {summary.seed}, {summary.steps} steps, "
        f"{summary.seconds:.0f} s in all on {machine}; {wait_text}.",
        "",
        "![truth, alone, taught, teacher](pictures.png)",
        "",
    ]
    return "\n".join(lines)


def draw_comparison(
    file: Path, source: Source, detections: Mapping[str, Sequence[dict]], *, least: float = 0.5
) -> None:
    """Ground truth and the detections of each detector, side by side, on pictures spread over the split."""
    truth = source.annotations()
    columns = {"truth": draw.from_results(truth["annotations"], truth["categories"])}
    columns |= {
        name: draw.from_results(results, truth["categories"], least=least) for name, results in detections.items()
    }
    rows = []
    for index in np.linspace(0, len(source.records) - 1, PICTURES + 2, dtype=int)[1:-1]:
        record, image = source.records[index], source.read(int(index))
        rows.append([draw.boxes_on(image, boxes.get(record.image_id, []), names=False) for boxes in columns.values()])
    draw.table(rows, list(columns)).save(file)

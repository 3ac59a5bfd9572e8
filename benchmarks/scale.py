"""What the papers' steps need of slices of TPUs, compiled without a TPU: writes the tables of docs/scale.md.

    python benchmarks/scale.py [--dtype=bfloat16] [--keep=FOLDER] [--page=docs/scale.md] [--only=NAME,...]

Each case is a preflight in a process of its own, one at a time: minutes to a quarter of an hour and up to 10 GB of
memory on a core. Its record is kept as JSON in --keep and not made again while it is there. What the page says
between `<!-- tables -->` and `<!-- end of tables -->` is replaced; cases without a record are left out.
"""

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported: whatever accelerator is here is left alone

START, END = "<!-- tables -->", "<!-- end of tables -->"
TAR, GKD = ("tar_coco", "", "coco", "faster_rcnn-r101"), ("gkd_coco", "faster_rcnn", "coco", "faster_rcnn-r101-2x")
RECIPES = {"tar": TAR, "gkd": GKD}
TITLES = {"tar": "TAR: `tar_coco`", "gkd": "GKD: `gkd_coco:faster_rcnn`"}
SEARCHED = ("v5e:2x4", "v6e:2x4")  # a chip's share of the program is the same in a larger slice
SLICES = ("v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16", "v6e:16x16")


@dataclass(frozen=True)
class Case:
    """One preflight."""

    recipe: str
    topology: str
    pictures: int  # a chip
    search: bool
    dtype: str  # "" for what the recipes say

    @property
    def name(self) -> str:
        """What its record is called."""
        return f"{self.recipe}-{self.topology.replace(':', '-')}-{'search' if self.search else self.pictures}"


def main() -> None:
    """Runs the cases that have no record yet, then writes the page."""
    parser = argparse.ArgumentParser(description="What the papers' steps need of slices of TPUs.")
    parser.add_argument("--dtype", default="", help="of every net; what the recipes say where it is left out")
    parser.add_argument("--keep", type=Path, default=Path("scale"))
    parser.add_argument("--page", type=Path, default=Path("docs/scale.md"))
    parser.add_argument("--pictures", type=int, default=4, help="a chip")
    parser.add_argument("--only", default="", help="names of cases, divided by commas; 'none' to write the page alone")
    options = parser.parse_args()
    cases = [Case(r, s, options.pictures, True, options.dtype) for r in RECIPES for s in SEARCHED]
    cases += [Case(r, s, options.pictures, False, options.dtype) for r in RECIPES for s in SLICES if s not in SEARCHED]
    options.keep.mkdir(parents=True, exist_ok=True)
    chosen = set(options.only.split(",")) if options.only else {case.name for case in cases}
    for case in cases:
        file = options.keep / f"{case.name}.json"
        if case.name in chosen and not file.exists():
            # What a compiler has taken goes with its process.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                record = pool.submit(measure, case).result()
            file.write_text(json.dumps(record, indent=2) + "\n")
            print(f"{case.name}: {record['seconds']:.0f} s", flush=True)
    files = {case.name: options.keep / f"{case.name}.json" for case in cases}
    records = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    write(options.page, records)


def measure(case: Case) -> dict[str, Any]:
    """The record of a case, with the text that `jaxkd preflight` prints of it."""
    import jax

    from jaxkd import config as configs
    from jaxkd.cli.preflight import as_dict, table
    from jaxkd.train import chips, preflight, topology

    name, argument, teacher_name, teacher_argument = RECIPES[case.recipe]
    recipe = configs.load_recipe(name, argument)
    teacher = configs.load_recipe(teacher_name, teacher_argument).student
    if case.dtype:
        for part in (recipe.student, teacher):
            set_dtype(part, case.dtype)
    devices = topology.mesh_of(case.topology)
    chip = chips.chip_of(devices.devices.flat[0])
    subject = preflight.subject(recipe, teacher=teacher)
    found = preflight.run(subject, devices, chip, batch=case.pictures * devices.size, search=case.search)
    record = as_dict(subject, found, topology=case.topology)
    seconds = sum(probe.seconds for probe in found.probes)
    said = table(subject, found, topology=case.topology)
    return {"case": case.name, "recipe": case.recipe, "text": said, "seconds": seconds, "jax": jax.__version__} | record


def set_dtype(part: Any, dtype: str) -> None:
    """Sets every field `dtype` of a component and of those inside it."""
    with part.unlocked():
        for key, value in part.items():
            if key == "dtype":
                part[key] = dtype
            elif hasattr(value, "unlocked"):
                set_dtype(value, dtype)


def write(page: Path, records: dict[str, Any]) -> None:
    """Puts the tables of the records in their place in the page."""
    parts = [_fits(records), _collectives(records), *(_printed(record) for record in records.values())]
    text = page.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")


def _fits(records: dict[str, Any]) -> str:
    head = "| recipe | slice | pictures a chip | memory a chip, GiB | lower bound, ms a step | pictures/s at most "
    lines = [f"{head}| most that fit a chip |", "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    for record in records.values():
        for probe in record["probes"]:
            seconds, by = probe["bound"] or (float("nan"), "")
            rate = probe["pictures"] * record["devices"] / seconds
            memory = f"{probe['needed'] / 2**30:.2f}{'' if probe['fits'] else ': too much'}"
            most = record["largest"] if probe is record["probes"][0] and record["largest"] is not None else ""
            lines.append(
                f"| {record['recipe']} | {record['topology']} | {probe['pictures']} | {memory} "
                f"| {1e3 * seconds:.0f} ({by}) | {rate:.0f} | {most} |"
            )
    return "\n".join(lines)


def _collectives(records: dict[str, Any]) -> str:
    lines = [
        "| recipe | slice | chips | collectives | their bytes | bytes of trainable parameters | difference |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for record in records.values():
        kinds = (record["probes"][0]["program"] or {}).get("collectives", {})
        total = sum(kind["bytes"] for kind in kinds.values())
        said = ", ".join(f"{kind['count']} {name}" for name, kind in kinds.items()) or "unknown"
        lines.append(
            f"| {record['recipe']} | {record['topology']} | {record['devices']} | {said} | {total:,} "
            f"| {record['trainable']:,} | {total - record['trainable']:+,} |"
        )
    return "\n".join(lines)


def _printed(record: dict[str, Any]) -> str:
    return f"{TITLES[record['recipe']]} on {record['topology']}:\n\n```\n{record['text']}\n```"


if __name__ == "__main__":
    main()

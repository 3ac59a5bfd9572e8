"""What the papers' steps need of slices of TPUs, compiled without a TPU: writes the tables of docs/scale.md.

    python benchmarks/scale.py [--dtype=bfloat16] [--keep=scale] [--page=docs/scale.md] [--only=NAME,...]

A "plan" stops the compiler once it has assigned the memory: its report, and the collectives of the optimised program,
are all that is read. A "whole" case is a preflight to the end, for the operations too; it takes some ten times as long,
nearly all of it to write code, and up to 10 GB. Each runs in a process of its own, one at a time. Records are kept as
JSON in --keep and not made again while they are there; the tables between the page's two marks are of those that are.
"""

import argparse
import json
import multiprocessing
import os
import re
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported: whatever accelerator is here is left alone

START, END = "<!-- tables -->", "<!-- end of tables -->"
RECIPES = {  # the recipe, and the one whose student its teacher is
    "tar": (("tar_coco", ""), ("coco", "faster_rcnn-r101")),
    "gkd": (("gkd_coco", "faster_rcnn"), ("coco", "faster_rcnn-r101-2x")),
}
SLICES = ("v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16", "v6e:2x4", "v6e:16x16")
WHOLE = (("v5e:2x4", 2), ("v5e:16x16", 4), ("v6e:16x16", 4))  # the first is the recipes' own batch
SIZES = (2, 8, 12, 13, 14, 16, 24, 32)  # pictures a chip of v5e:2x4, beside PICTURES
PICTURES = 4  # a chip, elsewhere
REPORT, TEXT = "*jit_step*.after_optimizations-memory-usage-report.txt", "*jit_step*.after_optimizations.txt"
TOTAL = re.compile(r"Memory Space: default.*\nTotal bytes: (\d+)")


@dataclass(frozen=True)
class Case:
    """One compilation."""

    recipe: str
    topology: str
    pictures: int  # a chip
    kind: str  # "plan" or "whole"
    dtype: str  # "" for what the recipes say

    @property
    def name(self) -> str:
        """What its record is called."""
        return f"{self.recipe}-{self.topology.replace(':', '-')}-{self.pictures}-{self.kind}"


def main() -> None:
    """Runs the cases that have no record yet, then writes the page."""
    parser = argparse.ArgumentParser(description="What the papers' steps need of slices of TPUs.")
    parser.add_argument("--dtype", default="", help="of every net; what the recipes say where it is left out")
    parser.add_argument("--keep", type=Path, default=Path("scale"))
    parser.add_argument("--page", type=Path, default=Path("docs/scale.md"))
    parser.add_argument("--only", default="", help="names of cases, divided by commas; 'none' to write the page alone")
    options = parser.parse_args()
    cases = [Case(r, s, PICTURES, "plan", options.dtype) for r in RECIPES for s in SLICES]
    cases += [Case(r, SLICES[0], size, "plan", options.dtype) for r in RECIPES for size in SIZES]
    cases += [Case(r, s, size, "whole", options.dtype) for r in RECIPES for s, size in WHOLE]
    options.keep.mkdir(parents=True, exist_ok=True)
    chosen = set(options.only.split(",")) if options.only else {case.name for case in cases}
    for case in cases:
        file = options.keep / f"{case.name}.json"
        if case.name in chosen and not file.exists():
            record = plan(case) if case.kind == "plan" else _apart(whole, case)
            file.write_text(json.dumps(record, indent=2) + "\n")
            print(f"{case.name}: {record['seconds']:.0f} s", flush=True)
    files = {case.name: options.keep / f"{case.name}.json" for case in cases}
    write(options.page, {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()})


def whole(case: Case) -> dict[str, Any]:
    """The record of a preflight, with the text that `jaxkd preflight` prints of it."""
    from jaxkd.cli.preflight import as_dict, table
    from jaxkd.train import chips, preflight

    subject, devices = _subject(case)
    chip = chips.chip_of(devices.devices.flat[0])
    found = preflight.run(subject, devices, chip, batch=case.pictures * devices.size, search=False)
    seconds = sum(probe.seconds for probe in found.probes)
    said = table(subject, found, topology=case.topology)
    return _about(case) | {"text": said, "seconds": seconds} | as_dict(subject, found, topology=case.topology)


def plan(case: Case) -> dict[str, Any]:
    """Memory and collectives of a case, from what the compiler dumps before it writes code."""
    from jaxkd.train import collectives, preflight

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("spawn").Process(target=_compile, args=(case, folder))
        process.start()
        while process.is_alive() and not list(Path(folder).glob(REPORT)):
            time.sleep(1)
        process.join(10)  # for the report to be whole
        process.kill()
        process.join()
        done = json.loads((Path(folder) / "about.json").read_text())
        reports, texts = (sorted(Path(folder).glob(pattern)) for pattern in (REPORT, TEXT))
        if not reports:  # refused before there was a plan
            return _about(case) | done | {"seconds": time.monotonic() - began, "fits": False}
        found = TOTAL.search(reports[0].read_text())
        text = texts[0].read_text()
    kinds = {kind: {"count": of.count, "bytes": of.bytes} for kind, of in collectives.count(text).items()}
    return (
        _about(case)
        | done
        | {
            "needed": int(found[1]) if found else 0,
            "fits": not done.get("refused"),
            "repeated": len(preflight.REPEATED.findall(text)),
            "collectives": kinds,
            "seconds": time.monotonic() - began,
        }
    )


def _compile(case: Case, folder: str) -> None:
    """Compiles a case with its dumps in `folder`, and says there how that went."""
    os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_step"
    from jaxkd.train import chips, preflight

    subject, devices = _subject(case)
    chip = chips.chip_of(devices.devices.flat[0])
    about = {"devices": devices.size, "trainable": subject.trainable, "limit": chip.memory}
    file = Path(folder) / "about.json"
    file.write_text(json.dumps(about))
    found = preflight.run(subject, devices, chip, batch=case.pictures * devices.size, search=False).asked
    if not found.fits:
        file.write_text(json.dumps(about | {"refused": True, "needed": found.needed, "limit": found.limit}))


def _subject(case: Case) -> tuple[Any, Any]:
    from jaxkd import config as configs
    from jaxkd.train import preflight, topology

    (name, argument), (teacher_name, teacher_argument) = RECIPES[case.recipe]
    recipe = configs.load_recipe(name, argument)
    teacher = configs.load_recipe(teacher_name, teacher_argument).student
    if case.dtype:
        for part in (recipe.student, teacher):
            set_dtype(part, case.dtype)
    return preflight.subject(recipe, teacher=teacher), topology.mesh_of(case.topology)


def set_dtype(part: Any, dtype: str) -> None:
    """Sets every field `dtype` of a component and of those inside it."""
    with part.unlocked():
        for key, value in part.items():
            if key == "dtype":
                part[key] = dtype
            elif hasattr(value, "unlocked"):
                set_dtype(value, dtype)


def _apart(function: Any, case: Case) -> dict[str, Any]:
    """What `function` makes of the case, in a process with which all that a compiler has taken goes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, case).result()


def _about(case: Case) -> dict[str, Any]:
    import jax

    about = {"recipe": case.recipe, "topology": case.topology, "pictures": case.pictures, "dtype": case.dtype}
    return about | {"kind": case.kind, "jax": jax.__version__}


def write(page: Path, records: dict[str, Any]) -> None:
    """Puts the tables of the records in their place in the page."""
    plans = [record for record in records.values() if record["kind"] == "plan"]
    printed = [record for record in records.values() if record["kind"] == "whole"]
    parts = ["## Memory of a chip", _memory(plans), "## What leaves a chip in a step", _collectives(plans)]
    parts += ["## Whole preflights", *(f"```\n{record['text']}\n```" for record in printed)]
    text = page.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")


def _memory(records: list[dict[str, Any]]) -> str:
    head = "| recipe | slice | pictures a chip | GiB | of GiB | repeated or packed |"
    lines = [head, "| --- | --- | ---: | ---: | ---: | ---: |"]
    for record in sorted(records, key=lambda one: (one["recipe"], one["topology"], one["pictures"])):
        needed = f"{record['needed'] / 2**30:.2f}" + ("" if record["fits"] else ", refused")
        lines.append(
            f"| {record['recipe']} | {record['topology']} | {record['pictures']} | {needed} "
            f"| {record['limit'] / 2**30:.2f} | {record.get('repeated', '')} |"
        )
    return "\n".join(lines)


def _collectives(records: list[dict[str, Any]]) -> str:
    lines = [
        "| recipe | slice | chips | collectives | their bytes | trainable parameters, bytes | difference |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for record in sorted(records, key=lambda one: (one["recipe"], one["topology"][:3], one["devices"])):
        if record["pictures"] == PICTURES and "collectives" in record:
            kinds = record["collectives"]
            total = sum(kind["bytes"] for kind in kinds.values())
            said = ", ".join(f"{kind['count']} {name}" for name, kind in kinds.items())
            lines.append(
                f"| {record['recipe']} | {record['topology']} | {record['devices']} | {said} | {total:,} "
                f"| {record['trainable']:,} | {total - record['trainable']:+,} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

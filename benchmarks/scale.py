"""What the papers' steps need of slices of TPUs, compiled without a TPU: writes the tables of docs/scale.md.

    python benchmarks/scale.py [--dtype=bfloat16] [--keep=scale] [--page=docs/scale.md] [--only=NAME,...]

A "plan" is what `jaxkd preflight --plan` looks at: memory and collectives, before code is written. A "whole" case is a
preflight to the end, for the operations too; it takes some ten times as long, and up to 10 GB. A "largest" case looks
for the largest batch that fits, by plans, with what the whole case of its slice takes beside its own. Compilers run one
at a time, each in a process of its own. Records are kept as JSON in --keep and not made again while they are there; the
tables between the page's two marks are of those that are.
"""

import argparse
import dataclasses
import functools
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxkd import json_values

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


@dataclass(frozen=True)
class Case:
    """One compilation."""

    recipe: str
    topology: str
    pictures: int  # a chip
    kind: str  # "plan", "whole" or "largest"; "largest" starts from the "whole" of as many pictures
    dtype: str  # "" for what the recipes say

    @property
    def name(self) -> str:
        """What its record is called; bfloat16 is what the recipes say."""
        dtype = f"-{self.dtype}" if self.dtype not in ("", "bfloat16") else ""
        return f"{self.recipe}-{self.topology.replace(':', '-')}-{self.pictures}-{self.kind}{dtype}"


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
    for kind in ("whole", "largest"):
        cases += [Case(r, s, size, kind, options.dtype) for r in RECIPES for s, size in WHOLE]
    names = {case.name for case in cases}
    chosen = set(options.only.split(",")) if options.only else names
    if unknown := sorted(chosen - names - {"none"}):
        parser.error(f"there is no case {', '.join(unknown)}; give 'none', or some of {', '.join(sorted(names))}")
    options.keep.mkdir(parents=True, exist_ok=True)
    for case in cases:
        file = options.keep / f"{case.name}.json"
        if case.name in chosen and not file.exists():
            record = _record(case, options.keep)
            file.write_text(f"{json_values.dumps(record, indent=2)}\n")
            print(f"{case.name}: {record['seconds']:.0f} s", flush=True)
    files = {case.name: options.keep / f"{case.name}.json" for case in cases}
    write(options.page, {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()})


def whole(case: Case) -> dict[str, Any]:
    """The record of a preflight, with the text that `jaxkd preflight` prints of it."""
    from jaxkd.cli.preflight import as_dict, table
    from jaxkd.preflight import chips, preflight

    subject, devices = _subject(case)
    chip = chips.chip_of(devices.devices.flat[0])
    found = preflight.run(subject, devices, chip, batch=case.pictures * devices.size, search=False)
    seconds = sum(probe.seconds for probe in found.probes)
    said = table(subject, found, topology=case.topology)
    return _about(case) | {"text": said, "seconds": seconds} | as_dict(subject, found, topology=case.topology)


def plan(case: Case) -> dict[str, Any]:
    """The record of a plan."""
    from jaxkd.preflight import plan, preflight

    subject, devices = _subject(case)
    bucket = preflight.areas(subject.loader_config)[0][0]
    found = plan.plan(_step(case), bucket=bucket, pictures=case.pictures)
    return _about(case) | {"devices": devices.size, "trainable": subject.trainable} | dataclasses.asdict(found)


def largest(case: Case, whole: dict[str, Any]) -> dict[str, Any]:
    """The record of a search that begins with the record of a whole preflight."""
    from jaxkd.preflight import largest, plan, requirements

    probe = requirements.Probe(
        **{field.name: whole["probes"][0][field.name] for field in dataclasses.fields(requirements.Probe)}
    )
    number, beside, plans = largest.planned(functools.partial(plan.plan, _step(case)), probe)
    return _about(case) | {
        "devices": whole["devices"],
        "largest": number,
        "beside": beside,
        "limit": min(plan.limit for plan in plans),
        "seconds": sum(plan.seconds for plan in plans),
        "plans": [dataclasses.asdict(plan) for plan in plans],
    }


def _record(case: Case, keep: Path) -> dict[str, Any]:
    if case.kind == "whole":
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(whole, case).result()  # all that its compiler has taken goes with the process
    if case.kind == "plan":
        return plan(case)
    file = keep / f"{dataclasses.replace(case, kind='whole').name}.json"
    if not file.exists():
        raise SystemExit(f"{case.name} begins with the record {file}, which is not there.")
    return largest(case, json.loads(file.read_text()))


def _step(case: Case) -> Any:
    """The case's step, for a process to build."""
    from jaxkd import config as configs
    from jaxkd.preflight import plan

    (name, argument), (teacher_name, teacher_argument) = RECIPES[case.recipe]
    recipe = configs.load_recipe(name, argument)
    teacher = configs.load_recipe(teacher_name, teacher_argument).student
    if case.dtype:
        for part in (recipe.student, teacher):
            set_dtype(part, case.dtype)
    return plan.Step(recipe, case.topology, {"": teacher})


def _subject(case: Case) -> tuple[Any, Any]:
    from jaxkd.preflight import preflight, topology

    step = _step(case)
    return preflight.subject(step.recipe, teachers=step.teachers), topology.mesh_of(case.topology)


def set_dtype(part: Any, dtype: str) -> None:
    """Sets every field `dtype` of a component and of those inside it."""
    with part.unlocked():
        for key, value in part.items():
            if key == "dtype":
                part[key] = dtype
            elif hasattr(value, "unlocked"):
                set_dtype(value, dtype)


def _about(case: Case) -> dict[str, Any]:
    import jax

    about = {"recipe": case.recipe, "topology": case.topology, "pictures": case.pictures, "dtype": case.dtype}
    return about | {"kind": case.kind, "jax": jax.__version__}


def write(page: Path, records: dict[str, Any]) -> None:
    """Puts the tables of the records in their place in the page."""
    of = {kind: [one for one in records.values() if one["kind"] == kind] for kind in ("plan", "largest", "whole")}
    parts = ["## Memory of a chip", _memory(of["plan"]), "## The largest batch that fits", _largest(of["largest"])]
    parts += ["## Collectives of a step", _collectives(of["plan"])]
    parts += ["## Complete preflight reports", *(f"```text\n{record['text']}\n```" for record in of["whole"])]
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


def _largest(records: list[dict[str, Any]]) -> str:
    lines = [
        "| recipe | slice | chips | pictures a chip | in all | its plan, GiB | beside it, GiB | of GiB | planned for |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for record in sorted(records, key=lambda one: (one["recipe"], one["topology"][:3], one["devices"])):
        number, plans = record["largest"], record["plans"]
        needed = next((f"{plan['needed'] / 2**30:.2f}" for plan in plans if plan["pictures"] == number), "")
        tried = ", ".join(f"{plan['pictures']}" for plan in plans)
        lines.append(
            f"| {record['recipe']} | {record['topology']} | {record['devices']} | {number} "
            f"| {number * record['devices']:,} | {needed} | {record['beside'] / 2**30:.2f} "
            f"| {record['limit'] / 2**30:.2f} | {tried} |"
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

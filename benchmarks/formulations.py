"""Compiles formulations of ops for a TPU that is not there, and prints what its compiler expects of them.

    python benchmarks/formulations.py --out formulations.json

Needs libtpu. Cycles are the compiler's own estimates, summed over the program. It gives none for gathers and scatters:
those are charged `GATHER` and `SCATTER` cycles a row, or the time of their bytes. Loops whose number of turns depends
on data are charged `--turns` turns, but for RoIAlign's windows, whose turns are those of the random boxes.
"""

import argparse
import functools
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxkd.ops import roi_windows
from jaxkd.ops.nms import nms, nms_matrix
from jaxkd.ops.roi_align import DEFAULT, Pooling, roi_align_batch, roi_align_dense
from jaxkd.ops.roi_regions import region_maps
from jaxkd.ops.sample import sample

HERTZ, BYTES = 1.5e9, 819e9  # of a v5e: cycles a second, and bytes a second from memory
GATHER, SCATTER = 9.3, 110  # bundles a row of up to 1 kB in the schedule that libtpu 0.0.42 writes for a v5e
WIDTHS = {"bf16": 2, "f32": 4, "s32": 4, "u32": 4, "pred": 1, "u8": 1, "s8": 1}
FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "copy-done", "slice-done", "async-done"}
STRIDES, PICTURE = (4, 8, 16, 32), (800, 1344)
SHAPES = tuple((PICTURE[0] // s, PICTURE[1] // s) for s in STRIDES)


class Program:
    """A compiled program's text, and the cycles that its compiler expects."""

    def __init__(self, text: str, turns):
        """Reads the text; `turns(type, depth)` says how often a loop of data-dependent length runs."""
        self.turns, self.entry, name = turns, "", ""
        self.parts: dict[str, list[tuple[str, str, str]]] = {}
        for line in text.splitlines():
            if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
                name = head[2]
                self.parts[name] = []
                self.entry = name if head[1] else self.entry
            elif found := re.match(r"\s+(?:ROOT )?%[\w.\-]+ = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", line):
                self.parts[name].append((found[1], found[2], found[3]))

    def cycles(self, part: str = "", depth: int = 0) -> float:
        """Of one computation and all that it calls."""
        return sum(self.operation(*line, depth) for line in self.parts[part or self.entry])

    def operation(self, kind: str, op: str, rest: str, depth: int) -> float:
        """Of one line; `depth` counts the loops round it whose turns depend on data."""
        if op == "while":
            body, condition = (re.search(rf"{key}=%([\w.\-]+)", rest)[1] for key in ("body", "condition"))  # pyright: ignore
            bounds = [
                int(n) for _, o, r in self.parts[condition] if o == "constant" for n in re.findall(r"^(\d+)\)", r)
            ]
            known = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
            if known or bounds:
                return (int(known[1]) if known else max(bounds)) * self.cycles(body, depth)
            return self.turns(kind, depth) * self.cycles(body, depth + 1)
        if op == "conditional":
            names = re.search(r"branch_computations=\{([^}]*)\}", rest)
            return max(self.cycles(n, depth) for n in re.findall(r"%([\w.\-]+)", names[1])) if names else 0.0
        if op in FREE:
            return 0.0
        if estimate := re.search(r'estimated_cycles":"(\d+)"', rest):
            return float(estimate[1])
        called = re.search(r"calls=%([\w.\-]+)", rest)
        for inner_kind, inner, inner_rest in self.parts.get(called[1], []) if called else []:
            if inner == "gather":
                row = math.prod(map(int, re.search(r"slice_sizes=\{([\d,]*)\}", inner_rest)[1].split(",")))  # pyright: ignore
                return max(GATHER * count(inner_kind) / row, 2 * size(kind) / BYTES * HERTZ)
            if inner == "scatter":
                return SCATTER * self.rows(called[1])  # pyright: ignore
        return 2 * size(kind) / BYTES * HERTZ

    def rows(self, part: str) -> int:
        """Of the updates of the scatter in a fused computation: the indices, the largest integers that it is given."""
        return max([count(k) for k, o, _ in self.parts[part] if o == "parameter" and k.startswith("s32")] or [1])


def count(kind: str) -> int:
    """Elements of the first array of a type."""
    return math.prod(int(n) for n in re.search(r"\[([\d,]*)\]", kind)[1].split(",") if n)  # pyright: ignore


def size(kind: str) -> int:
    """Bytes of all arrays of a type."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", kind)
    return sum(WIDTHS.get(d, 4) * math.prod(int(n) for n in dims.split(",") if n) for d, dims in arrays)


def expected(name: str, function, arguments, device, turns) -> dict:
    """One row: what the compiler says of a function."""
    sharding = NamedSharding(Mesh(np.array([device]), ("data",)), PartitionSpec())
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
    program = jax.jit(function).lower(*arguments).compile()
    cost, memory = program.cost_analysis(), program.memory_analysis()
    if cost is None or memory is None:
        raise SystemExit(f"The compiler says nothing of {name}.")
    milliseconds = Program(program.as_text() or "", turns).cycles() / HERTZ * 1e3
    row = {
        "name": name,
        "milliseconds": round(milliseconds, 2),
        "gflop": round(cost.get("flops", 0) / 1e9, 2),
        "gigabytes": round(cost.get("bytes accessed", 0) / 1e9, 2),
        "temporary_megabytes": round(memory.temp_size_in_bytes / 1e6),
    }
    print("| " + " | ".join(str(cell) for cell in row.values()) + " |", flush=True)
    return row


def random_boxes(batch: int, regions: int):
    """Half of them round twelve objects of each picture, the others anywhere."""
    rng, extent = np.random.default_rng(0), np.array(PICTURE[::-1])

    def shapes(number, largest):
        side = np.exp(rng.uniform(np.log(24), np.log(largest), (batch, number, 1)))
        ratio = np.exp(rng.normal(size=(batch, number, 1)) * 0.4)
        return rng.uniform(size=(batch, number, 2)) * extent, np.concatenate([side * ratio, side / ratio], -1)

    (centre, side), (object_centre, object_side) = shapes(regions, 400), shapes(12, 500)
    image, owner = np.arange(batch)[:, None], rng.integers(0, 12, (batch, regions))
    near = rng.uniform(size=(batch, regions, 1)) < 0.5
    moved = object_centre[image, owner] + rng.normal(size=(batch, regions, 2)) * 0.3 * object_side[image, owner]
    centre, side = np.where(near, moved, centre), np.where(near, object_side[image, owner], side)
    boxes = np.concatenate([centre - side / 2, centre + side / 2], -1)
    return jnp.asarray(np.clip(boxes, 0, np.tile(extent, 2)), jnp.float32)


def window_turns(boxes, pooling: Pooling, window: tuple[int, int]):
    """How often the loops over chunks and over windows of each level run for these boxes, as `turns` of a Program."""
    layout = roi_windows.Layout(
        pooling=pooling, images=len(boxes), shapes=SHAPES, window=window, channels=1, dtype=jnp.float32
    )
    plan, _ = roi_windows._plan(layout, region_maps(SHAPES, boxes, strides=STRIDES, extents=None, pooling=pooling))
    ends, sizes, turns = np.asarray(plan.ends), np.asarray(plan.size), {}
    for level in range(len(SHAPES)):
        own = sizes[ends[level * len(boxes)] : ends[(level + 1) * len(boxes)]]
        windows = np.prod(-(-own // np.array(layout.windows(level))), -1).sum()
        mark = f"[1,{SHAPES[level][0]},{layout.width(level) // 8},8,"
        turns[mark] = (len(own) / len(boxes), windows / max(len(own), 1))

    def look_up(kind: str, depth: int) -> float:
        return next((pair[min(depth, 1)] for mark, pair in turns.items() if mark in kind), 1.0)

    return look_up


def pooling(row, batch: int, regions: int, channels: int) -> None:
    """Every formulation of RoIAlign, bfloat16."""
    boxes = random_boxes(batch, regions)
    pyramid = tuple(jax.ShapeDtypeStruct((batch, *shape, channels), jnp.bfloat16) for shape in SHAPES)
    back = jax.ShapeDtypeStruct((batch, regions, 7, 7, channels), jnp.bfloat16)

    def dense(pyramid, boxes):
        return jax.vmap(lambda p, b: roi_align_dense(p, b, strides=STRIDES))(pyramid, boxes)

    forms = {
        "gather": functools.partial(roi_align_batch, strides=STRIDES, formulation="gather"),
        "gather, no chunks": functools.partial(
            roi_align_batch, strides=STRIDES, formulation="gather", pooling=Pooling(chunk=batch * regions)
        ),
        "windows": functools.partial(roi_align_batch, strides=STRIDES, formulation="windows"),
        "dense": dense,
    }
    for name, form in forms.items():

        def both(pyramid, boxes, gradient, form=form):
            out, pull = jax.vjp(lambda levels: form(levels, boxes), pyramid)
            return out, pull(gradient)

        turns = window_turns(boxes, DEFAULT, (64, 128))
        row(f"RoIAlign, {name}: forward", form, (pyramid, boxes), turns=turns)
        row(f"RoIAlign, {name}: forward + backward", both, (pyramid, boxes, back), turns=turns)


def selection(row, batch: int) -> None:
    """Suppression, sampling and the best of all anchors."""
    for name, function in {"tiles": nms, "matrix": nms_matrix}.items():
        for total in (2000, 10000):
            kinds = (((4,), jnp.float32), ((), jnp.float32), ((), jnp.bool_))
            given = tuple(jax.ShapeDtypeStruct((batch, total, *shape), kind) for shape, kind in kinds)

            def suppress(boxes, scores, valid, function=function):
                return jax.vmap(lambda b, s, v: function(b, s, valid=v, threshold=0.7, limit=1000))(
                    boxes, scores, valid
                )

            row(f"NMS, {name}: {total}", suppress, given)
    anchors = jax.ShapeDtypeStruct((batch, 268569), jnp.float32)
    marks = jax.ShapeDtypeStruct((batch, 268569), jnp.bool_)

    def draw(positive, negative):
        keys = jax.random.split(jax.random.key(0), batch)
        return jax.vmap(lambda k, p, n: sample(k, positive=p, negative=n, size=256, fraction=0.5))(
            keys, positive, negative
        )

    row("sample 256 of 268569", draw, (marks, marks))
    row("top_k: 2000 of 268569", lambda x: jax.lax.top_k(x, 2000), (anchors,))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cases and writes the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x4", help="for which chip to compile")
    parser.add_argument("--only", choices=("roi_align", "selection"), help="run one of the two halves")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--regions", type=int, default=512)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--turns", type=float, default=4.0, help="of a loop whose length depends on data")
    parser.add_argument("--out", metavar="FILE", help="write the rows as JSON")
    flags = parser.parse_args(argv)
    device = topologies.get_topology_desc(platform="tpu", topology_name=flags.topology).devices[0]
    rows: list[dict] = []

    def row(name, function, arguments, turns=lambda kind, depth: flags.turns):
        rows.append(expected(name, function, arguments, device, turns))

    print("| program | expected ms | GFLOP, loops once | GB, loops once | temporary MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    if flags.only != "selection":
        pooling(row, flags.batch, flags.regions, flags.channels)
    if flags.only != "roi_align":
        selection(row, flags.batch)
    if flags.out:
        Path(flags.out).write_text(json.dumps({"topology": flags.topology, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

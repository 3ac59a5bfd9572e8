"""Time and memory of the search for prototypes, against the same search with every candidate's cost written out.

    python benchmarks/search.py --objects=500,4000

One class on one level, vectors of 256 channels, K = 10, alpha = 10. The direct form keeps residuals [n d] and computes,
for each candidate, what would be left of all of them; ours keeps the products of all objects, [n n].
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from jaxkd.distill import matching_pursuit

CHANNELS, COUNT, ALPHA = 256, 10, 10.0


def main() -> None:
    """Prints a row a form and size, and writes them as JSON."""
    parser = argparse.ArgumentParser(description="Time and memory of the search for prototypes.")
    parser.add_argument("--objects", default="500,4000")
    parser.add_argument("--direct-limit", type=int, default=1000, help="Most objects that the direct form is given.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for n in map(int, options.objects.split(",")):
        forms = {"Gram matrices": ours} | ({"every candidate written out": direct} if n <= options.direct_limit else {})
        found = [measure(name, form, n, options.repeats) for name, form in forms.items()]
        if len({row.pop("chosen") for row in found}) > 1:
            raise SystemExit(f"The forms chose other objects among {n}.")
        for row in found:
            over = row["ms"] / found[0]["ms"]
            print(
                f"{n:>6} objects  {row['form']:<28}{row['ms']:10.1f} ms {over:7.1f}x {row['temporary_mb']:9.1f} MB",
                flush=True,
            )
        rows += found
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


def measure(name: str, form: Callable, n: int, repeats: int) -> dict[str, Any]:
    """Median time, planned temporary memory and answer of one form on n objects."""
    spaces = vectors(n)
    compiled = jax.jit(form).lower(*spaces).compile()
    chosen = tuple(np.asarray(compiled(*spaces)).tolist())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(compiled(*spaces))
        times.append(time.perf_counter() - began)
    memory = getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0) / 2**20
    return {
        "objects": n,
        "form": name,
        "ms": 1e3 * statistics.median(times),
        "temporary_mb": memory,
        "chosen": chosen,
    }


def vectors(n: int) -> list[jax.Array]:
    """Objects around a few centres, seen in two spaces."""
    draw = np.random.default_rng(0)
    centre = draw.integers(0, 12, n)
    return [
        jnp.asarray(draw.normal(size=(12, CHANNELS))[centre] + 0.5 * draw.normal(size=(n, CHANNELS)), jnp.float32)
        for _ in range(2)
    ]


def ours(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """The search of `distill.matching_pursuit`."""
    valid = jnp.ones(len(student), bool)
    cosines = [matching_pursuit.gram(space, valid=valid) for space in (student, teacher)]
    candidate = matching_pursuit.candidates(*cosines, valid=valid)
    return matching_pursuit.select(*cosines, candidate=candidate, count=COUNT, alpha=ALPHA)


def direct(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """The same choice from the whole cost of every candidate."""
    valid = jnp.ones(len(student), bool)
    a, b = matching_pursuit.unit(student), matching_pursuit.unit(teacher)
    candidate = matching_pursuit.candidates(
        matching_pursuit.gram(a, valid=valid), matching_pursuit.gram(b, valid=valid), valid=valid
    )

    def cost(left, k):
        left_a, left_b = left
        u, v = matching_pursuit.coefficients(left_a @ a[k], left_b @ b[k], alpha=ALPHA)
        rest = jnp.square(left_a - u[:, None] * a[k]).sum() + jnp.square(left_b - v[:, None] * b[k]).sum()
        return rest + ALPHA * jnp.square(u - v).sum()

    def choose(place, carry):
        left_a, left_b, chosen = carry
        costs = lax.map(functools.partial(cost, (left_a, left_b)), jnp.arange(len(a)))
        best = jnp.argmin(jnp.where(candidate, costs, jnp.inf)).astype(jnp.int32)
        u, v = matching_pursuit.coefficients(left_a @ a[best], left_b @ b[best], alpha=ALPHA)
        return left_a - u[:, None] * a[best], left_b - v[:, None] * b[best], chosen.at[place].set(best)

    return lax.fori_loop(0, COUNT, choose, (a, b, jnp.zeros(COUNT, jnp.int32)))[2]


if __name__ == "__main__":
    main()

"""Times deformable attention in three formulations, which have to agree, and prints the ratios.

    python benchmarks/attention.py --out attention.json

They take turns within one process; each figure is a median. "All corners at once" gathers the four cells round each
place into one array; "cells by queries" makes the weight of each cell for each query and multiplies.
"""

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
from jax import numpy as jnp
from race import Entrant, Row, ours, race, table
from turns import machine

from jaxkd.ops.deformable import attend

STRIDES = (8, 16, 32)
HEADS, WIDTH, POINTS = 8, 32, (4, 4, 4)  # channels of a head; places on each level


def inputs(side: int, queries: int, pictures: int):
    """Random maps [b h w k d], places near random boxes, the places' weights, and the gradient that comes back."""
    rng = np.random.default_rng(0)
    levels = [rng.normal(size=(pictures, side // s, side // s, HEADS, WIDTH)).astype(np.float32) for s in STRIDES]
    centres, sides = rng.uniform(size=(2, pictures, queries, 1, 1, 2))
    offsets = rng.normal(size=(pictures, queries, HEADS, sum(POINTS), 2)) * sides / 4
    weights = rng.dirichlet(np.ones(sum(POINTS)), (pictures, queries, HEADS))
    gradient = rng.normal(size=(pictures, queries, HEADS, WIDTH))
    arrays = (centres + offsets, weights, gradient)
    return (tuple(map(jnp.asarray, levels)), *(jnp.asarray(array, jnp.float32) for array in arrays))


def corners(level, places):
    """The places' four cells [4 ...] (x, y), and how much each counts; 0 beyond the map's edges."""
    height, width = level.shape[:2]
    sides = jnp.asarray((width, height), jnp.float32)
    first = jnp.floor(places * sides - 0.5)
    share = places * sides - 0.5 - first
    step = jnp.asarray([(0, 0), (1, 0), (0, 1), (1, 1)], jnp.float32).reshape(4, *([1] * (places.ndim - 1)), 2)
    cells, counted = first + step, jnp.where(step == 1, share, 1 - share).prod(-1)
    inside = ((cells >= 0) & (cells < sides)).all(-1)
    return jnp.clip(cells, 0, sides - 1).astype(int), jnp.where(inside, counted, 0.0)


def at_once(levels, places, weights):
    """All corners gathered into one array [4 q k p d] a level."""
    total, start = 0.0, 0
    for level, count in zip(levels, POINTS, strict=True):
        part = slice(start, start + count)
        cells, counted = corners(level, places[:, :, part])
        heads = jnp.arange(HEADS)[:, None]
        gathered = level[cells[..., 1], cells[..., 0], heads]
        total += jnp.einsum("cqkpd,cqkp,qkp->qkd", gathered, counted, weights[:, :, part])
        start += count
    return total


def by_cells(levels, places, weights):
    """The weight of each cell [q k h w] a level, from two hats, times the map."""
    total, start = 0.0, 0
    for level, count in zip(levels, POINTS, strict=True):
        part, (height, width) = slice(start, start + count), level.shape[:2]
        points = places[:, :, part] * jnp.asarray((width, height)) - 0.5
        across = jnp.maximum(0.0, 1 - jnp.abs(points[..., :1] - jnp.arange(width)))
        down = jnp.maximum(0.0, 1 - jnp.abs(points[..., 1:] - jnp.arange(height)))
        cells = jnp.einsum("qkp,qkph,qkpw->qkhw", weights[:, :, part], down, across)
        total += jnp.einsum("qkhw,hwkd->qkd", cells, level)
        start += count
    return total


def entrants(arguments) -> list[Entrant]:
    """The formulations, forward and with gradients for maps, places and weights; they have to agree."""

    def formulation(name: str, function: Callable) -> Entrant:
        def forward(levels, places, weights, _):
            return jax.vmap(function)(levels, places, weights)

        def both(levels, places, weights, gradient):
            out, back = jax.vjp(jax.vmap(function), levels, places, weights)
            return out, back(gradient)

        return ours(name, {"forward": forward, "forward+backward": both}, arguments)

    built = [
        formulation("corner by corner", functools.partial(attend, points=POINTS)),
        formulation("all corners at once", at_once),
        formulation("cells by queries", by_cells),
    ]
    wanted = jax.tree.leaves(built[0].calls["forward+backward"]())
    for entrant in built:
        for got, want in zip(jax.tree.leaves(entrant.calls["forward+backward"]()), wanted, strict=True):
            np.testing.assert_allclose(got, want, atol=2e-2, rtol=1e-3, err_msg=entrant.name)
    return built


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the case, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=640, help="height and width of the pictures in pixels")
    parser.add_argument("--queries", type=int, default=300, help="queries of a picture")
    parser.add_argument("--pictures", type=int, default=8, help="pictures of a batch")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each formulation")
    parser.add_argument("--out", metavar="FILE", help="write the rows as JSON")
    flags = parser.parse_args(argv)
    case = f"{flags.pictures} x {flags.queries} queries, {flags.side} x {flags.side}"
    rows: list[Row] = race(case, entrants(inputs(flags.side, flags.queries, flags.pictures)), flags.rounds)
    print(table(rows))
    if flags.out:
        text = json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1)
        Path(flags.out).write_text(text + "\n")


if __name__ == "__main__":
    main()

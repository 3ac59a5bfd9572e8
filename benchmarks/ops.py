"""Times RoIAlign and non-maximum suppression beside torchvision's compiled kernels, and prints the ratios.

    python benchmarks/ops.py --out ops.json

Every formulation and the peer take turns within one process, so that a busy machine slows all alike; each figure is
a median. Before anything is timed, all of them must agree. Without torchvision only ours are timed.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
from jax import numpy as jnp
from race import Entrant, Row, ours, race, table
from turns import find_peer, machine

from jaxkd.ops.nms import nms, nms_matrix
from jaxkd.ops.roi_align import Pooling, roi_align, roi_align_dense

STRIDES = (4, 8, 16, 32)
PICTURE = (800, 1344)  # height, width: a COCO picture at the size of He et al. 2017, padded to a multiple of 32


def pooling_inputs(regions: int, channels: int):
    """A random pyramid, boxes of all sizes, and the gradient that comes back."""
    rng = np.random.default_rng(0)
    height, width = PICTURE
    pyramid = [rng.normal(size=(-(-height // s), -(-width // s), channels)).astype(np.float32) for s in STRIDES]
    centre = rng.uniform(size=(regions, 2)) * (width, height)
    size = np.exp(rng.uniform(np.log(16), np.log(height), (regions, 2)))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], -1)
    boxes = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
    return pyramid, boxes, rng.normal(size=(regions, 7, 7, channels)).astype(np.float32)


def pooling(peer, *, regions: int, channels: int) -> list[Entrant]:
    """RoIAlign on four levels of one picture, by the rule without the half-pixel shift, which both sides have."""
    pyramid, boxes, gradient = pooling_inputs(regions, channels)
    arguments = (tuple(map(jnp.asarray, pyramid)), jnp.asarray(boxes), jnp.asarray(gradient))

    def formulation(name, function, *, chunk=16):
        pooling = Pooling(aligned=False, chunk=chunk)

        def forward(pyramid, boxes, _):
            return function(pyramid, boxes, strides=STRIDES, pooling=pooling)

        def both(pyramid, boxes, gradient):
            out, back = jax.vjp(lambda levels: forward(levels, boxes, gradient), pyramid)
            return out, back(gradient)[0]

        return ours(name, {"forward": forward, "forward+backward": both}, arguments)

    entrants = [
        formulation("one gather, chunks of 16", roi_align),
        formulation("one gather, no chunks", roi_align, chunk=regions),
        formulation("matrix products over full maps", roi_align_dense),
    ]
    if peer:
        entrants.append(pooling_peer(peer, pyramid, boxes, gradient))
    values = [e.calls["forward+backward"]() for e in entrants]
    for entrant, (out, gradients) in zip(entrants, values, strict=True):
        for got, want in zip((out, *gradients), (values[0][0], *values[0][1]), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-3, err_msg=entrant.name)
    return entrants


def pooling_peer(peer, pyramid, boxes, gradient) -> Entrant:
    """Torchvision's pooler with its kernel, on the same numbers."""
    torch, torchvision = peer
    pooler = torchvision.ops.MultiScaleRoIAlign([str(level) for level in range(len(pyramid))], 7, 2)
    maps = {str(i): torch.from_numpy(x.transpose(2, 0, 1)[None].copy()) for i, x in enumerate(pyramid)}
    leaves = {name: x.clone().requires_grad_() for name, x in maps.items()}
    there, back = torch.from_numpy(boxes), torch.from_numpy(gradient.transpose(0, 3, 1, 2).copy())

    def forward():
        with torch.no_grad():
            return pooler(maps, [there], [PICTURE])

    def both():
        out = pooler(leaves, [there], [PICTURE])
        out.backward(back)
        grads = [leaf.grad[0].numpy().transpose(1, 2, 0) for leaf in leaves.values()]
        for leaf in leaves.values():
            leaf.grad = None
        return out.detach().numpy().transpose(0, 2, 3, 1), grads

    return Entrant("torchvision", {"forward": forward, "forward+backward": both}, {})


def proposals(count: int):
    """Boxes as a region proposal network gives them: clusters round some objects, the best ones tightest."""
    rng = np.random.default_rng(0)
    height, width = PICTURE
    objects = max(count // 20, 1)
    size = np.exp(rng.uniform(np.log(24), np.log(400), (objects, 2)))
    centre = rng.uniform(size=(objects, 2)) * (width, height)
    owner = rng.integers(0, objects, count)
    spread = rng.exponential(0.15, (count, 1))
    centre = centre[owner] + rng.normal(size=(count, 2)) * spread * size[owner]
    size = size[owner] * np.exp(rng.normal(size=(count, 2)) * spread)
    boxes = np.concatenate([centre - size / 2, centre + size / 2], -1)
    boxes = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
    return boxes, (rng.normal(size=count) - 3 * spread[:, 0]).astype(np.float32)


def suppression(peer, *, count: int) -> list[Entrant]:
    """Suppression of `count` proposals at IoU 0.7, sorting included."""
    boxes, scores = proposals(count)
    arguments = (jnp.asarray(boxes), jnp.asarray(scores), jnp.ones(count, bool))

    def formulation(name, function, limit):
        def forward(boxes, scores, valid):
            return function(boxes, scores, valid=valid, threshold=0.7, limit=limit)

        return ours(name, {"forward": forward}, arguments)

    entrants = [
        formulation("tiles of 256", nms, count),
        formulation("tiles of 256, stop at 1000 kept", nms, min(count, 1000)),
        formulation("fixed point on the full matrix", nms_matrix, count),
    ]
    if peer:
        torch, torchvision = peer
        there = torch.from_numpy(boxes), torch.from_numpy(scores)
        entrants.append(Entrant("torchvision", {"forward": lambda: torchvision.ops.nms(*there, 0.7)}, {}))
    want = entrants[2].calls["forward"]()
    for entrant in entrants:
        got = entrant.calls["forward"]()
        kept = np.asarray(got.index)[np.asarray(got.valid)] if hasattr(got, "valid") else got.numpy()
        np.testing.assert_array_equal(kept, np.asarray(want.index)[np.asarray(want.valid)][: len(kept)], entrant.name)
    return entrants


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cases that were asked for, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=("roi_align", "nms"), help="run one of the two ops")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each entrant")
    parser.add_argument("--regions", type=int, default=512, help="boxes to pool")
    parser.add_argument("--channels", type=int, default=256, help="channels of the pyramid")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 2000, 8000], help="proposals to suppress")
    parser.add_argument(
        "--peer-shim", metavar="FILE", help="a Python file whose load_peer() returns torch, torchvision"
    )
    parser.add_argument("--out", metavar="FILE", help="write the rows as JSON")
    flags = parser.parse_args(argv)
    peer = find_peer(flags.peer_shim)
    if peer is None:
        print("torchvision is not installed; timing ours alone.")
    rows: list[Row] = []
    if flags.only != "nms":
        entrants = pooling(peer, regions=flags.regions, channels=flags.channels)
        rows += race(f"RoIAlign {flags.regions} x {flags.channels}", entrants, flags.rounds)
    if flags.only != "roi_align":
        for count in flags.counts:
            rows += race(f"NMS {count}", suppression(peer, count=count), flags.rounds)
    print(table(rows))
    if flags.out:
        Path(flags.out).write_text(
            json.dumps({"machine": machine(), "rows": [asdict(r) for r in rows]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()

"""Kills a taught run at random moments, starts it again, and compares what it ends with to a run that was left alone.

    python benchmarks/faults.py --kills=20 --seed=0 --folder=runs/faults

The run is the shipped blood cells' with both papers' methods, short, and with its prototypes rebuilt at each epoch. As
soon as one run has ended, the next one begins, until so many kills have been made. All arrays of the last checkpoint,
the student's files and every reported number have to be equal bit for bit.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxkd.train import checkpoint, log

STEPS = 60
OVERRIDES = (
    f"--config.train.steps={STEPS}",
    "--config.train.checkpoint_every=5",
    "--config.train.report_every=1",
    "--config.train.evaluate_limit=16",
    "--config.train.teacher_check=0",
    "--config.train.probe_every=0",
    "--config.distill.gkd.start_epoch=0",
    "--config.distill.gkd.refresh_every=1",
)


def main() -> None:
    """Prints one line a kill and one a run; exits with 1 where anything differs."""
    parser = argparse.ArgumentParser(description="Random kills of a taught run.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/faults"))
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    longest = 0.0
    for name in ("first", "whole"):  # the first one compiles
        began = time.monotonic()
        assert _start(options.folder / name).wait() == 0, "A run that is left alone failed."
        longest = time.monotonic() - began
        print(f"left alone: {longest:.0f} s", flush=True)
    draw, kills, runs, differences = random.Random(options.seed), 0, 0, []
    while kills < options.kills:
        runs += 1
        kills += _one_run(options.folder / str(runs), draw, longest, most=options.kills - kills)
        found = unlike(options.folder / str(runs), options.folder / "whole")
        differences += found
        print(f"run {runs} ended after {kills} kills in all: {'; '.join(found) or 'equal bit for bit'}", flush=True)
    print(json.dumps({"kills": kills, "runs": runs, "differences": differences}))
    sys.exit(bool(differences))


def _one_run(workdir: Path, draw: random.Random, longest: float, *, most: int) -> int:
    """Starts a run again and again until it ends; returns how often it was killed."""
    kills = 0
    while True:
        process = _start(workdir)
        try:
            code = process.wait(timeout=draw.uniform(0.05, 0.9) * longest if kills < most else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            lines = [line["step"] for line in log.read(workdir) if "loss" in line]
            print(f"  killed at step {lines[-1] if lines else 0}", flush=True)
            continue
        assert code == 0, f"The run ended with exit code {code}."
        return kills


def _start(workdir: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxkd.cli.main", "train", "--config=bccd:tar+gkd", f"--workdir={workdir}"]
    return subprocess.Popen([*command, "--quiet", *OVERRIDES])


def unlike(workdir: Path, other: Path) -> list[str]:
    """What differs between two finished runs."""
    mine, theirs = _arrays(workdir), _arrays(other)
    found = sorted(set(mine) ^ set(theirs))
    found += [name for name in sorted(set(mine) & set(theirs)) if not np.array_equal(mine[name], theirs[name])]
    for name in ("weights.safetensors", "detector.json"):
        if (workdir / "student" / name).read_bytes() != (other / "student" / name).read_bytes():
            found.append(name)
    if _numbers(workdir) != _numbers(other):
        found.append("metrics.jsonl")
    return found


def _arrays(workdir: Path) -> dict[str, np.ndarray]:
    about = checkpoint.newest(workdir / "checkpoints")
    assert about is not None and about.step == STEPS
    with ocp.PyTreeCheckpointer() as reader:
        found = reader.restore((workdir / "checkpoints" / str(STEPS)).absolute())
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(found)}


def _numbers(workdir: Path) -> list[dict]:
    times = {"step_seconds", "data_wait_share", "refresh_seconds"}
    return [{key: line[key] for key in line.keys() - times} for line in log.read(workdir)]


if __name__ == "__main__":
    main()

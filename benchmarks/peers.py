"""Times our detectors beside torchvision's in one run: training step, inference, RoIAlign, NMS and a taught step.

    python benchmarks/peers.py --out peers.json --markdown peers.md

Both sides have the same random weights, pictures, precision, frozen norms and numbers of proposals, and take turns
within one process; medians are shown. No class scores enough to be detected, which spares the peer its last
suppression, and ours not. Cases run in order of importance; what is not installed, does not fit into memory or no
longer fits into the time is listed as left out.
"""

import argparse
import gc
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the peer shares the device

import jax
import numpy as np
import our_side
from peers_table import Case, Row, label, line, table
from turns import alternated, find_peer, machine, medians, resident

from jaxkd.ops.nms import nms
from jaxkd.ops.roi_align import Pooling, roi_align_batch

CASES = ("train", "infer", "taught", "roi_align", "nms")
DETECTORS = ("faster_rcnn", "retinanet")
STRIDES = (4, 8, 16, 32)
OBJECTS = 8  # a picture
REGIONS, PROPOSALS = 512, 2000  # a picture: RoIAlign's boxes, and those that NMS is given


@dataclass(frozen=True)
class Entrant:
    """One side of a case."""

    call: Callable[[], Any]
    planned: float | None = None
    peak: Callable[[Callable], float | None] = resident


class LeftOut(Exception):
    """Why an entrant or a case is not timed."""


def cases(flags: argparse.Namespace) -> Iterator[Case]:
    """In order of importance: by batch and size, then by what is done, then lower precision first."""
    for batch in flags.batches:
        for size in flags.sizes:
            for what in flags.cases:
                for precision in flags.precisions:
                    names = flags.detectors if what in ("train", "infer", "taught") else [""]
                    yield from (Case(what, name, precision, batch, size) for name in names)


def scene(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures [b h w 3] of noise in blocks, boxes [b g 4] and labels [b g]."""
    draw = np.random.default_rng(0)
    height, width = case.size
    coarse = draw.integers(0, 256, (case.batch, -(-height // 8), -(-width // 8), 3), np.uint8)
    images = np.ascontiguousarray(coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width])
    boxes = _boxes(draw, (case.batch, OBJECTS), case.size)
    return images, boxes, draw.integers(0, len(our_side.CLASSES), (case.batch, OBJECTS))


def _boxes(draw: np.random.Generator, shape: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """Boxes of all sizes inside a picture, uniform in the logarithm of their side."""
    height, width = size
    centre = draw.uniform(size=(*shape, 2)) * (width, height)
    side = np.exp(draw.uniform(np.log(16), np.log(height), (*shape, 2)))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], -1)
    return np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)


def detection(case: Case, peer: Any, flags: argparse.Namespace) -> tuple[dict[str, Entrant], dict[str, Any]]:
    """Both sides of a training step or of inference, and how far their first results agree."""
    images, boxes, labels = scene(case)
    theirs = None
    if peer:
        from torch_side import TorchSide

        theirs = TorchSide(peer, case.detector, device="cuda" if peer[0].cuda.is_available() else "cpu")
    dtype = "bfloat16" if case.precision == "mixed" else "float32"
    found = our_side.detector(case.detector, dtype=dtype, tiny=flags.tiny)
    params = our_side.params_of(found, theirs.arrays() if theirs else None)
    batch = our_side.batch_of(images, boxes, labels)
    run = our_side.train if case.what == "train" else our_side.infer
    program = run(found, params, batch)
    _check_fits(program)
    entrants, notes = {"jaxkd": Entrant(program.call, program.megabytes)}, {}
    results = {"jaxkd": _summary(program.call())}
    for compiled in (False, True)[: 1 + flags.compile] if theirs else ():
        name = "torchvision, backbone compiled" if compiled else "torchvision"
        options = {"mixed": case.precision == "mixed", "compiled": compiled}
        try:
            assert theirs is not None
            if case.what == "train":
                call = theirs.train(images, boxes, labels, **options)
            else:
                call = theirs.infer(images, **options)
            results[name] = _summary(call())
        except Exception as error:  # torch.compile fails in many ways
            notes[name] = f"left out: {_reason(error)}"
            continue
        entrants[name] = Entrant(call, peak=theirs.peak if theirs.device == "cuda" else resident)
    return entrants, notes | {"first loss" if case.what == "train" else "detections": results}


def taught(case: Case, peer: Any, flags: argparse.Namespace) -> tuple[dict[str, Entrant], dict[str, Any]]:
    """A step taught by a ResNet-101, the student's step alone, and the teacher's part of it; all three are ours."""
    del peer
    dtype = "bfloat16" if case.precision == "mixed" else "float32"
    student = our_side.detector(case.detector, dtype=dtype, tiny=flags.tiny)
    guide = our_side.detector(case.detector, depth=101, dtype=dtype, tiny=flags.tiny)
    params, batch = our_side.params_of(student, None), our_side.batch_of(*scene(case))
    pair = guide, our_side.params_of(guide, None)
    programs = {
        "jaxkd": our_side.train(student, params, batch, taught_by=pair),
        "student's step": our_side.train(student, params, batch),
        "teacher's forward pass": our_side.teacher(student, pair, batch),
    }
    _check_fits(programs["jaxkd"])
    return {name: Entrant(one.call, one.megabytes) for name, one in programs.items()}, {}


def pooling(case: Case, peer: Any, flags: argparse.Namespace) -> tuple[dict[str, Entrant], dict[str, Any]]:
    """RoIAlign on four levels of 256 channels, forward and backward, by the rule without the half-pixel shift."""
    draw = np.random.default_rng(0)
    height, width = case.size
    shapes = [(case.batch, -(-height // s), -(-width // s), 16 if flags.tiny else 256) for s in STRIDES]
    levels = [draw.normal(size=shape).astype(np.float32) for shape in shapes]
    boxes = _boxes(draw, (case.batch, REGIONS), case.size)
    gradient = draw.normal(size=(case.batch, REGIONS, 7, 7, shapes[0][-1])).astype(np.float32)
    dtype = "bfloat16" if case.precision == "mixed" else "float32"

    def ours(levels, boxes, gradient):
        pooling = Pooling(aligned=False)
        out, back = jax.vjp(lambda maps: roi_align_batch(maps, boxes, strides=STRIDES, pooling=pooling), levels)
        return out, back(gradient)[0]

    narrow = [jax.numpy.asarray(x, dtype) for x in (*levels, gradient)]
    program = our_side.of_function(ours, tuple(narrow[:-1]), jax.numpy.asarray(boxes), narrow[-1])
    entrants = {"jaxkd": Entrant(program.call, program.megabytes)}
    if peer:
        torch, torchvision = peer
        device = "cuda" if torch.cuda.is_available() else "cpu"
        kind = torch.bfloat16 if device == "cuda" and case.precision == "mixed" else torch.float32
        maps = {
            str(i): torch.from_numpy(x).permute(0, 3, 1, 2).to(device, kind).contiguous().requires_grad_()
            for i, x in enumerate(levels)
        }
        back = torch.from_numpy(gradient).flatten(0, 1).permute(0, 3, 1, 2).to(device, torch.float32).contiguous()
        there, pooler = list(torch.from_numpy(boxes).to(device)), torchvision.ops.MultiScaleRoIAlign([*maps], 7, 2)

        def call():
            with torch.autocast(device, dtype=torch.bfloat16, enabled=case.precision == "mixed"):
                out = pooler(maps, there, [case.size] * case.batch)
            out.backward(back.to(out.dtype))
            for level in maps.values():
                level.grad = None
            return _wait(torch, device)

        entrants["torchvision"] = Entrant(call, peak=_torch_peak(torch, device))
    return entrants, {}


def suppression(case: Case, peer: Any, flags: argparse.Namespace) -> tuple[dict[str, Entrant], dict[str, Any]]:
    """Suppression at IoU 0.7 of the best proposals of each of five levels, level by level; 1000 are kept at most."""
    del flags
    if case.precision == "mixed":
        raise LeftOut("boxes are float32 on both sides")
    draw = np.random.default_rng(0)
    boxes = _boxes(draw, (case.batch, 5 * PROPOSALS), case.size)
    scores = draw.normal(size=boxes.shape[:2]).astype(np.float32)
    level = np.tile(np.repeat(np.arange(5, dtype=np.int32), PROPOSALS), (case.batch, 1))

    def ours(boxes, scores, level):
        def one(boxes, scores, level):
            valid = jax.numpy.ones(len(scores), bool)
            return nms(boxes, scores, valid=valid, threshold=0.7, limit=1000, classes=level)

        return jax.vmap(one)(boxes, scores, level)

    program = our_side.of_function(ours, *map(jax.numpy.asarray, (boxes, scores, level)))
    entrants = {"jaxkd": Entrant(program.call, program.megabytes)}
    if peer:
        torch, torchvision = peer
        device = "cuda" if torch.cuda.is_available() else "cpu"
        there = [torch.from_numpy(x).to(device) for x in (boxes, scores, level)]

        def call():
            kept = [torchvision.ops.batched_nms(*one, 0.7)[:1000] for one in zip(*there, strict=True)]
            _wait(torch, device)
            return kept

        for mine, own in zip(jax.device_get(program.call().index), call(), strict=True):
            if not np.array_equal(mine[: len(own)], own.cpu().numpy()):
                raise LeftOut("the two sides do not keep the same boxes")
        entrants["torchvision"] = Entrant(call, peak=_torch_peak(torch, device))
    return entrants, {}


def measure(case: Case, peer: Any, flags: argparse.Namespace) -> Row:
    """The case's row; raises LeftOut where it does not fit into memory."""
    prepare = {"train": detection, "infer": detection, "taught": taught, "roi_align": pooling, "nms": suppression}
    try:
        entrants, notes = prepare[case.what](case, peer, flags)
        calls = {name: entrant.call for name, entrant in entrants.items()}
        clock = time.process_time if flags.one_core else time.perf_counter
        taken = alternated(calls, rounds=flags.rounds, warm_up=1, seconds=flags.case_seconds, clock=clock)
        times = medians(taken)
        peaks = {name: entrant.peak(entrant.call) for name, entrant in entrants.items()}
    except (jax.errors.JaxRuntimeError, RuntimeError, MemoryError) as error:
        if "out of memory" not in str(error).lower() and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise LeftOut(f"does not fit into memory: {_reason(error)}") from error
    if jax.default_backend() != "cpu":
        peaks.pop("jaxkd", None)  # jax's allocator counts since the process began
    if case.what == "taught":
        both = times["student's step"] + times["teacher's forward pass"]
        notes["taught over student and teacher"] = times["jaxkd"] / both
    return Row(
        case=case,
        milliseconds={name: value * 1e3 for name, value in times.items()},
        over_ours={name: value / times["jaxkd"] for name, value in times.items()},
        planned_megabytes={name: one.planned for name, one in entrants.items() if one.planned is not None},
        peak_megabytes={name: value for name, value in peaks.items() if value is not None},
        notes=notes,
    )


def _check_fits(program: our_side.Program) -> None:
    """Raises LeftOut where a CPU's memory does not hold the plan: there the system would end the process."""
    if jax.default_backend() != "cpu" or program.megabytes is None:
        return
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024 / 1e6
    if program.megabytes > 0.9 * free:
        raise LeftOut(f"does not fit into memory: {program.megabytes:.0f} MB are planned, {free:.0f} are free")


def _summary(result: Any) -> float:
    """One number by which two sides can be compared: a loss, or how many detections there are."""
    return result if isinstance(result, float) else float(sum(map(len, result)))


def _torch_peak(torch: Any, device: str) -> Callable[[Callable], float | None]:
    def peak(call: Callable) -> float:
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() / 1e6

    return peak if device == "cuda" else resident


def _wait(torch: Any, device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:150]}" if str(error).strip() else repr(error)


def run_all(flags: argparse.Namespace, peer: Any) -> tuple[list[Row], dict[str, str]]:
    """The rows, and why each other case was left out."""
    rows, left_out = [], {}
    start, longest = time.perf_counter(), {}
    for case in cases(flags):
        name = label(case)
        begin = time.perf_counter()
        if begin - start + longest.get(case.what, 0.0) > flags.minutes * 60:
            left_out[name] = f"no time left of {flags.minutes:g} minutes"
            continue
        try:
            rows.append(measure(case, peer, flags))
            print(line(rows[-1]), flush=True)
        except LeftOut as error:
            left_out[name] = str(error)
            print(f"{name}: left out, {error}", flush=True)
        except Exception as error:  # the other cases still count
            traceback.print_exc()
            left_out[name] = f"failed: {_reason(error)}"
        save(flags, rows, left_out)
        longest[case.what] = max(longest.get(case.what, 0.0), time.perf_counter() - begin)
        gc.collect()
        jax.clear_caches()
        if peer and peer[0].cuda.is_available():
            peer[0].cuda.empty_cache()
    return rows, left_out


def save(flags: argparse.Namespace, rows: Sequence[Row], left_out: dict[str, str]) -> str:
    """Writes the files that were asked for, and returns the table."""
    about = machine() | ({"clock": "processor time of one core"} if flags.one_core else {})
    text = table(rows, left_out, about)
    if flags.markdown:
        flags.markdown.write_text(text)
    if flags.out:
        out = {"machine": about, "rows": [asdict(row) for row in rows], "left_out": left_out}
        flags.out.write_text(json.dumps(out, indent=1) + "\n")
    return text


def _size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags, with defaults that suit the device; it is looked for on one core if that is asked for."""
    one_core = argparse.ArgumentParser(add_help=False)
    one_core.add_argument(
        "--one-core", action="store_true", help="processor time of one core, for a machine that others use as well"
    )
    if one_core.parse_known_args(argv)[0].one_core:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    gpu = jax.default_backend() != "cpu"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], parents=[one_core])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="in order of importance")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=list(DETECTORS))
    parser.add_argument("--sizes", nargs="+", type=_size, default=[(800, 1344) if gpu else (512, 512)])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 2, 16, 1] if gpu else [2, 1])
    precisions = ["mixed", "float32"] if gpu else ["float32"]
    parser.add_argument("--precisions", nargs="+", choices=("mixed", "float32"), default=precisions)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=gpu, help="torch.compile as well")
    parser.add_argument("--rounds", type=int, default=15 if gpu else 5, help="turns of each entrant")
    parser.add_argument(
        "--case-seconds", type=float, default=15 if gpu else 120, help="of rounds; three are always run"
    )
    parser.add_argument("--minutes", type=float, default=8, help="after which no further case is begun")
    parser.add_argument("--tiny", action="store_true", help="small nets of ours alone, to try the program out")
    parser.add_argument("--cache", metavar="FOLDER", help="keep XLA's compiled programs here")
    parser.add_argument(
        "--peer-shim", metavar="FILE", help="a Python file whose load_peer() returns torch, torchvision"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the cases that were asked for, prints the table and writes the files."""
    flags = parse(argv)
    if flags.cache:
        jax.config.update("jax_compilation_cache_dir", flags.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
    peer = None if flags.tiny else find_peer(flags.peer_shim)
    if peer and flags.one_core:
        peer[0].set_num_threads(1)
    rows, left_out = run_all(flags, peer)
    if peer is None:
        left_out["torchvision"] = "not asked for" if flags.tiny else "not installed"
    print("\n" + save(flags, rows, left_out))


if __name__ == "__main__":
    main()

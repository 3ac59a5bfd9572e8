"""Pictures a second that one core reads for training, beside bare OpenCV, which decodes and resizes the same files.

    python benchmarks/input.py [--images=FOLDER --annotations=FILE] [--out=input.json]

Time is the processor's, of all threads together, so other work on the machine hardly changes it; all rows take turns
and medians are shown. Without a folder the pictures that come with the package are read.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from turns import machine

from jaxkd import paths
from jaxkd.data import coco, loader, pictures, transforms
from jaxkd.data.base import Source
from jaxkd.data.transforms import Sample

LIMIT, WHOLE = "limit: OpenCV decodes and resizes", "batches of the training run"
NO_BOXES = np.zeros((0, 4), np.float32)


def measure(source: Source, folder: Path, config: loader.Config, *, batch: int, rounds: int) -> dict:
    """Milliseconds of processor time a picture, by what is done; the stages of ours are on their own."""
    files = [folder / record.file for record in source.records]
    contents = [file.read_bytes() for file in files]
    images = [pictures.read(file) for file in files]
    chosen = [_target(image, config) for image in images]
    resized = [cv2.resize(image, (width, height)) for image, (_, (height, width)) in zip(images, chosen, strict=True)]
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION

    def limit():
        for content, (_, (height, width)) in zip(contents, chosen, strict=True):
            image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
            assert image is not None
            cv2.resize(image, (width, height))

    def read():
        for file in files:
            pictures.read(file)

    def resize():
        for image, (_, (height, width)) in zip(images, chosen, strict=True):
            transforms.resize(Sample(image, NO_BOXES), height=height, width=width)

    def flip():
        for image in resized:
            transforms.flip(Sample(image, NO_BOXES))

    def pad():
        for image, (bucket, _) in zip(resized, chosen, strict=True):
            transforms.pad(image, bucket=bucket)

    steps = len(files) // batch

    def whole():
        with_threads = loader.train_batches(source, config, seed=0, steps=steps, batch=batch)
        for _ in range(steps):
            next(with_threads)
        with_threads.close()

    stages = {LIMIT: limit, "read and decode": read, "resize": resize, "flip": flip, "pad": pad}
    seconds = _in_turns({**stages, WHOLE: whole}, rounds)
    counts = dict.fromkeys(stages, len(files)) | {WHOLE: steps * batch}
    return {name: statistics.median(times) / counts[name] * 1e3 for name, times in seconds.items()}


def _target(image: np.ndarray, config: loader.Config) -> tuple[tuple[int, int], tuple[int, int]]:
    """A picture's bucket and its size in it."""
    size = transforms.target_size(*image.shape[:2], short=max(config.short), long=config.long)
    bucket = config.buckets[transforms.choose_bucket(*size, config.buckets)]
    return bucket, transforms.fit_size(*size, bucket=bucket)


def _in_turns(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time of each call in each round, after one to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-1, rounds):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            if turn >= 0:
                taken[name].append(time.process_time() - begin)
    return taken


def table(milliseconds: dict[str, float]) -> str:
    """The figures as Markdown."""
    least = milliseconds[LIMIT]
    lines = ["| what | ms a picture | pictures/s a core | over the limit |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {name} | {ms:.2f} | {1e3 / ms:.0f} | {ms / least:.2f}x |" for name, ms in milliseconds.items()]
    speed = 1e3 / milliseconds[WHOLE]
    cores = ", ".join(f"{cores} cores {cores * speed:.0f}" for cores in (1, 2, 4, 8, 16))
    return "\n".join([*lines, "", f"Pictures a second that cores feed, where nothing else runs on them: {cores}."])


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes JSON where --out is given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", default="assets:bccd/images", help="folder of pictures")
    parser.add_argument("--annotations", default="assets:bccd/train.json", help="COCO file that describes them")
    parser.add_argument("--limit", type=int, default=64, help="pictures to read, the first of the file")
    parser.add_argument("--short", type=int, default=800)
    parser.add_argument("--long", type=int, default=1333)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, metavar="FILE")
    flags = parser.parse_args(argv)
    cv2.setNumThreads(1)  # a core each; the loader reads several pictures at once
    described = coco.Config(images=flags.images, annotations=flags.annotations, limit=flags.limit)
    source = coco.load(described)
    tall = -(-flags.short // 32) * 32, -(-flags.long // 32) * 32
    config = loader.Config(buckets=(tall, tall[::-1]), short=(flags.short,), long=flags.long, threads=flags.threads)
    folder = paths.path_of(flags.images)
    result = measure(source, folder, config, batch=flags.batch, rounds=flags.rounds)
    about = machine()
    print(f"{len(source.records)} pictures to {flags.short}/{flags.long} on {about['processor']}\n\n{table(result)}")
    if flags.out:
        flags.out.write_text(json.dumps({"machine": about, "milliseconds": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()

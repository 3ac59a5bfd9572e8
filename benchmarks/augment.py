"""Milliseconds that each transform of a training picture takes on one thread, and what reading adds to a mosaic.

    python benchmarks/augment.py [--side=320] [--images=FOLDER --annotations=FILE]

All transforms take turns and medians of the processor's time are shown. Without a folder the pictures that come with
the package are read; each is resized to `side` on its long side, as the working size.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from turns import alternated, machine

from jaxkd.data import coco, crops, cutout, loader, mosaic, paste
from jaxkd.data.augment import Augmenter, Config, Request, draw
from jaxkd.data.base import Source
from jaxkd.data.colour import adjust
from jaxkd.data.crops import Window
from jaxkd.data.reader import Reader

REPEATS = 20  # calls in a turn
ALL = Config(scale=(0.5, 1.5), crop=0.3, mosaic=0.5, paste=0.3, colour=0.8, hue=6.0, cutout=0.2)


def transforms_of(source: Source, config: loader.Config) -> dict[str, Callable[[], Any]]:
    """Calls that each do one thing to one picture; those after "whole" read it too."""
    reader = Reader(source, config, short=config.short[0], skip_limit=0.0)
    cached = Reader(source, config, short=config.short[0], skip_limit=0.0, cache=True)
    originals = [cached.original(index)[1] for index in range(len(source.records))]
    bucket = int(reader.bucket_of[0])
    canvas = config.buckets[bucket]
    working = [config.working_size(*one.size, bucket=bucket, short=config.short[0]) for one in originals]
    first, size = originals[0], working[0]
    small = first.resized(*size)
    rng = np.random.default_rng(0)
    tall, wide = (int(side / 1.2) for side in first.size)
    objects = first.sample.boxes[~first.crowd]
    patch = paste.cut_out(originals[1], int(originals[1].labels[0]), 0.0, scale=(0.5, 0.5))
    assert patch is not None
    bare = small.selected(np.zeros(len(small.labels), bool))
    floats = [(float(height), float(width)) for height, width in working[:4]]

    def row(read: Callable, settings: Config) -> Callable[[], Any]:
        augmenter = Augmenter(source.records, config, read)
        return lambda: augmenter(
            Request(int(rng.integers(len(source.records))), bucket, config.short[0], False, settings, draw(rng))
        )

    return {
        "read and decode": lambda: source.read(0),
        "resize": lambda: first.resized(*size),
        "flip": small.flipped,
        "random numbers": lambda: draw(rng),
        "scale (crop and resize)": lambda: crops.crop(first, Window(5, 5, tall, wide), size=size),
        "window of a crop": lambda: crops.overlapping(first.size, objects, rng.random(crops.NUMBERS)),
        "colour": lambda: adjust(small.sample.image, brightness=9.0, contrast=1.2, saturation=0.8, hue=4.0),
        "mosaic of 4 decoded": lambda: mosaic.mosaic(
            originals[:4], rng.random(mosaic.NUMBERS), working=floats, canvas=canvas
        ),
        "paste": lambda: paste.paste(bare, patch, rng.random((paste.TRIES, 2))),
        "cutout": lambda: cutout.cutout(small, rng.random(cutout.NUMBERS)),
        "whole, all on, cached": row(cached.original, ALL),
        "whole, all on, read": row(reader.original, ALL),
        "whole, all off, read": lambda: reader.resized(int(rng.integers(len(originals))), bucket=bucket, short=size[0]),
    }


def repeated(call: Callable[[], Any]) -> Callable[[], None]:
    """A call that does the same several times."""

    def several() -> None:
        for _ in range(REPEATS):
            call()

    return several


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", default="assets:bccd/images", help="folder of pictures")
    parser.add_argument("--annotations", default="assets:bccd/train.json", help="COCO file that describes them")
    parser.add_argument("--limit", type=int, default=32, help="pictures to read, the first of the file")
    parser.add_argument("--side", type=int, default=320, help="long side of the working size")
    parser.add_argument("--rounds", type=int, default=9)
    flags = parser.parse_args(argv)
    cv2.setNumThreads(1)  # a core each; the loader reads several pictures at once
    source = coco.load(coco.Config(images=flags.images, annotations=flags.annotations, limit=flags.limit))
    side = flags.side
    config = loader.Config(buckets=((side, side),), short=(side,), long=side)
    calls = {name: repeated(call) for name, call in transforms_of(source, config).items()}
    taken = alternated(calls, rounds=flags.rounds, clock=time.process_time)
    height, width = source.records[0].height, source.records[0].width
    print(f"Pictures of {height}x{width} on a canvas of {side}x{side}, {machine()['processor']}\n")
    print("| what | ms a picture |\n| --- | ---: |")
    for name, seconds in taken.items():
        print(f"| {name} | {np.median(seconds) / REPEATS * 1e3:.2f} |")


if __name__ == "__main__":
    main()

"""What published backbone weights are worth: one student from them and from random numbers, on a COCO-style folder.

    python benchmarks/pretrained.py --data=aquarium --weights=mobilenetv2_features.npz --seeds=0,1 --out=runs/pretrained

The folder holds train/, val/ and annotations/instances_{train,val}.json. Faster R-CNN with MobileNetV2, all of it
trained.
"""

import argparse
from pathlib import Path

from ml_collections import ConfigDict

from jaxkd.config import component, load_recipe
from jaxkd.train import loop


def main() -> None:
    """Trains what --seeds asks for and prints AP of each."""
    parser = argparse.ArgumentParser(description="A student from published weights and from random numbers.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained"))
    options = parser.parse_args()
    for seed in map(int, options.seeds.split(",")):
        for name, weights in (("published", options.weights), ("random", "")):
            found = loop.run(recipe(options.data, weights, seed), options.out / f"{name}_{seed}", quiet=True)
            print(f"{name}, seed {seed}: AP {100 * found.evaluation.scores.summary['AP']:.1f}", flush=True)


def recipe(data: Path, weights: str, seed: int) -> ConfigDict:
    """600 steps of 4 pictures of at most 192 x 256."""
    config = load_recipe("bccd_teacher", "")
    with config.unlocked():
        for split in ("train", "val"):
            annotations = data / "annotations" / f"instances_{split}.json"
            config.data[split] = component("data.coco", images=str(data / split), annotations=str(annotations))
        config.data.loader = component(
            "data.loader", buckets=((192, 256), (256, 192)), short=(192,), long=256, max_objects=60
        )
        config.optimizer = component(
            "train.optimizer",
            kind="adamw",
            learning_rate=0.001,
            weight_decay=0.05,
            warmup_steps=50,
            schedule="cosine",
            clip_norm=10.0,
        )
        config.train = component(
            "train.loop", batch=4, steps=600, report_every=100, evaluate_batch=8, checkpoint_every=0, seed=seed
        )
    config.initial = weights
    config.student.frozen_stages, config.student.anchors.sizes = -1, (16.0, 32.0, 64.0, 128.0)
    return config


if __name__ == "__main__":
    main()

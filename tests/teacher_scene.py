"""Three teachers of drawn pictures in one recipe: a detector, a foundation backbone and a file of detections."""

import json

import jax
import tiny
import vit_scene

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data import shapes
from jaxkd.loading import build
from jaxkd.weights import read

TAR = component("distill.task_adaptive", adapter={"init": "lecun"})
GKD = component("distill.global_knowledge", start_epoch=0, prototypes={"count": 4, "min_side": 4.0, "method": "random"})
LARGER = {"size": (96, 144), "resample": "bilinear"}
SQUARE = {"size": (96, 96), "fit": "stretch", "resample": "bilinear"}


def files(folder):
    """Paths of a detector, a foundation backbone and a file of detections with scores of all classes."""
    config = tiny.detector(width=12, channels=24)
    large = build.detector(config, shapes.CLASSES)
    build.save(
        folder / "large", large.init(jax.random.key(3)), config=config, classes=shapes.CLASSES, scores={}, sizes={}
    )
    plain = vit_scene.weights(patch=16, registers=2, rotary=True)
    read.save(folder / "dino.safetensors", vit_scene.named(plain, "hf3"))
    source = shapes.load(configs.build(tiny.run().data.train))
    found = [
        {"image_id": record.image_id, "category_id": source.category_ids[label], "score": 0.8,
         "scores": [0.7 if other == label else 0.1 for other in range(len(source.classes))],
         "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]}
        for record in source.records
        for box, label in zip(record.boxes, record.labels.tolist(), strict=True)
    ]  # fmt: skip
    (folder / "web.json").write_text(json.dumps(found))
    return {
        name: str(folder / file)
        for name, file in (("large", "large"), ("dino", "dino.safetensors"), ("web", "web.json"))
    }


def recipe(teachers, steps=4, **parts):
    three = {
        "large": {"path": teachers["large"], "distill": {"tar": TAR, "gkd": GKD}, "view": LARGER},
        "dino": {"path": teachers["dino"], "distill": {"align": component("distill.align")}, "view": SQUARE},
        "web": {
            "path": teachers["web"],
            "distill": {"detections": component("distill.detections", box={"gate": "none"})},
        },
    }
    return tiny.run(steps=steps, train={"checkpoint_every": 2}, **({"teachers": three} | parts))

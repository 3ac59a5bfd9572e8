"""A comparison of three made-up detectors on drawn shapes: two runs with curves, and their teacher."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from jaxkd.comparison.records import BATCHES, SCORE, ComparedDetector, Comparison, Curves, Gains, Series
from jaxkd.data import shapes
from jaxkd.evaluation import bootstrap, coco, errors, matches
from jaxkd.evaluation.cost import Cost


def source(count: int = 12, *, classes: Sequence[str] = ()):
    """Drawn pictures; with other `classes` the objects are of these in turn."""
    drawn = shapes.load(shapes.Config(count=count, size=(48, 64)))
    return RelabelledShapes(drawn, tuple(classes)) if classes else drawn


class RelabelledShapes:
    """Drawn pictures whose objects are said to be of other classes."""

    def __init__(self, drawn, classes: tuple[str, ...]):
        self.classes, self.category_ids, self.repairs = classes, tuple(range(1, len(classes) + 1)), {}
        self.read, self._truth = drawn.read, drawn.annotations()
        turns = itertools.cycle(range(len(classes)))
        labels = [np.array([next(turns) for _ in record.labels], np.int32) for record in drawn.records]
        self.records = tuple(
            dataclasses.replace(record, labels=own) for record, own in zip(drawn.records, labels, strict=True)
        )

    def annotations(self) -> dict:
        numbers = itertools.chain.from_iterable(1 + record.labels for record in self.records)
        objects = [
            item | {"category_id": int(number)}
            for item, number in zip(self._truth["annotations"], numbers, strict=True)
        ]
        names = [{"id": number, "name": name} for number, name in enumerate(self.classes, start=1)]
        return self._truth | {"annotations": objects, "categories": names}


def detections(truth: dict, *, noise: float, seed: int = 0) -> list[dict]:
    """The truth with boxes pushed about, some of another class, and some more of them."""
    draw = np.random.default_rng(seed)
    numbers = [category["id"] for category in truth["categories"]]
    found = []
    for item in truth["annotations"]:
        x, y, width, height = item["bbox"]
        moved = draw.normal(0, noise, 2) * [width, height]
        category = item["category_id"] if draw.random() > noise else int(draw.choice(numbers))
        about = {"image_id": item["image_id"], "category_id": category}
        found.append(
            about | {"bbox": [x + moved[0], y + moved[1], width, height], "score": float(draw.uniform(0.3, 1))}
        )
        if draw.random() < noise:
            found.append(about | {"bbox": [0.0, 0.0, 9.0, 9.0], "score": 0.7})
    return found


def curves(*, taught: bool, evaluations: int) -> Curves:
    steps = tuple(range(100, 1100, 100))
    fall = Series(steps, tuple(2.0 / step for step in steps))
    level = Series(steps, (0.5,) * len(steps))
    reported = {"loss": Series(steps, tuple(900.0 / step for step in steps)), "box": fall, "class": level}
    reported |= {"gradient_norm": level, "step_seconds": Series(steps, (0.2 if taught else 0.1,) * len(steps))}
    if taught:
        reported |= {"tar/decay": fall, "tar/box_gate": level, "tar/feature_16": fall, "tar/feature_4": fall}
        probed = steps[1::2]
        reported |= {"gradient_ratio/tar/feature": Series(probed, tuple(600.0 / step for step in probed))}
    scored = Series(steps[-evaluations:], (0.4,) * evaluations)
    return Curves(steps=1000, reported=reported, scores={"AP": scored})


def comparison(
    *, evaluations: int = 3, names=("alone", "taught", "teacher"), noises=(0.3, 0.15, 0.05), data=None
) -> Comparison:
    """Detectors of which the second is taught and the last the teacher; all others are runs alone."""
    truth = (data or source()).annotations()
    drawn = bootstrap.draws(len(truth["images"]), resamples=50, seed=0)
    detectors, first = [], None
    for place, (name, noise) in enumerate(zip(names, noises, strict=True)):
        found = detections(truth, noise=noise)
        matched = matches.match(truth, found)
        resampled = bootstrap.resampled(matched, drawn)
        first = first or resampled
        role = "taught" if place == 1 else "teacher" if place and place == len(names) - 1 else "alone"
        cost = {batch: Cost(150_000, 0.07, 5.0 * batch, 6.0 * batch, batch) for batch in BATCHES}
        detectors.append(
            ComparedDetector(
                name=name,
                folder=f"runs/{name}",
                role=role,
                methods=("tar",) if place == 1 else (),
                sizes="48 to 64",
                scores=coco.score(truth, found),
                voc=None,
                costs=cost,
                errors=errors.analyse(truth, found),
                confident_errors=errors.analyse(truth, found, least=SCORE),
                confusion=errors.confusion(truth, found, score=SCORE),
                quality=matches.quality(matched, least=SCORE),
                gains=Gains(*bootstrap.intervals(resampled, first)) if place else None,
                curves=curves(taught=place == 1, evaluations=evaluations) if role != "teacher" else None,
                results=found,
            )
        )
    objects = {
        category["name"]: sum(item["category_id"] == category["id"] for item in truth["annotations"])
        for category in truth["categories"]
    }
    return Comparison(
        detectors=tuple(detectors),
        focus=names[1],
        images=tuple(image["id"] for image in truth["images"]),
        objects=objects,
        sizes={"small": sum(objects.values()), "medium": 0, "large": 0},
        resamples=50,
        seed=0,
        machine="a machine",
        remarks=(),
    )


def changed(one: Comparison, name: str, /, **values) -> Comparison:
    """The comparison with other values for one of its detectors."""
    detectors = [dataclasses.replace(each, **values) if each.name == name else each for each in one.detectors]
    return dataclasses.replace(one, detectors=tuple(detectors))

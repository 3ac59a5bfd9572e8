"""Sources of records alone, with objects of chosen sides."""

import numpy as np

from jaxkd.data.base import Record
from jaxkd.data.repairs import Repairs


def record(boxes, *, labels=None, crowd=None, size=(480, 640), index=0):
    count = len(boxes)
    return Record(
        index=index,
        image_id=index,
        file=f"{index}.jpg",
        height=size[0],
        width=size[1],
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.zeros(count, np.int32) if labels is None else np.array(labels, np.int32),
        crowd=np.zeros(count, bool) if crowd is None else np.array(crowd, bool),
    )


class Drawn:
    """A source whose pictures nobody reads."""

    def __init__(self, records, *, classes=("cell", "speck")):
        self.records, self.classes = tuple(records), classes
        self.category_ids = tuple(range(1, 1 + len(classes)))
        self.repairs = Repairs("drawn")

    def read(self, index):
        raise AssertionError("Nothing derived needs a picture.")

    def annotations(self):
        return {"images": [], "annotations": [], "categories": []}


def scattered(pictures, *, sides, size=(480, 640), each=10, rare=0.0, rare_side=20.0, seed=0):
    """Pictures with objects of sides drawn log-uniformly from a range, some of them small ones of a rare class."""
    draw, records = np.random.default_rng(seed), []
    for index in range(pictures):
        labels = (draw.random(each) < rare).astype(np.int32)
        side = np.exp(draw.uniform(*np.log(sides), each))
        side = np.where(labels == 1, rare_side * draw.uniform(0.9, 1.1, each), side)
        shape = side[:, None] * np.exp(draw.uniform(-0.3, 0.3, each))[:, None] ** np.array([1, -1])
        corner = draw.uniform(0, np.maximum(np.array(size[::-1]) - shape, 1e-3))
        boxes = np.concatenate([corner, np.minimum(corner + shape, size[::-1])], 1)
        records.append(record(boxes, labels=labels, size=size, index=index))
    return Drawn(records)

"""A data source of one's own, as a recipe names it: drawn pictures, landscape and portrait in turn."""

import dataclasses

from jaxkd.data import shapes
from jaxkd.data.repairs import Repairs


@dataclasses.dataclass(frozen=True)
class Config:
    """Drawn pictures of two shapes."""

    count: int = 16
    seed: int = 0


def load(config):
    """The source."""
    return MixedSource(config)


class MixedSource:
    """Two drawn sources, of which each gives every other picture."""

    def __init__(self, config):
        self.parts = [
            shapes.load(shapes.Config(count=config.count, size=size, seed=config.seed)) for size in ((64, 96), (96, 64))
        ]
        self.classes, self.category_ids = self.parts[0].classes, self.parts[0].category_ids
        self.repairs = Repairs("drawn")
        self.records = tuple(self.parts[index % 2].records[index] for index in range(config.count))

    def read(self, index):
        return self.parts[index % 2].read(index)

    def annotations(self):
        landscape, portrait = (part.annotations() for part in self.parts)
        return {
            "categories": landscape["categories"],
            **{
                kind: [
                    item
                    for part, rest in ((landscape, 1), (portrait, 0))
                    for item in part[kind]
                    if item.get("image_id", item["id"]) % 2 == rest
                ]
                for kind in ("images", "annotations")
            },
        }

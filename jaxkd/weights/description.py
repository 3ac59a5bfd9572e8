"""A published detector as its file describes it: its library, its config fields, and its arrays as jaxkd's leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxkd.weights.conventions import Conventions

Arrays = dict[str, np.ndarray]
LIBRARIES = ("torchvision", "detectron2", "mmdetection")  # whose conventions the components have in their LIKE


@dataclass(frozen=True)
class Published:
    """A detector as its file describes it.

    Attributes:
      family: "torchvision", "detectron2", "mmdetection", "nanodet", "RT-DETR" or "D-FINE".
      kind: module of the detector, such as "detectors.faster_rcnn".
      backbone, neck: fields of `backbone_kind` and `neck_kind`, in addition to the family's conventions.
      fields: fields of the detector, likewise.
      classes: number of classes without background.
      arrays: under jaxkd's leaf names; unknown names stay, so that a strict match lists them.
      idle: names of arrays in the file that take no part in a forward pass.
      assumed: conventions that its arrays do not show, for a file that states none.
      stated: names of those fields that the file itself states.
      notes: sentences on the conventions that the file states and on those that are assumed, if any.
      backbone_kind, neck_kind: modules of the backbone and of the neck.
      sizes: fields of `data.loader` that say how pictures are resized; empty for COCO's.
    """

    family: str
    kind: str
    backbone: dict[str, Any]
    neck: dict[str, Any]
    fields: dict[str, Any]
    classes: int
    arrays: Arrays
    idle: tuple[str, ...] = ()
    assumed: Conventions = field(default_factory=Conventions)
    stated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    backbone_kind: str = "nets.resnet"
    neck_kind: str = "nets.fpn"
    sizes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def like(self) -> str:
        """The library whose conventions the components have in their LIKE; "" where the fields say all of them."""
        return self.family if self.family in LIBRARIES else ""

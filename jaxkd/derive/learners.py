"""Detectors that are trained: a student by name, recipe or weights, and a teacher that learns from the same data."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.data.base import Source
from jaxkd.derive import anchors, regions
from jaxkd.derive import student as networks
from jaxkd.derive.backbones import GROUPS
from jaxkd.derive.base import Choice, Notes, detector_of
from jaxkd.detectors.parts import Anchors

STRIDES = (4, 8, 16, 32)  # of the levels of derived detectors of two stages
OCTAVES = 2  # of their anchors
DENSE_FIRST = (4, 8)  # of which one is the stride of the first level of a dense one, which has as many levels
DENSE_HEAD = {"convs": 2, "kernel": 5, "separable": True, "per_level": True, "last_kernel": 1, "reg_max": 8}
CANDIDATES = 256  # boxes of a level that enter the suppression


@dataclasses.dataclass(frozen=True)
class Given:
    """A detector that exists, as it is, and the weights that it starts from."""

    detector: configs.Recipe
    initial: str

    @classmethod
    def of(cls, recipe: configs.Recipe) -> "Given":
        """The student of a recipe."""
        return cls(recipe.student, recipe.initial)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What of the data detectors follow of."""

    train: Source
    loader: Mapping[str, Any]  # sizes of pictures, as fields of `data.loader`

    def objects(self) -> anchors.Objects:
        """The objects of the training pictures, resized."""
        return anchors.objects_in(self.train.records, configs.build(component("data.loader", **self.loader)))


@dataclasses.dataclass(frozen=True)
class Learner:
    """A detector that is trained, and what its run and its teacher follow of."""

    detector: configs.Recipe
    initial: Choice  # the file or folder of weights that it starts from
    network: networks.Network  # of which its teacher's network follows
    parts: Mapping[str, Any] | None = None  # of its teacher too, where both are of two stages and follow of the data


def student(scene: Scene, name: str, *, initial: str, notes: Notes) -> Learner:
    """The student of one of `student.NAMES`."""
    network, words = networks.student(name, classes=len(scene.train.classes), initial=initial)
    notes.take("student.backbone", Choice(network.backbone, words))
    if network.detector == "gfl":
        return _learner(network, _gfl(network, scene, notes), scene, notes)
    parts = _two_stage_parts(scene, notes)
    return dataclasses.replace(_learner(network, _faster_rcnn(network, parts, notes), scene, notes), parts=parts)


def given_student(scene: Scene, name: str, given: Given, *, initial: str, notes: Notes) -> Learner:
    """The student that `name` says, as it is; `initial` is the file or folder that it starts from, if another."""
    classes = scene.train.classes
    detector = notes.take("student", Choice(given.detector, f"the student of {name}"))
    config, strides = configs.build(detector), detector_of(detector, classes).traits.strides
    if isinstance(getattr(config, "anchors", None), Anchors):
        fitted = anchors.fit_in_words(scene.objects(), anchors.grid_in(config.anchors, strides=strides))
        notes.take("student.anchors", Choice(config.anchors.sizes, f"those of {name}; {fitted}"))
    initial, whose = initial or given.initial, "as given" if initial else f"as in {name}"
    network = networks.network_of(detector, classes=len(classes), initial=initial)
    words = "the weights that it starts from" if initial else "all weights start from random numbers"
    return Learner(detector, Choice(initial, f"{words}, {whose}"), network)


def teacher(scene: Scene, student: Learner, *, initial: str, notes: Notes) -> Learner:
    """The teacher that is trained on the same data: a Faster R-CNN, larger than its student."""
    network, words = networks.teacher(student.network, initial=initial)
    notes.take("student.backbone", Choice(network.backbone, words))
    parts = student.parts
    if parts is None:
        parts = _two_stage_parts(scene, notes)
        notes.take("student", Choice(component("detectors.faster_rcnn"), "a Faster R-CNN that follows of the data"))
    return _learner(network, _faster_rcnn(network, parts, notes), scene, notes)


def _learner(network: networks.Network, detector: configs.Recipe, scene: Scene, notes: Notes) -> Learner:
    """The detector with this network."""
    initial = networks.start(network.initial, pictures=len(scene.train.records))
    if network.initial:
        notes.take("student.frozen_stages", Choice(network.frozen_stages, "the first stages are good as they are"))
    return Learner(detector, initial, network)


def _faster_rcnn(network: networks.Network, parts: Mapping[str, Any], notes: Notes) -> configs.Recipe:
    """The component of a Faster R-CNN."""
    channels, hidden = network.channels, network.hidden
    notes.take("student.neck", Choice(channels, "channels in proportion to the backbone's; four levels are enough"))
    notes.take("student.head", Choice(hidden, "width in proportion to the pyramid's"))
    return component(
        "detectors.faster_rcnn",
        backbone=network.backbone,
        neck=component("nets.fpn", channels=channels, extra="none"),
        head={"hidden": hidden},
        frozen_stages=network.frozen_stages,
        **parts,
    )


def _two_stage_parts(scene: Scene, notes: Notes) -> dict[str, Any]:
    """Anchors, pooling, and numbers of regions."""
    ladder = notes.take("student.anchors", anchors.ladder(scene.objects(), strides=STRIDES, octaves=OCTAVES))
    scale = anchors.canonical_scale(ladder[0], stride=STRIDES[0])
    words = "seven times the finest anchors, as 224 is to 32 for COCO"
    pixels = max(height * width for height, width in scene.loader["buckets"])
    counts = regions.counts(pixels, max_objects=scene.loader["max_objects"])
    return {
        "anchors": {"sizes": ladder, "octaves": OCTAVES},
        "pooling": {"canonical_scale": notes.take("student.pooling", Choice(scale, words))},
        **{name: notes.take(f"student.{name}", choice) for name, choice in counts.items()},
    }


def _gfl(network: networks.Network, scene: Scene, notes: Notes) -> configs.Recipe:
    """The component of a GFL with a light pyramid and a light head.

    The pyramid begins with the backbone's `first` level, and has as many extra levels.
    """
    channels, objects = network.channels, scene.objects()
    first = notes.take("student.neck.first", anchors.first_level(objects, strides=DENSE_FIRST))
    scale = anchors.square(objects, strides=[stride * 2**first for stride in STRIDES])
    notes.take("student.neck", Choice(channels, "channels of the size, in a light pyramid"))
    notes.take("student.head", Choice(channels, "as wide as the pyramid, of separable convolutions"))
    return component(
        "detectors.gfl",
        backbone=network.backbone,
        neck=component("nets.light_pan", channels=channels, first=first, extra=first, groups=GROUPS),
        anchors={"scale": notes.take("student.anchors", scale)},
        head={**DENSE_HEAD, "channels": channels, "groups": GROUPS},
        postprocess={"candidates": CANDIDATES, "nms": 0.6},
        frozen_stages=network.frozen_stages,
    )

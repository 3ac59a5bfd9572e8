"""Networks of student and teacher: by name, by the number of classes, by a file of weights, or of a recipe."""

import dataclasses
import inspect
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.config import component
from jaxkd.derive.base import Choice
from jaxkd.derive.schedule import Start
from jaxkd.errors import ConfigError
from jaxkd.nets.mobilenetv4 import STEM
from jaxkd.nets.resnet import BLOCKS
from jaxkd.paths import path_of
from jaxkd.weights import names, parts, published

NARROWEST, WIDEST = 8, 32  # of the ResNet-10 that the number of classes decides
FULL_WIDTH = 64  # of published residual networks
GROUPS = 8  # of group norm in narrow networks
LARGER = 4  # times the channels of a student's pyramid and head are its teacher's
MOST_CHANNELS, MOST_HIDDEN = 512, 2048  # of a teacher's pyramid and head, unless its student has more
HIDDEN = 4  # times its channels is the width of a head that has none of its own
FEW = 1000  # pictures below which weights of a backbone are worth most
HELPFUL = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"  # trained on ImageNet
NAMES = ("auto", "tiny", "small", "mobilenet", "r18")
PUBLISHED = ("mobilenet", "r18")  # those for which backbone weights are published


@dataclasses.dataclass(frozen=True)
class Network:
    """The learned parts of a detector, and the weights that its backbone starts from."""

    backbone: configs.Recipe
    channels: int  # of the pyramid
    hidden: int  # width of the head
    initial: str = ""  # file of backbone weights; empty to start from random numbers

    @property
    def start(self) -> Start:
        """What the backbone starts from."""
        return "pretrained" if self.initial else "random"

    @property
    def frozen_stages(self) -> int:
        """Stages of the backbone that are not trained: of a pretrained one the stem and the first."""
        return 1 if self.initial else -1


def start(initial: str, *, pictures: int) -> Choice:
    """The file of backbone weights, with what would help where none is given."""
    if initial:
        return Choice(initial, "the backbone's weights")
    words = "all weights start from random numbers"
    if pictures < FEW:
        words += f"; with {pictures} pictures, weights from ImageNet help: --initial=FILE with the file at {HELPFUL}"
    return Choice("", words)


def student(name: str, *, classes: int, initial: str = "") -> Choice:
    """The student's network by its name: "tiny", "small", "mobilenet", "r18", or "auto".

    "auto" is the network of the file `initial`, or without one a ResNet-10 whose width the number of classes decides.
    Raises ConfigError for another name, and one for which no backbone weights fit; WeightsError for an unknown file.
    """
    if name not in NAMES:
        raise ConfigError(f"There is no student {name!r}; take {phrases.listed(NAMES)}.")
    if initial and name not in ("auto", *PUBLISHED):
        raise ConfigError(
            f"The student {name} starts from random numbers, so {initial} is of no use; take "
            f"{' or '.join(PUBLISHED)}, or auto for the network of the file."
        )
    if initial and name == "auto":
        return Choice(_wide(backbone_in(initial), initial), f"the network in {initial}")
    if name == "mobilenet":
        return Choice(_wide(_mobilenet(initial), initial), "a MobileNetV2, as asked for")
    if name == "r18":
        return Choice(_wide(_resnet(18, FULL_WIDTH, initial), initial), "a ResNet-18, as asked for")
    width = {"tiny": NARROWEST, "small": 2 * NARROWEST}.get(name) or _width(classes)
    words = "as asked for" if name != "auto" else f"{phrases.counted(classes, 'class')}, nothing pretrained"
    return Choice(Network(_resnet(10, width), channels=2 * width, hidden=8 * width), f"{words}: a ResNet-10")


def of_recipe(name: str) -> configs.Recipe:
    """The recipe FILE[:ARG] whose student is taken as it is, its paths absolute.

    Raises ConfigError where there is none, or its student is no detector.
    """
    try:
        file, argument = configs.named(name)
    except ConfigError as error:
        known = phrases.listed(NAMES)
        raise ConfigError(f"The student {name!r} is none of {known}, and no recipe has this name: {error}") from error
    recipe = configs.load_recipe(file, argument)
    if configs.NAME not in (recipe.student or {}):
        raise ConfigError(f"The recipe {name} has no student; give it a detector's component as its student.")
    build = getattr(configs.module_of(configs.build(recipe.student)), "build", None)
    if build is None or "classes" not in inspect.signature(build).parameters:
        raise ConfigError(f"The student of the recipe {name} is {recipe.student.name}, which is no detector.")
    return configs.with_absolute_paths(recipe)


def check(name: str) -> None:
    """Raises ConfigError where there is no student of this name, nor a recipe that has one."""
    if name not in NAMES:
        of_recipe(name)


def network_of(detector: configs.Recipe, *, classes: int, initial: str) -> Network:
    """What a teacher's network follows of, of the component of a student's detector.

    Of a detector without a backbone and a pyramid's channels it is the network that the number of classes decides.
    """
    if "backbone" not in detector or "channels" not in detector.get("neck", {}):
        return student("auto", classes=classes).value
    channels = detector.neck.channels
    hidden = detector.get("head", {}).get("hidden", HIDDEN * channels)
    return Network(detector.backbone, channels, hidden, "" if initial and _is_detector(initial) else initial)


def _is_detector(initial: str) -> bool:
    """Whether a file or folder of weights has those of a whole detector, with which no other one can start."""
    file, part = parts.split(path_of(initial))
    if not file.is_file():
        return file.is_dir()
    net = parts.read_net(file, part=part)
    return published.recognise(net.arrays, metadata=net.metadata) is not None


def teacher(student: Network, *, initial: str = "") -> Choice:
    """The network of a teacher that is trained on the same data: a larger one of the student's family.

    With a file of backbone weights, `initial` or else the student's, it is the network of that file.
    """
    larger: dict[str, Any] = {
        "channels": max(min(LARGER * student.channels, MOST_CHANNELS), student.channels),
        "hidden": max(min(LARGER * student.hidden, MOST_HIDDEN), student.hidden),
    }
    if initial:
        return Choice(Network(backbone_in(initial), initial=initial, **larger), f"the network in {initial}")
    if student.initial:
        network = dataclasses.replace(student, **larger)
        words = f"the student's backbone, for there are weights, and up to {LARGER} times its width after it"
        return Choice(network, words)
    residual = student.backbone.name == "nets.resnet"
    width = LARGER * student.backbone.width if residual else FULL_WIDTH
    deeper = [depth for depth in BLOCKS if not residual or depth > student.backbone.depth] or [max(BLOCKS)]
    depth = max(min(deeper), 18 if width <= FULL_WIDTH and residual else 34)
    network = Network(_resnet(depth, min(int(width), FULL_WIDTH)), **larger)
    return Choice(network, f"larger than the student in depth and width: a ResNet-{depth}")


def backbone_in(file: str) -> configs.Recipe:
    """The component of the network in a file of weights; WeightsError or ConfigError where it is none of ours."""
    path, part = parts.split(path_of(file))
    leaves, _ = names.to_jaxkd(parts.read_net(path, part=part).arrays)
    if {"features_0/conv/kernel", "block_2_0/expand_conv/kernel"} <= set(leaves):
        return _mobilenet_v4(leaves)
    if any(name.startswith("features_") for name in leaves):
        return _mobilenet(file)
    blocks = [re.match(r"layer(\d)_(\d+)/", name) for name in leaves]
    counts = tuple(
        1 + max((int(block[2]) for block in blocks if block and int(block[1]) == stage), default=-1)
        for stage in range(1, 5)
    )
    bottleneck = any("/conv3/" in name for name in leaves)
    for depth, known in BLOCKS.items():
        if known == counts and (depth >= 50) == bottleneck:
            return _resnet(depth, FULL_WIDTH, file)
    raise ConfigError(
        f"{file} holds no backbone that a student is made of; give the weights of a MobileNetV2, of a MobileNetV4 "
        "(conv small or medium), or of a ResNet-18, 34, 50 or 101."
    )


def _wide(backbone: configs.Recipe, initial: str) -> Network:
    large = backbone.name == "nets.resnet"
    return Network(backbone, channels=128 if large else 64, hidden=512 if large else 256, initial=initial)


def _width(classes: int) -> int:
    """8 below 16 classes, 16 below 64, 32 above."""
    return min(max(NARROWEST * 2 ** math.floor(math.log2(classes / 4) / 2), NARROWEST), WIDEST)


def _resnet(depth: int, width: int, initial: str = "") -> configs.Recipe:
    norm: dict[str, Any] = {} if initial else {"norm": "group"} | ({"groups": GROUPS} if width < FULL_WIDTH else {})
    return component("nets.resnet", depth=depth, width=width, **norm)


def _mobilenet(initial: str) -> configs.Recipe:
    norm: dict[str, Any] = {} if initial else {"norm": "group", "groups": GROUPS}
    return component("nets.mobilenet", **norm)


def _mobilenet_v4(leaves: Mapping[str, np.ndarray]) -> configs.Recipe:
    """The pretrained net with these leaves: its size by its first block, its width by its stem [3 3 3 c]."""
    size = "medium" if "block_0_0/expand_conv/kernel" in leaves else "small"
    top = "wide" if "block_4_0/conv/kernel" in leaves else "stage"
    return component(
        "nets.mobilenetv4", size=size, top=top, width=leaves["features_0/conv/kernel"].size / 27 / STEM.width
    )

"""Networks of student and teacher: by name, by the number of classes, by a file of weights, or of a recipe."""

import dataclasses
import inspect
import math
from typing import Literal, NamedTuple

from jaxkd import config as configs
from jaxkd import phrases
from jaxkd.derive import backbones
from jaxkd.derive.backbones import FULL_WIDTH
from jaxkd.derive.base import Choice
from jaxkd.derive.schedule import Start
from jaxkd.errors import ConfigError
from jaxkd.nets.resnet import BLOCKS
from jaxkd.paths import path_of
from jaxkd.weights import parts

NARROWEST, WIDEST = 8, 32  # of the ResNet-10 that the number of classes decides
LARGER = 4  # times the channels of a student's pyramid and head are its teacher's
MOST_CHANNELS, MOST_HIDDEN = 512, 2048  # of a teacher's pyramid and head, unless its student has more
HIDDEN = 4  # times its channels is the width of a head that has none of its own
FEW = 1000  # pictures below which weights of a backbone are worth most
HELPFUL = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"  # trained on ImageNet


class Size(NamedTuple):
    """A dense student: a MobileNetV4, and the pyramid and head behind it."""

    backbone: Literal["small", "medium"]  # which MobileNetV4
    width: float  # factor on its channels
    channels: int  # of pyramid and head
    teacher: tuple[int, int, int]  # of one without weights: depth and width of a residual network, and its channels


SIZES = {  # some .4, 1.5, 4.5 and 7.5 million parameters
    "pocket": Size("small", 0.5, 48, teacher=(18, 32, 64)),
    "tiny": Size("small", 1.0, 96, teacher=(18, 64, 128)),
    "small": Size("medium", 0.75, 128, teacher=(34, 64, 256)),
    "medium": Size("medium", 1.0, 128, teacher=(34, 64, 256)),
}
NAMES = ("auto", *SIZES, "mobilenet", "r18")


@dataclasses.dataclass(frozen=True)
class Network:
    """The learned parts of a detector, and the weights that its backbone starts from."""

    backbone: configs.Recipe
    channels: int  # of the pyramid
    hidden: int  # width of the head
    initial: str = ""  # file of backbone weights; empty to start from random numbers
    detector: Literal["faster_rcnn", "gfl"] = "faster_rcnn"
    teacher: tuple[int, int, int] | None = None  # as in `Size`, where it does not follow of the backbone

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
    """The student's network by its name, one of NAMES.

    Those of SIZES are dense detectors; with a file of backbone weights, `initial`, they have its backbone. "auto" is
    the network of the file, or without one a ResNet-10 whose width the number of classes decides.
    Raises ConfigError for another name, and a file of no known network; WeightsError for an unknown file.
    """
    if name not in NAMES:
        raise ConfigError(f"There is no student {name!r}; take {phrases.listed(NAMES)}.")
    if name in SIZES:
        return _dense(name, initial)
    if initial and name == "auto":
        return Choice(_wide(backbones.in_file(initial), initial), f"the network in {initial}")
    if name == "mobilenet":
        return Choice(_wide(backbones.mobilenet(initial), initial), "a MobileNetV2, as asked for")
    if name == "r18":
        return Choice(_wide(backbones.resnet(18, FULL_WIDTH, initial), initial), "a ResNet-18, as asked for")
    width = _width(classes)
    words = f"{phrases.counted(classes, 'class')}, nothing pretrained: a ResNet-10"
    return Choice(Network(backbones.resnet(10, width), channels=2 * width, hidden=8 * width), words)


def _dense(name: str, initial: str) -> Choice:
    """The network of one of SIZES, with the backbone of the file `initial` where one is given."""
    size = SIZES[name]
    backbone = backbones.in_file(initial) if initial else backbones.mobilenet_v4(size.backbone, size.width)
    words = f"the size {name}, as asked for" + (f", with the network in {initial}" if initial else "")
    hidden = HIDDEN * size.channels
    network = Network(backbone, size.channels, hidden, initial, detector="gfl", teacher=size.teacher)
    return Choice(network, words)


def of_recipe(name: str) -> configs.Recipe:
    """The recipe FILE[:ARG] whose student is taken as it is, its paths absolute.

    Raises ConfigError where there is none, or its student is no detector.
    """
    try:
        file, argument = configs.named(name)
    except ConfigError as error:
        known = phrases.listed(NAMES)
        raise ConfigError(
            f"The student {name!r} is none of {known}, there are no weights of this name, and no recipe has it: {error}"
        ) from error
    recipe = configs.load_recipe(file, argument)
    if configs.NAME not in (recipe.student or {}):
        raise ConfigError(f"The recipe {name} has no student; give it a detector's component as its student.")
    build = getattr(configs.module_of(configs.build(recipe.student)), "build", None)
    if build is None or "classes" not in inspect.signature(build).parameters:
        raise ConfigError(f"The student of the recipe {name} is {recipe.student.name}, which is no detector.")
    return configs.with_absolute_paths(recipe)


def is_weights(name: str) -> bool:
    """Whether a student's name is that of a folder or file of a detector's weights; a recipe of this name comes first.

    FILE:PART is one of a file's detectors.
    """
    location, _ = parts.split(path_of(name))
    if name in NAMES or _is_recipe(name):
        return False
    return location.is_dir() or (location.is_file() and location.suffix != ".py")


def _is_recipe(name: str) -> bool:
    try:
        configs.named(name)
    except ConfigError:
        return False
    return True


def check(name: str) -> None:
    """Raises ConfigError where there is no student of this name, nor weights of one, nor a recipe that has one."""
    if name not in NAMES and not is_weights(name):
        of_recipe(name)


def network_of(detector: configs.Recipe, *, classes: int, initial: str) -> Network:
    """What a teacher's network follows of, of the component of a student's detector.

    Of a detector without a backbone and a pyramid's channels it is the network that the number of classes decides.
    """
    if "backbone" not in detector or "channels" not in detector.get("neck", {}):
        return student("auto", classes=classes).value
    channels = detector.neck.channels
    hidden = detector.get("head", {}).get("hidden", HIDDEN * channels)
    return Network(
        detector.backbone, channels, hidden, "" if initial and backbones.is_of_detector(initial) else initial
    )


def teacher(student: Network, *, initial: str = "") -> Choice:
    """The network of a teacher that is trained on the same data: a larger Faster R-CNN.

    With a file of backbone weights, `initial` or else the student's, it is the network of that file.
    """
    channels = max(min(LARGER * student.channels, MOST_CHANNELS), student.channels)
    hidden = max(min(LARGER * student.hidden, MOST_HIDDEN), student.hidden)
    if student.teacher:
        channels = student.teacher[-1]
        hidden = HIDDEN * channels
    if initial:
        network = Network(backbones.in_file(initial), channels, hidden, initial)
        return Choice(network, f"the network in {initial}")
    if student.initial:
        network = Network(student.backbone, channels, hidden, student.initial)
        return Choice(network, "the student's backbone, for there are weights, and wider after it")
    if student.teacher:
        depth, width, _ = student.teacher
        network = Network(backbones.resnet(depth, width), channels, hidden)
        return Choice(network, f"larger than the student: a ResNet-{depth}")
    residual = student.backbone.name == "nets.resnet"
    width = LARGER * student.backbone.width if residual else FULL_WIDTH
    deeper = [depth for depth in BLOCKS if not residual or depth > student.backbone.depth] or [max(BLOCKS)]
    depth = max(min(deeper), 18 if width <= FULL_WIDTH and residual else 34)
    network = Network(backbones.resnet(depth, min(int(width), FULL_WIDTH)), channels, hidden)
    return Choice(network, f"larger than the student in depth and width: a ResNet-{depth}")


def _wide(backbone: configs.Recipe, initial: str) -> Network:
    large = backbone.name == "nets.resnet"
    return Network(backbone, channels=128 if large else 64, hidden=512 if large else 256, initial=initial)


def _width(classes: int) -> int:
    """8 below 16 classes, 16 below 64, 32 above."""
    return min(max(NARROWEST * 2 ** math.floor(math.log2(classes / 4) / 2), NARROWEST), WIDEST)

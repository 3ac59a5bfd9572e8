"""Components of backbones: by depth and width, and the one whose weights a file holds."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxkd import config as configs
from jaxkd.config import component
from jaxkd.errors import ConfigError
from jaxkd.nets.mobilenetv4 import STEM
from jaxkd.nets.resnet import BLOCKS
from jaxkd.paths import path_of
from jaxkd.weights import backbone_names, parts, published

FULL_WIDTH = 64  # of published residual networks
GROUPS = 8  # of group norm in narrow networks


def in_file(file: str) -> configs.Recipe:
    """The component of the network in a file of weights; WeightsError or ConfigError where it is none of ours."""
    path, part = parts.split(path_of(file))
    leaves, _ = backbone_names.to_jaxkd(parts.read_net(path, part=part).arrays)
    if {"features_0/conv/kernel", "block_2_0/expand_conv/kernel"} <= set(leaves):
        return _mobilenet_v4_with(leaves)
    if any(name.startswith("features_") for name in leaves):
        return mobilenet(file)
    blocks = [re.match(r"layer(\d)_(\d+)/", name) for name in leaves]
    counts = tuple(
        1 + max((int(block[2]) for block in blocks if block and int(block[1]) == stage), default=-1)
        for stage in range(1, 5)
    )
    bottleneck = any("/conv3/" in name for name in leaves)
    for depth, known in BLOCKS.items():
        if known == counts and (depth >= 50) == bottleneck:
            return resnet(depth, FULL_WIDTH, file)
    raise ConfigError(
        f"{file} holds no backbone that a student is made of; give the weights of a MobileNetV2, of a MobileNetV4 "
        "(conv small or medium), or of a ResNet-18, 34, 50 or 101."
    )


def is_of_detector(initial: str) -> bool:
    """Whether a file or folder of weights has those of a whole detector, with which no other one can start."""
    file, part = parts.split(path_of(initial))
    if not file.is_file():
        return file.is_dir()
    net = parts.read_net(file, part=part)
    return published.recognise(net.arrays, metadata=net.metadata) is not None


def resnet(depth: int, width: int, initial: str = "") -> configs.Recipe:
    """A residual network, with the norm that suits its start: from the file `initial`, or from random numbers."""
    norm: dict[str, Any] = {} if initial else {"norm": "group"} | ({"groups": GROUPS} if width < FULL_WIDTH else {})
    return component("nets.resnet", depth=depth, width=width, **norm)


def mobilenet(initial: str = "") -> configs.Recipe:
    """A MobileNetV2, in the same way."""
    return component("nets.mobilenet", **_norm(initial))


def mobilenet_v4(size: Literal["small", "medium"], width: float, initial: str = "") -> configs.Recipe:
    """A MobileNetV4 of convolutions that ends with its blocks, in the same way."""
    return component("nets.mobilenetv4", size=size, width=width, top="stage", **_norm(initial))


def _norm(initial: str) -> dict[str, Any]:
    return {} if initial else {"norm": "group", "groups": GROUPS}


def _mobilenet_v4_with(leaves: Mapping[str, np.ndarray]) -> configs.Recipe:
    """The pretrained net with these leaves: its size by its first block, its width by its stem [3 3 3 c]."""
    size = "medium" if "block_0_0/expand_conv/kernel" in leaves else "small"
    top = "wide" if "block_4_0/conv/kernel" in leaves else "stage"
    return component(
        "nets.mobilenetv4", size=size, top=top, width=leaves["features_0/conv/kernel"].size / 27 / STEM.width
    )

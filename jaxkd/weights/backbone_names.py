"""Backbones of published files: their arrays under the names of jaxkd's nets."""

import itertools
import re
from collections.abc import Iterable, Mapping

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import caffe, hub_names, query_names
from jaxkd.weights.names import resnet_name, translated
from jaxkd.weights.unpickle import printable

# Leaves of published files that jaxkd's nets lack, as patterns for the strict match: a classifier, or the last 1x1
# convolutions before it (features.18 of MobileNetV2; conv_head, and blocks.4 with `top` "stage", of MobileNetV4).
BEYOND = {
    "jaxkd": (),
    "resnet": ("fc/*",),
    "mobilenet_v2": ("features_18/*", "classifier/*"),
    "mobilenet_v4": ("block_4_0/*", "conv_head/*", "norm_head/*", "classifier/*"),
    "resnet_d": (),
    "hgnet": (),
}

# Patterns of a name that identifies a backbone, under any prefix.
MARKS = {
    "resnet": r"layer1\.0\.conv1\.weight$",
    "caffe": r"res2_0_branch2a_w$",
    "mobilenet_v2": r"features\.1\.conv\.0\.(?:0\.)?weight$",
    "mobilenet_v4": r"blocks\.2\.0\.pw_exp\.conv\.weight$",
    "resnet_d": r"res_layers\.0\.blocks\.0\.branch2a\.conv\.weight$",
    "hgnet": r"stages\.0\.blocks\.0\.aggregation\.0\.conv\.weight$",
}
TIMM_STEPS = {"dw_start": "start", "pw_exp": "expand", "dw_mid": "middle", "pw_proj": "project"}
TIMM_PLAIN = {"conv": "conv", "bn1": "norm"}
TIMM_FUSED = {"conv_exp": "expand_conv", "bn1": "expand_norm", "conv_pwl": "project_conv", "bn2": "project_norm"}
PREFIX = "backbone"  # of a query detector's backbone, in its authors' files and in jaxkd


def to_jaxkd(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """The arrays under jaxkd's leaf names and in its layout, and their source format, a key of BEYOND.

    Names that are not of this format stay as they are, so that a strict match lists them.
    Raises WeightsError where no format is recognised.
    """
    if any("/" in name for name in arrays):
        return dict(arrays), "jaxkd"
    if caffe.is_caffe(arrays):
        arrays = caffe.to_torch(arrays)
    if "layer1.0.conv1.weight" in arrays:
        return resnet(arrays), "resnet"
    if {"features.1.conv.0.weight", "features.1.conv.0.0.weight"} & set(arrays):
        return mobilenet_v2(arrays), "mobilenet_v2"
    if {"conv_stem.weight", "blocks.2.0.pw_exp.conv.weight"} <= set(arrays):
        return mobilenet_v4(arrays), "mobilenet_v4"
    for flavour in ("resnet_d", "hgnet"):
        if any(re.match(MARKS[flavour], name) for name in arrays):
            return of_query_detector(arrays), flavour
    raise WeightsError(unknown(arrays))


def unknown(given: Iterable[str]) -> str:
    """A sentence on names of no known net."""
    first = ", ".join(printable(name) for name in itertools.islice(given, 3)) or "none at all"
    return (
        f"The weights' names ({first}) belong to no net known here; known are Faster R-CNN and RetinaNet with a "
        "feature pyramid as torchvision, detectron2 and mmdetection name them, FCOS as torchvision and mmdetection do, "
        "mmdetection's GFL, NanoDet-g as a graph of TensorFlow.js, RT-DETR and D-FINE as their authors name them, and "
        f"the backbones {', '.join(BEYOND)}."
    )


def resnet(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A residual network with PyTorch's names: layer1.0.downsample.0.weight becomes layer1_0/downsample_conv/kernel."""
    return translated(arrays, resnet_name)


def mobilenet_v2(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """MobileNetV2 with PyTorch's names: features.2.conv.3.weight becomes features_2/depthwise_conv/kernel.

    The layers of a block are numbered through (conv.0 to conv.7) or grouped by convolution (conv.0.0 to conv.3).
    """
    grouped = "features.1.conv.0.0.weight" in arrays

    def jaxkd_name(module: str) -> str | None:
        if match := re.fullmatch(r"features\.(0|18)\.([01])", module):
            return f"features_{match[1]}/{('conv', 'norm')[int(match[2])]}"
        if match := re.fullmatch(r"classifier\.(\d+)", module):
            return f"classifier/{match[1]}"
        match = re.fullmatch(r"features\.(\d+)\.conv\.(\d+)(?:\.([01]))?", module)
        if not match:
            return None
        block, layer = match[1], int(match[2])
        steps = ("depthwise", "project") if block == "1" else ("expand", "depthwise", "project")
        if match[3] is not None:
            step, part = layer, int(match[3])
        elif grouped:
            part = layer - (len(steps) - 1)
            step = len(steps) - 1
        else:
            step, part = divmod(layer, 3)
        if step >= len(steps) or part not in (0, 1):
            return None
        return f"features_{block}/{steps[step]}_{('conv', 'norm')[part]}"

    return translated(arrays, jaxkd_name)


def mobilenet_v4(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """MobileNetV4 with timm's names: blocks.2.0.pw_exp.conv.weight becomes block_2_0/expand_conv/kernel."""

    def jaxkd_name(module: str) -> str | None:
        if module in ("conv_stem", "bn1"):
            return f"features_0/{'conv' if module == 'conv_stem' else 'norm'}"
        if module in ("conv_head", "norm_head", "classifier"):
            return module
        match = re.fullmatch(r"(blocks\.(\d)\.(\d+))\.(\w+)(?:\.(conv|bn))?", module)
        if not match:
            return None
        block, stage, index, step, part = match.groups()
        if step in TIMM_STEPS and part:
            return f"block_{stage}_{index}/{TIMM_STEPS[step]}_{'conv' if part == 'conv' else 'norm'}"
        layers = TIMM_FUSED if f"{block}.conv_exp.weight" in arrays else TIMM_PLAIN
        return f"block_{stage}_{index}/{layers[step]}" if step in layers and not part else None

    return translated(arrays, jaxkd_name)


def of_query_detector(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A ResNet-D or HGNetV2 with its authors' names: stages.0.blocks.0.layers.0.bn.bias becomes
    stage1_0/layer_0/norm/bias.
    """
    published = query_names.to_published({f"{PREFIX}.{name}": array for name, array in arrays.items()})
    leaves = hub_names.to_jaxkd(published, fine=True, points=())
    return {re.sub(rf"^{PREFIX}[/.]", "", name): array for name, array in leaves.items()}

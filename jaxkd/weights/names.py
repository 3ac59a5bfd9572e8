"""Names and layouts of published weights, translated to those of our nets."""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import caffe
from jaxkd.weights.unpickle import shown

# What published files hold beyond our nets, as patterns for the strict match: a classifier, or the last 1x1
# convolution before it (features.18 of MobileNetV2).
BEYOND = {"jaxkd": (), "resnet": ("fc/*",), "mobilenet_v2": ("features_18/*", "classifier/*")}

# What the names of a backbone begin with or are, wherever it lies in a file.
MARKS = {
    "resnet": r"layer1\.0\.conv1\.weight$",
    "caffe": r"res2_0_branch2a_w$",
    "mobilenet_v2": r"features\.1\.conv\.0\.(?:0\.)?weight$",
}
LEAVES = {"bias": "bias", "running_mean": "mean", "running_var": "var"}
COUNTER = "num_batches_tracked"  # counts training steps and takes no part in a forward pass


def to_ours(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """The arrays under our leaf names and in our layout, and the flavour they came in, a key of BEYOND.

    Names that do not belong to the flavour stay as they are, so that a strict match lists them.
    Raises WeightsError where no flavour is recognised.
    """
    if any("/" in name for name in arrays):
        return dict(arrays), "jaxkd"
    if caffe.is_caffe(arrays):
        arrays = caffe.to_torch(arrays)
    if "layer1.0.conv1.weight" in arrays:
        return resnet(arrays), "resnet"
    if {"features.1.conv.0.weight", "features.1.conv.0.0.weight"} & set(arrays):
        return mobilenet_v2(arrays), "mobilenet_v2"
    raise WeightsError(unknown(arrays))


def unknown(given: Iterable[str]) -> str:
    """A sentence on names that belong to no net known here."""
    first = ", ".join(shown(name) for name in itertools.islice(given, 3)) or "none at all"
    return (
        f"The weights' names ({first}) belong to no net known here; known are Faster R-CNN and RetinaNet with a "
        f"feature pyramid as torchvision, detectron2 and mmdetection name them, and the backbones {', '.join(BEYOND)}."
    )


def resnet(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Residual networks with PyTorch's names: layer1.0.downsample.0.weight is layer1_0/downsample_conv/kernel."""
    return translated(arrays, resnet_place)


def resnet_place(module: str) -> str | None:
    """Our name of a module of a residual network; None for one that has none."""
    if module in ("conv1", "bn1", "fc"):
        return module
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(?:((?:conv|bn)\d)|downsample\.([01]))", module)
    if not found:
        return None
    stage, block, inner, shortcut = found.groups()
    return f"layer{stage}_{block}/{inner or ('downsample_conv', 'downsample_norm')[int(shortcut)]}"


def mobilenet_v2(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """MobileNetV2 with PyTorch's names: features.2.conv.3.weight is features_2/depthwise_conv/kernel.

    The layers of a block are numbered in one row (conv.0 to conv.7) or grouped by convolution (conv.0.0 to conv.3).
    """
    grouped = "features.1.conv.0.0.weight" in arrays

    def place(module: str) -> str | None:
        if found := re.fullmatch(r"features\.(0|18)\.([01])", module):
            return f"features_{found[1]}/{('conv', 'norm')[int(found[2])]}"
        if found := re.fullmatch(r"classifier\.(\d+)", module):
            return f"classifier/{found[1]}"
        found = re.fullmatch(r"features\.(\d+)\.conv\.(\d+)(?:\.([01]))?", module)
        if not found:
            return None
        block, layer = found[1], int(found[2])
        steps = ("depthwise", "project") if block == "1" else ("expand", "depthwise", "project")
        if found[3] is not None:
            step, part = layer, int(found[3])
        elif grouped:
            part = layer - (len(steps) - 1)
            step = len(steps) - 1
        else:
            step, part = divmod(layer, 3)
        if step >= len(steps) or part not in (0, 1):
            return None
        return f"features_{block}/{steps[step]}_{('conv', 'norm')[part]}"

    return translated(arrays, place)


def translated(arrays: Mapping[str, np.ndarray], place: Callable[[str], str | None]) -> dict[str, np.ndarray]:
    """Arrays of PyTorch modules under our names and in our layout; those without a place keep their names.

    Raises WeightsError where two names stand for one leaf.
    """
    out: dict[str, np.ndarray] = {}
    origins: dict[str, str] = {}
    for name, array in arrays.items():
        module, _, leaf = name.rpartition(".")
        if leaf == COUNTER:
            continue
        ours = place(module)
        if ours is None or leaf not in {"weight", *LEAVES}:
            key = name
        elif leaf != "weight":
            key = f"{ours}/{LEAVES[leaf]}"
        else:
            key, array = f"{ours}/{'scale' if array.ndim == 1 else 'kernel'}", _ours(array)
        if origins.setdefault(key, name) != name:
            raise WeightsError(
                f"The weights hold {origins[key]} and {name}, which stand for one leaf; keep one of them."
            )
        out[key] = array
    return out


def _ours(weight: np.ndarray) -> np.ndarray:
    """[o i h w] to [h w i o], also of a depthwise convolution ([c 1 h w]), and [o i] to [i o]."""
    if weight.ndim == 4:
        return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    return np.ascontiguousarray(weight.T) if weight.ndim == 2 else weight

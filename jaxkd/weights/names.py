"""Names and layouts of PyTorch modules' arrays, translated to those of jaxkd's nets."""

import re
from collections.abc import Callable, Mapping

import numpy as np

from jaxkd.errors import WeightsError

LEAVES = {"bias": "bias", "running_mean": "mean", "running_var": "var"}
COUNTER = "num_batches_tracked"  # counts training steps and takes no part in a forward pass


def translated(arrays: Mapping[str, np.ndarray], name_of: Callable[[str], str | None]) -> dict[str, np.ndarray]:
    """Arrays of PyTorch modules under jaxkd's names and in its layout; `name_of` maps modules, and unknown names stay.

    Raises WeightsError where two names stand for one leaf.
    """
    out: dict[str, np.ndarray] = {}
    sources: dict[str, str] = {}
    for name, array in arrays.items():
        module, _, leaf = name.rpartition(".")
        if leaf == COUNTER:
            continue
        target = name_of(module)
        if target is None or leaf not in {"weight", *LEAVES}:
            key = name
        elif leaf != "weight":
            key = f"{target}/{LEAVES[leaf]}"
        else:
            key, array = f"{target}/{'scale' if array.ndim == 1 else 'kernel'}", _to_layout(array)
        if sources.setdefault(key, name) != name:
            raise WeightsError(
                f"The weights hold {sources[key]} and {name}, which stand for one leaf; keep one of them."
            )
        out[key] = array
    return out


def resnet_name(module: str) -> str | None:
    """jaxkd's name of a module of a residual network; None where it has none."""
    if module in ("conv1", "bn1", "fc"):
        return module
    match = re.fullmatch(r"layer(\d)\.(\d+)\.(?:((?:conv|bn)\d)|downsample\.([01]))", module)
    if not match:
        return None
    stage, block, layer, shortcut = match.groups()
    return f"layer{stage}_{block}/{layer or ('downsample_conv', 'downsample_norm')[int(shortcut)]}"


def _to_layout(weight: np.ndarray) -> np.ndarray:
    """[o i h w] to [h w i o], also of a depthwise convolution ([c 1 h w]), and [o i] to [i o]."""
    if weight.ndim == 4:
        return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    return np.ascontiguousarray(weight.T) if weight.ndim == 2 else weight

"""Names of Caffe2's and detectron2's residual networks, translated to those of torchvision."""

import re
from collections.abc import Mapping

import numpy as np

# Caffe2's names of the convolutions of a block and their numbers; branch1 is the shortcut.
PARTS = {"branch2a": "1", "branch2b": "2", "branch2c": "3"}
EPS = 1e-5  # added to a variance by the norms


def stages(module: str) -> str:
    """Torchvision's name of a module of detectron2's ResNet: res2.0.conv1.norm becomes layer1.0.bn1."""
    module = module.removeprefix("stem.")
    if module.startswith("res"):
        stage, _, rest = module.removeprefix("res").partition(".")
        module = f"layer{int(stage) - 1}.{rest}" if stage.isdigit() else module
    module = module.replace(".shortcut.norm", ".downsample.1").replace(".shortcut", ".downsample.0")
    return re.sub(r"conv(\d)\.norm", r"bn\1", module)


def is_caffe(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the names are those of a Caffe2 residual network, as in detectron2's R-50.pkl."""
    return "res2_0_branch2a_w" in arrays


def to_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A Caffe2 residual network under torchvision's names, with a stem for RGB pictures.

    A norm that was folded into scale and bias gets the mean 0 and the variance 1 - EPS, which change nothing.
    """
    out: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        module, leaf = _split(name)
        if module is None:
            out[name] = array
            continue
        if module == "conv1" and leaf == "weight":
            array = array[:, ::-1]  # Caffe2 reads BGR
        out[f"{module}.{leaf}"] = array
    for module in {name.rpartition(".")[0] for name in out if re.search(r"(bn\d|downsample\.1)\.", name)}:
        size = out[f"{module}.weight"].shape
        out.setdefault(f"{module}.running_mean", np.zeros(size, np.float32))
        out.setdefault(f"{module}.running_var", np.full(size, 1 - EPS, np.float32))
    return out


def _split(name: str) -> tuple[str | None, str]:
    """Torchvision's module and leaf of a Caffe2 name; (None, "") where it has none."""
    leaves = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
    if match := re.fullmatch(r"fc1000_([wb])", name):
        return "fc", {"w": "weight", "b": "bias"}[match[1]]
    if name == "conv1_w":
        return "conv1", "weight"
    if match := re.fullmatch(r"(?:res_)?conv1_bn_(s|b|rm|riv)", name):
        return "bn1", leaves[match[1]]
    match = re.fullmatch(r"res(\d)_(\d+)_(branch1|branch2[abc])_(w|bn_(s|b|rm|riv))", name)
    if not match:
        return None, ""
    block, norm = f"layer{int(match[1]) - 1}.{match[2]}", match[5] is not None
    if match[3] == "branch1":
        module = f"{block}.downsample.{int(norm)}"
    else:
        module = f"{block}.{'bn' if norm else 'conv'}{PARTS[match[3]]}"
    return module, leaves[match[5]] if norm else "weight"

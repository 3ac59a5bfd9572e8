"""timm's MobileNetV4: its names for our leaves, and its forward pass, written from its arrays alone."""

import re

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

STEPS = {"start": "dw_start", "expand": "pw_exp", "middle": "dw_mid", "project": "pw_proj"}
FUSED = {"expand_conv": "conv_exp", "expand_norm": "bn1", "project_conv": "conv_pwl", "project_norm": "bn2"}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def name_of(module):
    """timm's name of one of our modules."""
    block, layer = module.split("/")
    if block == "features_0":
        return {"conv": "conv_stem", "norm": "bn1"}[layer]
    block = block.replace("block_", "blocks.").replace("_", ".")
    if layer in ("conv", "norm"):
        return f"{block}.{ {'conv': 'conv', 'norm': 'bn1'}[layer] }"
    if block == "blocks.0.0":
        return f"{block}.{FUSED[layer]}"
    step, part = layer.split("_")
    return f"{block}.{STEPS[step]}.{ {'conv': 'conv', 'norm': 'bn'}[part] }"


def state_of(leaves, seed=0):
    """Random arrays for our leaves as a file of timm would hold them, counters included."""
    draw, out = np.random.default_rng(seed), {}
    for name, leaf in leaves.items():
        module, _, last = name.rpartition("/")
        array = draw.normal(size=leaf.shape).astype(np.float32)
        if last == "kernel":
            array = (array / np.sqrt(np.prod(leaf.shape[:3]))).transpose(3, 2, 0, 1)
        else:
            array = 0.1 * array + (last == "scale") if last != "var" else 0.5 + np.abs(array)
        out[f"{name_of(module)}.{LEAVES[last]}"] = array
        if last == "var":
            out[f"{name_of(module)}.num_batches_tracked"] = np.array(7)
    return out


BEYOND = {  # what follows the features in its files
    "conv_head.weight": np.zeros((16, 8, 1, 1), np.float32),
    **{f"norm_head.{leaf}": np.zeros(16, np.float32) for leaf in ("weight", "bias", "running_mean", "running_var")},
    "classifier.weight": np.zeros((10, 16), np.float32),
    "classifier.bias": np.zeros(10, np.float32),
}


def forward(arrays, picture):
    """The four levels [h w c] of a picture [h w 3]; the first block of each of the stages 0 to 3 has stride 2."""

    def convolved(x, name, norm, stride=1):
        kernel = arrays[f"{name}.weight"]
        margin, side = (kernel.shape[-1] // 2,) * 2, kernel.shape[-1]
        windows = sliding_window_view(np.pad(x, ((0, 0), margin, margin)), (side, side), (1, 2))[:, ::stride, ::stride]
        if len(kernel) > kernel.shape[1] == 1:
            x = np.einsum("cyxij,cij->cyx", windows, kernel[:, 0])
        else:
            x = np.einsum("cyxij,dcij->dyx", windows, kernel, optimize=True)
        scale, bias, mean, var = (
            arrays[f"{norm}.{leaf}"][:, None, None] for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def block(x, name, stride):
        has = {match[1] for key in arrays if (match := re.match(rf"{re.escape(name)}\.(\w+)\.", key))}
        if "conv_exp" in has:
            x = np.maximum(convolved(x, f"{name}.conv_exp", f"{name}.bn1", stride), 0)
            return convolved(x, f"{name}.conv_pwl", f"{name}.bn2")
        if "conv" in has:
            return np.maximum(convolved(x, f"{name}.conv", f"{name}.bn1", stride), 0)
        y = convolved(x, f"{name}.dw_start.conv", f"{name}.dw_start.bn") if "dw_start" in has else x
        y = np.maximum(convolved(y, f"{name}.pw_exp.conv", f"{name}.pw_exp.bn"), 0)
        if "dw_mid" in has:
            y = np.maximum(convolved(y, f"{name}.dw_mid.conv", f"{name}.dw_mid.bn", stride), 0)
        y = convolved(y, f"{name}.pw_proj.conv", f"{name}.pw_proj.bn")
        return x + y if y.shape == x.shape else y

    x = np.maximum(convolved(picture.transpose(2, 0, 1), "conv_stem", "bn1", 2), 0)
    places = sorted(
        {(int(match[1]), int(match[2])) for key in arrays if (match := re.match(r"blocks\.(\d)\.(\d+)", key))}
    )
    levels = {}
    for stage, index in places:
        x = block(x, f"blocks.{stage}.{index}", 2 if index == 0 and stage < 4 else 1)
        levels[min(stage, 3)] = x.transpose(1, 2, 0)
    return [levels[stage] for stage in range(4)]

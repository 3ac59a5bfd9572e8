"""The state dict of a one-stage detector as mmdetection names it, from jaxkd's parameters."""

import re

from jaxkd.weights.tree import flatten

RULES = (  # from jaxkd's modules to mmdetection's
    (r"backbone/layer(\d)_(\d+)/downsample_conv", r"backbone.layer\1.\2.downsample.0"),
    (r"backbone/layer(\d)_(\d+)/downsample_norm", r"backbone.layer\1.\2.downsample.1"),
    (r"backbone/layer(\d)_(\d+)/(\w+)", r"backbone.layer\1.\2.\3"),
    (r"backbone/(\w+)", r"backbone.\1"),
    (r"neck/lateral_(\d)", r"neck.lateral_convs.\1.conv"),
    (r"neck/(?:output|extra)_(\d)", r"neck.fpn_convs.\1.conv"),
    (r"head/class_(\d)_norm", r"bbox_head.cls_convs.\1.gn"),
    (r"head/class_(\d)", r"bbox_head.cls_convs.\1.conv"),
    (r"head/box_(\d)_norm", r"bbox_head.reg_convs.\1.gn"),
    (r"head/box_(\d)", r"bbox_head.reg_convs.\1.conv"),
)
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def as_mmdetection(params, outputs):
    """The parameters as a checkpoint has them; `outputs` is mmdetection's name of each of the head's outputs."""
    rules, out = (*RULES, *((f"head/{name}", f"bbox_head.{theirs}") for name, theirs in outputs.items())), {}
    for name, array in flatten(params).items():
        if scale := re.fullmatch(r"head/scale_(\d)", name):
            out[f"bbox_head.scales.{scale[1]}.scale"] = array
            continue
        module, _, leaf = name.rpartition("/")
        theirs = next(re.sub(pattern, target, module) for pattern, target in rules if re.fullmatch(pattern, module))
        out[f"{theirs}.{LEAVES[leaf]}"] = array.transpose(3, 2, 0, 1) if leaf == "kernel" else array
    return out

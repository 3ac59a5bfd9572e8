"""Names of query detectors' weights in their authors' files, translated to those of folders of Hugging Face."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights.unpickle import printable

MARK = r"decoder\.dec_score_head\."  # of the names of such a detector
AVERAGED = "ema.module"  # the mapping of the averaged weights, which their authors score and publish
GRIDS = ("decoder.anchors", "decoder.valid_mask")  # of one size of pictures, and computed for any
COPIES = {"decoder.decoder.up": "decoder.up", "decoder.decoder.reg_scale": "decoder.reg_scale"}
STACKED = r"(.+\.self_attn)\.in_proj_(weight|bias)"  # of queries, keys and values
UNITS = {"conv": "convolution", "bn": "normalization", "norm": "normalization", "lab": "lab"}  # of backbones
BACKBONE = (  # patterns of a unit's name, and the name in a folder
    (r"conv1\.conv1_1", "embedder.embedder.0"),
    (r"conv1\.conv1_2", "embedder.embedder.1"),
    (r"conv1\.conv1_3", "embedder.embedder.2"),
    (r"res_layers\.(\d)\.blocks\.(\d+)\.branch2a", r"encoder.stages.\1.layers.\2.layer.0"),
    (r"res_layers\.(\d)\.blocks\.(\d+)\.branch2b", r"encoder.stages.\1.layers.\2.layer.1"),
    (r"res_layers\.(\d)\.blocks\.(\d+)\.branch2c", r"encoder.stages.\1.layers.\2.layer.2"),
    (r"res_layers\.(\d)\.blocks\.(\d+)\.short", r"encoder.stages.\1.layers.\2.shortcut"),
    (r"res_layers\.(\d)\.blocks\.(\d+)\.short\.conv", r"encoder.stages.\1.layers.\2.shortcut.1"),
    (r"stem\.(stem\w+)", r"embedder.\1"),
    (r"stages\.(\d\..+)", r"encoder.stages.\1"),
)
ORDERED = {"conv": "0", "proj": "0", "0": "0", "norm": "1", "1": "1"}  # a layer and its norm, by name or by number
BLOCK = {  # of D-FINE's encoder
    "cv1": "conv1",
    "cv2.0": "csp_rep1",
    "cv2.1": "conv2",
    "cv3.0": "csp_rep2",
    "cv3.1": "conv3",
    "cv4": "conv4",
}
LAYER = {"linear1": "fc1", "linear2": "fc2", "norm1": "self_attn_layer_norm", "cross_attn": "encoder_attn"}
ENCODER_LAYER = LAYER | {"norm2": "final_layer_norm"}
DECODER_LAYER = LAYER | {"norm2": "encoder_attn_layer_norm", "norm3": "final_layer_norm"}
HEADS = {"dec_score_head": "class_embed", "dec_bbox_head": "bbox_embed"}
OUTSIDE = ("enc_score_head", "enc_bbox_head", "denoising_class_embed")  # of the decoder, in the folders
INSIDE = ("query_pos_head", "pre_bbox_head", "up", "reg_scale")


def to_published(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays under the names of folders; unknown names stay, so that a strict match lists them.

    Raises WeightsError where a constant is stored twice with other numbers, or an attention's weights are not those of
    queries, keys and values.
    """
    out: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if name in COPIES:
            if not np.array_equal(arrays.get(COPIES[name], array), array):
                raise WeightsError(f"The weights hold {COPIES[name]} and {name}, a copy of it, with other numbers.")
            name = COPIES[name]
        if match := re.fullmatch(STACKED, name):
            if array.shape[0] % 3:
                raise WeightsError(f"{printable(name)} has {array.shape[0]} rows, which are not three times as many.")
            parts = zip("qkv", np.split(array, 3), strict=True)
            named = {f"{match[1]}.{part}_proj.{match[2]}": numbers for part, numbers in parts}
        else:
            named = {name: array}
        out |= {_published(name) or name: numbers for name, numbers in named.items()}
    return out


def _published(name: str) -> str | None:
    """The name of an array in a folder; None where it has none."""
    part, _, rest = name.partition(".")
    inner = {"backbone": _backbone, "encoder": _encoder, "decoder": _decoder}.get(part)
    found = inner(rest) if inner else None
    return found and f"model.{found}"


def _backbone(name: str) -> str | None:
    match = re.fullmatch(r"(.+)\.(conv|bn|norm|lab)\.(\w+)", name)
    unit = match and _by_rules(match[1], BACKBONE)
    return f"backbone.model.{unit}.{UNITS[match[2]]}.{match[3]}" if match and unit else None


def _encoder(name: str) -> str | None:
    if match := re.fullmatch(r"input_proj\.(\d)\.(\w+)\.(\w+)", name):
        return _ordered(f"encoder_input_proj.{match[1]}", match[2], match[3])
    if match := re.fullmatch(r"(encoder\.\d\.layers\.\d+)\.(.+)", name):
        return f"encoder.{match[1]}.{_renamed(match[2], ENCODER_LAYER)}"
    if match := re.fullmatch(r"((?:fpn|pan)_blocks\.\d)\.(.+)", name):
        return f"encoder.{match[1]}.{_renamed(match[2], BLOCK)}"
    if match := re.fullmatch(r"(downsample_convs\.\d)\.0\.cv([12]\..+)", name):
        return f"encoder.{match[1]}.conv{match[2]}"
    return f"encoder.{name}" if re.match(r"(lateral|downsample)_convs\.", name) else None


def _decoder(name: str) -> str | None:
    part, _, rest = name.partition(".")
    if part in OUTSIDE:
        return name
    if part in INSIDE or re.match(r"decoder\.lqe_layers\.", name):
        return f"decoder.{name.removeprefix('decoder.')}"
    if part in HEADS:
        return f"decoder.{HEADS[part]}.{rest}"
    if match := re.fullmatch(r"decoder\.(layers\.\d+)\.(.+)", name):
        return f"decoder.{match[1]}.{_renamed(match[2], DECODER_LAYER)}"
    if match := re.fullmatch(r"input_proj\.(\d)\.(\w+)\.(\w+)", name):
        return _ordered(f"decoder_input_proj.{match[1]}", match[2], match[3])
    match = re.fullmatch(r"enc_output\.(\w+)\.(\w+)", name)
    return _ordered("enc_output", match[1], match[2]) if match else None


def _ordered(place: str, part: str, leaf: str) -> str | None:
    """The name of a layer or of the norm behind it, which folders number."""
    return f"{place}.{ORDERED[part]}.{leaf}" if part in ORDERED else None


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """The name with the part that it begins with renamed, if it is one of `names`."""
    old = next((old for old in names if name.startswith(f"{old}.")), "")
    return f"{names[old]}{name.removeprefix(old)}" if old else name


def _by_rules(name: str, rules: Sequence[tuple[str, str]]) -> str | None:
    return next((match.expand(new) for rule, new in rules if (match := re.fullmatch(rule, name))), None)

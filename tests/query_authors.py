"""Arrays of tiny query detectors as their authors' files name them, from those of the folders."""

import re

import numpy as np
import query_reference as reference
import safetensors.numpy

UNITS = {"convolution": "conv", "normalization": "norm"}
ORDER = {"v1": {"0": "0", "1": "1"}, "v2": {"0": "conv", "1": "norm"}}
LAYER = {"fc1": "linear1", "fc2": "linear2", "encoder_attn": "cross_attn", "self_attn_layer_norm": "norm1"}
BLOCK = {"conv1": "cv1", "csp_rep1": "cv2.0", "conv2": "cv2.1", "csp_rep2": "cv3.0", "conv3": "cv3.1", "conv4": "cv4"}


def state(family):
    """The arrays of a stored folder, float32, under the names in the repositories of RT-DETR (v1, v2) and D-FINE."""
    stored = safetensors.numpy.load_file(reference.ROOT / family / "model.safetensors")
    arrays = {name: array.astype(np.float32) for name, array in stored.items() if name.startswith("model.")}
    out, fine = {}, family == "d_fine"
    for name, array in arrays.items():
        if match := re.fullmatch(r"(.+\.self_attn)\.q_proj\.(weight|bias)", name):
            stacked = [arrays[f"{match[1]}.{part}_proj.{match[2]}"] for part in "qkv"]
            out[theirs(f"{match[1]}.in_proj_{match[2]}", family)] = np.concatenate(stacked)
        elif not re.search(r"\.[kv]_proj\.", name):
            out[theirs(name, family)] = array
    if fine:
        for name in ("up", "reg_scale"):
            out[f"decoder.decoder.{name}"] = out.setdefault(f"decoder.{name}", np.float32([0.5]))
    if family != "rt_detr":
        out["decoder.anchors"] = np.full((1, 126, 4), np.inf, np.float32)
        out["decoder.valid_mask"] = np.ones((1, 126, 1), bool)
    return out


def theirs(name, family):
    """One name as the authors have it."""
    name, fine = name.removeprefix("model."), family == "d_fine"
    if name.startswith("backbone.model."):
        return f"backbone.{backbone(name.removeprefix('backbone.model.'), fine)}"
    if match := re.fullmatch(r"(encoder|decoder)_input_proj\.(\d)\.([01])\.(\w+)", name):
        order = ORDER["v1" if family == "rt_detr" and match[1] == "encoder" else "v2"]
        return f"{match[1]}.input_proj.{match[2]}.{order[match[3]]}.{match[4]}"
    if name.startswith("encoder."):
        return encoder(name, fine)
    if match := re.fullmatch(r"enc_output\.([01])\.(\w+)", name):
        part = match[1] if family == "rt_detr" else ("proj", "norm")[int(match[1])]
        return f"decoder.enc_output.{part}.{match[2]}"
    if match := re.match(r"decoder\.layers\.\d+\.", name):
        name = name.replace("encoder_attn_layer_norm", "norm2").replace("final_layer_norm", "norm3")
        return f"decoder.{layer(name.replace('.n_points_scale', '.num_points_scale'))}"
    if name.startswith("decoder.lqe_layers."):
        return f"decoder.{name}"
    name = re.sub(r"^decoder\.class_embed", "dec_score_head", name)
    name = re.sub(r"^decoder\.bbox_embed", "dec_bbox_head", name)
    return f"decoder.{name.removeprefix('decoder.')}"


def backbone(name, fine):
    if fine:
        name = name.replace("embedder.", "stem.").replace("encoder.", "")
        return name.replace(".convolution.", ".conv.").replace(".normalization.", ".bn.")
    name = re.sub(r"embedder\.embedder\.(\d)", lambda match: f"conv1.conv1_{int(match[1]) + 1}", name)
    name = re.sub(r"encoder\.stages\.(\d)\.layers\.(\d+)", r"res_layers.\1.blocks.\2", name)
    name = re.sub(r"\.layer\.(\d)", lambda match: f".branch2{'abc'[int(match[1])]}", name)
    name = name.replace(".shortcut.1.", ".short.conv.").replace(".shortcut.", ".short.")
    return name.replace(".convolution.", ".conv.").replace(".normalization.", ".norm.")


def encoder(name, fine):
    if re.match(r"encoder\.encoder\.", name):
        return layer(name.replace("final_layer_norm", "norm2"))
    if fine and (match := re.fullmatch(r"(encoder\.\w+_blocks\.\d)\.(\w+)\.(.+)", name)):
        return f"{match[1]}.{BLOCK[match[2]]}.{match[3]}"
    return re.sub(r"(downsample_convs\.\d)\.conv([12])\.", r"\1.0.cv\2.", name) if fine else name


def layer(name):
    for ours, other in LAYER.items():
        name = name.replace(f".{ours}.", f".{other}.")
    return name

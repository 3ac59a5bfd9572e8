"""Names of query detectors' weights in folders of Hugging Face, translated to those of jaxkd's nets.

Two generations of names are read: those of published files, which the library still saves, and those of its modules.
"""

import re
from collections.abc import Mapping

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights.names import COUNTER, translated
from jaxkd.weights.unpickle import printable

HEADS = r"(class_embed|bbox_embed)\.\d+\..+"  # of the decoder; also stored beside the model
NEWER = (  # patterns of the modules' names, and the published ones
    (r"^model\.encoder\.aifi\.", "model.encoder.encoder."),
    (r"\.mlp\.(?:fc|layers\.)(\d)\.", None),
    (r"\.self_attn\.o_proj\.", ".self_attn.out_proj."),
)
UNITS = {"convolution": "conv", "normalization": "norm", "conv": "conv", "norm": "norm", "0": "conv", "1": "norm"}
LAYER = {  # of an encoder's or decoder's layer
    "self_attn.q_proj": "attention/query",
    "self_attn.k_proj": "attention/key",
    "self_attn.v_proj": "attention/value",
    "self_attn.out_proj": "attention/out",
    "self_attn_layer_norm": "attention_norm",
    "encoder_attn.sampling_offsets": "deformable/offsets",
    "encoder_attn.attention_weights": "deformable/weights",
    "encoder_attn.value_proj": "deformable/value",
    "encoder_attn.output_proj": "deformable/out",
    "encoder_attn_layer_norm": "deformable_norm",
    "gateway.gate": "gate",
    "gateway.norm": "gate_norm",
    "fc1": "dense/up",
    "fc2": "dense/down",
    "final_layer_norm": "final_norm",
}
CSP = {"conv1": "main", "conv2": "side"}
STEPS = {"conv1": "wide", "conv2": "point"}
BLOCK = {  # of a block of the encoder that fuses two levels
    False: {"conv1": "csp/main", "conv2": "csp/side", "conv3": "out"},
    True: {"conv1": "in", "conv2": "conv_0", "conv3": "conv_1", "conv4": "out"},
}
SELECTION = {
    "enc_output.0": "selection/content",
    "enc_output.1": "selection/content_norm",
    "enc_score_head": "selection/logits",
}
CONSTANTS = {"model.decoder.up": "decoder/up", "model.decoder.reg_scale": "decoder/reg_scale"}
DENOISING = "denoising/embedding"  # of training alone: a row for each class; files have one more, for padding
COUNTS = r"\.num_points_scale$|\.n_points_scale$"  # 1 / number of points, once for each point


def to_jaxkd(arrays: Mapping[str, np.ndarray], *, fine: bool, points: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The arrays under jaxkd's leaf names and in its layout; unknown names stay, so that a strict match lists them.

    Args:
      arrays: of a file.
      fine: whether the names are those of D-FINE, else those of RT-DETR.
      points: places of each level from which a query gathers.

    Raises WeightsError where two names stand for one leaf and differ, or other numbers of points are stored.
    """
    out: dict[str, np.ndarray] = {}
    rest: dict[str, np.ndarray] = {}
    for name, array in _published_names(arrays).items():
        if re.search(COUNTS, name):
            _check_counts(name, array, points)
        elif name in CONSTANTS:
            out[CONSTANTS[name]] = array
        elif match := re.fullmatch(r"(.+)\.lab\.(scale|bias)", name):
            unit = _backbone(match[1].removeprefix("model.backbone.model."))
            out[f"backbone/{unit}/affine_{match[2]}" if unit else name] = array
        elif name == "model.denoising_class_embed.weight":
            out[DENOISING] = array[:-1]
        else:
            rest[name] = array
    return out | translated(rest, lambda module: _module(module, fine=fine))


def is_constant(name: str) -> bool:
    """Whether an array of this name is a counter of steps, or follows from config.json."""
    return name.rpartition(".")[2] == COUNTER or re.search(COUNTS, name) is not None


def _published_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays under the names of published files, each once."""
    out: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        key = f"model.decoder.{name}" if re.fullmatch(HEADS, name) else name
        for pattern, replacement in NEWER:
            key = re.sub(pattern, _dense if replacement is None else replacement, key)
        if key in out and not np.array_equal(out[key], array):
            raise WeightsError(f"The weights hold {printable(name)} twice, with other numbers; save the model again.")
        out[key] = array
    return out


def _dense(match: re.Match[str]) -> str:
    """The published name of one of the two dense layers, which newer names count from 1 as fc1 or from 0."""
    number = int(match[1]) + match[0].startswith(".mlp.layers.")
    return f".fc{number}."


def _check_counts(name: str, array: np.ndarray, points: tuple[int, ...]) -> None:
    expected = np.repeat(1 / np.maximum(points, 1), points)
    if array.shape != expected.shape or not np.allclose(array, expected, rtol=1e-3):
        raise WeightsError(f"{printable(name)} is not that of {points} points, which config.json says.")


def _module(module: str, *, fine: bool) -> str | None:
    """jaxkd's name of a module; None where it has none."""
    name = module.removeprefix("model.")
    if name == module:
        return None
    if name.startswith("backbone.model."):
        unit, _, leaf = name.removeprefix("backbone.model.").rpartition(".")
        found = _backbone(unit)
        return f"backbone/{found}/{UNITS[leaf]}" if found and leaf in UNITS else None
    part, inner = ("neck", _neck) if name.startswith("encoder") else ("decoder", _decoder)
    found = inner(name, fine=fine)
    return f"{part}/{found}" if found else None


def _backbone(unit: str) -> str | None:
    """The name of a convolution and its norm in a backbone."""
    if match := re.fullmatch(r"embedder\.embedder\.(\d)", unit):
        return f"stem_{match[1]}"
    if match := re.fullmatch(r"embedder\.stem(\d[ab]?)", unit):
        return f"stem/conv_{match[1]}"
    match = re.fullmatch(r"encoder\.stages\.(\d)\.(?:(?:layers|blocks)\.(\d+)\.)?(.+)", unit)
    if not match:
        return None
    stage, block, inner = f"stage{int(match[1]) + 1}", match[2], match[3]
    if block is None:
        return f"{stage}_down" if inner == "downsample" else None
    rules = (
        (r"layer\.(\d)", r"conv_\1"),
        (r"shortcut(?:\.1)?", "shortcut"),
        (r"layers\.(\d+)", r"layer_\1"),
        (r"layers\.(\d+)\.conv1", r"layer_\1_point"),
        (r"layers\.(\d+)\.conv2", r"layer_\1_depth"),
        (r"aggregation\.([01])", r"gather_\1"),
    )
    found = next((match.expand(name) for rule, name in rules if (match := re.fullmatch(rule, inner))), None)
    return found and f"{stage}_{block}/{found}"


def _neck(name: str, *, fine: bool) -> str | None:
    """The name of a module of the encoder."""
    if match := re.fullmatch(r"encoder_input_proj\.(\d)\.([01])", name):
        return f"input_{match[1]}/{UNITS[match[2]]}"
    if match := re.fullmatch(r"encoder\.encoder\.0\.layers\.(\d+)\.(.+)", name):
        return f"attention_{match[1]}/{LAYER[match[2]]}" if match[2] in LAYER else None
    match = re.fullmatch(r"encoder\.(\w+)\.(\d)(?:\.(.+))?\.(conv|norm)", name)
    if not match:
        return None
    kind, index, inner, leaf = match.groups()
    if kind == "lateral_convs" and inner is None:
        return f"lateral_{index}/{leaf}"
    if kind == "downsample_convs":
        unit = {None: "", "conv1": "_point", "conv2": "_depth"}.get(inner)
        return None if unit is None else f"half_{index}{unit}/{leaf}"
    block = _block(inner or "", fine=fine) if kind in ("fpn_blocks", "pan_blocks") else None
    return block and f"{'down' if kind == 'fpn_blocks' else 'up'}_{index}/{block}/{leaf}"


def _block(name: str, *, fine: bool) -> str | None:
    """The name of a convolution and its norm in a block that fuses two levels."""
    if name in BLOCK[fine]:
        return BLOCK[fine][name]
    match = re.fullmatch(r"(?:csp_rep([12])\.)?(?:bottlenecks\.(\d+)\.)?(conv[12])", name)
    if not match or (match[1] is not None) != fine:
        return None
    csp = f"csp_{int(match[1]) - 1}" if fine else "csp"
    return f"{csp}/{CSP[match[3]]}" if match[2] is None else f"{csp}/step_{match[2]}_{STEPS[match[3]]}"


def _decoder(name: str, *, fine: bool) -> str | None:
    """The name of a module of the selection of queries or of the decoder."""
    if name in SELECTION:
        return SELECTION[name]
    if match := re.fullmatch(r"decoder_input_proj\.(\d)\.([01])", name):
        return f"input_{match[1]}/{UNITS[match[2]]}"
    if match := re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", name):
        return f"layer_{match[1]}/{LAYER[match[2]]}" if match[2] in LAYER else None
    if match := re.fullmatch(r"decoder\.class_embed\.(\d+)", name):
        return f"logits_{match[1]}"
    rules = (
        (r"enc_bbox_head\.layers\.(\d)", r"selection/box/layer_\1"),
        (r"decoder\.query_pos_head\.layers\.(\d)", r"position/layer_\1"),
        (r"decoder\.pre_bbox_head\.layers\.(\d)", r"first_box/layer_\1"),
        (r"decoder\.bbox_embed\.(\d+)\.layers\.(\d)", r"edges_\1/layer_\2" if fine else r"box_\1/layer_\2"),
        (r"decoder\.lqe_layers\.(\d+)\.reg_conf\.layers\.(\d)", r"quality_\1/mlp/layer_\2"),
    )
    return next((match.expand(target) for rule, target in rules if (match := re.fullmatch(rule, name))), None)

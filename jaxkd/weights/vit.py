"""Files of DINOv2 and DINOv3 backbones, as their authors and Hugging Face name them, under jaxkd's names."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import read, tfjs
from jaxkd.weights.unpickle import printable

MARK = re.compile(r"(.*\.)?(?:patch_embed\.proj|embeddings\.patch_embeddings(?:\.projection)?)\.weight")
HEAD = 64  # width of an attention head in all published sizes
UNUSED = {"mask_token", "embeddings.mask_token", "rope_embed.periods"}  # of pre-training, or recomputed
MASK = "_mask"  # DINOv3's authors keep 1 where a bias counts in an array beside it
EPS = {"table": 1e-6, "rotary": 1e-5}


class Family(NamedTuple):
    """How a family of files names its arrays: patterns of names, with N for the block, to jaxkd's."""

    names: Mapping[str, str]
    fused: bool  # whether query, key and value are one array
    resize: str  # of the table of positions, without registers


FACEBOOK = Family(
    names={
        "cls_token": "class_token",
        "pos_embed": "positions",
        "register_tokens": "register_tokens",
        "storage_tokens": "register_tokens",
        "patch_embed.proj": "patch",
        "blocks.N.norm1": "block_N/norm1",
        "blocks.N.attn.query": "block_N/attention/query",
        "blocks.N.attn.key": "block_N/attention/key",
        "blocks.N.attn.value": "block_N/attention/value",
        "blocks.N.attn.proj": "block_N/attention/out",
        "blocks.N.ls1.gamma": "block_N/scale1",
        "blocks.N.norm2": "block_N/norm2",
        "blocks.N.mlp.fc1": "block_N/up",
        "blocks.N.mlp.fc2": "block_N/down",
        "blocks.N.ls2.gamma": "block_N/scale2",
        "norm": "norm",
    },
    fused=True,
    resize="offset",
)
HUGGING_FACE_2 = Family(
    names={
        "embeddings.cls_token": "class_token",
        "embeddings.position_embeddings": "positions",
        "embeddings.register_tokens": "register_tokens",
        "embeddings.patch_embeddings.projection": "patch",
        "encoder.layer.N.norm1": "block_N/norm1",
        "encoder.layer.N.attention.attention.query": "block_N/attention/query",
        "encoder.layer.N.attention.attention.key": "block_N/attention/key",
        "encoder.layer.N.attention.attention.value": "block_N/attention/value",
        "encoder.layer.N.attention.output.dense": "block_N/attention/out",
        "encoder.layer.N.layer_scale1.lambda1": "block_N/scale1",
        "encoder.layer.N.norm2": "block_N/norm2",
        "encoder.layer.N.mlp.fc1": "block_N/up",
        "encoder.layer.N.mlp.fc2": "block_N/down",
        "encoder.layer.N.layer_scale2.lambda1": "block_N/scale2",
        "layernorm": "norm",
    },
    fused=False,
    resize="plain",
)
HUGGING_FACE_3 = Family(
    names={
        "embeddings.cls_token": "class_token",
        "embeddings.register_tokens": "register_tokens",
        "embeddings.patch_embeddings": "patch",
        "layer.N.norm1": "block_N/norm1",
        "layer.N.attention.q_proj": "block_N/attention/query",
        "layer.N.attention.k_proj": "block_N/attention/key",
        "layer.N.attention.v_proj": "block_N/attention/value",
        "layer.N.attention.o_proj": "block_N/attention/out",
        "layer.N.layer_scale1.lambda1": "block_N/scale1",
        "layer.N.norm2": "block_N/norm2",
        "layer.N.mlp.up_proj": "block_N/up",
        "layer.N.mlp.down_proj": "block_N/down",
        "layer.N.layer_scale2.lambda1": "block_N/scale2",
        "norm": "norm",
    },
    fused=False,
    resize="plain",
)


@dataclass(frozen=True)
class VitWeights:
    """The arrays of a vision transformer by jaxkd's leaf names, and what its `nets.vit.Config` needs."""

    arrays: dict[str, np.ndarray]
    fields: dict[str, Any]
    unused: tuple[str, ...]  # names of arrays that a forward pass does not need


def is_vit(path: Path) -> bool:
    """Whether a file of weights has the patches of a vision transformer; False for a file of another kind."""
    if path.suffix not in read.READERS or path.suffix == tfjs.SUFFIX or not path.is_file():
        return False  # a .json file may also be one of detections
    with read.opened(path) as file:
        return any(MARK.fullmatch(name) for name in file.names())


def load(path: Path) -> VitWeights:
    """The vision transformer in a file.

    Raises WeightsError where the file is broken, or its net is none that is known here: another patch embedding, a
    gated feed-forward, or arrays that have no name here.
    """
    arrays = read.read(path)
    marks = [match for match in map(MARK.fullmatch, arrays) if match]
    if len(marks) != 1:
        raise WeightsError(f"{path.name} has {len(marks)} vision transformers; give a file of one.")
    prefix = marks[0][1] or ""
    beside = tuple(name for name in arrays if not name.startswith(prefix))
    arrays = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    try:
        weights = _translated(arrays)
        return dataclasses.replace(weights, unused=(*weights.unused, *beside))
    except WeightsError as error:
        raise WeightsError(f"{path.name}: {error}") from error


def _translated(arrays: Mapping[str, np.ndarray]) -> VitWeights:
    family = _family(arrays)
    unused = tuple(name for name in arrays if name in UNUSED)
    used = {name: array for name, array in arrays.items() if name not in unused}
    if family.fused:
        used = dict(_unfused(used))
    out: dict[str, np.ndarray] = {}
    for name, array in used.items():
        leaf = _leaf(name, family.names)
        if leaf is None:
            raise WeightsError(
                f"the array {printable(name)} belongs to no vision transformer known here (DINOv2 and DINOv3 of sizes "
                "S, B and L, whose dense layers are not gated)"
            )
        out[leaf] = _in_layout(array, leaf)
    fields = _fields(out, family)
    for block in range(fields["depth"]):  # DINOv3's keys have no bias
        out.setdefault(f"block_{block}/attention/key/bias", np.zeros(fields["width"], np.float32))
    return VitWeights(out, fields, unused)


def _family(arrays: Iterable[str]) -> Family:
    names = set(arrays)
    if "patch_embed.proj.weight" in names:
        return FACEBOOK
    return HUGGING_FACE_2 if "embeddings.patch_embeddings.projection.weight" in names else HUGGING_FACE_3


def _unfused(arrays: Mapping[str, np.ndarray]) -> Iterable[tuple[str, np.ndarray]]:
    """The arrays with query, key and value of one array as three; where a mask of biases is beside it, times that."""
    for name, array in arrays.items():
        if match := re.fullmatch(r"(.*\.attn\.)qkv\.(weight|bias)", name):
            if name + MASK in arrays:
                array = np.where(arrays[name + MASK] == 1, array, 0.0)
            for part, piece in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                yield f"{match[1]}{part}.{match[2]}", piece
        elif not name.endswith(MASK):
            yield name, array


def _leaf(name: str, names: Mapping[str, str]) -> str | None:
    """jaxkd's name of an array, None where it has none."""
    block = re.search(r"(?:^|\.)(?:blocks|layer)\.(\d+)\.", name)
    number = block[1] if block else ""
    general = name.replace(f".{number}.", ".N.", 1) if block else name
    if general in names:
        return names[general].replace("N", number)
    module, _, kind = general.rpartition(".")
    if module not in names or kind not in ("weight", "bias"):
        return None
    leaf = names[module].replace("N", number)
    if kind == "bias":
        return f"{leaf}/bias"
    return f"{leaf}/{'scale' if 'norm' in leaf else 'kernel'}"


def _in_layout(array: np.ndarray, leaf: str) -> np.ndarray:
    """The array as jaxkd lays it out: kernels [... in out], tokens [n c]."""
    if leaf.endswith("/kernel"):
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T)
    if leaf in ("class_token", "register_tokens", "positions"):
        return array.reshape(-1, array.shape[-1])
    return array


def _fields(arrays: Mapping[str, np.ndarray], family: Family) -> dict[str, Any]:
    """The fields of `nets.vit.Config`; raises WeightsError where the arrays are those of no such net."""
    kernel, up = arrays["patch/kernel"], arrays.get("block_0/up/kernel")
    if kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1] or kernel.shape[2] != 3 or up is None:
        raise WeightsError(f"its patches are of the shape {kernel.shape}, which no vision transformer known here has")
    width, patch = kernel.shape[3], kernel.shape[0]
    if width % HEAD:
        raise WeightsError(f"its width {width} is no multiple of {HEAD}, the width of a head of DINOv2 and DINOv3")
    depth = 1 + max(int(name.split("/")[0].removeprefix("block_")) for name in arrays if name.startswith("block_"))
    registers = len(arrays.get("register_tokens", ()))
    positions = "table" if "positions" in arrays else "rotary"
    side = round((len(arrays["positions"]) - 1) ** 0.5) if positions == "table" else 0
    if positions == "table" and len(arrays["positions"]) != 1 + side**2:
        raise WeightsError(f"its table of {len(arrays['positions'])} positions is that of no square and a class token")
    return {
        "width": width,
        "depth": depth,
        "heads": width // HEAD,
        "hidden": up.shape[1],
        "patch": patch,
        "registers": registers,
        "positions": positions,
        "table": side,
        "resize": "antialias" if registers and positions == "table" else family.resize,
        "eps": EPS[positions],
    }

"""Query detectors in folders of Hugging Face: config fields, classes and picture sizes from their JSON files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxkd.class_lists import COCO
from jaxkd.errors import WeightsError
from jaxkd.phrases import listed
from jaxkd.weights.unpickle import printable

ABOUT, PICTURES = "config.json", "preprocessor_config.json"
KINDS = {"rt_detr": "rt_detr_resnet", "rt_detr_v2": "rt_detr_resnet", "d_fine": "hgnet_v2"}  # and their backbones
STRIDES = (4, 8, 16, 32)  # of a backbone's levels
MULTIPLE = 32  # pixels that a side of the pictures is a multiple of
SIDE = 640  # of pictures where the folder does not say it
BILINEAR = 2  # Pillow's number
# Fields of config.json that are read with one value alone, which is also their default.
FIXED = {
    "normalize_before": False,
    "learn_initial_query": False,
    "eval_size": None,
    "encoder_activation_function": "gelu",
    "activation_function": "silu",
    "decoder_activation_function": "relu",
    "eval_idx": -1,
    "layer_scale": 1.0,
}
FIXED_BACKBONE = {
    "hidden_act": "relu",
    "downsample_in_bottleneck": False,
    "downsample_in_first_stage": False,
    "stage_downsample": [False, True, True, True],
    "stem_strides": [2, 1, 1, 2, 1],
    "stage_downsample_strides": [2, 2, 2, 2],
}
# COCO's classes as Darknet and so some folders call them.
COCO_NAMES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}


@dataclass(frozen=True)
class Description:
    """What the JSON files of a folder say of its detector.

    Attributes:
      model_type: a key of KINDS.
      backbone, neck, decoder, pixels: fields of these parts; see `detectors.rt_detr` and `detectors.d_fine`.
      constants: the fields "up" and "reg_scale", for weights that lack them.
      classes: names by column; () where the folder has none.
      sizes: fields of `data.loader` that say how pictures are resized.
      notes: sentences on what was assumed.
    """

    model_type: str
    backbone: dict[str, Any]
    neck: dict[str, Any]
    decoder: dict[str, Any]
    pixels: dict[str, Any]
    constants: dict[str, float]
    classes: tuple[str, ...]
    sizes: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def fine(self) -> bool:
        """Whether it is a D-FINE."""
        return self.model_type == "d_fine"


class Fields:
    """A JSON object whose values are asked for by name, and checked."""

    def __init__(self, values: Mapping[str, Any], *, where: str):
        self._values, self._where = values, where

    def get(self, name: str, default: Any) -> Any:
        """The value of a field of the default's type, its default where it is missing or null.

        Raises WeightsError for a value of another type, or numbers below 0.
        """
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(default, tuple):
            found = tuple(value) if isinstance(value, list) else value
            sound = isinstance(found, tuple) and all(_like(item, default[0]) for item in found)
        else:
            found, sound = value, _like(value, default)
        if not sound:
            raise WeightsError(f"{self._where} has {value!r:.60} as {name}; something like {default!r:.60} is wanted.")
        return found

    def check_fixed(self, fixed: Mapping[str, Any]) -> None:
        """Raises WeightsError where a field has another value than the one that is read."""
        for name, wanted in fixed.items():
            if name in self._values and self._values[name] not in (wanted, None):
                raise WeightsError(
                    f"{self._where} has {self._values[name]!r:.60} as {name}, and only {wanted!r} is read here; no "
                    "published detector has another value."
                )

    def part(self, name: str) -> "Fields":
        """The object in a field; raises WeightsError where there is none."""
        value = self._values.get(name)
        if not isinstance(value, dict):
            raise WeightsError(f"{self._where} has no {name}, which is needed; save the model again.")
        return Fields(value, where=f"{self._where}, {name},")

    def raw(self, name: str) -> Any:
        """The value of a field as it stands; None where it is missing."""
        return self._values.get(name)


def model_type(folder: Path) -> str:
    """The model type that a folder's config.json names; "" where there is no such file, or it names none."""
    file = folder / ABOUT
    if not file.is_file():
        return ""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""  # of a run's recipe that is broken; who reads that says so
    named = value.get("model_type") if isinstance(value, dict) else None
    return named if isinstance(named, str) else ""


def describe(folder: Path) -> Description:
    """What a folder's files say; WeightsError where they are broken, or describe what is not read here."""
    named, config = model_type(folder), _object(folder / ABOUT)
    if named not in KINDS:
        raise WeightsError(
            f"{folder / ABOUT} is of the model type {printable(named)}; detectors of the types {listed(list(KINDS))} "
            "are read here."
        )
    fields = Fields(config, where=str(folder / ABOUT))
    fields.check_fixed(FIXED)
    backbone, fine = fields.part("backbone_config"), named == "d_fine"
    if (kind := backbone.raw("model_type")) != KINDS[named]:
        raise WeightsError(f"{folder / ABOUT} names the backbone {kind!r:.60}; a {KINDS[named]} is read with {named}.")
    backbone.check_fixed(FIXED_BACKBONE)
    first = _first_level(fields, backbone, folder / ABOUT)
    sizes, pixels, note = _pictures(folder / PICTURES)
    return Description(
        model_type=named,
        backbone=_hgnet(backbone) if fine else _resnet(backbone),
        neck=_neck(fields, first=first, fine=fine),
        decoder=_decoder(fields, levels=len(STRIDES) - first, fine=fine),
        pixels=pixels,
        constants={"up": fields.get("up", 0.5), "reg_scale": fields.get("reg_scale", 4.0)},
        classes=_classes(fields),
        sizes=sizes,
        notes=(note,) if note else (),
    )


def _object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{file} holds no JSON object; fetch it again.")
    return value


def _like(value: Any, example: Any) -> bool:
    """Whether a value is of the type of the example, and no number below 0."""
    if isinstance(example, (bool, str)):
        return type(value) is type(example)
    if isinstance(example, int):
        return type(value) is int and value >= 0
    return type(value) in (int, float) and value >= 0


def _first_level(fields: Fields, backbone: Fields, file: Path) -> int:
    """The index of the first of the backbone's four levels that is used; WeightsError where not all above it are."""
    strides = fields.get("feat_strides", STRIDES[1:])
    first = len(STRIDES) - len(strides)
    stages = tuple(range(first + 1, len(STRIDES) + 1))
    names = tuple(f"stage{stage}" for stage in stages)
    named = backbone.get("out_features", names)
    given = backbone.get("out_indices", stages) if backbone.raw("out_features") is None else stages
    attended = fields.get("encode_proj_layers", (len(strides) - 1,))
    levels = fields.get("num_feature_levels", len(strides))
    wanted = strides == STRIDES[first:] and given == stages and named == names
    if not wanted or levels != len(strides) or attended != (levels - 1,):
        raise WeightsError(
            f"{file} uses the strides {strides}, the stages {listed(list(named))}, {levels} levels and "
            f"attention on {attended}; read are the last stages with attention on the coarsest."
        )
    return first


def _resnet(backbone: Fields) -> dict[str, Any]:
    return {
        "stem": backbone.get("embedding_size", 64),
        "widths": backbone.get("hidden_sizes", (256, 512, 1024, 2048)),
        "blocks": backbone.get("depths", (3, 4, 6, 3)),
        "bottleneck": backbone.get("layer_type", "bottleneck") == "bottleneck",
    }


def _hgnet(backbone: Fields) -> dict[str, Any]:
    """The fields that describe the net; `depths`, `hidden_sizes` and `embedding_size` do not."""
    return {
        "stem": backbone.get("stem_channels", (3, 32, 48))[1:],
        "inner": backbone.get("stage_mid_channels", (48, 96, 192, 384)),
        "widths": backbone.get("stage_out_channels", (128, 512, 1024, 2048)),
        "blocks": backbone.get("stage_num_blocks", (1, 1, 3, 1)),
        "layers": backbone.get("stage_numb_of_layers", (6, 6, 6, 6)),
        "kernels": backbone.get("stage_kernel_size", (3, 3, 5, 5)),
        "light": backbone.get("stage_light_block", (False, False, True, True)),
        "affine": backbone.get("use_learnable_affine_block", False),
    }


def _neck(fields: Fields, *, first: int, fine: bool) -> dict[str, Any]:
    neck = {
        "channels": fields.get("encoder_hidden_dim", 256),
        "first": first,
        "layers": fields.get("encoder_layers", 1),
        "heads": fields.get("encoder_attention_heads", 8),
        "hidden": fields.get("encoder_ffn_dim", 1024),
        "temperature": float(fields.get("positional_encoding_temperature", 10000.0)),
        "expansion": float(fields.get("hidden_expansion", 1.0)),
        "eps": float(fields.get("batch_norm_eps", 1e-5)),
        "layer_eps": float(fields.get("layer_norm_eps", 1e-5)),
    }
    return neck | ({"steps": round(3 * fields.get("depth_mult", 1.0))} if fine else {})


def _decoder(fields: Fields, *, levels: int, fine: bool) -> dict[str, Any]:
    points = fields.raw("decoder_n_points")
    counts = fields.get("decoder_n_points", (4,) * levels) if isinstance(points, list) else None
    methods = {"default": "bilinear", "discrete": "nearest"}
    method = fields.get("decoder_method", "default")
    if method not in methods:
        raise WeightsError(f"config.json has {method!r:.60} as decoder_method; read are {listed(list(methods))}.")
    decoder = {
        "width": fields.get("d_model", 256),
        "queries": fields.get("num_queries", 300),
        "layers": fields.get("decoder_layers", 6),
        "heads": fields.get("decoder_attention_heads", 8),
        "hidden": fields.get("decoder_ffn_dim", 1024),
        "points": counts or (fields.get("decoder_n_points", 4),) * levels,
        "reach": float(fields.get("decoder_offset_scale", 0.5)),
        "sampling": methods[method],
        "eps": float(fields.get("batch_norm_eps", 1e-5)),
        "layer_eps": float(fields.get("layer_norm_eps", 1e-5)),
    }
    more = {
        "bins": fields.get("max_num_bins", 32),
        "sharpest": fields.get("top_prob_values", 4),
        "quality_hidden": fields.get("lqe_hidden_dim", 64),
        "quality_layers": fields.get("lqe_layers", 2),
    }
    return decoder | (more if fine else {})


def _classes(fields: Fields) -> tuple[str, ...]:
    """The names by number, those of COCO as its annotations have them; () where they are no names."""
    labels = fields.raw("id2label")
    if not isinstance(labels, dict) or not all(key.isdecimal() and type(name) is str for key, name in labels.items()):
        return ()
    names: tuple[str, ...] = tuple(labels[key] for key in sorted(labels, key=int))
    if all(name == f"LABEL_{key}" for key, name in labels.items()):
        return ()
    official = tuple(COCO_NAMES.get(name, name) for name in names)
    return official if set(official) == set(COCO.values()) else names


def _pictures(file: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Fields of the loader, those of the pixels' normalisation, and a sentence where they are assumed."""
    values = _object(file) if file.is_file() else {}
    fields = Fields(values, where=str(file))
    fields.check_fixed({"do_resize": True, "resample": BILINEAR, "do_rescale": True, "do_pad": False})
    size = fields.part("size") if values else Fields({}, where=str(file))
    if values and not {"height", "width"} <= set(values["size"]):
        raise WeightsError(f"{file} gives no height and width of pictures; save the processor with both.")
    height, width = size.get("height", SIDE), size.get("width", SIDE)
    if not all(side and side % MULTIPLE == 0 for side in (height, width)):
        raise WeightsError(f"{file} gives {height}x{width} as size; both sides have to be multiples of {MULTIPLE}.")
    factor = fields.get("rescale_factor", 1 / 255)
    if not factor:
        raise WeightsError(f"{file} multiplies pixels by 0; fetch it again.")
    normalised = fields.get("do_normalize", False)
    pixels = {
        "mean": _pixels(fields.get("image_mean", (0.0, 0.0, 0.0)) if normalised else (0.0, 0.0, 0.0), factor),
        "std": _pixels(fields.get("image_std", (1.0, 1.0, 1.0)) if normalised else (1.0, 1.0, 1.0), factor),
    }
    note = "" if values else f"There is no {file.name}: pictures of {SIDE}x{SIDE} and pixels from 0 to 1 are taken."
    return stretched(height, width), pixels, note


def stretched(height: int, width: int) -> dict[str, Any]:
    """Fields of the loader by which pictures are stretched to a size, and smoothed as they shrink."""
    sizes = {"buckets": ((height, width),), "short": (min(height, width),), "long": max(height, width)}
    return sizes | {"fit": "stretch", "antialias": True}


def _pixels(values: Sequence[float], factor: float) -> tuple[float, ...]:
    """Numbers of pixels that are multiplied by `factor`, for those from 0 to 255."""
    return tuple(round(value / factor, 6) for value in values)

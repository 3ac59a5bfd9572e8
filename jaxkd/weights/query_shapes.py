"""Query detectors in their authors' files: jaxkd's leaves from the arrays, and config fields from their shapes.

RT-DETR and RT-DETRv2 (github.com/lyuwenyu/RT-DETR) and D-FINE (github.com/Peterande/D-FINE).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxkd.errors import WeightsError
from jaxkd.weights import hub_config, hub_names, query_names
from jaxkd.weights.description import Arrays, Published
from jaxkd.weights.shapes import count

STAGES = (1, 2, 3, 4)
QUERIES = 300  # of a picture; no array has a size that says it
POINTS = 4  # places on a level from which a query and head gathers, where the file does not say it
EPS = 1e-5


def published(arrays: Mapping[str, np.ndarray]) -> Published:
    """The detector with these arrays, under the names of its authors.

    Raises KeyError where an array is missing, WeightsError where their shapes or numbers are not those of one.
    """
    named = query_names.to_published(arrays)
    levels = _numbered(named, r"model\.encoder_input_proj\.(\d)\.0\.weight")
    fine = any(name.startswith("model.decoder.pre_bbox_head.") for name in named)
    stated = _points(named)
    points = stated or (POINTS,) * levels
    leaves = hub_names.to_jaxkd(named, fine=fine, points=points)
    decoder = _decoder(leaves, points=points, fine=fine)
    neck = _neck(leaves, levels=levels, heads=decoder["heads"], fine=fine)
    notes = _assumed(decoder, points=bool(stated), fine=fine)
    without = {} if hub_names.DENOISING in leaves else {"denoising.queries": 0}
    return Published(
        "D-FINE" if fine else "RT-DETR",
        "detectors.d_fine" if fine else "detectors.rt_detr",
        backbone=(_hgnet(leaves) if fine else _resnet_d(leaves)) | {"eps": EPS},
        neck=neck,
        fields={f"decoder.{name}": value for name, value in decoder.items()} | without,
        classes=leaves["decoder/logits_0/kernel"].shape[-1],
        arrays=leaves,
        idle=tuple(name for name in arrays if hub_names.is_constant(name) or name in query_names.COPIES),
        notes=tuple(notes),
        backbone_kind="nets.hgnet" if fine else "nets.resnet_d",
        neck_kind="nets.elan_encoder" if fine else "nets.hybrid_encoder",
        sizes=hub_config.stretched(hub_config.SIDE, hub_config.SIDE),
    )


def _points(named: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Places of each level from which a query gathers, of a constant that has 1 / n for each of n; () without it."""
    found = [array for name, array in named.items() if re.search(hub_names.COUNTS, name)]
    points: list[int] = []
    place = 0
    while found and place < len(found[0]):
        share = float(found[0][place])
        if not math.isfinite(share) or not 1 <= round(1 / max(share, 1e-6)) <= len(found[0]) - place:
            raise WeightsError("The weights' num_points_scale are no shares of points.")
        points.append(round(1 / share))
        place += points[-1]
    return tuple(points)


def _resnet_d(leaves: Arrays) -> dict[str, Any]:
    bottleneck = "backbone/stage1_0/conv_2/conv/kernel" in leaves
    last = 2 if bottleneck else 1
    return {
        "stem": leaves["backbone/stem_2/conv/kernel"].shape[-1],
        "widths": tuple(leaves[f"backbone/stage{i}_0/conv_{last}/conv/kernel"].shape[-1] for i in STAGES),
        "blocks": tuple(_numbered(leaves, rf"backbone/stage{i}_(\d+)/conv_0/conv/kernel") for i in STAGES),
        "bottleneck": bottleneck,
    }


def _hgnet(leaves: Arrays) -> dict[str, Any]:
    light = tuple(f"backbone/stage{i}_0/layer_0_depth/conv/kernel" in leaves for i in STAGES)
    first = [f"backbone/stage{i}_0/layer_0{'_depth' if light[i - 1] else ''}/conv/kernel" for i in STAGES]
    return {
        "stem": tuple(leaves[f"backbone/stem/conv_{i}/conv/kernel"].shape[-1] for i in (1, 4)),
        "inner": tuple(
            leaves[f"backbone/stage{i}_0/layer_0{'_point' if light[i - 1] else ''}/conv/kernel"].shape[-1]
            for i in STAGES
        ),
        "widths": tuple(leaves[f"backbone/stage{i}_0/gather_1/conv/kernel"].shape[-1] for i in STAGES),
        "blocks": tuple(_numbered(leaves, rf"backbone/stage{i}_(\d+)/gather_0/conv/kernel") for i in STAGES),
        "layers": tuple(_numbered(leaves, rf"backbone/stage{i}_0/layer_(\d+)(?:_depth)?/conv/kernel") for i in STAGES),
        "kernels": tuple(leaves[name].shape[0] for name in first),
        "light": light,
        "affine": "backbone/stem/conv_1/affine_scale" in leaves,
    }


def _neck(leaves: Arrays, *, levels: int, heads: int, fine: bool) -> dict[str, Any]:
    channels = leaves["neck/input_0/conv/kernel"].shape[-1]
    inner = leaves[f"neck/down_0/{'csp_0' if fine else 'csp'}/main/conv/kernel"].shape[-1]
    neck = {
        "channels": channels,
        "first": len(STAGES) - levels,
        "layers": _numbered(leaves, r"neck/attention_(\d+)/dense/up/kernel"),
        "heads": heads,
        "hidden": leaves["neck/attention_0/dense/up/kernel"].shape[-1],
        "expansion": _ratio((2 if fine else 1) * inner, channels),
    }
    return neck | ({"steps": _numbered(leaves, r"neck/down_0/csp_0/step_(\d+)_wide/conv/kernel")} if fine else {})


def _decoder(leaves: Arrays, *, points: tuple[int, ...], fine: bool) -> dict[str, Any]:
    weights = leaves["decoder/layer_0/deformable/weights/kernel"].shape[-1]
    if not points or weights % sum(points):
        raise WeightsError(f"The weights have {weights} places of a query, and {points} on each level.")
    decoder = {
        "queries": QUERIES,
        "width": leaves["decoder/selection/content/kernel"].shape[-1],
        "layers": _numbered(leaves, r"decoder/layer_(\d+)/dense/up/kernel"),
        "heads": weights // sum(points),
        "hidden": leaves["decoder/layer_0/dense/up/kernel"].shape[-1],
        "points": points,
    }
    if not fine:
        return decoder
    return decoder | {
        "bins": leaves["decoder/edges_0/layer_2/kernel"].shape[-1] // 4 - 1,
        "sharpest": leaves["decoder/quality_0/mlp/layer_0/kernel"].shape[0] // 4 - 1,
        "quality_hidden": leaves["decoder/quality_0/mlp/layer_0/kernel"].shape[-1],
        "quality_layers": _numbered(leaves, r"decoder/quality_0/mlp/layer_(\d+)/kernel"),
    }


def _assumed(decoder: Mapping[str, Any], *, points: bool, fine: bool) -> list[str]:
    """Sentences on what the arrays do not say; `points` are said by the file."""
    side = hub_config.SIDE
    items = [
        f"{QUERIES} queries",
        *([] if points else [f"{POINTS} points a level"]),
        f"{decoder['heads']} heads in the encoder as in the decoder",
        f"all {decoder['layers']} layers of the decoder",
        f"and pictures stretched to {side}x{side}",
    ]
    sampling = (
        "Between cells a map is interpolated; a file with discrete sampling (dsp) needs decoder.sampling nearest in "
        "detector.json of the converted folder."
    )
    assumed = f"Assumed, as in the authors' published files, for the arrays do not say it: {', '.join(items)}."
    return [assumed] if fine else [assumed, sampling]


def _ratio(numbers: int, of: int) -> float:
    """The ratio of two numbers, rounded such that its product with the second one is no less than the first."""
    ratio = numbers / of
    return ratio if ratio * of >= numbers else math.nextafter(ratio, math.inf)


def _numbered(arrays: Mapping[str, np.ndarray], pattern: str) -> int:
    """How many numbers a part of a name has; raises KeyError where there are none."""
    if not (number := count(arrays, pattern)):
        raise KeyError(pattern)
    return number

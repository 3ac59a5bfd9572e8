"""Names of the modules of published detectors, and the names that jaxkd has for them."""

import re
from collections.abc import Callable, Sequence

from jaxkd.weights import caffe
from jaxkd.weights.names import resnet_name

Rule = tuple[str, str | Callable[[re.Match], str]]


def renamer(rules: Sequence[Rule], prefix: str, *, levels: int) -> Callable[[str], str | None]:
    """A function from a module's name to jaxkd's; backbones have `prefix`, and the pyramid uses `levels` of them.

    After an "@", rules have the level's number in the family: "p" and C2 to C5 count by stride, "fpn" from 0 through
    and beyond the backbone's levels.
    """

    def numbered(match: re.Match) -> str:
        index = int(match[2]) - (0 if match[1] == "fpn" else 6 - levels)
        kind = {"fpn": "output" if index < levels else "extra", "p": "extra"}.get(match[1], match[1])
        return f"neck/{kind}_{index if match[1] != 'p' else levels + int(match[2]) - 6}"

    def rename(module: str) -> str | None:
        for pattern, target in rules:
            if match := re.fullmatch(pattern, module):
                name = target(match) if callable(target) else target.format(*match.groups())
                return re.sub(r"neck/(fpn|p|lateral|output)@(\d)", numbered, name)
        if module.startswith(prefix):
            layer = resnet_name(caffe.stages(module.removeprefix(prefix)))
            return layer and f"backbone/{layer}"
        return None

    return rename


def _tower_name(match: re.Match) -> str:
    """jaxkd's name of a layer of a tower; where ReLUs are counted too, every second number is a convolution."""
    branch, number, part = match["which"], int(match["number"]), match.groupdict().get("part")
    name = "class" if branch.startswith(("classification", "cls")) else "box"
    if part is None:
        return f"head/{name}_{number // 2}"
    return f"head/{name}_{number}{'_norm' if part == '1' else ''}"


def _fcos_tower_name(match: re.Match) -> str:
    """jaxkd's name of a layer of a tower of FCOS, where convolution, norm and ReLU are counted."""
    number, part = divmod(int(match[2]), 3)
    return f"head/{'class' if match[1] == 'classification' else 'box'}_{number}{'_norm' if part else ''}"


TORCHVISION: tuple[Rule, ...] = (
    (r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?", "neck/lateral_{}"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.1", "neck/lateral_{}_norm"),
    (r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?", "neck/output_{}"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.1", "neck/output_{}_norm"),
    (r"backbone\.fpn\.extra_blocks\.p(\d)", "neck/p@{}"),
    (r"rpn\.head\.conv(?:\.0\.0)?", "rpn/conv"),
    (r"rpn\.head\.conv\.(\d)\.0", "rpn/conv_{}"),
    (r"rpn\.head\.cls_logits", "rpn/logits"),
    (r"rpn\.head\.bbox_pred", "rpn/deltas"),
    (r"roi_heads\.box_head\.(fc\d)", "head/{}"),
    (r"roi_heads\.box_head\.(\d)\.0", "head/conv_{}"),
    (r"roi_heads\.box_head\.(\d)\.1", "head/conv_{}_norm"),
    (r"roi_heads\.box_head\.\d", "head/fc6"),
    (r"roi_heads\.box_predictor\.cls_score", "head/logits"),
    (r"roi_heads\.box_predictor\.bbox_pred", "head/deltas"),
    (r"head\.(?P<which>classification|regression)_head\.conv\.(?P<number>\d)(?:\.(?P<part>[01]))?", _tower_name),
    (r"head\.classification_head\.cls_logits", "head/logits"),
    (r"head\.regression_head\.bbox_reg", "head/deltas"),
)
TORCHVISION_FCOS: tuple[Rule, ...] = (
    (r"head\.(classification|regression)_head\.conv\.(\d+)", _fcos_tower_name),
    (r"head\.regression_head\.bbox_ctrness", "head/quality"),
    *TORCHVISION,
)
DETECTRON2: tuple[Rule, ...] = (
    (r"backbone\.fpn_(lateral|output)(\d)", "neck/{}@{}"),
    (r"backbone\.top_block\.p(\d)", "neck/p@{}"),
    (r"proposal_generator\.rpn_head\.conv", "rpn/conv"),
    (r"proposal_generator\.rpn_head\.objectness_logits", "rpn/logits"),
    (r"proposal_generator\.rpn_head\.anchor_deltas", "rpn/deltas"),
    (r"roi_heads\.box_head\.fc1", "head/fc6"),
    (r"roi_heads\.box_head\.fc2", "head/fc7"),
    (r"roi_heads\.box_predictor\.cls_score", "head/logits"),
    (r"roi_heads\.box_predictor\.bbox_pred", "head/deltas"),
    (r"head\.(?P<which>cls|bbox)_subnet\.(?P<number>\d)", _tower_name),
    (r"head\.cls_score", "head/logits"),
    (r"head\.bbox_pred", "head/deltas"),
)
MMDETECTION: tuple[Rule, ...] = (
    (r"neck\.lateral_convs\.(\d)\.conv", "neck/lateral_{}"),
    (r"neck\.fpn_convs\.(\d)\.conv", "neck/fpn@{}"),
    (r"rpn_head\.rpn_conv", "rpn/conv"),
    (r"rpn_head\.rpn_cls", "rpn/logits"),
    (r"rpn_head\.rpn_reg", "rpn/deltas"),
    (r"roi_head\.bbox_head\.shared_fcs\.0", "head/fc6"),
    (r"roi_head\.bbox_head\.shared_fcs\.1", "head/fc7"),
    (r"roi_head\.bbox_head\.fc_cls", "head/logits"),
    (r"roi_head\.bbox_head\.fc_reg", "head/deltas"),
    (r"bbox_head\.cls_convs\.(\d)\.conv", "head/class_{}"),
    (r"bbox_head\.reg_convs\.(\d)\.conv", "head/box_{}"),
    (r"bbox_head\.cls_convs\.(\d)\.gn", "head/class_{}_norm"),
    (r"bbox_head\.reg_convs\.(\d)\.gn", "head/box_{}_norm"),
    (r"bbox_head\.gfl_cls", "head/logits"),
    (r"bbox_head\.gfl_reg", "head/bins"),
    (r"bbox_head\.(?:retina|conv)_cls", "head/logits"),
    (r"bbox_head\.(?:retina|conv)_reg", "head/deltas"),
    (r"bbox_head\.conv_centerness", "head/quality"),
)
